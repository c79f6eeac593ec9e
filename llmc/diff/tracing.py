"""Tracing inside a diff: what the changed weights move on a text, as `llmc.analysis.trace` finds it."""

from llmc import analysis


def traced(base, tuned, text, tokenizer, max_tokens, disable_tqdm):
    """The trace of two models on at most `max_tokens` tokens of a text.

    Parameters
    ----------
    base, tuned
        As of `diff`.
    text : str, list of str, ids or SceneDataset
    tokenizer : Tokenizer, optional
    max_tokens : int
    disable_tqdm : bool, optional
    """
    return analysis.trace(base, tuned, text, tokenizer=tokenizer, max_tokens=max_tokens, disable_tqdm=disable_tqdm)
