"""Generation: sampling by transformers' rules, ends and padding a row, streaming, windows, limits, errors."""

import tracemalloc

import numpy as np
import pytest
from conftest import TINY
from tiny import fields, pair, random_ids, rope_change, tiny_model

import llmc
from llmc.generate.sampling import Sampler


@pytest.fixture
def tiny(family):
    """(config, model, ids) of every family."""
    config = TINY[family]
    return config, tiny_model(config), random_ids(config, 3, 9)


def sampler(rows=1, do_sample=True, temperature=1.0, top_k=None, top_p=None, min_p=None, penalty=1.0, seed=0):
    return Sampler(rows, do_sample, temperature, top_k, top_p, min_p, penalty, seed)


def assert_greedy(model, text, prompt, mask=None):
    """Every token behind the prompt is the best one after the text before it, ties within 1e-4 excused."""
    logits = model(text, attention_mask=mask)[:, prompt - 1 : -1].astype(np.float64)
    chosen = np.take_along_axis(logits, text[:, prompt:, None], axis=-1)[..., 0]
    assert (logits.max(axis=-1) - chosen).max() <= 1e-4


# --- sampling

FILTERS = [
    dict(),
    dict(temperature=0.4),
    dict(temperature=3.0, top_k=5),
    dict(top_k=1),
    dict(top_k=10_000),
    dict(top_p=0.5),
    dict(top_p=0.9, temperature=0.7),
    dict(top_p=1e-6),
    dict(top_p=1.0),
    dict(min_p=0.05),
    dict(min_p=1.0),
    dict(min_p=0.0),
    dict(temperature=1.7, top_k=20, top_p=0.8, min_p=0.02),
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_filtered_distribution_is_transformers(filters, peers):
    torch, generation = peers.torch, peers.transformers.generation
    rng = np.random.default_rng(1)
    for spread in (0.5, 3.0, 20.0):
        logits = (spread * rng.standard_normal(97)).astype(np.float32)
        processors = [generation.TemperatureLogitsWarper(filters.get("temperature", 1.0))]
        if "top_k" in filters:
            processors.append(generation.TopKLogitsWarper(filters["top_k"]))
        if "top_p" in filters:
            processors.append(generation.TopPLogitsWarper(filters["top_p"]))
        if "min_p" in filters:
            processors.append(generation.MinPLogitsWarper(filters["min_p"]))
        scores = torch.tensor(logits, dtype=torch.float64)[None]
        for processor in processors:
            scores = processor(None, scores)
        theirs = scores.softmax(dim=-1).numpy()[0]
        ours = sampler(**filters).probabilities(logits)
        assert ((ours > 0) == (theirs > 0)).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_top_p_keeps_the_token_that_crosses_it():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    for top_p, kept in ((0.4, 1), (0.6, 2), (0.79, 2), (0.81, 3), (0.99, 4)):
        assert np.count_nonzero(sampler(top_p=top_p).probabilities(logits)) == kept


@pytest.mark.parametrize("penalty", [0.5, 1.3, 5.0])
def test_repetition_penalty_is_transformers(penalty, peers):
    torch = peers.torch
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((2, 31)).astype(np.float32)
    seen = rng.integers(0, 31, (2, 12))
    processor = peers.transformers.generation.RepetitionPenaltyLogitsProcessor(penalty)
    theirs = processor(torch.tensor(seen), torch.tensor(logits)).numpy()
    ours = logits.copy()
    sampler(rows=2, do_sample=False, penalty=penalty).next(ours, list(seen))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_draws_follow_the_distribution():
    rows, logits = 20_000, np.array([0.0, 1.0, 2.0, -1.0, 0.5])
    drawing = sampler(rows=rows, top_k=4, temperature=1.2)
    p = drawing.probabilities(logits)
    tokens = drawing.next(np.tile(logits, (rows, 1)), [])
    counts = np.bincount(tokens, minlength=5)
    assert counts[p == 0].sum() == 0
    expected = rows * p[p > 0]
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 25  # chi squared of 3 degrees: one in 60,000


def test_generated_text_with_penalty_and_greed_is_transformers(peers, tmp_path_factory, family):
    theirs, ours = pair(family, tmp_path_factory)
    ids = random_ids(fields(family), 2, 9)
    text = theirs.generate(peers.torch.tensor(ids), max_new_tokens=30, do_sample=False, repetition_penalty=1.4,
                           pad_token_id=0).numpy()  # fmt: skip
    np.testing.assert_array_equal(ours.generate(ids, max_new_tokens=30, repetition_penalty=1.4), text)


def test_seed_decides_the_text(tiny):
    config, model, ids = tiny
    options = dict(max_new_tokens=20, do_sample=True, temperature=1.5)
    first = model.generate(ids, seed=1, **options)
    np.testing.assert_array_equal(model.generate(ids, seed=1, **options), first)
    assert (model.generate(ids, seed=2, **options) != first).any()
    assert (model.generate(ids, **options) != model.generate(ids, **options)).any()
    np.testing.assert_array_equal(model.generate(ids, seed=1, use_cache=False, **options), first)
    np.testing.assert_array_equal(model.generate(ids[:1], seed=1, **options), first[:1])
    twins = model.generate(np.repeat(ids[:1], 3, axis=0), seed=1, **options)
    assert (twins[0] != twins[1]).any(), "rows draw for themselves"


def test_sampling_from_one_candidate_is_greedy(tiny):
    config, model, ids = tiny
    greedy = model.generate(ids, max_new_tokens=12)
    for filters in (dict(top_k=1), dict(top_p=1e-9), dict(min_p=1.0), dict(temperature=1e-6)):
        np.testing.assert_array_equal(model.generate(ids, max_new_tokens=12, do_sample=True, **filters), greedy)


# --- ends and padding


def test_rows_end_and_are_padded_as_in_transformers(peers, tmp_path_factory, family):
    theirs, ours = pair(family, tmp_path_factory)
    ids = random_ids(fields(family), 4, 9, seed=3)
    free = ours.generate(ids, max_new_tokens=25)
    ends = [int(free[0, 12]), int(free[1, 17])]
    for options in (dict(eos_token_id=ends), dict(eos_token_id=ends[0]), dict(eos_token_id=ends, min_new_tokens=10)):
        text = theirs.generate(peers.torch.tensor(ids), max_new_tokens=25, do_sample=False, pad_token_id=7,
                               **options).numpy()  # fmt: skip
        np.testing.assert_array_equal(ours.generate(ids, max_new_tokens=25, pad_token_id=7, **options), text)


def test_ended_rows_are_filled_with_the_end_without_a_padding_token(tiny):
    config, model, ids = tiny
    free = model.generate(ids, max_new_tokens=25)
    end = int(free[0, 12])
    text = model.generate(ids, max_new_tokens=25, eos_token_id=end)
    for row in range(3):
        hits = np.flatnonzero(free[row, 9:] == end)
        stop = 9 + (hits[0] if len(hits) else 25)
        np.testing.assert_array_equal(text[row, :stop], free[row, :stop][: text.shape[1]])
        assert (text[row, stop:] == end).all()


def test_the_configs_end_counts_and_minus_one_never_ends(family):
    config = TINY[family]
    model = tiny_model(config)
    ids = random_ids(config, 1, 9)
    free = model.generate(ids, max_new_tokens=25)
    assert free.shape == (1, 34)
    model.config.eos_token_id = int(free[0, 13])
    stopped = model.generate(ids, max_new_tokens=25)
    np.testing.assert_array_equal(stopped, free[:, : stopped.shape[1]])
    assert stopped.shape[1] <= 14 and stopped[0, -1] == free[0, 13]
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=25, eos_token_id=-1), free)


