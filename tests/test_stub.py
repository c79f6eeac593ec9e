"""The stub of the core says what the core has: names, parameters and the types of what is given back."""

import ast
import re
import types
import typing
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

import llmc
from llmc import _core

ROOT = Path(__file__).resolve().parent.parent
STUB = ast.parse((ROOT / "llmc" / "_core.pyi").read_text())
BINDING = "".join(path.read_text() for path in sorted((ROOT / "csrc" / "binding").glob("*.c")))


def functions(body, prefix=""):
    """{dotted name: definition} of a stub's functions, methods and properties (their getters)."""
    found = {}
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            found.setdefault(prefix + statement.name, statement)
        elif isinstance(statement, ast.ClassDef):
            found |= functions(statement.body, f"{statement.name}.")
    return found


DEFINED = functions(STUB.body)


def is_property(definition):
    return any(isinstance(each, ast.Name) and each.id == "property" for each in definition.decorator_list)


def parameters(definition):
    every = [argument.arg for argument in definition.args.posonlyargs + definition.args.args]
    return [name for name in every if name not in ("self", "cls")]


def the_core_has():
    """{dotted name: object} of the core's public functions, methods and properties; a type stands for its __new__."""
    found = {}
    for name, value in vars(_core).items():
        if isinstance(value, type) and value.__module__.startswith("llmc._core"):
            found[f"{name}.__new__"] = value
            found |= {f"{name}.{member}": each for member, each in vars(value).items() if not member.startswith("_")}
        elif callable(value) and not name.startswith("_"):
            found[name] = value
    return found


def test_every_name_is_in_both():
    assert set(DEFINED) == set(the_core_has())


def test_properties_are_properties_and_methods_methods():
    for name, value in the_core_has().items():
        assert isinstance(value, types.GetSetDescriptorType) == is_property(DEFINED[name]), name


def keywords_of_c():
    """{function's own name: its keywords} as the binding parses them."""
    listed = r"static char \*names\[\] = \{(.*?)NULL\};"
    parsed = r'PyArg_ParseTupleAndKeywords\(.*?"[^":]*:(\w+)"'
    found = re.findall(f"{listed}.*?{parsed}", BINDING, re.S)
    return {name: re.findall(r'"(\w+)"', names) for names, name in found}


def test_keywords_are_those_of_the_binding():
    keywords = keywords_of_c()
    types_ = {"Model", "Run", "AdamW"}
    assert types_ <= set(keywords)
    for name, definition in DEFINED.items():
        own = name.split(".")[0] if name.endswith(".__new__") else name.split(".")[-1]
        own = "forward" if own == "forward_backward" else own
        if own in keywords and not is_property(definition):
            assert parameters(definition) == keywords[own], name
            assert not definition.args.posonlyargs, name
        else:
            assert not parameters(definition) or definition.args.posonlyargs or "setter" in ast.dump(definition), name


def test_positions_are_as_many_as_the_binding_parses():
    positional = {name: len(parameters(each)) for name, each in DEFINED.items() if each.args.posonlyargs}
    for name, count in positional.items():
        short = name.split(".")[-1]
        found = re.search(rf'PyArg_ParseTuple\(args, "(\w+):{short}"', BINDING)
        assert count == (len(found[1]) if found else 1), name


# --- what comes back -------------------------------------------------------------------------------------------------
NAMESPACE = {"_Reals": np.ndarray, "_Stored": np.ndarray, "Model": _core.Model, "Run": _core.Run, "AdamW": _core.AdamW}


def fits(value, annotation):
    """Is the value of the type that the annotation spells?"""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return value is None if annotation is None else isinstance(value, annotation)
    if origin is types.UnionType or origin is typing.Union:
        return any(fits(value, None if each is type(None) else each) for each in inner)
    if not isinstance(value, origin):
        return False
    if origin is dict:
        return all(fits(key, inner[0]) and fits(each, inner[1]) for key, each in value.items())
    if origin is tuple and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(each, inner[0]) for each in value)


@pytest.fixture(scope="module")
def objects():
    model = llmc.Model(llmc.Config(**TINY["llama"]))
    run = model.run(2, 9, keep="all", backward=True)
    ids = np.arange(18).reshape(2, 9)
    run.forward(ids, labels=ids)
    return {"Model": model._model, "Run": run._core, "AdamW": model._core.AdamW(model._model)}


@pytest.mark.parametrize("name", [name for name, each in DEFINED.items() if not parameters(each) and "." in name])
def test_what_comes_back_is_what_the_stub_says(objects, name):
    owner, member = name.split(".")
    annotation = eval(ast.unparse(DEFINED[name].returns), NAMESPACE)
    if is_property(DEFINED[name]):
        assert fits(getattr(objects[owner], member), annotation)
    elif member not in ("resume", "backward", "take"):  # they need a pass, or a model without memory
        try:
            assert fits(getattr(objects[owner], member)(), annotation)
        finally:
            objects["Model"].end_write()  # begin_write would keep everyone else out


@pytest.mark.parametrize("name", ["offers", "info", "get_num_threads"])
def test_what_functions_give_is_what_the_stub_says(name):
    assert fits(getattr(_core, name)(), eval(ast.unparse(DEFINED[name].returns), NAMESPACE))


def test_the_package_is_marked_as_typed():
    assert (ROOT / "llmc" / "py.typed").exists()
