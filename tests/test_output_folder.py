"""Nothing finished is lost: what a folder holds is refused, replaced when that is asked for, put back on failure."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_trainer import model, steps_of, trainer

import llmc
from llmc.cli import main
from llmc.system.aside import PARTIAL, WHOLE, Aside
from llmc.train.output_folder import OutputFolder

WAYS = ("resume_from_checkpoint=True", "--resume", "overwrite_output_dir=True", "--overwrite", "another folder")


def listing(folder):
    """{path below the folder: its bytes}."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def lora(base=None):
    """A tiny model with an adapter that trains."""
    adapted = base or model()
    adapted.add_adapter(llmc.LoraConfig(r=2, target_modules="attention"))
    return adapted


def refused(run, folder, *words):
    """Assert that a run is refused in these words, and that its folder stays as it is."""
    before = listing(folder)
    with pytest.raises(llmc.ConfigError) as error:
        run()
    assert all(word in str(error.value) for word in (str(folder), *words)), error.value
    assert listing(folder) == before


def stop_at_once(state):
    raise RuntimeError("no more")


# --- refused ---------------------------------------------------------------------------------------------------------
def test_a_finished_model_is_refused_with_the_three_ways_on(tmp_path):
    trainer(tmp_path).train()
    refused(trainer(tmp_path, of=model(1)).train, tmp_path, "a model of another run", *WAYS)


def test_checkpoints_are_refused(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    (tmp_path / "model.safetensors").unlink()
    refused(trainer(tmp_path, of=model(1)).train, tmp_path, "2 checkpoints", *WAYS)


def test_an_adapter_is_refused(tmp_path):
    trainer(tmp_path, of=lora()).train()
    refused(trainer(tmp_path, of=lora()).train, tmp_path, "an adapter", *WAYS)


def test_a_model_of_torch_s_files_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"somebody's")
    refused(trainer(tmp_path).train, tmp_path, "a model")


def test_a_log_alone_is_begun_anew(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 77, "loss": 1.0}\n')
    trainer(tmp_path).train()
    assert [entry["step"] for entry in steps_of(tmp_path)] == [1, 2, 3, 4]


def test_a_checkpoint_from_elsewhere_does_not_go_on_in_another_run_s_folder(tmp_path):
    trainer(tmp_path / "one", save_strategy="steps", save_steps=2).train()
    trainer(tmp_path / "two").train()
    resumed = trainer(tmp_path / "two", max_steps=6)
    refused(lambda: resumed.train(tmp_path / "one" / "checkpoint-2"), tmp_path / "two", "another run")
    assert trainer(tmp_path / "three", max_steps=6).train(tmp_path / "one" / "checkpoint-2").step == 6


def test_a_checkpoint_that_was_moved_away_goes_on_in_its_run_s_folder(tmp_path):
    trainer(tmp_path / "out", save_strategy="steps", save_steps=2).train()
    os.rename(tmp_path / "out" / "checkpoint-4", tmp_path / "checkpoint-4")
    assert trainer(tmp_path / "out", max_steps=6).train(tmp_path / "checkpoint-4").step == 6


def test_the_same_trainer_trains_again_into_its_own_folder(tmp_path):
    own = trainer(tmp_path, save_strategy="steps", save_steps=2)
    own.train()
    assert own.train().step == 4


def test_resuming_in_its_own_folder_is_no_overwriting(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    assert trainer(tmp_path, max_steps=6, overwrite_output_dir=True).train(True).step == 6


# --- adapters and models apart ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_training_writes_an_adapter_into_the_folder_of_a_model(tmp_path, overwrite):
    model(1).save_pretrained(tmp_path)
    training = trainer(tmp_path, of=lora(), overwrite_output_dir=overwrite)
    refused(training.train, tmp_path, "config.json", "another folder")
    refused(lambda: trainer(tmp_path / "other", of=lora()).save_model(tmp_path), tmp_path, "config.json")


def test_save_adapter_may(tmp_path):
    base = model()
    base.save_pretrained(tmp_path)
    lora(base).save_adapter(tmp_path)
    assert llmc.Model.from_pretrained(tmp_path).active_adapters() == ["default"]


def test_a_trainer_that_gets_an_adapter_does_not_write_it_beside_its_model(tmp_path):
    own = trainer(tmp_path)
    own.train()
    lora(own.model)
    refused(own.train, tmp_path, "config.json")


# --- overwritten -----------------------------------------------------------------------------------------------------
def test_overwriting_replaces_the_other_run_and_leaves_what_is_the_user_s(tmp_path):
    trainer(tmp_path, of=lora(), save_strategy="steps", save_steps=2).train()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "kept" / "checkpoint-1").mkdir(parents=True)
    trainer(tmp_path, overwrite_output_dir=True).train()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "kept", "config.json", "model.safetensors", "log.jsonl", "loss.png"}