def test_an_end_outside_the_vocabulary_is_never_met(tiny):
    config, model, ids = tiny
    free = model.generate(ids, max_new_tokens=5)
    text = model.generate(ids, max_new_tokens=5, min_new_tokens=2, eos_token_id=50256)
    np.testing.assert_array_equal(text, free)


@pytest.mark.parametrize("options", [dict(), dict(use_cache=False), dict(prefill_chunk=2)], ids=str)
def test_padding_on_either_side_changes_no_text(options, tiny):
    config, model, _ = tiny
    lengths, new = (9, 4, 1), 15
    rows = [random_ids(config, n, seed=n) for n in lengths]
    alone = [model.generate(row, max_new_tokens=new)[0] for row in rows]
    left, right = np.full((3, 9), 5), np.full((3, 9), 5)
    for i, row in enumerate(rows):
        left[i, 9 - len(row) :], right[i, : len(row)] = row, row
    left_mask = (np.arange(9) >= 9 - np.array(lengths)[:, None]).astype(int)
    right_mask = left_mask[:, ::-1]
    text = model.generate(left, attention_mask=left_mask, max_new_tokens=new, **options)
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(text[i, 9 - n :], alone[i])
        assert (text[i, : 9 - n] == 5).all()
    text = model.generate(right, attention_mask=right_mask, max_new_tokens=new, pad_token_id=3, **options)
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(text[i, : n + new], alone[i])
        assert (text[i, n + new :] == 3).all()


