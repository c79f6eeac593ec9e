"""LIMe's paper again in one call: what it leaves, what it uses again, how it stops and goes on."""

import contextlib
import io
import json
import os
import re
import shutil
import time

import numpy as np
import pytest

import llmc
from llmc.lime import learning, reproduction, workers
from llmc.lime.drawings import DRAWINGS
from llmc.lime.findings import WAYS
from llmc.lime.ledger import Ledger
from llmc.lime.recipes import arguments_of, config_of, recipes_of
from llmc.lime.scales import ARITHMETIC_MODELS, SCALES
from llmc.lime.sheets import SHEETS
from llmc.lime.wanted import keys_of

pytest.importorskip("sklearn")
TINY = SCALES["tiny"]
RECIPES = recipes_of(TINY, 0)
AT_ONE_DEPTH = ["llama", "lime", "lime1-static", "lime1-dynamic", "lime1-top-p", "hc", "hc-paper", "llama-kv",
                "lime-fair"]  # fmt: skip
ROUTED = ["lime", "lime1-static", "lime1-dynamic", "lime1-top-p", "lime-fair"]
DEEP = ["llama-2", "llama-3", "llama-4", "lime1-top-p-2", "lime1-top-p-3", "lime1-top-p-4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, numbers) of everything."""
    out = tmp_path_factory.mktemp("lime")
    return out, llmc.lime.reproduce(out, scale="tiny", disable_tqdm=True)


@pytest.fixture
def copy(made, tmp_path):
    """A folder with everything that may be changed."""
    shutil.copytree(made[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def idle(monkeypatch):
    """Nothing may be trained or worked out."""
    monkeypatch.setattr(reproduction, "do_all", lambda jobs, *_: pytest.fail(f"jobs {jobs}") if jobs else None)


TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: {metric}
"""


def state_of(folder):
    """{file: (size, when it was written)} of a folder, models and page apart."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()
            if path.is_file() and path.name != "index.html"}  # fmt: skip


# --- the benchmarks --------------------------------------------------------------------------------------------------
def test_the_benchmarks_are_asked_of_every_model(made, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm_eval does not import, so there is nothing that asks")
    import datasets

    from llmc.harness import tasks
    from llmc.lime.findings import Findings

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    questions = [{"question": f"The value of {name}", "choices": [" is", " the"], "gold": 0} for name in "abc"]
    (tmp_path / "data.json").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "tasks").mkdir()
    for name in llmc.lime.TASKS:
        metric = "acc_norm" if name == "piqa" else "acc"
        (tmp_path / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name, data=tmp_path / "data.json",
                                                                     metric=metric))
    every = tasks.tasks_of
    monkeypatch.setattr(tasks, "tasks_of", lambda names, examples: every(names, examples, tmp_path / "tasks"))
    rows = WAYS["table1"].numbers(Findings(made[0], TINY, RECIPES))
    assert [row["model"] for row in rows] == AT_ONE_DEPTH
    for row in rows:
        assert list(row) == ["model", *llmc.lime.TASKS, "mean", "questions"] and row["questions"] == 2
        assert all(row[name] in (0.0, 0.5, 1.0) for name in llmc.lime.TASKS) and 0 <= row["mean"] <= 1


@pytest.mark.parametrize("error", [llmc.DataError, ImportError])
def test_benchmarks_that_lack_something_are_left_out_in_words_and_cost_nothing_else(copy, monkeypatch, error):
    def do_all(jobs, *_):
        if jobs:
            assert [name for name, _ in jobs] == ["table1"]
            raise error("table1: task copa: its data is not to be had")

    monkeypatch.setattr(reproduction, "do_all", do_all)
    monkeypatch.setattr(reproduction, "why_not", lambda: None)
    llmc.lime.reproduce(copy, scale="tiny", disable_tqdm=True)
    assert "table1_benchmarks.csv is left out: table1: task copa: its data" in (copy / "index.html").read_text()
    monkeypatch.setattr(reproduction, "do_all", lambda jobs, count, threads, report: [
        report(name, {"result": [{"model": "llama", "copa": 0.5, "mean": 0.5, "questions": 2}]}) for name, _ in jobs])
    numbers = llmc.lime.reproduce(copy, scale="tiny", disable_tqdm=True)
    assert numbers["table1"][0]["copa"] == 0.5 and list(numbers).index("table1") < list(numbers).index("table2")
    assert (copy / "table1_benchmarks.csv").read_text() == "model,copa,mean,questions\nllama,0.5,0.5,2\n"
    assert 'id="table1"' in (copy / "index.html").read_text()


# --- what is left ----------------------------------------------------------------------------------------------------
def test_every_file_is_there(made):
    out, numbers = made
    files = {f"{drawing.file}.png" for drawing in DRAWINGS.values()} | {
        f"{file}.csv" for key, (file, _) in SHEETS.items() if key != "table1"} | {"index.html", "numbers.json"}
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == files | {"models"}
    assert json.loads((out / "numbers.json").read_text()) == numbers
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(DRAWINGS) and "http" not in page
    assert "Scale tiny, seed 0" in page and "table1_benchmarks.csv is left out" in page and "One seed each" in page


def test_every_model_opens_and_keeps_its_log(made):
    out, _ = made
    assert {path.name for path in (out / "models").iterdir()} == set(RECIPES)
    for name, recipe in RECIPES.items():
        model = llmc.Model.from_pretrained(out / "models" / name)
        assert model.config == config_of(recipe)
        assert (out / "models" / name / "log.jsonl").read_text().count("learning_rate") >= 8
        assert not list((out / "models" / name).glob("checkpoint-*"))
    assert llmc.Tokenizer.from_pretrained(out / "models" / "lime").decode([65])


def test_numbers_are_named_and_shaped_as_promised(made):
    _, numbers = made
    L, heads = TINY.text.fields["num_hidden_layers"], TINY.text.fields["num_attention_heads"]
    assert list(numbers) == [*(f"fig{n:02}" for n in range(1, 16)), *(f"table{n}" for n in range(2, 7)), "aet",
                             "aet_curves"]  # fmt: skip
    for key in ("fig01", "fig05", "fig07", "fig11", "fig12"):
        assert list(numbers[key]) == AT_ONE_DEPTH
    for key in ("fig02", "fig03", "fig04", "fig10", "fig13"):
        assert list(numbers[key]) == ROUTED
    assert list(numbers["fig08"]) == DEEP
    assert set(numbers["fig01"]["lime"]) == {"flops", "loss"} and set(numbers["fig08"]["llama-2"]) == {"tokens", "loss"}
    for name in ROUTED:
        assert numbers["fig02"][name][-1] is None and None not in numbers["fig02"][name][:-1]
        assert np.shape(numbers["fig03"][name]) == (L, heads) and np.shape(numbers["fig13"][name]) == (L, heads, L)
        np.testing.assert_allclose(np.sum(numbers["fig13"][name], axis=-1), 1)
    assert np.shape(numbers["fig14"]) == (4, 2, 4) and set(numbers["fig09"]) == {"mean_retrieval", "self_retrieval"}
    for key in ("fig06", "fig15"):
        assert {"llama", "lime"} <= set(numbers[key]) and np.shape(numbers[key]["lime"]["points"])[::2] == (L, 2)
    assert [row["layers"] for row in numbers["table5"]] == [32, 64, 128, 2, 3, 4]
    assert [row.get("pruned") is None for row in numbers["table5"]] == [True] * 3 + [False] * 3
    assert numbers["table6"] == llmc.analysis.flops_table()
    assert {name: {number: len(each) for number, each in found.items()} for name, found in numbers["aet"].items()} \
        == {name: {"3": 1, "4": 1} for name in ARITHMETIC_MODELS}  # fmt: skip


def test_tables_have_the_paper_s_settings_beside_ours(made):
    _, numbers = made
    settings = {row["setting"]: row for row in numbers["table3"]}
    sizes = {row["field"]: row for row in numbers["table4"]}
    steps, epochs = settings["max_steps"], settings["num_train_epochs"]
    assert (steps["paper 1b"], steps["paper aet"], steps["here text"], epochs["paper aet"], epochs["here text"]) \
        == (20_000, None, TINY.text.steps, 200, None)  # fmt: skip
    assert settings["router_learning_rate"]["paper deep"] == settings["router_learning_rate"]["here deep"] == 1e-2
    assert (sizes["hidden_size"]["paper 1b"], sizes["hidden_size"]["here text"]) == (2048, 16)


def test_numbers_are_those_of_the_analyses(made):
    out, numbers = made
    model = llmc.Model.from_pretrained(out / "models" / "lime")
    curves = llmc.analysis.retrieval_curves(model)
    assert numbers["fig03"]["lime"] == curves["self_retrieval_heads"].tolist()
    assert numbers["fig04"]["lime"] == curves["expected_representation"].tolist()
    held = llmc.data.ArithmeticDataset(3, 20, seed=1, exclude=llmc.data.ArithmeticDataset(3, 200, seed=0))
    model = llmc.Model.from_pretrained(out / "models" / "aet-3-lime-0")
    assert numbers["aet"]["lime"]["3"] == [llmc.analysis.arithmetic_accuracy(model, held)["accuracy"]]
    course = numbers["aet_curves"]["lime"]["3"]
    batch = llmc.data.collate([held[row] for row in range(len(held))], pad_token_id=0)
    assert course["steps"][0] == 0 and course["steps"][-1] == TINY.arithmetic.steps[3] and len(course["losses"]) == 1
    assert course["losses"][0][-1] == pytest.approx(model.loss(**batch), rel=1e-5)


# --- models in pairs -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", SCALES)
def test_models_that_are_compared_differ_in_their_family_alone(scale):
    pairs = {}
    for name, recipe in recipes_of(SCALES[scale], 5).items():
        own = {key: value for key, value in recipe["config"].items()
               if key not in ("model_type", "kv_init", "router_init", "router_top_p", "hyper_rate", "hyper_dynamic",
                              "num_hidden_layers")}  # fmt: skip
        pairs.setdefault((recipe["part"], recipe["seed"], recipe["data"].get("operands")), []).append(
            (own, recipe["data"], recipe["arguments"]))  # fmt: skip
        assert arguments_of(recipe, "out").seed == recipe["seed"] >= 5 and config_of(recipe).vocab_size
    assert all(each == first for first, *rest in pairs.values() for each in rest)
    assert min(map(len, pairs.values())) >= 5


def test_what_is_alike_in_two_models_begins_alike():
    llama, fair, lime = (llmc.Model(config_of(RECIPES[f"aet-3-{name}-0"]), seed=0).state_dict()
                         for name in ("llama-kv", "lime-fair", "lime"))  # fmt: skip
    assert all(np.array_equal(llama[name], lime[name]) for name in llama)
    assert any("router" in name for name in lime.keys() - llama.keys()) and fair.keys() == lime.keys()


# --- again -----------------------------------------------------------------------------------------------------------
def test_a_second_call_has_nothing_to_do(made, idle):
    out, numbers = made
    before = state_of(out)
    assert llmc.lime.reproduce(out, scale="tiny", disable_tqdm=True) == numbers
    assert state_of(out) == before


def test_some_figures_leave_the_others_as_they_are(copy):
    before, numbers = state_of(copy), json.loads((copy / "numbers.json").read_text())
    (copy / "fig04_expected_representation.png").unlink()
    (copy / "table6_efficiency.csv").unlink()
    assert llmc.lime.reproduce(copy, scale="tiny", figures=[4, "Table6"], disable_tqdm=True) == numbers
    after = state_of(copy)
    assert {name for name in before if before[name] != after[name]} == {
        "fig04_expected_representation.png", "table6_efficiency.csv", "numbers.json", ".made.json"}  # fmt: skip


def test_a_missing_model_alone_is_trained_again(copy, monkeypatch):
    shutil.rmtree(copy / "models" / "llama-3")
    (copy / "fig08_deep_losses.png").unlink()
    asked = []
    monkeypatch.setattr(reproduction, "do_all", lambda jobs, *rest: asked.append([name for name, _ in jobs]))
    llmc.lime.reproduce(copy, scale="tiny", figures="fig08", disable_tqdm=True)
    assert asked == [["llama-3"], ["fig08"]]


def test_other_operands_join_those_that_are_there(copy):
    before = json.loads((copy / "numbers.json").read_text())
    numbers = llmc.lime.reproduce(copy, scale="tiny", figures="aet", operands=[2], disable_tqdm=True)
    assert {name: list(each) for name, each in numbers["aet"].items()} \
        == {name: ["2", "3", "4"] for name in ARITHMETIC_MODELS}  # fmt: skip
    assert {key: numbers[key] for key in before if key != "aet"} == {key: before[key] for key in before if key != "aet"}
    assert (copy / "aet.csv").read_text().count("\n") == 1 + 3 * len(ARITHMETIC_MODELS)


def test_numbers_of_another_scale_are_not_mixed(tmp_path):
    ledger = Ledger(tmp_path, WAYS)
    ledger.enter("aet", {"llama": {"3": [0.5]}}, ["smoke", 0], [{"a": 1}], ["short"])
    assert ledger.has("aet", ["smoke", 0], [{"a": 1}]) and not ledger.has("aet", ["smoke", 0], [{"a": 2}])
    assert not ledger.has("aet", ["aet", 0], [{"a": 1}])
    ledger.enter("fig02", {"lime": [0.5]}, ["small", 0], [], [])
    ledger.enter("aet", {"llama": {"4": [0.25]}}, ["aet", 0], [{"a": 2}], ["long"])
    again = Ledger(tmp_path, WAYS)
    assert again.numbers == {"fig02": {"lime": [0.5]}, "aet": {"llama": {"4": [0.25]}}} and again.notes() == ["long"]
    assert again.origins() == "Scale small, seed 0: fig02; scale aet, seed 0: aet"


def test_a_model_of_another_recipe_is_never_taken(made):
    folder = made[0] / "models" / "lime"
    assert learning.result_of(folder, RECIPES["lime"])["loss"] > 0
    assert learning.result_of(folder, recipes_of(TINY, 1)["lime"]) is None
    assert learning.result_of(folder, recipes_of(SCALES["smoke"], 0)["lime"]) is None


# --- stopped ---------------------------------------------------------------------------------------------------------
def learnt(recipe, folder, tell=lambda state: None):
    with contextlib.redirect_stderr(io.StringIO()):
        return learning.learn(recipe, str(folder), tell)


def test_a_training_that_was_stopped_comes_to_the_same_bits(tmp_path, made):
    name = "aet-3-lime-0"

    def stop(state):
        if state.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learnt(RECIPES[name], tmp_path / name, stop)
    assert learning.result_of(tmp_path / name, RECIPES[name]) is None
    steps = []
    result = learnt(RECIPES[name], tmp_path / name, lambda state: steps.append(state.step))
    assert steps == list(range(6, 13))
    whole = made[0] / "models" / name
    assert (tmp_path / name / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert result["eval_loss"] == learning.result_of(whole, RECIPES[name])["eval_loss"]


def test_ctrl_c_saves_what_the_processes_train_and_ends_them(tmp_path, monkeypatch):
    recipes = {name: recipes_of(SCALES["aet"], 0)[f"aet-3-{name}-0"] for name in ("llama", "lime")}
    begun, started = set(), []
    monkeypatch.setattr(workers.subprocess, "Popen",
                        lambda *args, popen=workers.subprocess.Popen, **more: started.append(popen(*args, **more))
                        or started[-1])  # fmt: skip

    def report(name, answer):
        begun.add(name)
        if len(begun) == 2:
            raise KeyboardInterrupt

    jobs = [(name, {"learn": {"recipe": recipe, "folder": str(tmp_path / name)}}) for name, recipe in recipes.items()]
    with pytest.raises(KeyboardInterrupt):
        workers.do_all(jobs, 2, 1, report)
    assert len(started) == 2 and all(process.returncode == 130 for process in started)
    for name in recipes:
        (checkpoint,) = (tmp_path / name).glob("checkpoint-*")
        assert int(checkpoint.name.removeprefix("checkpoint-")) > 0


def test_what_a_process_raises_is_raised_here(tmp_path):
    recipe = json.loads(json.dumps(RECIPES["aet-3-lime-0"]))
    recipe["config"]["num_attention_heads"] = 5
    with pytest.raises(llmc.ConfigError, match="^lime: .*num_attention_heads"):
        workers.do_all([("lime", {"learn": {"recipe": recipe, "folder": str(tmp_path / "a")}})], 1, 1, pytest.fail)


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_a_process_that_dies_is_told_of(tmp_path, monkeypatch, seconds):
    """Also where it has died before its job is given."""
    give = workers._Worker.give
    monkeypatch.setattr(workers._Worker, "give", lambda worker, job: (time.sleep(seconds), give(worker, job)))
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    job = {"learn": {"recipe": RECIPES["lime"], "folder": str(tmp_path / "a")}}
    with pytest.raises(RuntimeError, match="lime: its process ended with status 1, without a word"):
        workers.do_all([("lime", job)], 1, 1, pytest.fail)


# --- wrong words -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words, message", [
    ({"scale": "smok"}, "smok.*nearest: smoke"),
    ({"figures": "5,16"}, "figures has '16'.*nearest: fig"),
    ({"figures": ["tabel6"]}, "figures has 'tabel6'.*nearest: table6"),
    ({"scale": "aet", "figures": "fig05"}, "scale 'aet' has no fig05; it has aet"),
    ({"scale": "small", "figures": "aet"}, "scale 'small' has no aet"),
])  # fmt: skip
def test_unknown_words_are_said_before_anything_is_done(tmp_path, words, message):
    with pytest.raises(llmc.UnknownNameError, match=message):
        llmc.lime.reproduce(tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words, error, message", [
    ({"seed": -1}, llmc.ConfigError, "seed is -1"),
    ({"operands": [1]}, llmc.ConfigError, r"operands\[0\] is 1"),
    ({"operands": []}, llmc.ConfigError, "at least one"),
    ({"operands": "3,4"}, TypeError, "operands is '3,4'"),
    ({"scale": "small", "operands": [3]}, llmc.ConfigError, "scale 'small' does not have"),
    ({"figures": 5}, TypeError, "figures is 5"),
    ({"figures": [1.5]}, TypeError, "figures has 1.5"),
    ({"figure": "5"}, TypeError, "nearest: figures"),
])  # fmt: skip
def test_impossible_values_are_said_before_anything_is_done(tmp_path, words, error, message):
    with pytest.raises(error, match=message):
        llmc.lime.reproduce(tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_numbers_and_words_of_figures_are_the_same():
    assert keys_of("5, fig05,05,TABLE6,aet", "smoke") == keys_of([5, "table06", "aet"], "smoke") == [
        "fig05", "table6", "aet"]  # fmt: skip
    assert keys_of("all", "aet") == ["aet", "aet_curves"] and "aet" not in keys_of("all", "small")


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path, idle):
    (tmp_path / "models" / "lime").mkdir(parents=True)
    (tmp_path / "models" / "lime" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="models/lime is there and is no model of a reproduction"):
        llmc.lime.reproduce(tmp_path, scale="tiny", figures="fig02")
    assert (tmp_path / "models" / "lime" / "notes.txt").read_text() == "mine"


