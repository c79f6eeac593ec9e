"""The words of the ecosystem are taken, and what is not there is refused by its public name with the nearest word."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from conftest import TINY
from tiny import tiny_model

import llmc
from llmc.dtype_words import dtype_word

CONFIG = TINY["llama"] | {"vocab_size": 280, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def tok():
    return llmc.Tokenizer.train(["some words and some more words"], vocab_size=280, special_tokens=["<|endoftext|>"])


@pytest.fixture(scope="module")
def model():
    return tiny_model(CONFIG)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    return path


# --- what a tokenizer gives ------------------------------------------------------------------------------------------
def test_what_a_tokenizer_gives_goes_into_every_call(model, tok):
    given = tok(["some words", "more"], padding=True)
    ids, mask = given["input_ids"], given["attention_mask"]
    assert np.array_equal(model(**given), model(ids, attention_mask=mask))
    assert model.loss(**given) == model.loss(ids, attention_mask=mask)
    assert np.array_equal(model.logprobs(**given), model.logprobs(ids, mask))
    assert np.array_equal(model.generate(**given, max_new_tokens=2), model.generate(ids, mask, max_new_tokens=2))
    assert np.array_equal(list(model.stream(**given, max_new_tokens=2)), list(model.stream(ids, mask, 2)))
    assert llmc.analysis.lim(model, **given).rows == llmc.analysis.lim(model, ids, mask).rows
    run = model.run(2, 16, backward=True)
    assert run.forward(**given, labels=ids) == run.forward(ids, labels=ids, attention_mask=mask)
    assert run.forward_backward(**given, labels=ids) == run.forward_backward(ids, labels=ids, attention_mask=mask)


def test_the_two_words_for_ids_are_not_given_together(model):
    with pytest.raises(TypeError, match="multiple values for argument 'ids'"):
        model.generate([1], input_ids=[1])


# --- dtypes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("said, word", [
    ("bf16", "bfloat16"), ("fp32", "float32"), ("half", "float16"), ("torch.bfloat16", "bfloat16"),
    (np.float32, "float32"), (np.dtype("float16"), "float16"), (ml_dtypes.bfloat16, "bfloat16"), (np.int8, "int8"),
    (np.dtype(ml_dtypes.bfloat16), "bfloat16"), ("auto", "auto"), ("words", "words"), (None, None), (3, 3),
])  # fmt: skip
def test_a_dtype_is_understood_however_it_is_said(said, word):
    assert dtype_word(said) == word


def test_torch_s_dtypes_are_understood(peers):
    assert dtype_word(peers.torch.bfloat16) == "bfloat16" and dtype_word(peers.torch.float32) == "float32"


@pytest.mark.parametrize("said", ["bf16", ml_dtypes.bfloat16, "torch.bfloat16"])
def test_a_model_is_stored_and_computes_as_it_is_said(model, folder, said, tmp_path):
    for opened in (llmc.Model.from_pretrained(folder, dtype=said), llmc.Model.from_pretrained(folder, torch_dtype=said),
                   llmc.Model(model.config, dtype=said)):
        assert opened.dtype == "bfloat16" and opened.precision == "bfloat16"
    assert llmc.Model(model.config, precision=said).precision == "bfloat16"
    model._write(tmp_path, dtype=said)
    assert llmc.Config.from_pretrained(tmp_path).dtype == "bfloat16"
    assert llmc.Config(**CONFIG, dtype=said).dtype == "bfloat16"


@pytest.mark.parametrize("stored, opened", [("bfloat16", "bfloat16"), ("float16", "float32"), ("float32", "float32")])
def test_auto_is_how_the_files_are_without_loss(model, tmp_path, stored, opened):
    model._write(tmp_path, dtype=stored)
    assert llmc.Model.from_pretrained(tmp_path, dtype="auto").dtype == opened
    assert llmc.Model(llmc.Config(**CONFIG, dtype=stored), dtype="auto").dtype == opened


def test_a_dtype_that_weights_cannot_have_is_refused_by_name(model, folder):
    with pytest.raises(llmc.ConfigError, match="dtype='float16': weights are stored as"):
        llmc.Model.from_pretrained(folder, dtype="half")
    with pytest.raises(llmc.ConfigError, match="precision='int8'"):
        llmc.Model(model.config, precision=np.int8)


# --- the trainer's ---------------------------------------------------------------------------------------------------
def test_processing_class_is_the_tokenizer(model, tok):
    assert llmc.Trainer(model, processing_class=tok).tokenizer is tok
    with pytest.raises(TypeError, match="tokenizer and processing_class are two words"):
        llmc.Trainer(model, tokenizer=tok, processing_class=tok)


# --- what is not there -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call, words", [
    (lambda w: w.model.generate(), "Model.generate: ids is missing"),
    (lambda w: w.model.generate([1], num_beams=1), "Model.generate has no argument 'num_beams'; nearest: num"),
    (lambda w: w.model.generate([1], *range(40)), "Model.generate takes .* arguments without a name, in .*: ids"),
    (lambda w: llmc.Model(), "Model: config is missing"),
    (lambda w: llmc.Trainer(), "Trainer: model is missing"),
    (lambda w: llmc.Trainer(w.model, trian_dataset=[]), "Trainer has no argument 'trian_dataset'; nearest: train_da"),
    (lambda w: llmc.Model.from_pretrained(), "Model.from_pretrained: source is missing"),
    (lambda w: llmc.Model.from_pretrained(w.folder, device_map="auto"),
     "Model.from_pretrained has no argument 'device_map'"),
    (lambda w: w.tok(), "Tokenizer: text is missing"),
    (lambda w: llmc.functional.rmsnorm(np.ones(3)), "rmsnorm: weight is missing"),
])  # fmt: skip
def test_a_call_is_refused_by_its_public_name(call, words, model, folder, tok):
    class World:
        pass

    World.model, World.folder, World.tok = model, folder, tok
    with pytest.raises(TypeError, match=words):
        call(World)


@pytest.mark.parametrize("name, words", [
    ("to", "Model has no 'to'; llmc computes on the CPU alone: leave it out"),
    ("cuda", "on the CPU"),
    ("eval", "Model has no 'eval'; there is no training mode"),
    ("train", "llmc.Trainer trains"),
    ("half", "dtype="),
    ("parameters", "state_dict"),
    ("forward", "call the model"),
    ("genrate", "nearest: generate"),
])
def test_an_attribute_of_another_library_is_refused_with_what_to_do(name, words, model):
    with pytest.raises(AttributeError, match=words):
        getattr(model, name)


@pytest.mark.parametrize("thing, name, near", [
    (lambda: llmc.AdamW, "stp", "step"), (lambda: llmc.Tokenizer, "vocabsize", "vocab_size"),
    (lambda: llmc.Trainer, "evalute", "evaluate"),
])  # fmt: skip
def test_a_misspelt_attribute_is_answered_with_the_nearest(thing, name, near, model, tok):
    things = {llmc.AdamW: lambda: llmc.AdamW(model), llmc.Tokenizer: lambda: tok,
              llmc.Trainer: lambda: llmc.Trainer(model)}
    with pytest.raises(AttributeError, match=f"{thing().__name__} has no '{name}'; nearest: .*{near}"):
        getattr(things[thing()](), name)


# --- the trained context ---------------------------------------------------------------------------------------------
def test_a_text_beyond_the_trained_context_is_said(model):
    with pytest.warns(UserWarning, match="60 tokens and 5 new ones: beyond the context of 64 tokens"):
        model.generate(np.ones((1, 60), int), max_new_tokens=5)
    with pytest.warns(UserWarning, match="rows of 65 tokens: beyond the context of 64"):
        llmc.Trainer(model).evaluate([{"input_ids": [1] * 65}])


def test_labels_of_minus_100_alone_are_said(model):
    with pytest.warns(UserWarning, match="labels count nothing"):
        assert model.loss([1, 2, 3], labels=[7, -100, -100]) == 0


def test_metrics_all_is_every_metric(model):
    report = llmc.analysis.lim(model, [[1, 2, 3, 4, 5, 6]], metrics="all")
    assert set(llmc.analysis.metrics.METRICS) <= report.rows[-1].keys()


def test_torch_is_not_imported_to_understand_a_dtype():
    code = ("import sys, llmc; from llmc.dtype_words import dtype_word; dtype_word('torch.bfloat16'); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
