"""The values of a torch pickle that are not plain: names, storages, tensors; nothing of them is alive."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Global:
    """The name of something in a Python module; never the thing itself."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of `numel` numbers: from element `first` of what the file keeps under `key`.

    `dtype` is None for bytes without a type of their own.
    """

    key: str
    dtype: object
    numel: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape, strides and offset (in elements) over a storage; nothing is checked against the file yet."""

    storage: Storage
    dtype: object
    offset: int
    shape: tuple
    strides: tuple


class AttributeDict(dict):
    """What OrderedDict and Counter become: a dict that may be given attributes (`_metadata`), which are dropped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something harmless that is no tensor: a device, a dtype."""

    what: str
