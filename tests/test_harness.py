"""Benchmarks: what lm-evaluation-harness asks is answered as its own class of Hugging Face models answers it."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import hf_model, rope_change, tiny_model

import llmc
from llmc.cli import main

pytest.importorskip("lm_eval", reason="lm_eval does not import, so there is nothing that asks")
from lm_eval.api.instance import Instance  # noqa: E402

TEXT = llmc.data.builtin_text()[:30000]
LENGTH = 48  # tokens that the models read


pytestmark = pytest.mark.filterwarnings("ignore:.*their beginnings are left out")


@pytest.fixture(scope="module")
def tokenizer():
    """Trained on English, so that texts have tokens of several letters."""
    return llmc.Tokenizer.train([TEXT], vocab_size=400)


def config(**changes):
    return {**TINY["llama"], "vocab_size": 400, "max_position_embeddings": LENGTH, **changes}


@pytest.fixture(scope="module")
def both(peers, tokenizer, tmp_path_factory):
    """(their LM, ours) of one model."""
    HFLM = pytest.importorskip("lm_eval.models.huggingface", reason="their class needs accelerate, too").HFLM
    folder = str(tmp_path_factory.mktemp("model"))
    theirs = hf_model(peers, config())
    theirs.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reader = peers.transformers.AutoTokenizer.from_pretrained(folder)
    return (HFLM(pretrained=theirs, tokenizer=reader, batch_size=3, device="cpu"),
            llmc.harness.LM(llmc.Model.from_pretrained(folder), tokenizer, batch_size=3))


@pytest.fixture(scope="module")
def lm(tokenizer):
    """Ours alone."""
    return llmc.harness.LM(tiny_model(config()), tokenizer, batch_size=3)


def asked(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


PAIRS = [
    ("The value of", " the statement"),
    ("The value of", " a"),
    ("The value of", " the"),
    ("Trailing space ", "moves"),
    ("Trailing newline\n\n", "moves, too"),
    ("", "no context at all"),
    ("a", "b"),
    ("", "<|endoftext|>The class"),
    ("<|endoftext|>Begins as texts begin", " and goes on"),
    (TEXT[:1000], " is cut on its left"),
    ("short", TEXT[5000:5060]),
    ("The value of", " the"),
]


def test_log_likelihoods_are_those_of_their_class(both):
    theirs, ours = (lm.loglikelihood(asked("loglikelihood", *PAIRS), disable_tqdm=True) for lm in both)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    for (a, _), (b, _), pair in zip(ours, theirs, PAIRS):
        assert abs(a - b) <= 10 * TOLERANCE["logits"], pair


def test_the_likeliest_of_all_words_of_one_token_is_greedy_and_no_other(both, monkeypatch):
    theirs, ours = both
    words = [text for text in map(ours.tokenizer.decode, range(400)) if text.startswith(" ") and text.strip()]
    contexts = [TEXT[start : start + 40].rstrip() for start in range(0, 800, 20)]
    batches, forward = [], llmc.run.Run.forward
    monkeypatch.setattr(llmc.run.Run, "forward", lambda *args, **named: batches.append(1) or forward(*args, **named))
    requests = asked("loglikelihood", *((context, word) for context in contexts for word in words))
    answers = ours.loglikelihood(requests)
    assert len(batches) == -(-len(contexts) // ours.batch_size)  # words share the reading of their context
    values, greedy = (np.reshape(each, (len(contexts), len(words))) for each in zip(*answers))
    assert (greedy.sum(axis=1) <= 1).all() and greedy.any()
    assert (values.argmax(axis=1) == greedy.argmax(axis=1))[greedy.any(axis=1)].all()
    assert greedy.ravel().tolist() == [each for _, each in theirs.loglikelihood(requests, disable_tqdm=True)]


@pytest.mark.parametrize("length", [1, 5, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH + 7])
def test_rolling_windows_are_those_of_their_class(both, length):
    theirs, ours = both
    text = ours.tokenizer.decode(ours.tokenizer.encode(TEXT)[:length])
    requests = asked("loglikelihood_rolling", (text,), (TEXT[100:130],), ("",))
    for a, b in zip(ours.loglikelihood_rolling(requests), theirs.loglikelihood_rolling(requests, disable_tqdm=True)):
        assert abs(a - b) <= length * TOLERANCE["logits"]


@pytest.mark.parametrize("said", [
    {"max_gen_toks": 9},
    {"until": [" "], "max_gen_toks": 20},
    {"until": "e", "max_new_tokens": 20, "do_sample": False, "temperature": 0.0},
    {"until": ["\n\n", "the", "<|endoftext|>"], "max_gen_toks": 15, "temperature": 0},
    {"until": [], "max_gen_toks": LENGTH - 1},
], ids=str)
def test_continuations_are_those_of_their_class(both, said):
    theirs, ours = both
    requests = asked("generate_until", ("The value of", said), (TEXT[:500], said), ("a", said),
                     ("Another context, a little longer", said))
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_the_company_of_a_batch_changes_nothing(lm, tokenizer):
    alone = llmc.harness.LM(lm.model, tokenizer, batch_size=1).loglikelihood(asked("loglikelihood", *PAIRS))
    for size in (2, 5, 64):
        together = llmc.harness.LM(lm.model, tokenizer, size).loglikelihood(asked("loglikelihood", *PAIRS))
        assert [greedy for _, greedy in together] == [greedy for _, greedy in alone]
        assert np.allclose([a for a, _ in together], [b for b, _ in alone], rtol=0, atol=10 * TOLERANCE["company"])


def test_nor_does_it_where_frequencies_depend_on_the_length(tokenizer):
    model = tiny_model(config(**rope_change("longrope") | {"max_position_embeddings": LENGTH}))
    requests = asked("loglikelihood", *((TEXT[:20], TEXT[20 : 20 + more]) for more in (5, 20, 40, 80)))
    alone, together = (llmc.harness.LM(model, tokenizer, size).loglikelihood(requests) for size in (1, 4))
    assert np.allclose([a for a, _ in together], [b for b, _ in alone], rtol=0, atol=10 * TOLERANCE["company"])


def test_a_token_across_the_cut_is_scored_as_the_continuation_alone(lm, tokenizer):
    vocabulary = tokenizer.get_vocab()
    token = next(token for token in sorted(vocabulary) if token.isascii() and token.isalpha() and len(token) > 2
                 and token[:-1] in vocabulary)  # fmt: skip
    (value, _), (alone, _) = lm.loglikelihood(asked("loglikelihood", (token[:-1], token[-1]), (token[:-1], "!")))
    assert lm._cut(token[:-1], token[-1])[1] == tokenizer.encode(token[-1])
    assert value < 0 and value != alone


def test_a_text_ends_at_the_token_that_ends_texts(lm, tokenizer):
    prompt = tokenizer.encode("The value of")
    new = lm.model.generate([prompt], max_new_tokens=8)[0, len(prompt) :].tolist()
    other = copy.copy(tokenizer)
    other._special = {**tokenizer._special, "eos_token": tokenizer.convert_ids_to_tokens(new[5])}
    written, = llmc.harness.LM(lm.model, other).generate_until(
        asked("generate_until", ("The value of", {"max_gen_toks": 8})))
    assert written == tokenizer.decode(new[: new.index(new[5])], skip_special_tokens=True)


def test_sampled_texts_follow_numpy_s_seed(lm):
    requests = asked("generate_until", *[("The", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12})] * 2)
    found = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        found.append(lm.generate_until(requests))
    assert found[0] == found[1] != found[2]
    assert found[0][0] != found[0][1]


@pytest.mark.parametrize("kind, argument, error, words", [
    ("loglikelihood", ("a context", ""), llmc.DataError, "request 0: '' has 0 tokens; a continuation has 1 to 48"),
    ("loglikelihood", ("a", TEXT[:2000]), llmc.DataError, "the most that this model reads"),
    ("generate_until", ("a", {"until": ["x"]}), llmc.ConfigError, "max_gen_toks is 256, and this model reads 48"),
    ("generate_until", ("a", {"max_gen_toks": 0}), llmc.ConfigError, "max_gen_toks is 0"),
    ("generate_until", ("a", {"max_gen_toks": 4, "num_beams": 3}), llmc.ConfigError, "num_beams is 3"),
    ("generate_until", ("a", {"max_gen_toks": 4, "max_length": 9}), llmc.ConfigError, "asks for max_length=9"),
])
def test_what_cannot_be_answered_is_said(lm, kind, argument, error, words):
    with pytest.raises(error) as caught:
        getattr(lm, kind)(asked(kind, argument))
    assert words in str(caught.value)


def test_weights_that_are_not_finite_are_said(tokenizer):
    model = tiny_model(config())
    model._parameters["model.norm.weight"][0] = np.nan
    with pytest.raises(llmc.NonFiniteError, match="request 0"):
        llmc.harness.LM(model, tokenizer).loglikelihood(asked("loglikelihood", ("a", "b")))


def test_it_takes_a_model_and_a_tokenizer_of_llmc(lm, tokenizer):
    with pytest.raises(TypeError, match="model is 'dir', not a llmc.Model"):
        llmc.harness.LM("dir", tokenizer)
    with pytest.raises(TypeError, match="tokenizer is None; it has to be given"):
        llmc.harness.LM(lm.model, None)
    with pytest.raises(TypeError, match="nearest: batch_size"):
        llmc.harness.LM(lm.model, tokenizer, batch=3)
    with pytest.raises(llmc.ConfigError, match="batch_size is 0"):
        llmc.harness.LM(lm.model, tokenizer, 0)


def test_without_a_token_before_texts_that_is_said(lm, tokenizer):
    other = copy.copy(tokenizer)
    other._special = {}
    bare = llmc.harness.LM(lm.model, other)
    requests = asked("loglikelihood", ("a", "b"))
    assert bare.loglikelihood(requests) == lm.loglikelihood(requests)
    with pytest.raises(llmc.DataError, match="neither bos_token nor eos_token"):
        bare.loglikelihood(asked("loglikelihood", ("", "b")))


# --- the command -------------------------------------------------------------------------------------------------
QUESTIONS = [{"question": f"Which letter follows {a}?", "choices": [b, "a stone", "Z"], "gold": 0}
             for a, b in zip("ABCDEFG", "BCDEFGH")]  # fmt: skip
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: {kind}
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
"""
CHOICE = """doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITTEN = """doc_to_target: "{{choices[gold]}}"
generation_kwargs:
  until: ["\n"]
  max_gen_toks: 3
