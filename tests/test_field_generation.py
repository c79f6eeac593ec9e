"""Generation as people ask for it elsewhere: generation_config.json, sampling that is meant, padding, stops."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from tiny import random_ids, tiny_model

import llmc
from llmc.cli import main
from llmc.generate import settings

FIELD = Path(__file__).parent / "vectors" / "field"
RIGHT = json.loads((FIELD / "right.json").read_text())
IDS = np.array(RIGHT["ids"])


@pytest.fixture
def opened(tmp_path):
    """A function that opens the model of `generation-config` with another generation_config.json."""

    def with_file(**fields):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(FIELD / "generation-config", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))  # room for 64 more
        (folder / "generation_config.json").write_text(json.dumps(fields))
        return llmc.Model.from_pretrained(folder)

    return with_file


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    """Every test is a process's first call."""
    monkeypatch.setattr(settings, "_said", set())


@pytest.fixture(scope="module")
def speaking():
    """(model, tokenizer, ids): random text of a model whose every token is a byte."""
    tokenizer = llmc.Tokenizer.train(["plain words"], vocab_size=257)
    model = tiny_model({**TINY["llama"], "vocab_size": 257}, scale=0.4)
    return model, tokenizer, np.array([tokenizer.encode(text) for text in ("several", "prompts")])


