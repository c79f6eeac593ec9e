"""What torch's functions would have made of their arguments in a pickle; nothing of torch is called."""

from llmc.checkpoint.formats.dtypes import TORCH_DTYPE, TORCH_STORAGE
from llmc.checkpoint.formats.pickle_values import AttributeDict, Global, Opaque, Storage, Tensor


def is_torch_word(module, name):
    """Whether torch has a storage class or a dtype of this name."""
    return (
        module in ("torch", "torch.storage")
        and (name.removesuffix("Storage") in TORCH_STORAGE and name.endswith("Storage") or name == "UntypedStorage")
        or module == "torch"
        and name in TORCH_DTYPE
    )


def _tensor(machine, storage, offset, shape, strides, dtype):
    if not isinstance(storage, Storage):
        machine.fail(f"a tensor is built on a {type(storage).__name__}, not on a storage")
    for numbers, what in ((shape, "shape"), (strides, "strides"), ((offset,), "offset")):
        if not isinstance(numbers, (tuple, list)):
            machine.fail(f"a tensor's {what} is a {type(numbers).__name__}, not a tuple")
        for number in numbers:
            if type(number) is not int or not 0 <= number < 2**63:
                machine.fail(f"a tensor's {what} holds something that is not a whole number from 0 to 2**63 - 1")
    if len(shape) != len(strides):
        machine.fail(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    if dtype is None:
        machine.fail("a tensor is built on bytes without saying its dtype")
    machine.file.budget.spend(80 + 16 * len(shape))
    return Tensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _tensor_of_storage(machine, storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
    return _tensor(machine, storage, offset, shape, strides, storage.dtype if isinstance(storage, Storage) else None)


def _tensor_of_dtype(machine, storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None):
    if not isinstance(dtype, Global) or dtype.module != "torch" or dtype.name not in TORCH_DTYPE:
        what = dtype if isinstance(dtype, Global) else type(dtype).__name__
        machine.fail(f"a tensor's dtype is {what}, not a known one")
    return _tensor(machine, storage, offset, shape, strides, TORCH_DTYPE[dtype.name])


def _parameter(machine, data, requires_grad=True, hooks=None, state=None):
    if not isinstance(data, Tensor):
        machine.fail(f"a Parameter is built on a {type(data).__name__}, not on a tensor")
    return data


def _from_type(machine, function, kind, args, state):
    if not isinstance(function, Global) or not isinstance(args, tuple) or function.name == "_rebuild_from_type_v2":
        machine.fail("_rebuild_from_type_v2 is given no function to rebuild with")
    return machine.call(function, args)


def _ordered_dict(machine, items=()):
    result = AttributeDict()
    if isinstance(items, dict):
        items = items.items()
    elif not isinstance(items, (list, tuple)):
        machine.fail(f"an OrderedDict is made of a {type(items).__name__}")
    machine.file.budget.spend(80 + 100 * len(items))
    for item in items:
        if not isinstance(item, (list, tuple)) or len(item) != 2:
            machine.fail("an OrderedDict is made of something that is not a pair")
        result[machine.key(item[0])] = item[1]
    return result


def _size(machine, sizes=()):
    if not isinstance(sizes, (tuple, list)):
        machine.fail(f"torch.Size is made of a {type(sizes).__name__}")
    return tuple(sizes)


def _set(machine, items=()):
    if not isinstance(items, (list, tuple)):
        machine.fail(f"a set is made of a {type(items).__name__}")
    machine.file.budget.spend(60 * len(items))
    return {machine.key(item) for item in items}


def _encode(machine, text, encoding="latin1"):
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        machine.fail("_codecs.encode is given something that is not text")
    machine.file.budget.spend(3 * len(text))
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        machine.fail(f"_codecs.encode is given text that is not {encoding}")


def _bytearray(machine, source=b"", encoding="latin1"):
    if isinstance(source, str):
        return _encode(machine, source, encoding)
    if not isinstance(source, bytes):  # a number would claim that many bytes
        machine.fail(f"a bytearray is made of a {type(source).__name__}, not of bytes")
    return source


def _complex(machine, real=0.0, imag=0.0):
    if not (type(real) in (int, float) and type(imag) in (int, float) and max(abs(real), abs(imag)) <= 1e308):
        machine.fail("a complex number is made of something that is not two numbers")
    return complex(real, imag)


def _device(machine, kind="cpu", index=0):
    return Opaque("device")


def _no_instance(machine, *args):
    machine.fail("a Tensor or Parameter is made without torch's rebuild functions")


CALLS = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "Counter"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _tensor_of_storage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_of_storage,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.nn.parameter", "Parameter"): _no_instance,
    ("torch", "Tensor"): _no_instance,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): _set,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "complex"): _complex,
}