metric_list:
  - metric: exact_match
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, tokenizer):
    """A folder with a model in `model`, and tasks that need no network in `tasks`."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "tasks").mkdir()
    tiny_model(config(max_position_embeddings=96)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "letters.json").write_text("\n".join(map(json.dumps, QUESTIONS)))
    for name, kind, data, rest in (("letters", "multiple_choice", "letters.json", CHOICE),
                                   ("spelling", "generate_until", "letters.json", WRITTEN),
                                   ("dataless", "multiple_choice", "nowhere.json", CHOICE)):  # fmt: skip
        text = TASK.format(name=name, kind=kind, data=folder / data) + rest
        (folder / "tasks" / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """Where the datasets library keeps what it has read."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


def command(world, *words):
    return main(["eval", str(world / "model"), "--include-path", str(world / "tasks"), *words])


def test_the_command_prints_a_row_for_each_metric_and_writes_what_it_found(world, capsys):
    out = world / "found.json"
    assert command(world, "--tasks", "letters,spelling", "--num-fewshot", "2", "--limit", "5", "--out", str(out)) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["task", "metric", "value", "stderr", "examples", "questions"]
    assert [row[:2] + row[-2:] for row in rows[2:]] == [
        ["letters", "acc", "2", "5"], ["letters", "acc_norm", "2", "5"], ["spelling", "exact_match", "2", "5"]]
    found = json.loads(out.read_text())
    assert found["num_fewshot"] == 2 and found["limit"] == 5 and found["n-shot"] == {"letters": 2, "spelling": 2}
    assert float(rows[2][2]) == found["results"]["letters"]["acc,none"] in (0, 0.2, 0.4, 0.6, 0.8, 1)


