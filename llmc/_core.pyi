"""The C core: parameters, passes and updates on NumPy arrays. Private: `llmc`'s classes are its face.

Arrays it takes are C-contiguous: ids int32, masks uint8, numbers float32. B batch, T time, V vocabulary.
"""

from typing import Any, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Reals: TypeAlias = NDArray[np.float32]
_Ids: TypeAlias = NDArray[np.int32]
_Mask: TypeAlias = NDArray[np.uint8]
_Stored: TypeAlias = _Reals | NDArray[np.uint16] | tuple[NDArray[np.int8], NDArray[np.float32], bool]
_Names: TypeAlias = list[str] | tuple[str, ...]

ACTIVATIONS: tuple[str, ...]
GROUP: int
LAYERS_MOST: int
ROTARIES_MOST: int

def set_num_threads(n: int, /) -> None: ...
def get_num_threads() -> int: ...
def choose(isa: str | None, gemm: Literal["own", "openblas"] | None, blas: str | None, /) -> None: ...
def offers() -> list[str]: ...
def info() -> dict[str, str | int]: ...
def measure(what: Literal["multiply_add", "bfloat16", "read", "copy"], seconds: float, /) -> float: ...
def functional(
    op: str,
    arrays: tuple[_Reals | None, ...],
    gradients: tuple[_Reals | None, ...],
    out: _Reals | None,
    dout: _Reals | None,
    count: int,
    shape: tuple[int, int],
    ids: _Ids | None = None,
    mask: _Mask | None = None,
    number: float = 0.0,
    act: str = "linear",
    heads: int = 0,
    groups: int = 0,
    size: int = 0,
    window: int = 0,
    causal: bool = False,
    repeats: int = 0,
    precision: str = "float32",
) -> list[float]: ...
def compare(
    base: _Reals | NDArray[np.uint16],
    other: _Reals | NDArray[np.uint16],
    is_delta: bool,
    least: float,
    sums: NDArray[np.float64],
    changed: NDArray[np.int64],
    columns: NDArray[np.float64] | None = None,
    delta: _Reals | None = None,
) -> tuple[int, float, int]: ...

@final
class Model:
    def __new__(
        cls,
        spec: dict[str, Any],
        take: bool = True,
        bfloat16: bool = False,
        storage: Literal["float32", "bfloat16", "int8"] = "float32",
    ) -> Model: ...
    def plan(
        self,
    ) -> tuple[
        list[tuple[str, str, list[int], list[tuple[int, str, int]]]], dict[str, tuple[str, int, int, int]]
    ]: ...
    def take(self) -> None: ...
    def parameters(self) -> dict[str, _Stored]: ...
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    def layout(self) -> dict[str, tuple[str, int | None, int, int]]: ...
    def linears(self) -> dict[str, tuple[int, int]]: ...
    def add_adapter(self, name: str, branches: list[tuple[str, int, float, float]], copies: _Names) -> None: ...
    def delete_adapter(self, name: str, /) -> None: ...
    def set_adapters(self, active: _Names, trainable: _Names) -> None: ...
    def adapter_parameters(self, name: str, /) -> dict[str, _Reals]: ...
    def estimate(
        self, batch: int, length: int, backward: bool, dropout: bool, keep: _Names, keep_all: bool, past: int
    ) -> dict[str, int | float]: ...
    def begin_write(self) -> None: ...
    def end_write(self) -> None: ...
    @property
    def parameter_count(self) -> int: ...
    @property
    def parameter_arena(self) -> _Reals | None: ...  # of the base, 1-D, as Run.gradient_arena where all of it trains
    @property
    def head_name(self) -> str: ...
    @property
    def embedding_name(self) -> str: ...
    @property
    def in_out(self) -> bool: ...

@final
class Run:
    def __new__(
        cls,
        model: Model,
        batch: int,
        length: int,
        backward: bool,
        dropout: bool,
        keep: _Names,
        keep_all: bool,
        past: int,
        seed: int,
        gradients: Run | None,
        observe: bool = False,
        float32: bool = False,
    ) -> Run: ...
    def forward(
        self,
        ids: _Ids,
        targets: _Ids | None,
        positions: _Ids,
        mask: _Mask | None,
        inv_freq: _Reals | None,
        rope_factor: _Reals | None,
        items: float,
        shape: tuple[int, int],
        skip: _Names,
        until: str | None,
        last: int,
    ) -> float | None: ...
    def forward_backward(
        self,
        ids: _Ids,
        targets: _Ids | None,
        positions: _Ids,
        mask: _Mask | None,
        inv_freq: _Reals | None,
        rope_factor: _Reals | None,
        items: float,
        shape: tuple[int, int],
        skip: _Names,
        until: str | None,
        last: int,
    ) -> float: ...
    def read(
        self, ids: _Ids, positions: _Ids, mask: _Mask | None, inv_freq: _Reals | None, rope_factor: _Reals | None, /
    ) -> None: ...
    def resume(self) -> float | None: ...
    def backward(self) -> None: ...
    def modules(self) -> list[tuple[str, bool, bool, bool, str, int]]: ...
    def array(self, name: str, which: Literal["input", "output", "grad"], /) -> _Reals | None: ...
    def parameter_gradient(self, name: str, /) -> _Reals | None: ...
    def observed(self) -> dict[str, _Reals]: ...
    def shapes(self) -> dict[str, tuple[tuple[int, ...] | None, tuple[int, ...]]]: ...
    def steps(self) -> list[tuple[str, str, tuple[int, ...], float, int, bool, bool]]: ...
    def likeliest(self) -> list[int]: ...
    def zero_grad(self) -> None: ...
    def trim(self, n: int, /) -> None: ...
    def set_dropout_key(self, update: int, micro: int, /) -> None: ...
    @property
    def logits(self) -> _Reals | None: ...
    @property
    def losses(self) -> _Reals | None: ...
    @property
    def gradient_arena(self) -> _Reals | None: ...  # of all that trains, 1-D, each from a 64-byte line on
    @property
    def past(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

@final
class AdamW:
    def __new__(cls, model: Model) -> AdamW: ...
    def step(
        self,
        run: Run,
        rates: list[float],
        decays: list[float],
        beta1: float,
        beta2: float,
        eps: float,
        max_grad_norm: float,
        skip_nonfinite: bool,
    ) -> tuple[float, Literal["updated", "nothing", "skipped"], str]: ...
    def moments(self) -> tuple[dict[str, _Reals], dict[str, _Reals]]: ...
    @property
    def updates(self) -> int: ...
    @updates.setter
    def updates(self, value: int) -> None: ...
