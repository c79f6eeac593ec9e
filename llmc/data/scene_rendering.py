"""Rendering: a scene as the text that a model reads, and which of it is which field."""

import numbers
import re
from dataclasses import dataclass

from llmc.data.strict_yaml import library
from llmc.errors import ConfigError, nearest

PLAIN = {"system": "### system\n{value}\n\n", "before": "", "field": "### {field}\n{value}\n\n",
         "response": "### response\n", "end": ""}
CHATML = {"system": "<|im_start|>system\n{value}<|im_end|>\n", "before": "<|im_start|>user\n",
          "field": "### {field}\n{value}\n\n", "response": "<|im_end|>\n<|im_start|>assistant\n", "end": "<|im_end|>\n"}
TEMPLATES = {"plain": PLAIN, "chatml": CHATML}
TEMPLATE, RESPONSE = "template", "response"  # what a span is of that is no field


@dataclass(frozen=True)
class Rendering:
    """A scene as text.

    Attributes
    ----------
    prompt : str
        All that stands before the response.
    response : str
        The response, and the template's end.
    spans : list of (str, str, int, int)
        `(field, role, start, stop)` in characters; they tile the text. `field` is a name, "template" or "response",
        `role` "system", "user" or "assistant".
    """

    prompt: str
    response: str
    spans: list

    @property
    def text(self):
        """The prompt and the response."""
        return self.prompt + self.response

    def without(self, field):
        """The prompt without the section of a field."""
        return "".join(self.prompt[start:stop] for name, _, start, stop in self.spans[:-1] if name != field)


def templated(template):
    """The parts of a template, those it lacks from the plain one.

    Parameters
    ----------
    template : "plain", "chatml", or dict of str

    Raises
    ------
    ConfigError
        For another word, a part there is not, or one that has no place for the value.
    """
    if isinstance(template, str):
        if template not in TEMPLATES:
            raise ConfigError(f"template is {template!r}, not 'plain', 'chatml' or a dict of {', '.join(PLAIN)}")
        return TEMPLATES[template]
    if not isinstance(template, dict):
        raise TypeError(f"template is {type(template).__name__}, not 'plain', 'chatml' or a dict of texts")
    for name, text in template.items():
        if name not in PLAIN:
            near = nearest(str(name), PLAIN) or f"there are {', '.join(PLAIN)}"
            raise ConfigError(f"template: there is no part {name!r}; {near}")
        if not isinstance(text, str):
            raise TypeError(f"template: {name} is {type(text).__name__}, not text")
        if name in ("system", "field") and "{value}" not in text:
            raise ConfigError(f"template: {name} is {text!r}, without {{value}}: what a scene says would not be shown")
    return {**PLAIN, **template}


def rendered(scene, template):
    """A scene by the parts of a template.

    Returns
    -------
    Rendering
    """
    fields = dict(scene.fields)
    pieces = []
    if "system" in fields:
        pieces.append(("system", "system", _filled(template["system"], "system", fields.pop("system"))))
    pieces.append((TEMPLATE, "user", template["before"]))
    pieces += [(name, "user", _filled(template["field"], name, value)) for name, value in fields.items()]
    pieces.append((TEMPLATE, "assistant", template["response"]))
    prompt = "".join(text for _, _, text in pieces)
    pieces.append((RESPONSE, "assistant", as_text(scene.response) + template["end"]))
    spans, at = [], 0
    for field, role, text in pieces:
        if text:
            spans.append((field, role, at, at := at + len(text)))
    return Rendering(prompt, pieces[-1][2], spans)


def as_text(value):
    """A value as it is shown: text without the line ends at its end, a number, true or false, or block YAML."""
    if isinstance(value, str):
        return value.rstrip("\r\n")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, numbers.Number):
        return repr(value)
    return library().safe_dump(value, sort_keys=False, allow_unicode=True, width=2**31).removesuffix("\n")


def _filled(text, field, value):
    words = {"{field}": field, "{value}": as_text(value)}
    return re.sub(r"\{field\}|\{value\}", lambda found: words[found[0]], text)
