"""A program of its own that renders chat templates: what a template asks for is bounded by what this process may take.

It reads a JSON object a line (`template`, `variables`) and answers with one: `text` and `spans`, the (start, stop) of
what stood between {% generation %} and {% endgeneration %}; or `kind` and `error`. It imports nothing of llmc.
"""

import datetime
import json
import resource
import secrets
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

MEMORY = 512 << 20  # bytes beyond what the program itself takes
TURNS = 1_000_000  # of all loops of a rendering


class TooManyTurns(Exception):
    """Loops have turned more often than any conversation needs."""


class Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %}: what the assistant wrote, put between marks that a text cannot have."""

    tags = {"generation"}
    before, after = (f"\ue000{secrets.token_hex(16)}{side}\ue001" for side in "<>")

    def parse(self, parser):
        """The block as a call of `_marked`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller):
        return self.before + caller() + self.after


class Turns:
    """An iterable whose turns are counted together with those of all others."""

    left = 0

    def __init__(self, iterable):
        self._iterable = iterable

    def __len__(self):
        return len(self._iterable)

    def __iter__(self):
        for item in self._iterable:
            Turns.left -= 1
            if Turns.left < 0:
                raise TooManyTurns
            yield item


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates, with loops that are counted."""

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise, strftime_now=lambda form: datetime.datetime.now().strftime(form))
        self.filters.update(tojson=_tojson, _turns=Turns)

    def _parse(self, source, name, filename):
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = jinja2.nodes.Filter(loop.iter, "_turns", [], [], None, None, lineno=loop.lineno)
        return tree


def _raise(message):
    raise jinja2.TemplateError(message)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def rendered(template, variables):
    """`text` and `spans` of a compiled template."""
    Turns.left = TURNS
    pieces = template.render(**variables).split(Generation.before)
    text, spans = pieces[0], []
    for piece in pieces[1:]:
        inside, _, behind = piece.partition(Generation.after)
        spans.append((len(text), len(text) + len(inside)))
        text += inside + behind
    return {"text": text, "spans": spans}


def answer(environment, compiled, request):
    """What is said to a request."""
    try:
        source = request["template"]
        if source not in compiled:
            compiled[source] = environment.from_string(source)
        return rendered(compiled[source], request["variables"])
    except jinja2.TemplateSyntaxError as error:
        return {"kind": "syntax", "error": f"line {error.lineno}: {error.message}"}
    except TooManyTurns:
        return {"kind": "limit", "error": f"its loops turn more than {TURNS:,} times"}
    except MemoryError:
        return {"kind": "limit", "error": f"it takes more than {MEMORY >> 20} MiB of memory"}
    except RecursionError:
        return {"kind": "limit", "error": "it calls itself without end"}
    except jinja2.sandbox.SecurityError as error:
        return {"kind": "syntax", "error": f"it reaches for what a template may not: {error}"}
    except jinja2.TemplateError as error:
        return {"kind": "refused", "error": str(error.message or type(error).__name__)}
    except Exception as error:
        return {"kind": "refused", "error": f"{type(error).__name__}: {error}"}


def main():
    """Answer requests until there are no more."""
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    environment, compiled = Environment(), {}
    for line in sys.stdin.buffer:
        try:
            said = json.dumps(answer(environment, compiled, json.loads(line))).encode()
        except MemoryError:
            said = json.dumps({"kind": "limit", "error": f"its text takes more than {MEMORY >> 20} MiB"}).encode()
        sys.stdout.buffer.write(said + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