# --- the forms of a call


def test_streaming_gives_what_generate_gives(tiny):
    config, model, ids = tiny
    for options in (dict(), dict(do_sample=True, seed=3), dict(eos_token_id=int(model.generate(ids)[0, 12]))):
        whole = model.generate(ids, max_new_tokens=20, **options)
        steps = list(model.stream(ids, max_new_tokens=20, **options))
        assert all(step.shape == (3,) and step.dtype == np.int64 for step in steps)
        np.testing.assert_array_equal(np.stack(steps, axis=1), whole[:, 9:])


def test_two_streams_of_one_model_do_not_disturb_each_other(tiny):
    config, model, ids = tiny
    expected = [model.generate(ids[i], max_new_tokens=9)[0, 9:] for i in (0, 1)]
    both = [model.stream(ids[i], max_new_tokens=9) for i in (0, 1)]
    found = np.array([[next(stream)[0] for stream in both] for _ in range(9)]).T
    np.testing.assert_array_equal(found, expected)


def test_forms_of_a_prompt(tiny):
    config, model, ids = tiny
    text = model.generate(ids[0], max_new_tokens=4)
    assert text.shape == (1, 13) and text.dtype == np.int64
    np.testing.assert_array_equal(model.generate(ids[0].tolist(), max_new_tokens=4), text)
    np.testing.assert_array_equal(model.generate(ids[:1].astype(np.uint16), max_new_tokens=4), text)
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=0), ids)


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_prompt_read_in_chunks_gives_the_same_text(chunk, tiny):
    config, model, ids = tiny
    whole = model.generate(ids, max_new_tokens=30)
    np.testing.assert_array_equal(model.generate(ids, max_new_tokens=30, prefill_chunk=chunk), whole)


@pytest.mark.parametrize("name", ["linear", "dynamic", "yarn", "llama3", "longrope"])
def test_text_is_the_same_without_a_cache(name):
    config = {**TINY["llama"], **rope_change(name)}
    model = tiny_model(config)
    ids = random_ids(config, 2, 9)
    mask = np.array([[1] * 9, [0] * 4 + [1] * 5])
    options = dict(attention_mask=mask, max_new_tokens=30)
    whole = model.generate(ids, **options)
    np.testing.assert_array_equal(model.generate(ids, use_cache=False, **options), whole)
    np.testing.assert_array_equal(model.generate(ids, prefill_chunk=4, **options), whole)


def test_text_runs_on_across_the_window_and_past_the_trained_length():
    """600 tokens: the cache of a window of 7 is compacted on the way, and 233 positions were trained."""
    config = TINY["mistral"]
    model = tiny_model(config)
    ids = random_ids(config, 2, 11)
    mask = np.array([[1] * 11, [0] * 5 + [1] * 6])
    text = model.generate(ids, attention_mask=mask, max_new_tokens=600, prefill_chunk=5)
    assert text.shape == (2, 611)
    whole = np.concatenate([mask, np.ones((2, 600), int)], axis=1)
    assert_greedy(model, text, 11, whole)


def test_cache_of_a_window_does_not_grow_with_the_text():
    model = tiny_model(TINY["mistral"])
    sizes = [model.estimate(batch=2, length=11, generate=n)["cache"] for n in (1000, 100_000)]
    assert 0 < sizes[0] == sizes[1]


# --- limits and errors


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_learned_positions_end_in_words(family):
    config = {**TINY[family], "n_positions": 20}
    model = tiny_model(config)
    ids = random_ids(config, 2, 9)
    text = model.generate(ids, max_new_tokens=12)  # the last one needs no position of its own
    assert_greedy(model, text[:, :20], 9)
    with pytest.raises(llmc.ConfigError, match="20 positions.*max_new_tokens <= 12"):
        model.generate(ids, max_new_tokens=13)
    mask = np.array([[1] * 9, [0] * 5 + [1] * 4])
    model.generate(ids[1:], attention_mask=mask[1:], max_new_tokens=17)  # padding takes no position
    with pytest.raises(llmc.DataError, match="20"):
        model(random_ids(config, 1, 21))


