"""The settings of LIMe's paper (Gerasimov et al., 2025): its sizes, its training, its tasks."""

from llmc.calls import public
from llmc.config import Config
from llmc.errors import UnknownNameError, nearest, shown
from llmc.train import TrainingArguments

TASKS = ("arc_easy", "arc_challenge", "winogrande", "copa", "multirc", "rte", "hellaswag", "piqa")

_COMMON = dict(vocab_size=50257, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None,
               eos_token_id=None)  # fmt: skip
_1B = _COMMON | dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32)
SIZES = {  # table 4; of "150m" and "aet" the widths of the feed-forward are not published, and four times C here
    "1b": _1B,
    "1b-gqa": _1B | dict(num_key_value_heads=8),
    "deep": _COMMON | dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=32, num_attention_heads=8),
    "150m": _COMMON | dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
    "aet": _COMMON
    | dict(vocab_size=21, hidden_size=32, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
           max_position_embeddings=128, eos_token_id=2),
}  # fmt: skip

_RECIPE = dict(  # table 3; what mixes heads as it is, `static_weights`, has no decay in any case
    learning_rate=1e-3, router_learning_rate=1e-2, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95,
    adam_epsilon=1e-8, max_grad_norm=1.0, seed=42, max_steps=20_000, warmup_steps=200,
    lr_scheduler_type="cosine_with_floor", per_device_train_batch_size=8, gradient_accumulation_steps=128,
    parameter_groups=[{"params": ["model.embed_tokens.weight"], "weight_decay": 0.0}],
)  # fmt: skip
_OTHERWISE = {
    "deep": dict(max_steps=5_000),
    "aet": dict(max_steps=-1, num_train_epochs=200, warmup_steps=0, lr_scheduler_type="linear",
                per_device_train_batch_size=128, gradient_accumulation_steps=1),
}  # fmt: skip
_OF_SCHEDULES = {"cosine_with_floor": {"floor": 1e-6}}  # a share of the rate, as their code has it


@public
def config(name, size="1b", **changes):
    """A model of the paper.

    Parameters
    ----------
    name : str
        A model_type with LLaMA's fields: "llama", "lime" …
    size : "1b", "1b-gqa", "deep", "150m" or "aet"
    **changes
        Fields that go before those of the size; of "deep" `num_hidden_layers` (32) is also 64 and 128.

    Returns
    -------
    Config

    Raises
    ------
    UnknownNameError
        For another size.
    ConfigError
        For another model_type, or a value that its family does not have.
    TypeError
        For a field that the family does not have.
    """
    return Config(name, **_known(size)).replace(**changes)


@public
def arguments(out, size="1b", **changes):
    """How the authors train: AdamW with a rate of its own for routers, and no decay on the embedding.

    Parameters
    ----------
    out : path
        The output_dir.
    size : "1b", "1b-gqa", "deep", "150m" or "aet"
    **changes
        Arguments that go before these.

    Returns
    -------
    TrainingArguments

    Raises
    ------
    UnknownNameError
        For another size.
    ConfigError, TypeError
        As of TrainingArguments.
    """
    _known(size)
    settings = _RECIPE | _OTHERWISE.get(size, {}) | changes
    settings.setdefault("lr_scheduler_kwargs", _OF_SCHEDULES.get(settings["lr_scheduler_type"]))
    return TrainingArguments(out, **settings)


def _known(size):
    """The fields of a size."""
    if not isinstance(size, str) or size not in SIZES:
        near = nearest(str(size), SIZES) or f"there are {', '.join(SIZES)}"
        raise UnknownNameError(f"size is {shown(size)}, none of the paper's; {near}")
    return SIZES[size]
