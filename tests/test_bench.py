"""llmc bench: what is counted, how programs take turns, and what a user sees, with torch and without."""

import json
import re
import subprocess
import sys
import time

import pytest
from conftest import WITHOUT

import llmc
from llmc.bench import JOBS, Machine, Report, Result, measure, ours, select
from llmc.bench.alternate import Worker, WorkerError, alternate
from llmc.bench.company import Company
from llmc.bench.jobs import Beside, Job, torch
from llmc.bench.machine import UNITS, yardstick
from llmc.bench.rates import line
from llmc.bench.room import PROGRAM, need
from llmc.cli import main
from llmc.core import _core

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 48, "max_position_embeddings": 128}
TINY_JOB = Job("tiny", "a tiny LLaMA's training step", "train", {"config": LLAMA, "batch": 2, "length": 8}, "float32",
               beside=torch("float32"))


def has(*names):
    """Skip without these packages."""
    for name in names:
        pytest.importorskip(name, reason=WITHOUT.format(name))


# --- the machine -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["multiply_add", "read", "copy"])
def test_a_peak_is_above_zero(what):
    assert _core.measure(what, 0.01) > 1e8


def test_bfloat16_products_are_measured_exactly_where_the_kernels_in_use_have_them():
    assert (_core.measure("bfloat16", 0.01) > 0) == ("bf16" in _core.info()["instruction_set"])


def test_an_unknown_measure_is_refused_with_the_list():
    with pytest.raises(llmc.UnknownNameError, match="multiply_add, bfloat16, read and copy"):
        _core.measure("speed", 0.01)


def test_every_instruction_set_multiplies_and_adds():
    used = _core.info()
    try:
        for isa in _core.offers():
            _core.choose(isa, "own", None)
            assert _core.measure("multiply_add", 0.01) > 1e8, isa
    finally:
        _core.choose(used["instruction_set"], used["gemm"], llmc.core.openblas_path())


def test_a_job_is_rated_against_what_bounds_it():
    expected = {"gpt2-step-float32": "multiply_add", "gpt2-step-bfloat16": "bfloat16", "decode-1.2b-int8": "read"}
    assert {job.name: yardstick(job) for job in JOBS if job.name in expected} == expected


# --- what is counted -------------------------------------------------------------------------------------------------
def linears(config):
    """Multiply-adds of a token in the linears of all blocks, by hand."""
    C, F, L = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    D = C // config["num_attention_heads"]
    return L * (2 * C * C + 2 * C * config["num_key_value_heads"] * D + 3 * C * F)


def attention(config, B, T):
    """FLOPs of causal attention in all blocks."""
    return config["num_hidden_layers"] * 4 * B * config["hidden_size"] * T * (T + 1) / 2


def test_a_training_step_is_three_forward_passes():
    B, T = 2, 8
    _, about = ours.train(LLAMA, B, T, "float32")
    head = LLAMA["hidden_size"] * LLAMA["vocab_size"]
    assert about["flops"] == 3 * (2 * B * T * (linears(LLAMA) + head) + attention(LLAMA, B, T))
    assert about["tokens"] == B * T


def test_a_frozen_base_costs_two_forward_passes_and_its_adapters_three():
    B, T, r = 1, 8, 4
    config = LLAMA
    _, about = ours.lora(config, B, T, r, "float32")
    C, F, D = config["hidden_size"], config["intermediate_size"], config["hidden_size"] // config["num_attention_heads"]
    G = config["num_key_value_heads"]
    low_rank = 2 * r * (2 * 2 * C + 2 * (C + G * D) + 3 * (C + F))
    frozen = 2 * B * T * 2 * (linears(config) + C * config["vocab_size"])
    adapters = 3 * 2 * B * T * low_rank
    first = 2 * B * T * (C * C + 2 * C * G * D)  # its q, k and v read what nobody trains
    assert about["flops"] == frozen + adapters - first + 3 * attention(config, B, T)


