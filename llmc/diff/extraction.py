"""Extraction: an adapter that was extracted from a fine-tune, what it holds of the change, and what it is worth."""

import os

import ml_dtypes
import numpy as np

from llmc.calls import public
from llmc.lora import adapter_files
from llmc.show.table import Table
from llmc.system.atomic import write_json

FORMAT, VERSION, FILE = "llmc-extraction", 1, "extraction.json"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
_PRINTED = 10


@public
class Extraction:
    """A low-rank adapter of what a fine-tune changed. It prints itself.

    Attributes
    ----------
    rows : list of dict
        One for each adapted matrix: `name, module, layer, part, shape` ((out, in)), `rank, delta_norm, kept` (the share
        of delta_norm² that it holds), `error` (||Δ − BA|| / ||Δ||, of the factors as they are saved) and
        `next_singular_value`.
    left_out : list of dict
        What changed and is not in the adapter, and what tuned alone has: `name, role, delta_norm, share, why`.
    kept : float
        The share of the whole squared change, of all tensors, that the adapter holds.
    logits : dict or None
        With a text, what it is worth: `tokens, max_abs, mean_abs, kl_mean, kl_max, agreement` of base + adapter against
        tuned, the same of the base alone (`base_max_abs` …), and `recovered` = 1 - kl_mean / base_kl_mean.
    config : LoraConfig
    """

    def __init__(self, rows, left_out, kept, config, factors, copies):
        self.rows, self.left_out, self.kept, self.config, self.logits = rows, left_out, kept, config, None
        self._factors, self._copies = factors, copies

    def state_dict(self):
        """{key in peft's file: array}: A (R, I) and B (O, R) of every module, and what is kept whole."""
        found = {}
        for module, (A, B) in self._factors.items():
            found[f"{adapter_files.PREFIX}{module}.lora_A.weight"] = A
            found[f"{adapter_files.PREFIX}{module}.lora_B.weight"] = B
        return found | {f"{adapter_files.PREFIX}{name}": array for name, array in self._copies.items()}

    def save(self, directory):
        """Write peft's folder, and extraction.json beside.

        Raises
        ------
        NonFiniteError
            When a number is not finite; nothing is written.
        OSError
            When the place cannot be written to.
        """
        adapter_files.save(directory, self.config, self.state_dict(), dtype=self._dtype())
        write_json(os.path.join(directory, FILE), self.to_dict())

    def to_dict(self):
        """What extraction.json holds."""
        return {"format": FORMAT, "version": VERSION, "rows": self.rows, "left_out": self.left_out, "kept": self.kept,
                "logits": self.logits}  # fmt: skip

    def _dtype(self):
        return str(next(iter(self._factors.values()))[0].dtype)

    def __str__(self):
        ranks = sorted(row["rank"] for row in self.rows)
        span = str(ranks[0]) if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
        columns = ["name", "shape", "rank", "delta_norm", "kept", "error"]
        worst = sorted(self.rows, key=lambda row: row["kept"])[:_PRINTED]
        pieces = [f"{len(self.rows)} matrices at rank {span} hold {self.kept:.2%} of the squared change",
                  f"those of which it holds least\n{Table(columns, worst)}"]  # fmt: skip
        if self.left_out:
            rows = sorted(self.left_out, key=lambda row: -(row["delta_norm"] or 0))[:_PRINTED]
            pieces.append(f"left out: {len(self.left_out)}\n{Table(['name', 'delta_norm', 'share', 'why'], rows)}")
        if self.logits is not None:
            pieces.append(f"on the text\n{_worth(self.logits)}")
        return "\n\n".join(pieces)

    __repr__ = __str__


def _worth(logits):
    measures = [name.removeprefix("base_") for name in logits if name.startswith("base_")]
    rows = [{"against tuned": label} | {name: logits[f"{prefix}{name}"] for name in measures}
            for label, prefix in (("base", "base_"), ("base + adapter", ""))]  # fmt: skip
    recovered = logits["recovered"]
    note = f"{logits['tokens']:,} tokens" + ("" if recovered is None else f", recovered {recovered:.1%}")
    return Table(["against tuned", *measures], rows, note)