def in_silence(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call(*arguments, **options)


# --- generation_config.json


def test_what_a_call_does_not_say_is_what_the_file_says():
    model = llmc.Model.from_pretrained(FIELD / "generation-config")
    right = RIGHT["generation-config"]["greedy, 12 new"]
    np.testing.assert_array_equal(model.generate(IDS, max_new_tokens=12), right)
    np.testing.assert_array_equal(np.stack(list(model.stream(IDS, max_new_tokens=12)), axis=1), [right[0][8:]])
    plain = model.generate(IDS, max_new_tokens=12, repetition_penalty=1.0)
    assert (plain != right).any(), "what a call says goes before"


@pytest.mark.parametrize("fields", [
    dict(suppress_tokens=[11, 24, 28, 500]), dict(min_new_tokens=12, eos_token_id=[11, 24]),
    dict(max_new_tokens=5), dict(eos_token_id=28, pad_token_id=6), dict(repetition_penalty=0.6),
    dict(suppress_tokens=[3], repetition_penalty=1.4, eos_token_id=28, min_new_tokens=9),
    dict(temperature=0.2, top_p=0.5), dict(top_k=0, do_sample=False, temperature=0.0),
], ids=str)  # fmt: skip
def test_every_field_is_obeyed_as_transformers_does(fields, opened, peers):
    theirs = peers.transformers.AutoModelForCausalLM.from_pretrained(
        FIELD / "generation-config", dtype=peers.torch.float32, attn_implementation="eager"
    )
    ids = np.repeat(IDS, 2, axis=0)
    ids[1, 2:] = 7
    said = dict(max_new_tokens=15) | fields
    theirs.generation_config = peers.transformers.GenerationConfig(**{"pad_token_id": 0, **said})
    right = theirs.generate(peers.torch.tensor(ids), attention_mask=peers.torch.ones(2, 8).long()).numpy()
    model = opened(**said)
    np.testing.assert_array_equal(in_silence(model.generate, ids, pad_token_id=fields.get("pad_token_id", 0),
                                             attention_mask=np.ones((2, 8), int)), right)  # fmt: skip


def test_without_a_word_text_is_greedy_and_64_tokens_long(opened):
    text = in_silence(opened().generate, IDS)
    assert text.shape == (1, 72)
    assert in_silence(opened(max_length=10).generate, IDS).shape == (1, 72), "max_length counts the prompt too"


def test_only_do_sample_switches_sampling_on_and_then_its_kin_count(opened):
    filters = dict(temperature=1.7, top_k=9, top_p=0.8, min_p=0.02)
    greedy, asked = opened().generate(IDS), opened().generate(IDS, do_sample=True, seed=5, **filters)
    assert (greedy != asked).any()
    np.testing.assert_array_equal(opened(**filters).generate(IDS, seed=5), greedy)
    np.testing.assert_array_equal(opened(**filters).generate(IDS, seed=5, do_sample=True), asked)
    sampling = opened(**filters, do_sample=True)
    np.testing.assert_array_equal(in_silence(sampling.generate, IDS, seed=5), asked)
    np.testing.assert_array_equal(sampling.generate(IDS, seed=5, do_sample=False), greedy)
    np.testing.assert_array_equal(in_silence(sampling.generate, IDS, seed=5, temperature=1.7), asked)


def test_the_command_line_obeys_the_file_too(tmp_path, capsys):
    shutil.copytree(FIELD / "padded-vocabulary", tmp_path / "model")
    file, rows_without_a_token = tmp_path / "model" / "generation_config.json", list(range(290, 304))
    words = ["generate", str(tmp_path / "model"), "hello there"]
    file.write_text(json.dumps(dict(max_new_tokens=3, suppress_tokens=rows_without_a_token)))
    assert main(words) == 0
    assert "llmc: 3 tokens, " in capsys.readouterr().err
    file.write_text(json.dumps(dict(do_sample=True, temperature=5.0, suppress_tokens=rows_without_a_token)))
    said = []
    for more in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"], ["--no-do-sample"], ["--no-do-sample"]):
        assert main([*words, *more]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2] and said[3] == said[4]


def test_what_would_change_the_text_and_is_not_done_is_named_in_one_warning(opened):
    harmless = dict(num_beams=1, no_repeat_ngram_size=0, bad_words_ids=None, typical_p=0.9, length_penalty=2.0,
                    max_length=7, use_cache=False, transformers_version="5.0", early_stopping=True)  # fmt: skip
    in_silence(opened(**harmless).generate, IDS)
    model = opened(num_beams=4, no_repeat_ngram_size=3, **{"typical_p": 0.9, "min_length": 0})
    with pytest.warns(UserWarning, match="no_repeat_ngram_size 3, num_beams 4") as said:
        model.generate(IDS)
    assert len(said) == 1 and said[0].filename == __file__
    in_silence(model.generate, IDS)
    with pytest.warns(UserWarning, match="typical_p 0.9"):
        model.generate(IDS, do_sample=True)


@pytest.mark.parametrize("fields, word", [
    (dict(max_new_tokens="many"), "max_new_tokens is 'many', not a whole number"),
    (dict(do_sample=True, temperature=0.0), "temperature is 0.0"), (dict(repetition_penalty=-1), "repetition_penalty"),
    (dict(do_sample="yes"), "do_sample is 'yes', not true or false"), (dict(suppress_tokens=3), "suppress_tokens"),
    (dict(suppress_tokens=list(range(32))), "all 32 tokens"),
], ids=str)  # fmt: skip
def test_an_impossible_value_in_the_file_is_refused_where_it_counts(fields, word, opened):
    model = opened(**fields)
    with pytest.raises(llmc.ConfigError, match=word) as refused:
        model.generate(IDS)
    assert "tokens there are" in str(refused.value) or str(refused.value).startswith("generation_config.json: ")


def test_tokens_are_counted_also_when_the_last_character_is_cut(speaking, tmp_path, capsys):
    model, tokenizer, ids = speaking
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = model.generate(ids[0], max_new_tokens=40)[0]
    cut = next(n for n in range(1, 40) if tokenizer.decode(text[: 7 + n]).endswith("\ufffd"))
    assert main(["generate", str(tmp_path), "several", "--max-new-tokens", str(cut)]) == 0
    assert f"llmc: {cut} tokens, " in capsys.readouterr().err


# --- sampling that is meant


@pytest.mark.parametrize("option", [dict(temperature=0.7), dict(top_p=0.9), dict(top_k=7), dict(min_p=0.05)], ids=str)
def test_an_argument_of_sampling_means_sampling_and_says_so_once(option, opened):
    model, (name,) = opened(), option
    with pytest.warns(UserWarning, match=f"{name}=.*sampling; do_sample=False") as said:
        text = model.generate(IDS, seed=3, **option)
    assert len(said) == 1 and said[0].filename == __file__
    np.testing.assert_array_equal(in_silence(model.generate, IDS, do_sample=True, seed=3, **option), text)
    np.testing.assert_array_equal(in_silence(model.generate, IDS, seed=3, **option), text)
    np.testing.assert_array_equal(in_silence(model.generate, IDS, do_sample=False, **option), model.generate(IDS))


def test_a_seed_alone_does_not_sample(opened):
    model = opened()
    np.testing.assert_array_equal(in_silence(model.generate, IDS, seed=3), model.generate(IDS))


# --- padding


def test_a_batch_that_is_padded_is_masked_where_its_padding_is():
    model = llmc.Model.from_pretrained(FIELD / "padded-prompts")
    right = RIGHT["padded-prompts"]
    prompts = np.array(right["prompts"])
    np.testing.assert_array_equal(model.generate(prompts, max_new_tokens=8), right["greedy, 8 new"])
    np.testing.assert_array_equal(np.stack(list(model.stream(prompts, max_new_tokens=8)), axis=1),
                                  np.array(right["greedy, 8 new"])[:, 5:])  # fmt: skip
    on_the_right = np.array([prompts[0], [14, 25, 0, 0, 0]])
    text = model.generate(on_the_right, max_new_tokens=8)
    np.testing.assert_array_equal(text[1, :10], right["greedy, 8 new"][1][3:])


def test_padding_that_may_be_text_is_text():
    model = llmc.Model.from_pretrained(FIELD / "padded-prompts")
    prompts = np.array(RIGHT["padded-prompts"]["prompts"])
    seen = model.generate(prompts, attention_mask=np.ones_like(prompts), max_new_tokens=8, eos_token_id=-1)
    ends = model.generate(prompts, max_new_tokens=8, eos_token_id=[0, 2], min_new_tokens=8)
    assert (seen[1] != RIGHT["padded-prompts"]["greedy, 8 new"][1]).any()
    np.testing.assert_array_equal(model.generate(prompts, max_new_tokens=8, pad_token_id=31, eos_token_id=-1), seen)
    np.testing.assert_array_equal(ends, model.generate(prompts, max_new_tokens=8, eos_token_id=[0, 2],
                                                       min_new_tokens=8, attention_mask=np.ones((2, 5))))  # fmt: skip
    alone = model.generate([[0, 0]], max_new_tokens=8)
    np.testing.assert_array_equal(alone, model.generate([[0, 0]], attention_mask=[[1, 1]], max_new_tokens=8))


# --- stops, several rows of a prompt, probabilities


def test_a_row_ends_with_the_token_that_completes_a_stop(speaking):
    model, tokenizer, ids = speaking
    free = model.generate(ids, max_new_tokens=40)
    texts = [tokenizer.decode(row[7:]) for row in free]
    stop = next(texts[0][at : at + 2] for at in range(10, 30) if texts[0][at : at + 2].isprintable())
    options = dict(max_new_tokens=40, stop=[stop, "never there"], tokenizer=tokenizer)
    text = model.generate(ids, **options)
    for row in range(2):
        cut = next((n for n in range(7, 48) if stop in tokenizer.decode(free[row, 7:n])), 47)
        np.testing.assert_array_equal(text[row, :cut], free[row, :cut][: text.shape[1]])
        assert not text[row, cut:].any(), "without pad and end, zeros"
    np.testing.assert_array_equal(np.stack(list(model.stream(ids, **options)), axis=1), text[:, 7:])
    np.testing.assert_array_equal(model.generate(ids, **options, use_cache=False), text)
    np.testing.assert_array_equal(model.generate(ids, **options | dict(stop=stop)), text)
    assert (model.generate(ids, **options, pad_token_id=9)[text == 0] == 9).all()


def test_a_stop_is_looked_for_in_new_text_alone(speaking):
    model, tokenizer, ids = speaking
    np.testing.assert_array_equal(model.generate(ids[:1], max_new_tokens=9, stop=["eve", "l"], tokenizer=tokenizer),
                                  model.generate(ids[:1], max_new_tokens=9))  # fmt: skip


@pytest.mark.parametrize("options, error, word", [
    (dict(stop=["a"]), TypeError, "stop needs tokenizer="), (dict(stop=[""]), llmc.ConfigError, "empty text"),
    (dict(stop=[3]), TypeError, "a list of texts"), (dict(stop=7), TypeError, "a list of texts"),
    (dict(num_return_sequences=2), llmc.ConfigError, "num_return_sequences is 2.*do_sample=True"),
    (dict(num_return_sequences=0), llmc.ConfigError, "num_return_sequences is 0"),
], ids=str)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(options, error, word, opened):
    with pytest.raises(error, match=word):
        opened().generate(IDS, **options)


def test_rows_of_a_prompt_stand_one_behind_the_other(speaking):
    model, _, ids = speaking
    options = dict(do_sample=True, seed=4, max_new_tokens=9)
    text = model.generate(ids, num_return_sequences=3, **options)
    np.testing.assert_array_equal(text[:, :7], np.repeat(ids, 3, axis=0))
    np.testing.assert_array_equal(text, model.generate(np.repeat(ids, 3, axis=0), **options))
    assert len(np.unique(text[:3], axis=0)) == 3


@pytest.mark.parametrize("options", [
    dict(), dict(do_sample=True, temperature=2.0, top_k=5, seed=1), dict(repetition_penalty=2.0, min_new_tokens=3),
], ids=str)  # fmt: skip
def test_logprobs_are_the_model_s_own(options, opened):
    model = opened(suppress_tokens=[11])
    ids = random_ids(dict(vocab_size=32), 3, 8)
    free = model.generate(ids, max_new_tokens=12, **options)
    end = int(free[1, 12])
    text, found = model.generate(ids, max_new_tokens=12, eos_token_id=end, return_logprobs=True, **options)
    new = text.shape[1] - 8
    assert found.shape == (3, new) and found.dtype == np.float32
    np.testing.assert_array_equal(text, model.generate(ids, max_new_tokens=12, eos_token_id=end, **options))
    logits = model(text)[:, 7:-1].astype(np.float64)
    right = np.take_along_axis(logits, text[:, 8:, None], -1)[..., 0] - np.log(np.exp(logits).sum(-1))
    behind = np.cumsum(text[:, 8:] == end, axis=1) - (text[:, 8:] == end) > 0
    np.testing.assert_allclose(found, np.where(behind, 0.0, right), atol=1e-4)
    assert behind.any()


def test_logprobs_of_a_text_are_those_of_its_logits():
    model, mask = llmc.Model.from_pretrained(FIELD / "base"), np.array([[1] * 8, [0] * 3 + [1] * 5])
    ids = np.repeat(IDS, 2, axis=0)
    logits = model(ids, attention_mask=mask)[:, :-1].astype(np.float64)
    right = np.take_along_axis(logits, ids[:, 1:, None], -1)[..., 0] - np.log(np.exp(logits).sum(-1))
    found = model.logprobs(ids, attention_mask=mask)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, np.where(mask[:, 1:] & mask[:, :-1], right, 0.0), atol=1e-4)
    np.testing.assert_allclose(model.logprobs(IDS[0]).mean(), -model.loss(IDS), atol=1e-5)
    assert model.logprobs([3]).shape == (1, 0)