def test_a_frozen_base_without_adapters_costs_what_it_costs_with_them_but_for_theirs():
    (_, bare), (_, adapted) = (ours.frozen(LLAMA, 1, 8, rank, "float32") for rank in (None, 4))
    _, whole = ours.lora(LLAMA, 1, 8, 4, "float32")
    assert adapted["flops"] == whole["flops"] and 0 < adapted["flops"] - bare["flops"] < 0.5 * bare["flops"]


@pytest.mark.parametrize("metrics", [(), ("lim",)])
def test_lim_is_rated_by_the_forward_pass_it_rides_on(metrics):
    step, about = ours.lim(LLAMA, 1, 8, "float32", metrics)
    head = LLAMA["hidden_size"] * LLAMA["vocab_size"]
    assert about["flops"] == 2 * 8 * (linears(LLAMA) + head) + attention(LLAMA, 1, 8)
    step()


def test_a_prompt_forms_the_logits_of_its_last_position_alone():
    T = 8
    _, about = ours.prompt(LLAMA, T, "float32")
    head = 2 * LLAMA["hidden_size"] * LLAMA["vocab_size"]
    assert about["flops"] == 2 * T * linears(LLAMA) + attention(LLAMA, 1, T) + head


def test_decoding_reads_every_weight_and_the_past_for_every_token_after_the_first():
    prompt, new = 5, 3
    _, about = ours.decode(dict(LLAMA, tie_word_embeddings=False), prompt, new, "float32")
    model = llmc.Model(llmc.Config(**dict(LLAMA, tie_word_embeddings=False)))
    C, V = LLAMA["hidden_size"], LLAMA["vocab_size"]
    weights = 4 * (model.num_parameters() - (V - 1) * C)  # one row of the embedding
    past = 4 * 2 * LLAMA["num_hidden_layers"] * LLAMA["num_key_value_heads"] * (C // LLAMA["num_attention_heads"])
    assert about["bytes"] == pytest.approx((new - 1) * weights + (6 + 7) * past)


@pytest.mark.parametrize("which", ["forward", "dx", "dw"])
def test_a_product_is_two_operations_a_pair_in_all_transposes(which):
    step, about = ours.product(7, 5, 3, which, "float32")
    assert about == {"flops": 2 * 7 * 5 * 3}
    assert step()["seconds"] > 0


@pytest.mark.parametrize("which, products", [("forward", 2), ("backward", 4)])
def test_attention_is_halved_for_causality_and_computes_nothing_twice(which, products):
    step, about = ours.attention(2, 8, 3, 4, which, "float32")
    assert about == {"flops": products * 2 * 2 * 3 * 4 * 8 * 9 / 2}
    assert step()["seconds"] > 0


# --- the jobs --------------------------------------------------------------------------------------------------------
def test_every_job_has_a_name_of_its_own_and_work_that_exists():
    assert len({job.name for job in JOBS}) == len(JOBS)
    assert all(callable(getattr(ours, job.work)) for job in JOBS)


PRODUCT = {"rows": 7, "inputs": 5, "outputs": 3}
ATTENTION = {"batch": 2, "length": 8, "heads": 3, "size": 4}
SIZES = [("train", {"config": LLAMA, "batch": 2, "length": 8}),
         ("lora", {"config": LLAMA, "batch": 2, "length": 8, "rank": 2}),
         ("frozen", {"config": LLAMA, "batch": 2, "length": 8, "rank": 2}),
         ("lim", {"config": LLAMA, "batch": 2, "length": 8}),
         ("prompt", {"config": LLAMA, "length": 8}), ("decode", {"config": LLAMA, "prompt": 4, "new": 3}),
         *(("product", {**PRODUCT, "which": which}) for which in ("forward", "dx", "dw")),
         *(("attention", {**ATTENTION, "which": which}) for which in ("forward", "backward"))]  # fmt: skip


@pytest.mark.parametrize("work, sizes", SIZES)
def test_the_work_of_a_job_runs_on_both_sides(work, sizes):
    assert {name for name, _ in SIZES} == {job.work for job in JOBS}
    step, about = getattr(ours, work)(**sizes, precision="float32")
    step()
    assert max(about.get("flops", 0), about.get("bytes", 0)) > 0
    if not any(each.library == "torch" for job in JOBS if job.work == work for each in job.beside):
        return
    has("torch", "transformers", "peft")
    from llmc.bench import theirs

    for precision in ("float32", "bfloat16"):
        getattr(theirs, work)(**sizes, precision=precision, compiled=False)()


def test_globs_and_precisions_pick_jobs_in_their_order():
    found = select(["decode-*", "gpt2-step-*"], ["float32"])
    assert [job.name for job in found] == ["gpt2-step-float32", "decode-124m-float32", "decode-1.2b-float32"]
    assert all(job.quick for job in select(quick=True))


def test_a_glob_that_matches_nothing_lists_the_names(capsys):
    assert main(["bench", "--jobs", "gpt3-*"]) == 2
    said = capsys.readouterr().err
    assert "'gpt3-*'" in said
    assert all(job.name in said for job in JOBS)


def test_the_list_names_every_job_and_runs_none(capsys):
    assert main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(job.name in out for job in JOBS)
    assert main(["bench", "--list", "--jobs", "decode-*", "--precision", "int8"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert [name for name in listed if name.startswith("decode-")] == ["decode-124m-int8", "decode-1.2b-int8"]


# --- taking turns ----------------------------------------------------------------------------------------------------
SLEEPER = "from llmc.bench.alternate import serve; import time; serve(lambda: time.sleep({0}), {{'flops': 1}})"


def sleeper(seconds):
    return Worker(f"sleeps {seconds}", ["-c", SLEEPER.format(seconds)], threads=1)


def test_workers_take_turns_and_medians_are_theirs():
    with sleeper(0.002) as quick, sleeper(0.1) as slow:
        for worker in (quick, slow):
            worker.warm()
        assert quick.each > slow.each > 1
        alternate([quick, slow], repeats=3)
        assert len(quick.seconds) == len(slow.seconds) == 3
        assert 0.002 <= quick.median < slow.median
        assert quick.peak > 1e6


def test_a_long_job_stops_after_three_rounds():
    with sleeper(0.01) as worker:
        alternate([worker], repeats=10, enough=0.0)
        assert len(worker.seconds) == 3


@pytest.mark.parametrize("program, said", [
    ("raise SystemExit(3)", "ended with code 3"),
    ("raise ValueError('no such thing')", "ValueError: no such thing"),
    ("print('{\"refused\": \"it lacks that\"}')", "^it lacks that$"),
    ("print('{}', flush=True); input(); 1 / 0", "ZeroDivisionError"),
])  # fmt: skip
def test_a_worker_that_fails_says_why(program, said):
    with pytest.raises(WorkerError, match=said), Worker("it", ["-c", program], threads=1) as worker:
        worker.step()


# --- a job -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def machine():
    return Machine()


def test_a_job_alone_is_rated_against_the_machine(machine):
    result = measure(TINY_JOB, machine, threads=1, repeats=2, peers=False)
    assert result.note == "" and result.beside is None
    assert result.rate == pytest.approx(result.work / result.seconds)
    rounds = zip(result.rounds, machine.measured["multiply_add"][-2:])
    assert result.fraction == pytest.approx(sum(result.work / seconds / peak for seconds, peak in rounds) / 2)
    assert result.tokens_per_second == pytest.approx(16 / result.seconds)
    assert result.memory > 1e7 and result.estimate > 0 and len(result.rounds) == 2


def test_decoding_is_rated_against_the_bandwidth(machine):
    job = Job("tiny", "", "decode", {"config": LLAMA, "prompt": 4, "new": 2}, "float32", "memory")
    result = measure(job, machine, threads=1, repeats=1)
    assert result.note == "" and result.rate == pytest.approx(result.work / result.seconds)
    assert result.peak == machine.measured["read"][-1] and result.fraction == pytest.approx(result.rate / result.peak)


def test_a_job_beside_torch_has_its_time_and_the_ratio(machine):
    has("torch", "transformers")
    result = measure(TINY_JOB, machine, threads=1, repeats=2)
    assert result.slower == []
    assert result.beside["label"] == "torch float32"
    assert result.beside["seconds"] > 0 and result.beside["ratio"] > 0 and result.beside["memory"] > 1e7


def test_without_torch_a_job_runs_alone(machine, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = measure(TINY_JOB, machine, threads=1, repeats=2)
    assert result.seconds > 0 and result.beside is None and result.slower == []


def test_the_fastest_of_what_is_beside_is_compared_and_the_rest_is_noted(machine):
    twice = Beside("batch 4", "llmc", "float32", sizes={"batch": 4})
    longer = Beside("length 64", "llmc", "float32", sizes={"length": 64})
    refused = Beside("int3", "llmc", "int3")
    job = Job("tiny", "", "train", TINY_JOB.sizes, "float32", beside=(longer, refused, twice), same_work=False)
    result = measure(job, machine, threads=1, repeats=2)
    assert {result.beside["label"], *(each["label"] for each in result.slower)} == {"length 64", "int3", "batch 4"}
    assert next(each for each in result.slower if each["label"] == "int3")["note"]
    times = {"batch 4": 2, "length 64": 8}[result.beside["label"]]
    assert result.beside["ratio"] < 1.5 / times * result.beside["seconds"] / result.seconds  # per unit of work


def test_what_this_build_lacks_is_not_available_and_fails_nothing(machine):
    job = Job("tiny", "", "decode", {"config": LLAMA, "prompt": 4, "new": 2}, "int3", "memory")
    result = measure(job, machine, threads=1)
    assert result.seconds is None and result.note.startswith("not available: ")
    assert "int3" in result.note


def test_bfloat16_arithmetic_is_not_on_a_processor_without_it(machine, monkeypatch):
    monkeypatch.setattr(machine, "has", lambda name: name != "bfloat16")
    result = measure(Job("tiny", "", "train", TINY_JOB.sizes, "bfloat16"), machine, threads=1)
    assert result.note == "not on this processor"


# --- room ------------------------------------------------------------------------------------------------------------
LARGER = dict(LLAMA, hidden_size=256, intermediate_size=512, vocab_size=4096)


@pytest.mark.parametrize("work, sizes", [("train", {"batch": 4, "length": 64}), ("prompt", {"length": 128}),
                                         ("lora", {"batch": 4, "length": 64, "rank": 4}),
                                         ("decode", {"prompt": 16, "new": 48}), ("lim", {"batch": 2, "length": 64})])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_job_needs_is_forecast_without_a_model(work, sizes, precision):
    sizes = {"config": LARGER, **sizes}
    _, about = getattr(ours, work)(**sizes, precision=precision)
    found = need("llmc", work, sizes, precision) - PROGRAM["llmc"]
    assert found == pytest.approx(about["estimate"], rel=0.1)


def test_a_job_too_large_for_the_free_memory_is_left_out_with_both_numbers(machine, monkeypatch):
    monkeypatch.setattr("llmc.bench.room.free_memory", lambda: 150_000_000)
    result = measure(TINY_JOB, machine, threads=1)
    assert re.fullmatch("not available: needs about 20[0-9] MB of memory, 150 MB are free", result.note)
    report = Report(machine, 1)
    report.results.append(result)
    assert "150 MB are free" in str(report)


def test_a_peer_too_large_for_the_free_memory_is_left_out_and_the_job_runs_alone(machine, monkeypatch):
    monkeypatch.setattr(sys.modules["llmc.bench.measure"], "missing", lambda job: [])  # torch is not begun
    monkeypatch.setattr("llmc.bench.room.free_memory", lambda: 500_000_000)
    result = measure(TINY_JOB, machine, threads=1, repeats=1)
    assert result.seconds > 0 and result.beside is None
    report = Report(machine, 1)
    report.results.append(result)
    for said in (str(report), line(result)):
        assert "torch float32: not available: needs about 70" in said and "500 MB are free" in said


def test_where_the_free_memory_is_unknown_jobs_run(machine, monkeypatch):
    monkeypatch.setattr("llmc.bench.room.free_memory", lambda: None)
    assert measure(TINY_JOB, machine, threads=1, repeats=1, peers=False).note == ""


# --- what a user sees ------------------------------------------------------------------------------------------------
@pytest.fixture
def tiny_jobs(monkeypatch):
    """The command knows two tiny jobs alone."""
    jobs = (TINY_JOB, Job("tiny-int3", "", "decode", {"config": LLAMA, "prompt": 4, "new": 2}, "int8", "memory"))
    monkeypatch.setattr(select, "__defaults__", (*select.__defaults__[:-1], jobs))
    monkeypatch.setattr("llmc.bench.machine.SECONDS", 0.01)


def test_the_command_prints_peaks_and_jobs_and_writes_what_is_asked(tiny_jobs, tmp_path, capsys):
    files = {end: tmp_path / f"bench{end}" for end in (".json", ".md", ".png")}
    words = ["bench", "--alone", "--repeats", "1", "--jobs", "tiny", "--json", files[".json"], "--out", files[".md"]]
    assert main([str(word) for word in [*words, files[".png"]]]) == 0
    out, err = capsys.readouterr()
    assert "from registers" in out and "tiny" in out and " % " in out
    assert "tiny: " in err
    written = json.loads(files[".json"].read_text())
    assert written["results"][0]["name"] == "tiny" and written["results"][0]["seconds"] > 0
    assert set(written["peaks"]) == set(UNITS) and written["machine"]["processor"]
    assert "| tiny |" in files[".md"].read_text()
    assert files[".png"].read_bytes().startswith(b"\x89PNG")


def test_without_torch_the_command_says_so_once(tiny_jobs, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "--repeats", "1", "--jobs", "tiny", "tiny"]) == 0
    assert capsys.readouterr().err.count("cannot be imported") == 1


def test_out_takes_markdown_and_pictures(capsys):
    assert main(["bench", "--out", "bench.gif"]) == 2
    assert "--out takes .md, .png, .pdf, .svg" in capsys.readouterr().err


def test_what_was_measured_before_ctrl_c_is_printed(tiny_jobs, monkeypatch, capsys):
    real = measure

    def interrupted(job, *args, **kwargs):
        if job is not TINY_JOB:
            raise KeyboardInterrupt
        return real(job, *args, **kwargs)

    monkeypatch.setattr("llmc.bench.measure", interrupted)
    assert main(["bench", "--alone", "--repeats", "1"]) == 130
    assert "tiny" in capsys.readouterr().out


def test_a_report_of_nothing_prints():
    assert "peak" in str(Report(Machine(), 1))


def test_a_report_warns_when_the_machine_was_shared():
    report = Report(Machine(), 1)
    result = Result("a-job", "", "float32", "arithmetic", company=0.05)
    report.results.append(result)
    assert "not to be trusted" not in str(report)
    result.company = 0.6
    assert "took up to 60 % of the processors (during a-job)" in str(report)
    assert "took up to 60 %" in report.markdown()


def test_company_is_what_neither_this_process_nor_the_measured_ones_took():
    alone, counted = Company([]), None
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            counted = Company([busy.pid])
            time.sleep(0.5)
            with_it, without_it = alone.share(), counted.share()
        finally:
            busy.kill()
    assert 0 <= without_it <= 1 and with_it > without_it


def test_the_command_brings_no_torch():
    code = "import sys, llmc.cli.bench, llmc.bench; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
