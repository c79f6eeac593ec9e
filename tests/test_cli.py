"""The command line: what each command prints and leaves, and how it ends when something is wrong."""

import argparse
import errno
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, needs_bfloat16

import llmc
from llmc.checkpoint import role
from llmc.cli import COMMANDS, main
from llmc.cli.generate import written
from llmc.cli.parser import Parser

TEXT = llmc.data.builtin_text()[:24000]
SMALL = ["--hidden-size", "16", "--num-hidden-layers", "2", "--num-attention-heads", "2", "--vocab-size", "300",
         "--block-size", "32", "--num-threads", "1"]  # fmt: skip


def llmc_in_a_process(*words, **options):
    """A running `llmc`, as a shell would start it."""
    return subprocess.Popen([sys.executable, "-m", "llmc.cli", *map(str, words)], text=True,
                            stderr=subprocess.PIPE, **{"stdout": subprocess.PIPE} | options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text file."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """The folder of a model that `llmc train` made."""
    out = str(tmp_path_factory.mktemp("trained") / "out")
    assert main(["train", corpus, *SMALL, "--max-steps", "12", "--save-steps", "5", "--output-dir", out]) == 0
    return out


def says(capsys, words, status):
    """Run a command that ends with `status`; the one line it says on the standard error."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("llmc: ")
    return lines[0]


# --- what all commands share -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"example:\n  llmc {command}" in out


def file_of(command):
    """The module of a command."""
    return importlib.import_module(f"llmc.cli.{command.replace('-', '_')}")


def flags(command):
    """The parser of a command, and its actions that take a value."""
    module, parser = file_of(command), Parser(command, COMMANDS[command], "")
    module.arguments(parser)
    return parser, [action for action in parser._actions if action.nargs != 0 and action.option_strings]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_s_help_is_a_sentence_with_its_choices_and_its_default(command):
    parser, actions = flags(command)
    formatter = parser._get_formatter()
    for action in parser._actions:
        text = "" if action.help == argparse.SUPPRESS else formatter._expand_help(action)
        assert not text or re.match(r"(?s)[A-Z0-9\-{].{9,}\.( \[.+\])?$", text), (action.dest, text)
    for action in actions:
        text = formatter._expand_help(action)
        assert all(str(choice) in text for choice in action.choices or ()), (action.dest, text)
        assert action.required or re.search(r" \[.+\]$", text), (action.dest, text)


def needed(command):
    """The fewest words that a command's parser takes."""
    module, parser = file_of(command), Parser(command, COMMANDS[command], "")
    module.arguments(parser)
    return [word for action in parser._actions if action.required for word in [*action.option_strings[:1], "x"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_unknown_flag(command, capsys):
    assert "no flag --frobnicate" in says(capsys, [command, *needed(command), "--frobnicate"], 2)


def test_a_row_of_the_table_is_a_file():
    files = {path.stem for path in Path(importlib.import_module("llmc.cli").__file__).parent.glob("*.py")}
    assert {command.replace('-', '_') for command in COMMANDS} <= files


def test_the_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_the_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"llmc {llmc.__version__}\n"


@pytest.mark.parametrize("words, expected", [
    ([], "a command is missing"),
    (["trian"], "nearest: train"),
    (["train"], "which FILE"),
    (["train", "x.txt", "--lerning-rate", "1"], "nearest: --learning-rate"),
    (["train", "x.txt", "--max-steps", "many"], "--max-steps"),
    (["train", "x.txt", "--max-steps", "0"], "max_steps is 0"),
    (["train", "x.txt", "--learning-rate", "-1"], "learning_rate is -1"),
    (["train", "x.txt", "--model", "m", "--hidden-size", "8"], "--model"),
    (["train", "x.bin", "y.txt"], "given alone"),
    (["generate", "dir"], "prompt"),
    (["generate", "dir", "two", "words"], "quoted"),
    (["generate", "dir", "a", "--temperature", "0"], "above 0"),
    (["generate", "dir", "a", "--top-p", "1.5"], "at most 1"),
    (["generate", "dir", "a", "--num-threads", "0"], "at least 1"),
    (["generate", "dir", "a", "--num-threads=-2"], "at least 1"),
    (["generate", "dir", "a", "--num-threads", "999"], "1 to 256 threads"),
    (["generate", "dir", "a", "--precision", "float16"], "(choose from 'float32', 'bfloat16')"),
    (["eval", "dir", "--text", "a", "--dtype", "int4"], "(choose from 'float32', 'bfloat16', 'int8')"),
    (["train", "x.txt", "--dtype", "int8"], "no flag --dtype"),
    (["eval", "dir"], "--text"),
    (["tokenize", "x.txt"], "--tokenizer"),
    (["tokenize", "x.txt", "--tokenizer", "t", "--out", "y.txt"], "ends in .bin"),
    (["tokenize", "x.txt", "--tokenizer", "t", "--vocab-size", "9" * 30], "at most 2147483647"),
    (["compare", "dir", "--batch", "9" * 19], "at most 2147483647"),
    (["doctor", "now"], "one word too many"),
])  # fmt: skip
def test_wrong_usage_is_said_in_a_line_and_exits_2(words, expected, capsys):
    assert expected in says(capsys, words, 2)


@pytest.fixture
def files(tmp_path, monkeypatch, trained):
    """Files that are not what they should be, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("a few words")
    (tmp_path / "model").symlink_to(trained)


@pytest.mark.parametrize("words, expected", [
    (["train", "missing.txt"], "missing.txt: No such file"),
    (["train", "empty.txt"], "empty.txt: there is no text in it"),
    (["train", "latin.txt"], "latin.txt: byte 3"),
    (["train", "text.txt", "--model", "folder"], "config.json"),
    (["train", "text.txt", "--resume", "--output-dir", "folder"], "no checkpoint"),
    (["train", "text.txt", "--tokenizer", "folder"], "folder"),
    (["inspect", "missing"], "missing"),
    (["inspect", "folder"], "none of model.safetensors"),
    (["inspect", "empty.txt"], "empty"),
    (["inspect", "noise.safetensors"], "noise.safetensors"),
    (["inspect", "model", "--match", "model.layer.*"], "nearest: model."),
    (["generate", "folder", "a"], "config.json"),
    (["generate", "text.txt", "a"], "text.txt: a file; give the folder of a checkpoint"),
    (["generate", "model/config.json", "a"], "model/config.json: a file; give the folder of a checkpoint"),
    (["generate", "model", "a \udcff"], "the prompt: byte 2 (0xff) is not UTF-8"),
    (["eval", "model", "--text", "empty.txt"], "llmc: empty.txt has 0 tokens, and a block at least 2"),
    (["eval", "model", "--text", "missing.txt"], "llmc: missing.txt: no such file"),
    (["eval", "model", "--text", "folder"], "llmc: folder: not a file"),
    (["eval", "model", "--text", "latin.txt"], "llmc: latin.txt: byte 3"),
    (["lim", "model", "--text", "empty.txt"], "llmc: empty.txt has 0 tokens"),
    (["train", "/dev/zero"], "/dev/zero: a device and no file of text"),
    (["lora", "model", "empty.jsonl"], "llmc: empty.jsonl: there is no row in it"),
    (["tokenize", "empty.txt", "--tokenizer", "model"], "empty.txt: no tokens"),
    (["tokenize", "text.txt", "--tokenizer", "model", "--out", "nowhere/x.bin"], "nowhere: there is no such folder"),
    (["tokenize", "text.txt", "--tokenizer", "model", "--vocab-size", "300"], "model: there is a tokenizer in it"),
    (["tokenize", "text.txt", "--tokenizer", "new", "--vocab-size", "9999999"], "it may be 1048576 at most"),
    (["demo", "--out", "text.txt"], "text.txt: "),
])  # fmt: skip
def test_work_that_fails_is_said_in_a_line_and_exits_1(words, expected, files, capsys):
    assert expected in says(capsys, words, 1)


def test_a_prompt_on_the_standard_input_is_utf_8(trained, tmp_path):
    (tmp_path / "prompt").write_bytes(b"caf\xe9 au lait")
    with open(tmp_path / "prompt", "rb") as prompt:
        process = llmc_in_a_process("generate", trained, "-", stdin=prompt)
    assert process.communicate()[1].startswith("llmc: the standard input: byte 3 (0xe9) is not UTF-8: ")
    assert process.returncode == 1


def test_text_that_memory_has_no_room_for_is_refused_with_both_numbers(corpus, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("llmc.system.free_memory.free_memory", lambda: 50_000)
    line = says(capsys, ["train", corpus, "--output-dir", tmp_path / "out"], 1)
    assert "24 kB of text" in line and "50 kB are free; llmc tokenize" in line and not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_is_a_failure(trained, corpus, tmp_path, capsys):
    model = llmc.Model.from_pretrained(trained)
    model.state_dict()["model.norm.weight"][3] = np.nan
    shutil.copytree(trained, tmp_path / "nan")
    model.save_pretrained(tmp_path / "nan")
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "nan"), "--text", corpus]) == 1
    out, err = capsys.readouterr()
    assert "nan" in out and err.strip().endswith("llmc lim says where numbers stop being so")


def test_debug_shows_the_traceback(capsys):
    assert main(["inspect", "nowhere", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(trained):
    process = llmc_in_a_process("generate", trained, "The", "--max-new-tokens", 5000, "--eos-token-id", -1)
    process.stdout.read(1)
    process.stdout.close()
    said = process.stderr.read().splitlines()
    assert len(said) == 1 and "beyond the context of 512 tokens" in said[0]
    assert process.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_results_is_an_error(trained):
    with open("/dev/full", "w") as full:
        process = llmc_in_a_process("inspect", trained, stdout=full)
        assert process.stderr.read() == f"llmc: {os.strerror(errno.ENOSPC)}\n"
        assert process.wait() == 1


def test_the_command_line_starts_without_heavy_imports():
    code = ("import sys, llmc.cli; llmc.cli.main(['--help']); "
            "print([n for n in ('torch', 'transformers', 'matplotlib', 'huggingface_hub') if n in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_doctor_prints_what_runs_here(capsys):
    assert main(["doctor"]) == 0
    assert "instruction set" in capsys.readouterr().out


SCRIPT = "#!{python}\nimport sys\nfrom llmc.cli import main\nsys.exit(main())\n"  # as pip writes it


@pytest.mark.parametrize("variable, value, has", [("LLMC_ISA", "mmx", "portable"), ("LLMC_GEMM", "abacus", "'own'")])
@pytest.mark.parametrize("form", ["script", "module"])
def test_kernels_that_are_not_there_are_refused_in_a_line(form, variable, value, has, tmp_path):
    script = tmp_path / "llmc"
    script.write_text(SCRIPT.format(python=sys.executable))
    words = [sys.executable, *([str(script)] if form == "script" else ["-m", "llmc.cli"]), "doctor"]
    root = str(Path(llmc.__file__).parent.parent)
    env = {**os.environ, variable: value, "PYTHONPATH": root}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=root)
    line, = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"llmc: {variable}={value}: ") and has in line
    done = subprocess.run([*words, "--debug"], capture_output=True, text=True, env=env, cwd=root)
    assert "Traceback" in done.stderr and done.returncode == 1


# --- the work --------------------------------------------------------------------------------------------------------
def test_the_demo_learns_and_says_where_everything_is(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--steps", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    before, after = (float(next(line for line in shown.splitlines() if line.startswith(start)).split()[-2])
                     for start in ("before", "after 2 steps"))  # fmt: skip
    assert after < before
    assert str(out / "loss.png") in shown and (out / "loss.png").stat().st_size > 1000
    assert llmc.Tokenizer.from_pretrained(out).encode("The statement") is not None
    assert llmc.Model.from_pretrained(out).num_parameters() > 1e6


def test_train_leaves_a_model_with_its_tokenizer(trained):
    model, tokenizer = llmc.Model.from_pretrained(trained), llmc.Tokenizer.from_pretrained(trained)
    assert model.config.vocab_size == len(tokenizer) == 300
    assert model.config.hidden_size == 16
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert {"checkpoint-5", "checkpoint-10", "loss.png", "log.jsonl"} <= set(os.listdir(trained))


def test_train_takes_every_training_argument(corpus, tmp_path):
    flags = {"max_steps": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 0.01,
             "router_learning_rate": 0.1, "parameter_groups": [{"params": ["*mlp*"], "lr": 0.02}],
             "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.001}, "warmup_steps": 0.5,
             "weight_decay": 0.2, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-7, "max_grad_norm": 0.5,
             "logging_steps": 1, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 2,
             "save_total_limit": 1, "seed": 3, "disable_tqdm": True, "on_nonfinite": "skip"}  # fmt: skip
    words = []
    for name, value in flags.items():
        value = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
        words += [f"--{name.replace('_', '-')}"] + ([] if name == "disable_tqdm" else [value])
    assert main(["train", corpus, *SMALL, *words, "--output-dir", str(tmp_path)]) == 0
    used = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["args"]
    assert {name: used[name] for name in flags} == flags


def test_train_goes_on_from_a_model(corpus, trained, tmp_path):
    words = ["--max-steps", "2", "--held-out", "0", "--learning-rate", "0", "--block-size", "32"]
    assert main(["train", corpus, "--model", trained, *words, "--output-dir", str(tmp_path)]) == 0
    before, after = (llmc.Model.from_pretrained(path).state_dict() for path in (trained, tmp_path))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_train_takes_a_config_and_changes_it(corpus, trained, tmp_path):
    config = os.path.join(trained, "config.json")
    words = ["--num-hidden-layers", "1", "--max-steps", "1", "--block-size", "32"]
    assert main(["train", corpus, "--config", config, *words, "--output-dir", str(tmp_path)]) == 0
    assert llmc.Config.from_pretrained(tmp_path).num_hidden_layers == 1
    assert llmc.Config.from_pretrained(tmp_path).hidden_size == 16


@pytest.mark.parametrize("family", TINY)
def test_train_makes_every_family(family, corpus, tmp_path):
    words = ["--model-type", family, "--max-steps", "1", "--save-strategy", "no", "--eval-strategy", "no"]
    assert main(["train", corpus, *SMALL, *words, "--output-dir", str(tmp_path)]) == 0
    assert llmc.Config.from_pretrained(tmp_path).model_type == family


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(corpus, tmp_path, capsys):
    assert main(["train", corpus, *SMALL, "--dry-run", "--output-dir", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("parameters", "memory", "FLOPs", "steps of an epoch"))
    assert not (tmp_path / "out").exists()


def test_ctrl_c_saves_and_resume_comes_to_the_same_bits(corpus, tmp_path):
    words = [corpus, *SMALL, "--max-steps", "150", "--save-steps", "1000", "--eval-strategy", "no"]
    out, unbroken = tmp_path / "out", tmp_path / "unbroken"
    process = llmc_in_a_process("train", *words, "--output-dir", out)
    deadline = time.monotonic() + 60
    while not (out / "log.jsonl").exists() or len((out / "log.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said and "--resume" in said.splitlines()[-1]
    assert len(list(out.glob("checkpoint-*"))) == 1
    assert main(["train", "--resume", "--output-dir", str(out)]) == 0
    assert main(["train", *words, "--output-dir", str(unbroken)]) == 0
    assert (out / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()


@pytest.mark.parametrize("after", [0, 0.03, 0.08, 0.15, 0.3, 0.6, 0.9])
def test_ctrl_c_in_the_first_second_is_a_line_and_130(after, tmp_path):
    words = [sys.executable, "-X", "importtime", "-m", "llmc.cli", "demo", "--out", str(tmp_path)]
    process = subprocess.Popen(words, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while "llmc.system.command" not in process.stderr.readline():  # what Python does before is its own
        assert process.poll() is None
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait() == 130 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("llmc: stopped")


def test_ctrl_c_is_python_s_own_outside_of_the_command_line():
    code = ("import signal, llmc, llmc.cli; before = signal.getsignal(signal.SIGINT); llmc.cli.main(['--version']); "
            "print(before is signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "True"


def test_tokens_on_disk_train_and_evaluate_as_their_text(corpus, trained, tmp_path, capsys):
    tokens = str(tmp_path / "text.bin")
    assert main(["tokenize", corpus, "--tokenizer", trained, "--out", tokens]) == 0
    ids = np.fromfile(tokens, np.uint16)
    assert llmc.Tokenizer.from_pretrained(trained).decode(ids) == TEXT
    out = str(tmp_path / "out")
    sizes = ["--hidden-size", "16", "--block-size", "32", "--max-steps", "1"]
    assert main(["train", tokens, *sizes, "--output-dir", out]) == 0
    assert llmc.Config.from_pretrained(out).vocab_size == 300
    losses = []
    for source in (tokens, corpus):
        capsys.readouterr()
        assert main(["eval", trained, "--text", source, "--block-size", "64"]) == 0
        losses.append(capsys.readouterr().out.splitlines()[-1].split()[3])
    assert losses[0] == losses[1]


def test_tokenize_trains_a_tokenizer_when_asked(corpus, tmp_path, capsys):
    out = tmp_path / "ids.bin"
    words = ["--tokenizer", str(tmp_path / "tok"), "--vocab-size", "290", "--out", str(out)]
    assert main(["tokenize", corpus, *words]) == 0
    assert len(llmc.Tokenizer.from_pretrained(tmp_path / "tok")) == 290
    assert "290" in capsys.readouterr().out


def test_eval_prints_the_loss_of_the_model(corpus, trained, capsys):
    model, tokenizer = llmc.Model.from_pretrained(trained), llmc.Tokenizer.from_pretrained(trained)
    ids = np.array(tokenizer.encode(TEXT))
    blocks = [ids[start : start + 50] for start in range(0, len(ids), 50)]
    weights = [len(block) - 1 for block in blocks if len(block) > 1]
    loss = np.average([model.loss(block) for block in blocks if len(block) > 1], weights=weights)
    capsys.readouterr()
    assert main(["eval", trained, "--text", corpus, "--block-size", "50"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[1:5] == [f"{sum(weights):,}", "50", f"{loss:.6f}", f"{np.exp(loss):,.6f}"]


def test_generate_prints_what_the_model_writes(trained, capsys):
    model, tokenizer = llmc.Model.from_pretrained(trained), llmc.Tokenizer.from_pretrained(trained)
    for words, options in (([], {}), (["--seed", "3", "--top-k", "20"], dict(do_sample=True, seed=3, top_k=20))):
        capsys.readouterr()
        assert main(["generate", trained, "The class", "--max-new-tokens", "40", *words]) == 0
        ids = model.generate(tokenizer.encode("The class"), max_new_tokens=40, **options)
        assert capsys.readouterr().out == tokenizer.decode(ids[0], skip_special_tokens=True) + "\n"


# --- evaluation ------------------------------------------------------------------------------------------------------
def test_eval_has_a_row_a_file_and_a_total_weighted_by_tokens(corpus, trained, tmp_path, capsys):
    other, lines = tmp_path / "other.txt", tmp_path / "lines.jsonl"
    other.write_text("The class statement é. " * 20, encoding="utf-8")
    lines.write_text(json.dumps({"text": "The class statement"}) + "\n")
    model, tok = llmc.Model.from_pretrained(trained), llmc.Tokenizer.from_pretrained(trained)
    capsys.readouterr()
    assert main(["eval", trained, "--text", corpus, str(other), "--block-size", "64"]) == 0
    *rows, total = (line.split() for line in capsys.readouterr().out.splitlines()[2:])
    nats, sizes, counts = [], [], []
    for path, row in zip((corpus, other), rows, strict=True):
        data = list(llmc.data.StreamingTextDataset(files=[path], tokenizer=tok, block_size=64))
        result = llmc.Trainer(model).evaluate(data)
        nats.append(result["eval_loss"] * result["eval_tokens"])
        sizes.append(len(Path(path).read_bytes()))
        counts.append(result["eval_tokens"])
        bits = nats[-1] / np.log(2) / sizes[-1]
        assert row[:6] == [str(path), f"{counts[-1]:,}", "64", f"{result['eval_loss']:.6f}",
                           f"{result['perplexity']:,.6f}", f"{bits:.6f}"]
    assert total[0] == "total" and total[3] == f"{sum(nats) / sum(counts):.6f}"
    assert total[5] == f"{sum(nats) / np.log(2) / sum(sizes):.6f}"
    assert main(["eval", trained, "--text", str(lines)]) == 0
    assert len(capsys.readouterr().out.splitlines()[2].split()) == 6, "of JSON lines there are no bits a byte"


def test_eval_says_that_a_block_is_longer_than_the_context(corpus, trained, capsys):
    context = llmc.Config.from_pretrained(trained).max_position_embeddings
    assert main(["eval", trained, "--text", corpus, "--block-size", str(context + 1)]) == 0
    assert f"blocks of {context + 1} tokens are longer than the context of {context}" in capsys.readouterr().err


def test_generate_says_that_a_text_is_longer_than_the_context(trained, capsys):
    assert main(["generate", trained, "The class", "--max-new-tokens", "520"]) == 0
    assert "warning: a prompt of" in capsys.readouterr().err


def test_a_new_model_s_context_is_at_least_its_blocks(corpus, tmp_path):
    for block, context in (("32", 512), ("600", 600)):
        words = [*SMALL[:-4], "--block-size", block, "--max-steps", "1", "--output-dir", str(tmp_path / block)]
        assert main(["train", corpus, *words]) == 0
        assert llmc.Config.from_pretrained(tmp_path / block).max_position_embeddings == context


# --- precision and dtype ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype, precision", [("bfloat16", None), ("int8", None), ("int8", "float32"),
                                              (None, "bfloat16")])  # fmt: skip
def test_what_opens_a_model_takes_its_storage_and_its_precision(corpus, trained, capsys, tmp_path, dtype, precision):
    model = llmc.Model.from_pretrained(trained, dtype or "float32", precision)
    tokenizer = llmc.Tokenizer.from_pretrained(trained)
    words = ["--dtype", dtype] * (dtype is not None) + ["--precision", precision] * (precision is not None)
    capsys.readouterr()
    assert main(["generate", trained, "The class", "--max-new-tokens", "20", *words]) == 0
    ids = model.generate(tokenizer.encode("The class"), max_new_tokens=20)
    assert capsys.readouterr().out == tokenizer.decode(ids[0], skip_special_tokens=True) + "\n"
    assert main(["eval", trained, "--text", corpus, "--block-size", "64", *words]) == 0
    loss = float(capsys.readouterr().out.splitlines()[-1].split()[3])
    data = llmc.data.StreamingTextDataset(files=[corpus], tokenizer=tokenizer, block_size=64)
    assert loss == float(f"{llmc.Trainer(model).evaluate(list(data))['eval_loss']:.6f}")
    rows = tmp_path / "lim.json"
    assert main(["lim", trained, "--text", corpus, "--max-tokens", "64", "--out", str(rows), *words]) == 0
    shown = {row["name"]: row["lim"] for row in json.loads(rows.read_text())["rows"]}
    report = llmc.analysis.lim(model, np.array(tokenizer.encode(TEXT)[:64]))
    assert shown == {row["name"]: row["lim"] for row in report.rows}


def test_train_remembers_its_precision(corpus, tmp_path, capsys):
    words = [corpus, *SMALL, "--precision", "bfloat16", "--max-steps", "4", "--save-steps", "2", "--seed", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        assert main(["train", *words, "--output-dir", str(out)]) == 0
    shutil.rmtree(cut / "checkpoint-4")
    assert main(["train", "--resume", "--output-dir", str(cut)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@needs_bfloat16
def test_train_may_resume_in_another_precision_and_says_so(corpus, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "out")
    assert main(["train", "--resume", "--precision", "bfloat16", "--output-dir", str(tmp_path / "out")]) == 0
    assert "precision was float32, now it is bfloat16" in capsys.readouterr().err


def test_a_precision_that_the_processor_lacks_is_said_and_computed_in_float32(trained, capsys):
    words = ["generate", trained, "The class", "--max-new-tokens", "8"]
    used = llmc._core.info()
    llmc._core.choose("portable", "own", None)
    try:
        assert main([*words, "--precision", "float32"]) == 0
        expected = capsys.readouterr().out
        assert main([*words, "--precision", "bfloat16"]) == 0
        shown = capsys.readouterr()
        assert main(["doctor"]) == 0
        doctor = capsys.readouterr().out
    finally:
        llmc._core.choose(used["instruction_set"], used["gemm"], llmc.core.openblas_path())
    assert shown.out == expected and "no bfloat16 products here, so they are computed in float32" in shown.err
    assert "portable has none; precision='bfloat16' computes in float32" in doctor


@needs_bfloat16
def test_the_demo_trains_in_bfloat16_too(tmp_path, capsys):
    losses = []
    for precision in ("float32", "bfloat16"):
        assert main(["demo", "--steps", "1", "--precision", precision, "--out", str(tmp_path / precision)]) == 0
        entries = map(json.loads, (tmp_path / precision / "log.jsonl").read_text().splitlines())
        losses.append(next(entry["loss"] for entry in entries if "loss" in entry))
    assert 0 < abs(losses[0] - losses[1]) < 0.01


def test_what_is_written_token_by_token_is_the_whole_text():
    tokenizer = llmc.Tokenizer.train(["plain words"], vocab_size=257)
    ids = tokenizer.encode("naïve 你好 🙂 and more")  # every character beyond ASCII is several tokens
    pieces = list(written(tokenizer, ids[:3], ([np.int64(token)] for token in ids[3:])))
    assert "".join(pieces) == tokenizer.decode(ids)[3:]
    assert "\ufffd" not in "".join(pieces) and "你" in pieces


def test_a_character_that_never_ends_is_shown_at_the_end():
    tokenizer = llmc.Tokenizer.train(["plain words"], vocab_size=257)
    ids = tokenizer.encode("a你")[:-1]
    assert "".join(written(tokenizer, ids[:1], ([token] for token in ids[1:]))) == tokenizer.decode(ids)[1:]


def test_inspect_lists_what_the_files_hold(trained, capsys):
    capsys.readouterr()
    assert main(["inspect", trained]) == 0
    out, model = capsys.readouterr().out, llmc.Model.from_pretrained(trained)
    assert all(name in out for name in model.state_dict())
    assert f"{model.num_parameters():,}" in out and f"{4 * model.num_parameters():,}" in out
    assert main(["inspect", trained, "--match", "*.mlp.*", "--totals"]) == 0
    out = capsys.readouterr().out
    assert "feed-forward" in out and "attention" not in out and "up_proj" not in out


@pytest.mark.parametrize("family", TINY)
def test_every_tensor_of_every_family_has_a_role(family):
    roles = {role(name) for name in llmc.Model(llmc.Config(**TINY[family])).state_dict()}
    assert roles == {"embedding", "attention", "feed-forward", "norm", "head"}


@pytest.mark.parametrize("name, expected", [
    ("h.0.attn.bias", "buffer"), ("h.0.attn.c_attn.bias", "attention"), ("h.0.attn.masked_bias", "buffer"),
    ("model.layers.0.self_attn.rotary_emb.inv_freq", "buffer"),
    ("model.layers.0.post_attention_layernorm.weight", "norm"),
    ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "adapter"), ("wte.weight", "embedding"),
    ("score.weight", "other"),
])  # fmt: skip
def test_a_role_is_told_by_the_name(name, expected):
    assert role(name) == expected


# --- beside transformers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", TINY)
def test_compare_finds_every_family_in_agreement(family, peers, tmp_path, capsys):
    config = llmc.Config(**TINY[family])
    llmc.Model(config, seed=1).save_pretrained(tmp_path)
    assert main(["compare", str(tmp_path), "--length", "21", "--all"]) == 0
    out = capsys.readouterr().out
    assert "DIVERGES" not in out and "not in transformers" not in out
    assert out.count(" agrees") > 10 * config.num_hidden_layers


def test_compare_names_the_first_module_that_diverges(peers, trained, monkeypatch, capsys):
    from llmc.cli import compare

    theirs = compare.read_theirs
    monkeypatch.setattr(compare, "read_theirs", lambda *args: {
        name: value + (name in ("model.layers.1.mlp.up_proj", "model.norm")) for name, value in theirs(*args).items()})
    assert "first module that diverges is model.layers.1.mlp.up_proj (2 of" in says(capsys, ["compare", trained], 1)
    monkeypatch.setattr(compare, "read_theirs", lambda *args: {
        name: value * (np.nan if name == "logits" else 1) for name, value in theirs(*args).items()})
    assert "diverges is logits (1 of" in says(capsys, ["compare", trained, "--text", "The class"], 1)


def test_compare_shows_the_five_worst_and_a_sentence(peers, trained, capsys):
    assert main(["compare", trained]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("Every one of the ") and sum(line.endswith("agrees") for line in lines) == 5
    assert main(["compare", trained, "--all"]) == 0
    assert sum(line.endswith("agrees") for line in capsys.readouterr().out.splitlines()) > 20


def test_compare_in_float64_has_three_rows(peers, trained, capsys):
    assert main(["compare", trained, "--float64"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:5]
    assert [line[:22].strip() for line in lines] == [
        "llmc against float64", "torch against float64", "llmc against torch"]
    assert all(float(line.split()[-1]) < 1e-4 for line in lines)


def test_compare_of_two_checkpoints_names_diff(capsys):
    assert "llmc diff one two" in says(capsys, ["compare", "one", "two"], 2)


def test_compare_says_that_torch_is_absent(trained, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "needs torch and transformers" in says(capsys, ["compare", trained], 1)
