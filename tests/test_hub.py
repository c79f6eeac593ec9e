"""Names that are no folder: a slip of the pen is answered at once, and what the hub's cache holds opens offline."""

import socket
import time

import pytest
from conftest import TINY
from huggingface_hub import constants

import llmc
from llmc.system import hub

COMMIT = "a" * 40
OPENERS = [llmc.Model.from_pretrained, llmc.Config.from_pretrained, llmc.Tokenizer.from_pretrained]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub answers; returns the folder of its cache."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def seconds_until_refused(opener, name, words):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=words):
        opener(name)
    return time.monotonic() - start


@pytest.mark.parametrize("opener", OPENERS)
def test_a_name_that_is_nowhere_is_refused_at_once_when_no_hub_answers(offline, opener):
    words = "no/such_dir: no such folder or file here, and the hub gives none: it cannot be reached .*refused"
    assert seconds_until_refused(opener, "no/such_dir", words) < 3


def test_a_hub_that_never_answers_is_not_waited_for(offline, monkeypatch):
    monkeypatch.setattr(hub, "_PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert seconds_until_refused(llmc.Model.from_pretrained, "no/such_dir", "cannot be reached .*[Tt]imeout") < 3


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", ["no/such/dir", "/no/such", "./no", "../no", "no such", "no/such/", "~/no"])
def test_what_cannot_be_a_name_of_the_hub_is_not_asked_for(monkeypatch, opener, name):
    monkeypatch.setattr(hub, "_silence", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match=f"^{name}: no such folder or file$"):
        opener(name)


def test_a_model_in_the_hubs_cache_opens_offline(offline):
    repository = offline / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    model = llmc.Model(llmc.Config(**TINY["llama"]))
    model.save_pretrained(repository / "snapshots" / COMMIT)
    assert llmc.Model.from_pretrained("some/model").num_parameters() == model.num_parameters()
    assert llmc.Model.from_pretrained("some/model", local_files_only=True).config == model.config
    with pytest.raises(FileNotFoundError, match="nor is the name in its cache"):
        llmc.Model.from_pretrained("some/model", revision="v2")
