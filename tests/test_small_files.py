"""What is no regular file, in the place of any small file, is refused in words: nothing hangs or eats memory."""

import json
import os
import shutil
import signal
import socket
import threading

import pytest

import llmc
from llmc.checkpoint import verify, write_manifest
from llmc.checkpoint.writing import _named
from llmc.cli import main
from llmc.cli.train_run import saved_settings
from llmc.data import TokenBlockDataset, tokenize_file
from llmc.errors import CheckpointError, DataError, Error
from llmc.train.log import read_log
from llmc.train.state import read_state

ADAPTER = llmc.LoraConfig(r=2, target_modules=["q_proj"])


@pytest.fixture(autouse=True)
def nothing_hangs():
    """A reader that waits for a pipe is told off after a while."""

    def told_off(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, told_off)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with everything: a model, its tokenizer in both layouts, an adapter, a checkpoint, a log, ids."""
    folder = tmp_path_factory.mktemp("whole")
    tokenizer = llmc.Tokenizer.train(["the cat sat on the mat"] * 9, vocab_size=270, special_tokens=["<s>", "</s>"])
    config = llmc.Config(model_type="llama", vocab_size=270, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=12, max_position_embeddings=16, bos_token_id=0, eos_token_id=1)
    model = llmc.Model(config)
    rows = [{"input_ids": [1, 2, 3, 4]}] * 4
    args = llmc.TrainingArguments(str(folder), max_steps=1, save_steps=1, disable_tqdm=True)
    llmc.Trainer(model, args, rows, tokenizer=tokenizer).train()
    model.add_adapter(ADAPTER)
    model.save_adapter(folder / "adapter")
    data = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "two").mkdir()
    (folder / "two" / "vocab.json").write_text(json.dumps(data["vocab"]))
    (folder / "two" / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in data["merges"]))
    (folder / "text.txt").write_text("the cat sat on the mat")
    tokenize_file(folder / "text.txt", tokenizer, folder / "ids.bin", progress=False)
    return folder


def resume(folder):
    args = llmc.TrainingArguments(str(folder), max_steps=2, disable_tqdm=True)
    model = llmc.Model.from_pretrained(folder)
    llmc.Trainer(model, args, [{"input_ids": [1, 2, 3, 4]}] * 4).train(resume_from_checkpoint=True)


READERS = {  # place in the folder: what reads it
    "tokenizer.json": llmc.Tokenizer.from_pretrained,
    "tokenizer_config.json": llmc.Tokenizer.from_pretrained,
    "special_tokens_map.json": llmc.Tokenizer.from_pretrained,
    "chat_template.jinja": llmc.Tokenizer.from_pretrained,
    "additional_chat_templates/tool.jinja": llmc.Tokenizer.from_pretrained,
    "two/vocab.json": lambda folder: llmc.Tokenizer.from_pretrained(folder / "two"),
    "two/merges.txt": lambda folder: llmc.Tokenizer.from_pretrained(folder / "two"),
    "two/added_tokens.json": lambda folder: llmc.Tokenizer.from_pretrained(folder / "two"),
    "config.json": llmc.Model.from_pretrained,
    "generation_config.json": llmc.Config.from_pretrained,
    "adapter_config.json": lambda folder: llmc.Model.from_pretrained(folder).load_adapter(folder),
    "adapter/adapter_config.json": lambda folder: llmc.Model.from_pretrained(folder).load_adapter(folder / "adapter"),
    "adapter/adapter_model.safetensors":
        lambda folder: llmc.Model.from_pretrained(folder).load_adapter(folder / "adapter"),
    "checkpoint-1/trainer_state.json": lambda folder: read_state(folder / "checkpoint-1"),
    "checkpoint-1/manifest.json": lambda folder: verify(folder / "checkpoint-1"),
    "checkpoint-1/optimizer.safetensors": lambda folder: verify(folder / "checkpoint-1"),
    "log.jsonl": lambda folder: read_log(folder / "log.jsonl"),
    "train.json": lambda folder: saved_settings("train", folder),
    "ids.bin.json": lambda folder: TokenBlockDataset(folder / "ids.bin", 4),
}  # fmt: skip


def put(kind, path):
    """Put something that is no regular file at `path`."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to("nowhere")


