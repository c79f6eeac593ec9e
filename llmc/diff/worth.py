"""Worth: how near a base with an adapter comes to the fine-tune it was extracted from, on a text."""

import os
import tempfile

import numpy as np

from llmc.analysis.feeding import batches
from llmc.analysis.predictions import compare_predictions
from llmc.analysis.sample import sample
from llmc.analysis.two_models import TwoModels
from llmc.analysis.words import Words
from llmc.diff.tracing import models_of


def worth_of(extraction, base, tuned, text, tokenizer, max_tokens):
    """What an extraction is worth: logits and predictions of base + adapter and of base alone, against tuned.

    Returns
    -------
    dict
        `tokens, max_abs, mean_abs, kl_mean, kl_max, agreement`, the same of the base alone with `base_` before, and
        `recovered`, None where the base already agrees.
    """
    models = TwoModels(models_of(base, "base"), models_of(tuned, "tuned"))
    words = Words(tokenizer, models.folders)
    items = sample(text, words.tokenizer, max_tokens, models.context, models.vocab_size)
    given = list(batches(items, None, None, models.vocab_size))
    with tempfile.TemporaryDirectory() as folder:
        extraction.save(os.path.join(folder, "adapter"))
        with models.base() as model:
            alone = [_logits(model, batch) for batch in given]
            with model.adapters.beside(os.path.join(folder, "adapter")):
                beside = [_logits(model, batch) for batch in given]
            del model
    with models.tuned() as model:
        there = [_logits(model, batch) for batch in given]
    found = _against(beside, there) | {f"base_{name}": value for name, value in _against(alone, there).items()}
    tokens = sum(len(logits) for logits in there)
    recovered = 1 - found["kl_mean"] / found["base_kl_mean"] if found["base_kl_mean"] else None
    return {"tokens": tokens, **found, "recovered": recovered}


def _logits(model, batch):
    """(N, V) float32 of the tokens that are not padding."""
    return model(batch.ids, attention_mask=batch.mask)[batch.real]


def _against(other, tuned):
    """How far the logits of another model are from the tuned one's."""
    kl, agree, most, total, count = [], [], 0.0, 0.0, 0
    for one, two in zip(other, tuned):
        seen = compare_predictions(one, two)
        kl.append(seen.kl)
        agree.append(seen.before_top == seen.after_top)
        for rows in range(len(one)):
            width = min(one.shape[1], two.shape[1])
            apart = np.abs(np.subtract(two[rows, :width], one[rows, :width], dtype=np.float64))
            most, total, count = max(most, float(apart.max())), total + float(apart.sum()), count + width
    kl = np.concatenate(kl)
    return {"max_abs": most, "mean_abs": total / count, "kl_mean": float(kl.mean()), "kl_max": float(kl.max()),
            "agreement": float(np.concatenate(agree).mean())}  # fmt: skip