def test_accuracy_is_the_share_of_questions_whose_right_answer_is_likeliest(world, tokenizer, capsys):
    assert command(world, "--tasks", "letters") == 0
    value = float(capsys.readouterr().out.splitlines()[2].split()[2])
    lm = llmc.harness.LM(llmc.Model.from_pretrained(world / "model"), tokenizer)
    right = 0
    for each in QUESTIONS:
        pairs = [(f"Question: {each['question']}\nAnswer:", f" {choice}") for choice in each["choices"]]
        right += int(np.argmax([value for value, _ in lm.loglikelihood(asked("loglikelihood", *pairs))])) == 0
    assert value == float(f"{right / len(QUESTIONS):.4g}")


@pytest.mark.parametrize("words, status, expected", [
    (["--tasks", "lettrs"], 1, "no task is called 'lettrs'; nearest: letters"),
    (["--tasks", "dataless"], 1, "task dataless: its data is not to be had"),
    (["--tasks", "letters,,spelling"], 2, "names with commas between, each once"),
    (["--tasks", "letters,letters"], 2, "names with commas between, each once"),
    (["--tasks", "letters", "--out", "x.txt"], 2, "written as .json"),
    (["--tasks", "letters", "--block-size", "8"], 2, "--block-size goes with --text"),
    (["--tasks", "letters", "--text", "x"], 2, "one of the two"),
    (["--tasks", "letters", "--limit", "0"], 2, "at least 1"),
    (["--text", "x"], 2, "--include-path goes with --tasks"),
])
def test_the_command_says_what_is_wrong(world, capsys, monkeypatch, words, status, expected):
    from lm_eval.tasks import TaskManager

    every = TaskManager.__init__  # to read the thousands of tasks that it knows takes half a minute
    monkeypatch.setattr(TaskManager, "__init__",
                        lambda self, **named: every(self, **named | {"include_defaults": False}))
    assert command(world, *words) == status
    assert expected in capsys.readouterr().err.splitlines()[-1]


WITHOUT = """import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *rest: None if name.partition(".")[0] in {blocked} else find(name, *rest))
from llmc.cli import main
sys.exit(main({words}))
"""


def in_a_process(blocked, *words):
    """A finished `llmc eval`, in a process for which these packages are not installed."""
    code = WITHOUT.format(blocked=blocked, words=["eval", *words])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_model_that_is_not_there_is_said_before_tasks_are_read(world, capsys, monkeypatch):
    monkeypatch.setattr("llmc.harness.tasks.tasks_of", None)
    assert main(["eval", str(world / "nowhere"), "--tasks", "letters"]) == 1
    assert "nowhere: no such folder or file" in capsys.readouterr().err.splitlines()[-1]


def test_it_needs_neither_torch_nor_transformers(world):
    done = in_a_process(["torch", "transformers"], str(world / "model"), "--include-path", str(world / "tasks"),
                        "--tasks", "letters,spelling", "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert "exact_match" in done.stdout


def test_without_lm_eval_it_says_what_to_install(world):
    done = in_a_process(["lm_eval"], str(world / "model"), "--tasks", "letters")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'llmc[eval]'")