@pytest.mark.parametrize("kind, place", [
    (kind, place) for kind in ("a pipe", "a device", "a folder") for place in READERS
    if (kind, place) != ("a folder", "adapter/adapter_model.safetensors")])  # which may hold weights of its own
def test_what_is_no_regular_file_is_refused_by_its_kind(whole, tmp_path, kind, place):
    folder = shutil.copytree(whole, tmp_path / "copy")
    put(kind, folder / place)
    with pytest.raises(Error) as caught:
        READERS[place](folder)
    said = str(caught.value)
    if place == "checkpoint-1/optimizer.safetensors":
        assert "optimizer.safetensors" in said
    else:
        assert f"{place}: {kind}, not a regular file" in said


@pytest.mark.parametrize("place", READERS)
def test_a_link_that_leads_nowhere_is_said(whole, tmp_path, place):
    folder = shutil.copytree(whole, tmp_path / "copy")
    put("a link", folder / place)
    with pytest.raises((FileNotFoundError, CheckpointError), match="nowhere, which is not there|optimizer.safetensors"):
        READERS[place](folder)


def test_a_socket_is_refused_by_its_kind(whole, tmp_path):
    put("a socket", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="config.json: a socket, not a regular file"):
        llmc.Config.from_pretrained(tmp_path)


@pytest.mark.parametrize("place", [place for place in READERS if not place.endswith(".safetensors")])
def test_a_file_of_terabytes_is_not_read(whole, tmp_path, place):
    folder = shutil.copytree(whole, tmp_path / "copy")
    (folder / place).parent.mkdir(exist_ok=True)
    with open(folder / place, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Error, match="1099511627776 bytes; .* at most [0-9]+"):
        READERS[place](folder)


def test_a_training_does_not_resume_from_a_pipe(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    put("a pipe", folder / "log.jsonl")
    with pytest.raises(CheckpointError, match="log.jsonl: a pipe"):
        resume(folder)
    put("a pipe", folder / "checkpoint-1" / "trainer_state.json")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        resume(folder)
    with pytest.raises(CheckpointError):
        verify(folder / "checkpoint-1")


def test_a_manifest_that_lists_a_pipe_does_not_hang(tmp_path):
    (tmp_path / "nothing").write_bytes(b"")
    write_manifest(tmp_path)
    verify(tmp_path)
    put("a pipe", tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="nothing: a pipe"):
        verify(tmp_path)


def test_weights_are_written_beside_an_index_that_is_a_pipe(tmp_path):
    put("a pipe", tmp_path / "model.safetensors.index.json")
    assert _named(tmp_path / "model.safetensors.index.json") == set()


def test_a_configuration_or_tokenizer_that_is_a_pipe_itself_is_refused(tmp_path):
    put("a pipe", tmp_path / "pipe")
    for reader in (llmc.Config.from_pretrained, llmc.Tokenizer.from_pretrained):
        with pytest.raises(CheckpointError, match="pipe: a pipe, not a regular file"):
            reader(tmp_path / "pipe")


def test_lines_of_a_device_are_no_data(tmp_path):
    tokenizer = llmc.Tokenizer.train(["the cat"], vocab_size=257, special_tokens=["</s>"])
    with pytest.raises(DataError, match="/dev/zero: a device"):
        llmc.data.JsonlDataset("/dev/zero", tokenizer, 8)


def test_a_pipe_of_text_is_read_once_and_refused_where_it_would_be_read_twice(whole, tmp_path, capsys):
    put("a pipe", tmp_path / "x.txt")
    put("a pipe", tmp_path / "x.jsonl")
    tokenizer = llmc.Tokenizer.from_pretrained(whole)
    writer = threading.Thread(target=(tmp_path / "x.txt").write_text, args=("the cat",))
    writer.start()
    info = tokenize_file(tmp_path / "x.txt", tokenizer, tmp_path / "x.bin", progress=False)
    writer.join()
    assert info["count"] == len(tokenizer.encode("the cat"))
    for words in (["tokenize", "x.txt", "--tokenizer", "new", "--vocab-size", "300"], ["train", "x.jsonl"]):
        assert main([str(tmp_path / word) if word in ("x.txt", "x.jsonl", "new") else word for word in words]) == 2
        assert "a pipe can be read once" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="x.txt: not a file that can be read again"):
        llmc.data.StreamingTextDataset(files=tmp_path / "x.txt", tokenizer=tokenizer, block_size=8)
