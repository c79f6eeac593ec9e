"""A conversation with a chat model: somebody types, the model answers as it writes."""

import sys

from llmc.cli.outcome import Usage


def answers(tokenizer, asked):
    """A conversation in which `asked` gives the questions.

    Parameters
    ----------
    tokenizer : Tokenizer
        With a chat template.
    asked : iterable of str

    Yields
    ------
    ids : list of int
        What the model reads: the conversation so far, and what asks it to speak.
    answer : list of str
        To be filled with the pieces of what it writes.
    """
    messages = []
    for question in asked:
        answer = []
        messages.append({"role": "user", "content": question})
        yield tokenizer.apply_chat_template(messages, add_generation_prompt=True), answer
        messages.append({"role": "assistant", "content": "".join(answer)})


def questions(prompt):
    """The one that was given, or those that are typed until the input ends."""
    if prompt is not None:
        yield prompt
        return
    typed = sys.stdin.isatty()
    while True:
        if typed:
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def require_template(tokenizer, name):
    """Raise Usage where a tokenizer has no chat template."""
    if tokenizer.chat_template is None:
        raise Usage(f"generate: the tokenizer of {name} has no chat template, which --chat needs; leave --chat out to "
                    "have a text continued")
