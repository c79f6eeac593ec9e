"""The words for dtypes: however somebody says one, the word that stands for it in config.json."""

import numpy as np

_SHORT = {"fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16",
          "fp64": "float64", "double": "float64"}  # fmt: skip


def dtype_word(value):
    """The word for a dtype that is a word itself ("bf16", "torch.bfloat16"), or NumPy's, ml_dtypes' or torch's.

    What is no dtype comes back as it is, to be refused by whoever knows what is possible.
    """
    if type(value).__module__.split(".")[0] == "torch":  # which need not be imported to be asked
        value = str(value)
    if isinstance(value, str):
        word = value.removeprefix("torch.")
        return _SHORT.get(word, word)
    if not isinstance(value, (type, np.dtype)):
        return value
    try:
        return np.dtype(value).name
    except TypeError:
        return value