def test_an_adapter_s_run_in_a_folder_below_is_not_overwritten(tmp_path):
    trainer(tmp_path).train()
    trainer(tmp_path / "adapter", of=lora()).train()
    before = listing(tmp_path / "adapter")
    trainer(tmp_path, overwrite_output_dir=True).train()
    assert listing(tmp_path / "adapter") == before


def test_the_folder_of_this_run_s_own_model_is_never_overwritten(tmp_path):
    model(1).save_pretrained(tmp_path)
    opened = llmc.Model.from_pretrained(tmp_path)
    refused(trainer(tmp_path, of=opened, overwrite_output_dir=True).train, tmp_path, "reads", "another folder")


def test_the_folder_of_the_checkpoint_to_go_on_from_is_never_overwritten(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    apart = tmp_path / "kept" / "checkpoint-2"
    apart.parent.mkdir()
    os.rename(tmp_path / "checkpoint-2", apart)
    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    resumed = trainer(tmp_path, max_steps=6, overwrite_output_dir=True)
    refused(lambda: resumed.train(apart), tmp_path, str(apart), "reads")


def test_a_failure_before_the_first_checkpoint_puts_everything_back(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    before = listing(tmp_path)
    with pytest.raises(RuntimeError, match="no more"):
        trainer(tmp_path, of=model(1), overwrite_output_dir=True, callbacks=[stop_at_once]).train()
    assert listing(tmp_path) == before


def test_a_failure_after_the_first_checkpoint_keeps_the_new_run(tmp_path):
    trainer(tmp_path).train()
    failing = trainer(tmp_path, of=model(1), overwrite_output_dir=True, save_strategy="steps", save_steps=1,
                      callbacks=[stop_at_once])
    with pytest.raises(RuntimeError, match="no more"):
        failing.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "log.jsonl"}


def test_wrong_arguments_touch_nothing(tmp_path):
    trainer(tmp_path).train()
    before = listing(tmp_path)
    with pytest.raises(llmc.ConfigError, match="warm"):
        trainer(tmp_path, of=model(1), overwrite_output_dir=True, warmup_steps=400).train()
    assert listing(tmp_path) == before


def test_what_a_killed_run_had_set_aside_is_put_back_by_the_next(tmp_path):
    trainer(tmp_path).train()
    before = listing(tmp_path)
    killed = """
import os, signal, sys
from llmc.train.output_folder import OutputFolder
with OutputFolder(sys.argv[1], overwrite=True):
    open(os.path.join(sys.argv[1], "log.jsonl"), "w").write("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    status = subprocess.run([sys.executable, "-c", killed, tmp_path]).returncode
    assert status == -signal.SIGKILL and (tmp_path / WHOLE).is_dir()
    refused_folder = str(tmp_path)
    with pytest.raises(llmc.ConfigError, match="a model of another run"):
        OutputFolder(refused_folder)
    assert listing(tmp_path) == before


def test_resuming_puts_back_first_what_a_killed_run_had_set_aside(corpus, tmp_path):
    out = tmp_path / "out"
    assert main(["train", str(corpus), *SMALL, "--output-dir", str(out)]) == 0
    (out / WHOLE).mkdir()
    for path in [path for path in out.iterdir() if path.name != WHOLE]:
        os.rename(path, out / WHOLE / path.name)
    assert main(["train", "--resume", "--output-dir", str(out), "--max-steps", "3"]) == 0
    assert (out / "checkpoint-3").is_dir() and not (out / WHOLE).exists()


def test_what_was_moved_half_is_put_back(tmp_path):
    (tmp_path / "model.safetensors").write_text("old")
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "config.json").write_text("old")
    with pytest.raises(llmc.ConfigError, match="a model"):
        OutputFolder(str(tmp_path))
    assert listing(tmp_path) == {"model.safetensors": b"old", "config.json": b"old"}


def test_what_has_a_successor_is_not_put_back(tmp_path):
    (tmp_path / WHOLE).mkdir()
    (tmp_path / WHOLE / "model.safetensors").write_text("old")
    (tmp_path / "model.safetensors").write_text("new")
    OutputFolder(str(tmp_path), overwrite=True)
    assert listing(tmp_path) == {"model.safetensors": b"new"}


def test_a_folder_in_which_another_run_has_begun_is_busy(tmp_path):
    (tmp_path / "model.safetensors").write_text("old")
    aside = Aside(str(tmp_path), ["model.safetensors"])
    with pytest.raises(llmc.BusyError, match="another run is writing"):
        OutputFolder(str(tmp_path))
    aside.put_back()
    assert listing(tmp_path) == {"model.safetensors": b"old"}


# --- a model knows its folder ----------------------------------------------------------------------------------------
def test_an_adapter_names_the_folder_that_its_base_was_saved_to(tmp_path):
    base = model()
    base.save_pretrained(tmp_path / "base")
    lora(base).save_adapter(tmp_path / "adapter")
    assert llmc.Model.from_pretrained(tmp_path / "adapter").active_adapters() == ["default"]


def test_an_adapter_names_the_folder_that_its_base_was_trained_into(tmp_path):
    trained = trainer(tmp_path / "base", save_strategy="steps", save_steps=2)
    trained.train()
    lora(trained.model).save_adapter(tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(tmp_path / "base")


# --- the commands ----------------------------------------------------------------------------------------------------
SMALL = ["--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "1", "--vocab-size", "300",
         "--block-size", "32", "--num-threads", "1", "--max-steps", "2"]  # fmt: skip


def says(capsys, words, status):
    """What a command that ends with this status says last on the standard error."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(llmc.data.builtin_text()[:6000])
    return path


@pytest.fixture
def trained(corpus, tmp_path):
    """The folder of a model that `llmc train` made."""
    out = tmp_path / "trained"
    assert main(["train", str(corpus), *SMALL, "--output-dir", str(out)]) == 0
    return out


def test_llmc_train_refuses_and_overwrites(corpus, trained, capsys):
    before = listing(trained)
    words = ["train", corpus, *SMALL, "--output-dir", trained]
    assert all(way in says(capsys, words, 1) for way in WAYS)
    assert "give one of them" in says(capsys, ["train", "--resume", "--overwrite", "--output-dir", trained], 2)
    says(capsys, [*words, "--overwrite", "--eval-data", "nowhere.txt"], 1)
    assert listing(trained) == before
    assert main([str(word) for word in [*words, "--overwrite", "--seed", "7"]]) == 0
    assert "overwrite" not in (trained / "train.json").read_text()
    assert main(["train", "--resume", "--output-dir", str(trained), "--max-steps", "3"]) == 0


def test_llmc_train_never_overwrites_what_it_reads(corpus, trained, capsys):
    data = trained / "text.txt"
    data.write_text(corpus.read_text())
    before = listing(trained)
    for words in (["--model", trained, corpus], ["--tokenizer", trained, *SMALL[:-6], corpus], [*SMALL, data]):
        line = says(capsys, ["train", *words, "--max-steps", "1", "--output-dir", trained, "--overwrite"], 1)
        assert "this run reads" in line
    assert listing(trained) == before


def test_llmc_lora_never_writes_beside_a_model(corpus, trained, capsys):
    before = listing(trained)
    words = ["lora", trained, corpus, "--max-steps", "1", "--output-dir", trained, "--overwrite"]
    assert "config.json" in says(capsys, words, 1)
    assert listing(trained) == before


def test_llmc_merge_follows_the_same_rule(corpus, trained, tmp_path, capsys):
    adapter, out = tmp_path / "adapter", tmp_path / "merged"
    assert main(["lora", str(trained), str(corpus), "--max-steps", "1", "--output-dir", str(adapter)]) == 0
    assert main(["merge", str(adapter), "--out", str(out)]) == 0
    before = listing(out)
    assert "--overwrite" in says(capsys, ["merge", adapter, "--out", out, "--dtype", "bfloat16"], 1)
    assert listing(out) == before
    assert main(["merge", str(adapter), "--out", str(out), "--dtype", "bfloat16", "--overwrite"]) == 0
    assert listing(out)["model.safetensors"] != before["model.safetensors"]
    for folder in (adapter, trained):
        assert "this run reads" in says(capsys, ["merge", adapter, "--out", folder, "--overwrite"], 1)


def test_llmc_demo_replaces_only_what_a_demo_left(trained, tmp_path, capsys):
    before = listing(trained)
    line = says(capsys, ["demo", "--steps", "1", "--out", trained], 1)
    assert "no demo left it" in line and "--out" in line and listing(trained) == before
    for _ in range(2):
        assert main(["demo", "--steps", "1", "--out", str(tmp_path / "demo")]) == 0
    assert (tmp_path / "demo" / "demo.json").exists()
