"""llmc generate: continue a text, shown as it is written."""

import argparse
import os
import sys
import time

from llmc.cli.conversation import answers, questions, require_template
from llmc.cli.outcome import Usage, say
from llmc.cli.parser import between, storage, threads, whole
from llmc.cli.sources import model_and_tokenizer
from llmc.errors import DataError

EXAMPLE = 'llmc generate llmc-demo "The statement" --max-new-tokens 100 --top-p 0.9 --seed 1'
INFINITY = float("inf")
# Flags that choose how to sample; one of them given means sampling.
SAMPLING = {
    "temperature": (between(0, INFINITY, open_low=True),
                    "below 1 is more sure, above 1 more varied [the model's own, else 1]"),
    "top_k": (whole(1), "draw from the k best tokens [the model's own, else all]"),
    "top_p": (between(0, 1, open_low=True),
              "draw from the best tokens that together have this probability [the model's own, else 1]"),
    "min_p": (between(0, 1),
              "draw from tokens with at least this share of the best one's probability [the model's own, else 0]"),
    "seed": (whole(0, 2**64 - 1), "the same seed gives the same text [another one each time]"),
}


def arguments(parser):
    """Its words."""
    parser.add_argument("model", metavar="DIR", help="a checkpoint's folder, or a hub name")
    parser.add_argument("prompt", nargs="?", help="the text to continue; - reads it from the standard input")
    parser.add_argument("--chat", action="store_true",
                        help="the prompt is a question to a chat model; without one, a conversation: a line is a "
                             "question, the end of the input (Ctrl-D) its end")
    parser.add_argument("--max-new-tokens", type=whole(1), metavar="N",
                        help="tokens to write at most [the model's own, else 64]")
    parser.add_argument("--min-new-tokens", type=whole(0), metavar="N",
                        help="tokens before which no text ends [the model's own, else 0]")
    parser.add_argument("--do-sample", action=argparse.BooleanOptionalAction,
                        help="sample (any of the next five flags says so too), or take the best token [the model's "
                             "own: its generation_config.json, else the best]")
    for name, (kind, text) in SAMPLING.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=text)
    parser.add_argument("--repetition-penalty", type=between(0, INFINITY, open_low=True), metavar="X",
                        help="above 1: tokens that were there are less likely [the model's own, else 1]")
    parser.add_argument("--eos-token-id", type=int, action="append", metavar="ID",
                        help="where to stop, also several times; -1: nowhere [the model's own]")
    parser.add_argument("--prefill-chunk", type=whole(1), metavar="N",
                        help="read the prompt N tokens at a time [all at once]")
    parser.add_argument("--no-cache", dest="use_cache", action="store_false", help="keep no keys and values: slower")
    storage(parser)
    threads(parser)


def run(args):
    """Print the prompt and what the model goes on with, or the answers of a conversation."""
    if args.prompt is None and not args.chat:
        raise Usage("generate: a prompt is needed, the text to continue; or --chat for a conversation")
    model, tokenizer = model_and_tokenizer(args.model, dtype=args.dtype, precision=args.precision)
    options = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    if options and args.do_sample is None:
        args.do_sample = True
    options |= {name: getattr(args, name) for name in ("do_sample", "max_new_tokens", "min_new_tokens",
                                                        "repetition_penalty", "eos_token_id", "prefill_chunk",
                                                        "use_cache")}
    if args.chat:
        require_template(tokenizer, args.model)
        for ids, answer in answers(tokenizer, questions(None if args.prompt is None else _prompt(args.prompt))):
            answer += _continued(model, tokenizer, ids, options)
        return
    prompt = _prompt(args.prompt)
    ids = tokenizer.encode(prompt)
    if not ids:
        ids = [_beginning(tokenizer)]
    sys.stdout.write(prompt)
    _continued(model, tokenizer, ids, options)


def _beginning(tokenizer):
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise Usage("generate: the prompt is empty, and the tokenizer has no token that begins a text")
    return first


def _continued(model, tokenizer, ids, options):
    """Write what the model goes on with, and how fast it came; the pieces of the text."""
    begin, new, pieces = time.perf_counter(), Counted(model.stream([ids], **options)), []
    try:
        for piece in written(tokenizer, ids, new):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
    say(f"{new.count} tokens, {new.count / (time.perf_counter() - begin):,.1f} tokens/s")
    return pieces


class Counted:
    """An iterable that knows how many were taken from it."""

    def __init__(self, steps):
        self.count, self._steps = 0, steps

    def __iter__(self):
        for step in self._steps:
            self.count += 1
            yield step


def _prompt(word):
    """The text to continue, of the command line or, for "-", of the standard input."""
    where, data = "the prompt", os.fsencode(word)
    if word == "-":
        where, data = "the standard input", sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        raise DataError(f"{where}: byte {at} (0x{data[at]:02x}) is not UTF-8: {error.reason}") from None


def written(tokenizer, ids, steps):
    """What each new token adds to the text.

    A character whose bytes are not all there yet comes with the token that completes it.

    Parameters
    ----------
    tokenizer : Tokenizer
    ids : list of int
        The prompt.
    steps : iterable of (1,) arrays
        The new tokens.

    Yields
    ------
    str
        One for each token, perhaps empty; at the end what is left of a character that never was completed.
    """
    window = list(ids[-8:])  # a token's text depends on those before it, but not on distant ones
    shown = tokenizer.decode(window, skip_special_tokens=True)
    for step in steps:
        window.append(int(step[0]))
        text = tokenizer.decode(window, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            yield ""
            continue
        yield text[len(shown):]
        window = window[-8:]
        shown = tokenizer.decode(window, skip_special_tokens=True)
    text = tokenizer.decode(window, skip_special_tokens=True)
    if len(text) > len(shown):
        yield text[len(shown):]