def test_a_folder_is_worked_in_by_one_alone(tmp_path, idle):
    with reproduction._alone(tmp_path), pytest.raises(llmc.BusyError, match="another process"):
        llmc.lime.reproduce(tmp_path, scale="tiny", figures="table6")


def test_without_scikit_learn_its_pictures_are_named(tmp_path, idle, monkeypatch):
    monkeypatch.setattr(reproduction, "find_spec", lambda name: None)
    assert llmc.lime.reproduce(tmp_path, scale="tiny", figures="6,15", disable_tqdm=True) == {}
    text = (tmp_path / "index.html").read_text()
    assert re.findall(r"(fig\w+\.png) is left out: scikit-learn", text) == [
        "fig06_tsne_values.png", "fig15_tsne_hiddens.png"]  # fmt: skip


# --- the command -----------------------------------------------------------------------------------------------------
def command(*words):
    """(status, standard output, standard error) of llmc lime."""
    from llmc.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["lime", *map(str, words)])
    return status, out.getvalue(), err.getvalue()


def test_the_command_draws_and_says_where(tmp_path):
    status, out, err = command("--figures", "table3,table6", "--out", tmp_path / "out", "--seed", 3)
    assert (status, err) == (0, f"{tmp_path}/out/index.html\n")
    assert out == f"2 figures and tables: {tmp_path}/out/index.html, the numbers in {tmp_path}/out/numbers.json\n"
    assert "Scale smoke, seed 3" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("words, message", [
    (("--scale", "smok"), "nearest: smoke"), (("--figures", "fig99"), "figures has 'fig99'"),
    (("--operands", "3;4"), "--operands 3;4 is no list"), (("--seed", "-1"), "--seed"),
])  # fmt: skip
def test_wrong_words_are_wrong_usage(tmp_path, words, message):
    status, out, err = command("--out", tmp_path / "out", *words)
    assert status == 2 and out == "" and message in err and not os.path.exists(tmp_path / "out")