@pytest.mark.parametrize(
    "options, error, word",
    [
        (dict(temperature=0.0), llmc.ConfigError, "temperature is 0.0"),
        (dict(temperature=-1), llmc.ConfigError, "temperature is -1"),
        (dict(temperature=float("nan")), llmc.ConfigError, "temperature is nan"),
        (dict(temperature=float("inf")), llmc.ConfigError, "temperature is inf"),
        (dict(temperature="hot"), TypeError, "temperature"),
        (dict(top_k=0), llmc.ConfigError, "top_k is 0"),
        (dict(top_k=2.5), TypeError, "top_k"),
        (dict(top_p=0.0), llmc.ConfigError, "top_p is 0.0"),
        (dict(top_p=1.1), llmc.ConfigError, "top_p is 1.1"),
        (dict(min_p=-0.1), llmc.ConfigError, "min_p is -0.1"),
        (dict(min_p=1.5), llmc.ConfigError, "min_p is 1.5"),
        (dict(repetition_penalty=0), llmc.ConfigError, "repetition_penalty is 0"),
        (dict(max_new_tokens=-1), llmc.ConfigError, "max_new_tokens is -1"),
        (dict(max_new_tokens=1.0), TypeError, "max_new_tokens"),
        (dict(prefill_chunk=0), llmc.ConfigError, "prefill_chunk is 0"),
        (dict(min_new_tokens=-1), llmc.ConfigError, "min_new_tokens is -1"),
        (dict(seed=-1), llmc.ConfigError, "seed is -1"),
        (dict(eos_token_id=-2), llmc.ConfigError, "eos_token_id is -2"),
        (dict(eos_token_id="end"), TypeError, "eos_token_id"),
        (dict(eos_token_id=1, pad_token_id=1000), llmc.ConfigError, "pad_token_id 1000"),
        (dict(top_q=0.5), TypeError, "top_q"),
        (dict(max_length=20), TypeError, "max_length"),
        (dict(attention_mask=np.ones((1, 3))), llmc.ShapeError, r"attention_mask.*\(1, 3\).*\(3, 9\)"),
        (dict(attention_mask=np.zeros((3, 9))), llmc.DataError, "all padding"),
        (dict(attention_mask=np.full((3, 9), 2)), llmc.DataError, "other than 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, error, word, tiny):
    config, model, ids = tiny
    for call in (model.generate, model.stream):  # a stream too says so before its first step
        with pytest.raises(error, match=word):
            call(ids, **options)


def test_bad_prompts_are_refused(tiny):
    config, model, ids = tiny
    vocabulary = config["vocab_size"]
    for bad in (vocabulary, -1, 2**40):
        with pytest.raises(llmc.DataError, match=rf"{bad}.*\[0, {vocabulary}\)"):
            model.generate([1, 2, bad])
    with pytest.raises(TypeError, match="float"):
        model.generate(np.ones((1, 3)))
    with pytest.raises(llmc.ShapeError, match="unequal lengths"):
        model.generate([[1, 2], [3]])
    for empty in ([], [[]], np.empty((0, 4), int)):
        with pytest.raises((llmc.ShapeError, TypeError)):
            model.generate(empty)
    with pytest.raises(llmc.ShapeError, match=r"\(1, 1, 9\)"):
        model.generate(ids[None, :1])


def test_logits_that_are_not_finite_are_refused():
    model = tiny_model({**TINY["llama"], "tie_word_embeddings": False})
    ids = np.array([[1, 2, 3], [1, 4, 3]])
    model.state_dict()[f"{model._model.embedding_name}.weight"][4] = np.nan
    for options in (dict(), dict(do_sample=True), dict(use_cache=False)):
        with pytest.raises(llmc.NonFiniteError, match="row 1"):
            model.generate(ids, max_new_tokens=2, **options)


def test_generation_takes_no_gradients_and_gives_its_memory_back(tiny):
    config, model, ids = tiny
    stream = model.stream(ids, max_new_tokens=5)
    next(stream)
    before = model.run(3, 9).nbytes
    assert model.estimate(batch=3, length=9, generate=20)["gradients"] == 0
    for _ in stream:
        pass
    assert model.run(3, 9).nbytes == before
    logits = model(ids)
    assert np.isfinite(logits).all() and logits.shape[-1] == config["vocab_size"]


@pytest.mark.parametrize("use_cache", [True, False])
def test_more_new_tokens_than_the_memory_holds_are_refused_before_anything_so_long_is_made(use_cache):
    model = tiny_model(TINY["llama"])
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError):
            model.generate([[1, 2]], max_new_tokens=10**9, use_cache=use_cache)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