# --- documents in a row


def test_documents_packed_into_a_row_are_refused_with_what_to_do():
    model = llmc.Model.from_pretrained(FIELD / "base")
    packed, alone = RIGHT["packed on base"]["position_ids"], RIGHT["packed on base"]["last logits of ids[0][3:] alone"]
    run = model.run(1, 8, backward=True)
    for call in (model, run.forward, run.forward_backward):
        with pytest.raises(llmc.DataError, match="position_ids: row 0 is 2 documents.*attention_mask"):
            call(IDS, position_ids=packed)
    rows, mask = np.zeros((2, 5), int), np.array([[1, 1, 1, 0, 0], [1] * 5])
    rows[0, :3], rows[1] = IDS[0, :3], IDS[0, 3:]
    np.testing.assert_allclose(model(rows, attention_mask=mask)[1, -1], alone, atol=1e-4)
    targets = [[-100, *IDS[0, 1:3], -100, -100], [-100, *IDS[0, 4:]]]
    inside = 6 * run.model.loss(rows, labels=targets, attention_mask=mask)
    seam = model(rows[:1, :3])[0, -1].astype(np.float64)
    across = np.log(np.exp(seam).sum()) - seam[IDS[0, 3]]
    assert (inside + across) / 7 == pytest.approx(RIGHT["packed on base"]["loss"], abs=1e-4), "what the advice comes to"


