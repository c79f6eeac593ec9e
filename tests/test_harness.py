"""Benchmarks: what lm-evaluation-harness asks is answered as its own class of Hugging Face models answers it."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import hf_model, rope_change, tiny_model

import llmc

pytest.importorskip("lm_eval", reason="lm_eval does not import, so there is nothing that asks")
from lm_eval.api.instance import Instance  # noqa: E402

TEXT = llmc.data.builtin_text()[:30000]
LENGTH = 48  # tokens that the models read


@pytest.fixture(scope="module")
def tokenizer():
    """Trained on English, so that texts have tokens of several letters."""
    return llmc.Tokenizer.train([TEXT], vocab_size=400)


def config(**changes):
    return {**TINY["llama"], "vocab_size": 400, "max_position_embeddings": LENGTH, **changes}


@pytest.fixture(scope="module")
def both(peers, tokenizer, tmp_path_factory):
    """(their LM, ours) of one model."""
    from lm_eval.models.huggingface import HFLM

    folder = str(tmp_path_factory.mktemp("model"))
    theirs = hf_model(peers, config())
    theirs.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reader = peers.transformers.AutoTokenizer.from_pretrained(folder)
    return (HFLM(pretrained=theirs, tokenizer=reader, batch_size=3, device="cpu"),
            llmc.harness.LM(llmc.Model.from_pretrained(folder), tokenizer, batch_size=3))


@pytest.fixture(scope="module")
def lm(tokenizer):
    """Ours alone."""
    return llmc.harness.LM(tiny_model(config()), tokenizer, batch_size=3)


def asked(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


PAIRS = [
    ("The value of", " the statement"),
    ("The value of", " a"),
    ("The value of", " the"),
    ("Trailing space ", "moves"),
    ("Trailing newline\n\n", "moves, too"),
    ("", "no context at all"),
    ("a", "b"),
    ("", "<|endoftext|>The class"),
    ("<|endoftext|>Begins as texts begin", " and goes on"),
    (TEXT[:1000], " is cut on its left"),
    ("short", TEXT[5000:5060]),
    ("The value of", " the"),
]


def test_log_likelihoods_are_those_of_their_class(both):
    theirs, ours = (lm.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True) for lm in both)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    for (a, _), (b, _), pair in zip(ours, theirs, PAIRS):
        assert abs(a - b) <= 10 * TOLERANCE["logits"], pair


def test_the_likeliest_of_all_words_of_one_token_is_greedy_and_no_other(both, monkeypatch):
    theirs, ours = both
    words = [text for text in map(ours.tokenizer.decode, range(400)) if text.startswith(" ") and text.strip()]
    contexts = [TEXT[start : start + 40].rstrip() for start in range(0, 800, 20)]
    batches, forward = [], llmc.run.Run.forward
    monkeypatch.setattr(llmc.run.Run, "forward", lambda *args, **named: batches.append(1) or forward(*args, **named))
    requests = asked("loglikelihood", *((context, word) for context in contexts for word in words))
    answers = ours.loglikelihood(requests)
    assert len(batches) == -(-len(contexts) // ours.batch_size)  # words share the reading of their context
    values, greedy = (np.reshape(each, (len(contexts), len(words))) for each in zip(*answers))
    assert (greedy.sum(axis=1) <= 1).all() and greedy.any()
    assert (values.argmax(axis=1) == greedy.argmax(axis=1))[greedy.any(axis=1)].all()
    assert greedy.ravel().tolist() == [each for _, each in theirs.loglikelihood(requests, disable_tqdm=True)]


@pytest.mark.parametrize("length", [1, 5, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH + 7])
def test_rolling_windows_are_those_of_their_class(both, length):
    theirs, ours = both
    text = ours.tokenizer.decode(ours.tokenizer.encode(TEXT)[:length])
    requests = asked("loglikelihood_rolling", (text,), (TEXT[100:130],), ("",))
    for a, b in zip(ours.loglikelihood_rolling(requests), theirs.loglikelihood_rolling(requests, disable_tqdm=True)):
        assert abs(a - b) <= length * TOLERANCE["logits"]
