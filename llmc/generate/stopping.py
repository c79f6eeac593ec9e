"""Stopping: rows whose new text holds one of the texts that end it."""

_CONTEXT = 8  # tokens: the text of a token depends on those before it, but not on distant ones


class Stopping:
    """The new text of every row, looked through token by token.

    Parameters
    ----------
    texts : tuple of str
    tokenizer
        What it decodes is the text.
    prompts : list of B integer arrays
        Each row's tokens so far; no text of theirs ends a row.
    """

    def __init__(self, texts, tokenizer, prompts):
        self._texts, self._tokenizer = texts, tokenizer
        self._rows = [row[-_CONTEXT:].tolist() for row in prompts]
        self._known = [len(tokenizer.decode(row)) for row in self._rows]

    def met(self, tokens, ended):
        """Takes in the new token of every row that has not ended; (B,) booleans: it completes a text."""
        return [not over and self._completes(row, int(token))
                for row, (token, over) in enumerate(zip(tokens, ended))]  # fmt: skip

    def _completes(self, row, token):
        self._rows[row].append(token)
        new = self._tokenizer.decode(self._rows[row])[self._known[row] :]
        return any(text in new for text in self._texts)
