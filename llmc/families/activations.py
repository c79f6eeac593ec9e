"""Activations: transformers' names for the functions that the core has."""

ACTIVATIONS = {  # name in a config.json -> word of the core
    "linear": "linear",
    "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu", "swish": "silu",
    "relu": "relu",
    "relu2": "relu2",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "mish": "mish",
    "gelu_10": "gelu_10",
    "laplace": "laplace",
}  # fmt: skip
