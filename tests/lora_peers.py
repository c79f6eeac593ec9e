"""peft beside ours: the same base with the same adapter in both."""

import copy
import importlib
import os
import warnings

import pytest
import tiny
from conftest import WITHOUT

import llmc


def require_peft():
    """peft, or a skipped test; under LLMC_REQUIRE_PEERS=1 its absence is a failure."""
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        if os.environ.get("LLMC_REQUIRE_PEERS") == "1":
            pytest.fail(f"LLMC_REQUIRE_PEERS=1, but peft does not import: {error}")
        pytest.skip(WITHOUT.format("peft"))


def bases(case, tmp_path_factory):
    """(transformers' model, ours) of a case of `tiny.CASES`, the same numbers in both, both free to be changed."""
    theirs, _ = tiny.pair(case, tmp_path_factory)
    folder = tmp_path_factory.getbasetemp() / case.replace(":", "")
    return copy.deepcopy(theirs), llmc.Model.from_pretrained(folder)


def adapted(peers, case, tmp_path_factory, noise=0.1, **config):
    """(peft's model with a random adapter, our base) of a case."""
    peft = require_peft()
    theirs, ours = bases(case, tmp_path_factory)
    peers.torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(theirs, peft.LoraConfig(**config)).eval()
    disturb(peers, theirs, noise)
    return theirs, ours


def disturb(peers, model, noise=0.1):
    """Add noise to everything that trains."""
    with peers.torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(noise * peers.torch.randn_like(parameter))


def reopened(model, folder):
    """peft's model of another copy of the same base, with the adapter from `folder`, and what loading left over."""
    peft = require_peft()
    base = copy.deepcopy(model.unload())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = peft.PeftModel.from_pretrained(base, folder).eval()
        leftover = again.load_adapter(folder, "default")
    return again, leftover


def logits(peers, model, ids):
    """The logits of a torch model, as an array."""
    with peers.torch.no_grad():
        return model(peers.torch.tensor(ids)).logits.numpy()