@pytest.mark.parametrize("positions", [
    [0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2, 3, 4], [0, 1, 2, 0, 2, 3, 4, 5], [0] * 8,
    [0, 1, 2, 3, 4, 5, 6, 0], [5, 3, 1, 0, 0, 1, 2, 9],
], ids=str)  # fmt: skip
def test_other_positions_only_rotate(positions):
    model = llmc.Model.from_pretrained(FIELD / "base")
    logits = model(IDS, position_ids=[positions])
    np.testing.assert_array_equal(model(IDS, position_ids=[positions], attention_mask=np.ones((1, 8))), logits)


def test_positions_that_begin_again_only_rotate_beside_a_mask():
    model = llmc.Model.from_pretrained(FIELD / "base")
    positions, plain = RIGHT["packed on base"]["position_ids"], model(IDS)
    seen = model(IDS, position_ids=positions, attention_mask=np.ones((1, 8)))
    np.testing.assert_allclose(seen[:, :3], plain[:, :3], atol=1e-5)
    assert np.abs(seen[:, 3:] - plain[:, 3:]).max() > 0.1


# --- where products round


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_text_of_narrow_weights_depends_on_the_cache_in_near_ties_alone(dtype, tmp_path):
    """The rule of `Model`'s notes: the two best logits of such a step are within 1/100 of its largest."""
    tiny_model({**TINY["llama"], "vocab_size": 307}, scale=0.3).save_pretrained(tmp_path)
    model = llmc.Model.from_pretrained(tmp_path, dtype=dtype)
    ids = random_ids(dict(vocab_size=307), 12, 9)
    texts = [model.generate(ids, max_new_tokens=40, **how) for how in (dict(), dict(use_cache=False),
                                                                       dict(prefill_chunk=1))]  # fmt: skip
    for other in texts[1:]:
        for row in np.flatnonzero((other != texts[0]).any(axis=1)):
            step = int(np.argmax(other[row] != texts[0][row]))
            logits = model(texts[0][row : row + 1, :step])[0, -1]
            apart = abs(logits[texts[0][row, step]] - logits[other[row, step]])
            assert apart <= np.abs(logits).max() / 100
    exact = llmc.Model.from_pretrained(tmp_path, dtype=dtype, precision="float32")
    np.testing.assert_array_equal(exact.generate(ids, max_new_tokens=40),
                                  exact.generate(ids, max_new_tokens=40, use_cache=False))  # fmt: skip
