"""lim: Layer Input Modification of every module, and its kin, over a batch or a stream of them."""

from llmc.analysis.ablation import measure_ablation
from llmc.analysis.adapted import Adapters
from llmc.analysis.cka import measure_cka
from llmc.analysis.feeding import batches, length
from llmc.analysis.measurement import Measurement
from llmc.analysis.metrics import OBSERVED, checked
from llmc.analysis.observe import observed
from llmc.analysis.report import Report
from llmc.analysis.titles import title_of
from llmc.calls import public
from llmc.checks import whole
from llmc.errors import ConfigError
from llmc.model import Model
from llmc.run import Run
from llmc.show.bar import Passes

PROJECTIONS = ("truncate", "feature-mean")
LOGITS_AT_ONCE = 1 << 25  # 128 MB; a long text under a large vocabulary would take more than the model itself


@public
def lim(model, ids, attention_mask=None, metrics=("lim",), projections="truncate", labels=None, skip_first=0,
        disable_tqdm=None):  # fmt: skip
    """How much every module of a forward pass changes its input.

    Parameters
    ----------
    model : llmc.Model
        Adapters that are active take part, and their two linears have rows of their own, under peft's names.
    ids : (B, T) or (T,) integers, or an iterable of such arrays
        A mapping with `input_ids` (and its own `attention_mask` and `labels`) may stand for an array, so a dataset or
        what a tokenizer returns will do. Over several batches every value is the mean of theirs, weighted by their
        tokens, and stands beside its standard deviation over them, `<metric>_spread`.
    attention_mask : as `ids`, optional
        Padding counts nowhere.
    metrics : sequence of str
        "lim" : ||out - in|| / ||in||, Frobenius norms over all tokens of a batch.
        "negative_cosine" : minus the cosine of a token's input and output, mean over tokens.
        "block_influence" : 1 - that cosine, mean over tokens (Men et al., 2024).
        "angular_distance" : arccos of it / pi, mean over tokens (Gromov et al., 2024).
        "relative_contribution" : ||out - in|| / ||in|| per token, mean; for a branch its output against the residual
        stream it joins.
        "lim_per_token" : ||out - in|| / ||in|| of each token by lim's shape rules, mean over tokens. Where one token is
        much longer than all others, as the first of a text is in many models, "lim" is that token's.
        "cka" : linear centred kernel alignment of input and output (Kornblith et al., 2019); one more pass.
        "ablation" : the loss with a block replaced by the identity, or a branch by zero, minus the loss; a pass for
        every block and branch.
        A name alone may be given, or "all".
    projections : {"truncate", "feature-mean"}
        Where widths differ, the common leading features are compared; "feature-mean" compares the output of an
        attention projection with the mean of its input over the features instead, in `lim` and
        `relative_contribution`.
    labels : as `ids`, optional
        Of the loss for "ablation"; by default the ids without padding.
    skip_first : int
        Leave the first tokens of each row, padding not counted, out of every metric, and their labels out of the
        ablation; they are read all the same.
    disable_tqdm : bool or None
        None: a bar in a terminal and in a notebook.

    Returns
    -------
    Report

    Raises
    ------
    UnknownNameError
        For a metric there is not; the message lists the nearest names.
    ConfigError
        For `projections` that are neither, or no metric.
    DataError, ShapeError
        For an empty text, ids out of range, nothing but padding, arrays that do not belong together.
    TypeError
        For what is no model, or no ids.

    Notes
    -----
    Where input and output are both zero a value is 0; where it does not exist it is None, and a line in
    `report.mismatches` says why.
    """
    if not isinstance(model, Model):
        raise TypeError(f"lim looks into a llmc.Model, not {type(model).__name__}")
    metrics = checked(metrics)
    if projections not in PROJECTIONS:
        raise ConfigError(f"projections={projections!r}: 'truncate' or 'feature-mean' is needed")
    skip_first = whole(skip_first, "skip_first")
    given, total = batches(ids, attention_mask, labels, model.config.vocab_size, skip_first), length(ids)
    slow = [metric for metric in metrics if metric not in OBSERVED]
    if slow:
        given = list(given)
        total = len(given)
    adapters = Adapters(model)
    measurement = _look(model, given, total, metrics, projections, adapters, disable_tqdm)
    if "cka" in slow:
        _align(model, given, measurement, adapters, disable_tqdm)
    if "ablation" in slow:
        _ablate(model, given, measurement, disable_tqdm)
    return Report(title_of(model), metrics, projections, measurement, skip_first)


def _look(model, given, total, metrics, projections, adapters, disable_tqdm):
    """The metrics that are read while the forward pass runs."""
    tokens = max(LOGITS_AT_ONCE // model.config.vocab_size, 1)
    runs, measurement = _Runs(model, tokens, observe=True, keep=adapters.linears or None), None
    cheap = [metric for metric in metrics if metric in OBSERVED]
    with Passes("lim", total, disable_tqdm if total != 1 else True) as progress:
        for batch in given:
            run = runs.of(batch)
            sums, positions = observed(run, batch, adapters, runs.piece)
            if measurement is None:
                shapes = adapters.among(_of_whole_texts(run.shapes(), batch.ids.shape[1]))
                measurement = Measurement(run.parts(), shapes, metrics, projections, batch.ids.shape)
            measurement.observe(sums, cheap, positions)
            progress.step()
    return measurement


def _of_whole_texts(shapes, length):
    """Shapes of hook points as if all tokens had been read in one pass; those that no token passes are left out."""
    return {name: tuple(shape and (shape[0], length, *shape[2:]) for shape in pair)
            for name, pair in shapes.items() if len(pair[1]) > 2}


def _align(model, given, measurement, adapters, disable_tqdm):
    """The metric that wants everything kept: a pass for each batch."""
    runs = _Runs(model, keep="all")
    with Passes("cka", len(given), disable_tqdm) as progress:
        for batch in given:
            measure_cka(runs.of(batch), batch, measurement, adapters)
            progress.step()


def _ablate(model, given, measurement, disable_tqdm):
    """The metric that leaves modules out: passes for each batch and each of them."""
    runs, skippable = _Runs(model), sum(module.is_skippable for module in measurement.modules)
    with Passes("ablation", len(given) * (1 + skippable), disable_tqdm) as progress:
        for batch in given:
            measure_ablation(runs.of(batch), batch, measurement, progress.step)


class _Runs:
    """A run that is large enough for the batch at hand.

    Attributes
    ----------
    piece : int
        How many tokens of a row it reads at once: all, or as many as make `tokens` of a batch; the past is kept then.
    """

    def __init__(self, model, tokens=None, **options):
        self._model, self._tokens, self._options, self._run, self._size = model, tokens, options, None, (0, 0)

    def of(self, batch):
        rows, length = size = tuple(map(max, zip(self._size, batch.ids.shape)))
        if size != self._size:
            self._run = None  # its memory, before more is taken
            self.piece = min(length, max(self._tokens // rows, 1)) if self._tokens else length
            past = length if self.piece < length else 0
            self._run, self._size = Run(self._model, rows, self.piece, past=past, **self._options), size
        return self._run
