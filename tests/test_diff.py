"""Two checkpoints side by side: what was planted is found, and every number is float64 NumPy's."""

import json
import math
import tracemalloc

import diff_reference as reference
import ml_dtypes
import numpy as np
import pytest
from conftest import TINY
from tiny import tiny_model

import llmc
from llmc.checkpoint import Diff, diff
from llmc.diff.tensor_row import KEYS

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, hidden_size=24, head_dim=6)


def numbers(*shape, seed=0, scale=1.0, dtype=np.float32):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def llama(layers=2, seed=0):
    """A small LLaMA's tensors, without any model."""
    tensors = {"model.embed_tokens.weight": numbers(50, 24, seed=seed)}
    for layer in range(layers):
        at, start = f"model.layers.{layer}", 100 * layer + seed
        shapes = {"self_attn.q_proj": (24, 24), "self_attn.k_proj": (12, 24), "self_attn.v_proj": (12, 24),
                  "self_attn.o_proj": (24, 24), "mlp.gate_proj": (36, 24), "mlp.up_proj": (36, 24),
                  "mlp.down_proj": (24, 36)}
        tensors |= {f"{at}.{name}.weight": numbers(*shape, seed=start + i + 1)
                    for i, (name, shape) in enumerate(shapes.items())}
        tensors |= {f"{at}.input_layernorm.weight": numbers(24, seed=start + 20) + 1,
                    f"{at}.post_attention_layernorm.weight": numbers(24, seed=start + 21) + 1}
    return tensors | {"model.norm.weight": numbers(24, seed=seed + 30) + 1, "lm_head.weight": numbers(50, 24, seed=31)}


def copied(tensors):
    return {name: array.copy() for name, array in tensors.items()}


def written(folder, tensors, config=HEADS, dtype=None, **options):
    """A folder with these tensors as safetensors, and a config.json."""
    folder.mkdir()
    llmc.checkpoint.write(folder, tensors, **({"dtype": dtype} if dtype else {}), **options)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


UP = "model.layers.1.mlp.up_proj.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


# --- rows ------------------------------------------------------------------------------------------------------------
def test_every_row_has_all_keys_in_their_order_in_plain_python():
    tuned = llama() | {"more.weight": numbers(3, 3)}
    del tuned["model.norm.weight"]
    tuned[UP] = tuned[UP] + 1
    found = diff(llama(), tuned, metrics="all")
    plain = (str, int, float, list, dict, type(None))

    def check(value):
        assert type(value) in plain and not (isinstance(value, float) and not math.isfinite(value))
        for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            check(each)

    assert [list(row) for row in found.rows] == [list(KEYS)] * len(found.rows)
    assert [row["name"] for row in found.rows] == [*llama(), "more.weight"]
    check(found.rows)
    check(found.summary)


@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float32, BFLOAT16), (BFLOAT16, BFLOAT16),
                                    (np.float16, np.float16), (np.float16, BFLOAT16), (np.float64, np.float64),
                                    (np.float32, np.float64), (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fn)])
def test_numbers_are_those_of_float64(dtypes):
    base = numbers(70, 41, dtype=dtypes[0])
    tuned = (numbers(70, 41) + numbers(70, 41, seed=1, scale=0.05)).astype(dtypes[1])
    base[3, 4] = 0
    row = diff({"x.weight": base}, {"x.weight": tuned})["x.weight"]
    truth = reference.change(base, tuned)
    assert row["max_at"] == truth.pop("max_at")
    assert {key: row[key] for key in truth} == pytest.approx(truth, rel=1e-9, abs=1e-13)
    wide = np.float64 if np.float64 in dtypes else np.float32
    delta = tuned.astype(wide) - base.astype(wide)
    assert row["changed"] == np.count_nonzero(delta)
    truth = reference.spectrum(delta, truth["rounding_floor"] * truth["base_norm"] / math.sqrt(base.size))
    for key, value in truth.items():
        assert row[key] == pytest.approx(value, rel=1e-6), key


def test_the_core_adds_up_as_numpy_does():
    from llmc.diff.sums import block_sums, core_sums

    for dtypes in ((np.float32, np.float32), (BFLOAT16, np.float32), (BFLOAT16, BFLOAT16)):
        for shape in ((1, 5), (7, 1), (33, 1050), (300, 17)):
            base, other = numbers(*shape, dtype=dtypes[0]), numbers(*shape, seed=1, dtype=dtypes[1])
            base[0, 0] = 0
            for is_delta in (False, True):
                delta = [np.empty(shape, np.float32) for _ in range(2)]
                truth = block_sums(base, other, is_delta, np.float32, (7, -126), True, delta[0])
                found = core_sums(base, other, is_delta, np.float32, (7, -126), True, delta[1])
                np.testing.assert_array_equal(*delta)
                np.testing.assert_allclose(found[0], truth[0], rtol=1e-12, atol=1e-12)
                np.testing.assert_allclose(found[1], truth[1], rtol=1e-12)
                assert found[2].tolist() == truth[2].tolist() and found[3:] == truth[3:]


def test_the_core_counts_what_is_not_finite():
    from llmc.diff.sums import block_sums, core_sums

    odd = [np.nan, np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0]
    base, other = np.float32([odd * 3]), np.float32([odd[::-1] * 3])
    for one in (block_sums, core_sums):
        assert one(base, base, False, np.float32, None, False)[2].tolist() == [0]
    ours, truth = (one(base, other, False, np.float32, None, False) for one in (core_sums, block_sums))
    assert ours[2].tolist() == truth[2].tolist() and ours[3] == truth[3] == 24


def test_the_core_refuses_what_does_not_fit_and_survives_a_lack_of_memory():
    from llmc import _core, _core64

    base, sums, changed = np.ones((3, 4), np.float32), np.empty((3, 6)), np.empty(3, np.int64)
    for arguments, error in (((base, base[:2], False, 0.0, sums, changed), llmc.ShapeError),
                             ((base, base, False, 0.0, sums[:2], changed), llmc.ShapeError),
                             ((base, base, False, 0.0, sums, changed, np.empty((3, 3))), llmc.ShapeError),
                             ((base.T, base.T, False, 0.0, sums, changed), llmc.ShapeError),
                             ((base.ravel(), base, False, 0.0, sums, changed), llmc.ShapeError),
                             ((base.astype(np.int32), base, False, 0.0, sums, changed), TypeError)):  # fmt: skip
        with pytest.raises(error):
            _core.compare(*arguments)
    wide, before = base.astype(np.float64), _core64.live_allocations()
    for k in (1, 2):
        _core64.fail_allocation(k)
        with pytest.raises(MemoryError):
            _core64.compare(wide, wide, False, 0.0, sums, changed, np.empty((3, 4)))
    _core64.fail_allocation(0)
    assert _core64.compare(wide, wide + 1, False, 0.0, sums, changed, np.empty((3, 4))) == (0, 1.0, 0)
    assert _core64.live_allocations() == before


def test_vectors_and_other_shapes_are_measured_too():
    for shape in ((1,), (40000,), (3, 4, 5), (), (0, 4), (1, 70000)):
        base, tuned = np.asarray(numbers(*shape)), np.asarray(numbers(*shape, seed=1))
        row = diff({"x": base}, {"x": tuned})["x"]
        assert row["numbers"] == base.size
        if base.size:
            truth = reference.change(base, tuned)
            assert [row["max_at"], row["std"]] == [truth["max_at"], pytest.approx(truth["std"], rel=1e-9)]
            assert row["delta_norm"] == pytest.approx(truth["delta_norm"], rel=1e-12)
        else:
            assert row["status"] == "identical" and row["base_norm"] is None


def test_the_spread_of_an_even_change_has_all_its_digits():
    base = np.ones((50, 40))
    row = diff({"x": base}, {"x": base + 0.25 + 1e-9 * numbers(50, 40, dtype=np.float64)})["x"]
    assert row["std"] == pytest.approx(1e-9, rel=0.1)


def test_a_difference_too_large_for_float32_is_taken_in_float64():
    row = diff({"x": np.float32([[3e38, 1.0]])}, {"x": np.float32([[-3e38, 1.0]])})["x"]
    assert row["max_abs"] == pytest.approx(6e38, rel=1e-6) and row["nonfinite"] == 0


def test_zeros_divide_nothing():
    zero = np.zeros((4, 4), np.float32)
    row = diff({"x": zero}, {"x": zero})["x"]
    assert (row["status"], row["relative_change"]) == ("identical", 0.0)
    assert row["cosine"] is row["rounding_floor"] is None
    row = diff({"x": zero}, {"x": zero + 1})["x"]
    assert (row["status"], row["relative_change"], row["cosine"]) == ("changed", None, None)


def test_a_matrix_that_did_not_change_has_no_spectrum():
    row = diff(llama(), llama())[UP]
    assert [row[key] for key in ("spectral_norm", "rank_90", "rank_95", "rank_99", "signal_rank")] == [0.0, 0, 0, 0, 0]
    assert (row["singular_values"], row["moved"], row["units_90"]) == ([], [], 0)
    assert row["stable_rank"] is row["effective_rank"] is row["energy"] is row["permutation"] is None


def test_metrics_leave_out_what_they_do_not_name():
    tuned = copied(llama())
    tuned[UP] += 1
    row = diff(llama(), tuned, metrics=("units",))[UP]
    assert row["status"] == "changed" and row["changed"] == row["numbers"]
    assert row["delta_norm"] is row["spectral_norm"] is row["intruders"] is None and row["unit"] == "neuron"
    row = diff(llama(), tuned, metrics=["change"])[UP]
    assert row["delta_norm"] and row["unit"] is row["moved"] is row["singular_values"] is None


def test_a_number_that_is_not_finite_leaves_the_rest_of_its_row_empty():
    base, tuned = llama(), copied(llama())
    tuned[UP][2, 3] = np.nan
    base[QUERY][0, 0] = tuned[QUERY][0, 0] = np.inf
    found = diff(base, tuned)
    assert (found[UP]["nonfinite"], found[UP]["changed"], found[UP]["status"]) == (1, 1, "changed")
    assert all(found[UP][key] is None for key in KEYS[KEYS.index("base_norm"):])
    assert (found[QUERY]["nonfinite"], found[QUERY]["status"]) == (2, "identical")
    assert found.summary["nonfinite"] == 2 and any("not finite" in line and UP in line for line in found.notes)


# --- what a change looks like ----------------------------------------------------------------------------------------
def test_a_planted_low_rank_change_is_found_and_called_so():
    tuned = copied(llama())
    for i, name in enumerate((UP, QUERY)):
        shape = tuned[name].shape
        tuned[name] += numbers(shape[0], 3, seed=i) @ numbers(3, shape[1], seed=i + 5) * np.float32(0.01)
    found = diff(llama(), tuned)
    assert [found[name]["signal_rank"] for name in (UP, QUERY)] == [3, 3]
    assert (found.summary["looks_like"], found.summary["signal_rank"], found.summary["changed"]) == ("low-rank", 3, 2)
    first, second = found.top(2)
    assert {first["name"], second["name"]} == {UP, QUERY} and first["relative_change"] > second["relative_change"]


def test_rounding_of_narrow_numbers_is_no_signal():
    base = {"x.weight": numbers(300, 200, scale=0.02, dtype=BFLOAT16)}
    low = numbers(300, 3, seed=1) @ numbers(3, 200, seed=2) * 1e-3
    row = diff(base, {"x.weight": (base["x.weight"].astype(np.float32) + low).astype(BFLOAT16)})["x.weight"]
    assert row["signal_rank"] == 3 and row["effective_rank"] > 5  # of all, rounding too


@pytest.mark.parametrize("change, word", [
    (lambda t: None, "identical"),
    (lambda t: t.update({name: array.astype(BFLOAT16) for name, array in t.items()}), "storage"),
    (lambda t: t.pop("model.norm.weight"), "other-structure"),
    (lambda t: t.update({name: array + numbers(*array.shape, seed=9) for name, array in t.items()}), "full"),
    (lambda t: t.update({"model.norm.weight": t["model.norm.weight"] + 1}), "full"),
])  # fmt: skip
def test_what_it_looks_like(change, word):
    tuned = copied(llama())
    change(tuned)
    assert diff(llama(), tuned).summary["looks_like"] == word
    assert diff(llama(), tuned, metrics="change").summary["looks_like"] == ("changed" if word == "full" else word)


def test_a_narrower_dtype_is_rounded_and_an_exact_one_identical():
    tuned = {name: array.astype(np.float16) for name, array in llama().items()}
    found = diff(llama(), tuned)
    assert {row["status"] for row in found.rows} == {"rounded"} and found[UP]["structure"] == ["dtype"]
    assert diff(tuned, {name: array.astype(np.float32) for name, array in tuned.items()})[UP]["status"] == "identical"
    tuned[UP][0, 0] = 3
    assert diff(llama(), tuned)[UP]["status"] == "changed"


def test_minus_zero_is_zero():
    assert diff({"x": np.float32([0.0, 1])}, {"x": np.float32([-0.0, 1])})["x"]["status"] == "identical"


# --- units -----------------------------------------------------------------------------------------------------------
def test_moved_tokens_come_first_with_their_texts(tmp_path):
    tokenizer = llmc.Tokenizer.train(["some words and some more words"], vocab_size=270)
    base = {"model.embed_tokens.weight": numbers(280, 16)}
    tuned = copied(base)
    for i, token in enumerate((65, 97, 98, 99, 275)):
        tuned["model.embed_tokens.weight"][token] += 5 - i
    folder = written(tmp_path / "base", base, None)
    tokenizer.save_pretrained(folder)
    row = diff(folder, tuned, top=8)["model.embed_tokens.weight"]
    assert (row["unit"], row["units"], len(row["moved"])) == ("token", 280, 5)
    assert [unit["index"] for unit in row["moved"]] == [65, 97, 98, 99, 275]
    assert [unit["text"] for unit in row["moved"]] == [*(tokenizer.decode([i]) for i in (65, 97, 98, 99)), None]
    many, listed = reference.units(base["model.embed_tokens.weight"], tuned["model.embed_tokens.weight"]
                                   - base["model.embed_tokens.weight"], 280, 0)  # fmt: skip
    assert row["units_90"] == many
    for unit, (index, base_norm, change, share) in zip(row["moved"], listed):
        assert [unit["index"], unit["base_norm"], unit["change"], unit["share"]] == pytest.approx(
            [index, base_norm, change, share], rel=1e-9)


@pytest.mark.parametrize("name, unit, count, axis", [
    ("self_attn.q_proj", "head", 4, 0), ("self_attn.k_proj", "head", 2, 0), ("self_attn.o_proj", "head", 4, 1),
    ("mlp.up_proj", "neuron", 36, 0), ("mlp.down_proj", "neuron", 36, 1),
])  # fmt: skip
def test_units_are_heads_and_neurons(tmp_path, name, unit, count, axis):
    name = f"model.layers.1.{name}.weight"
    tuned = copied(llama())
    tuned[name] += numbers(*tuned[name].shape, seed=5)
    row = diff(written(tmp_path / "base", llama()), tuned)[name]
    many, listed = reference.units(llama()[name], tuned[name] - llama()[name], count, axis)
    assert (row["unit"], row["units"], row["units_90"]) == (unit, count, many)
    assert [each["index"] for each in row["moved"]] == [index for index, *_ in listed[:10]]
    assert [each["change"] for each in row["moved"]] == pytest.approx([each[2] for each in listed[:10]], rel=1e-9)
    assert diff(llama(), tuned)[name]["unit"] == ("row" if unit == "head" else unit)  # nobody says how many heads


def test_permuted_heads_are_found():
    order, config = [2, 0, 3, 1], HEADS
    base, tuned = llama(), copied(llama())
    for name, axis in ((QUERY, 0), ("model.layers.0.self_attn.o_proj.weight", 1)):
        tuned[name] = np.concatenate([np.split(base[name], 4, axis)[i] for i in order], axis)
    found = _diff_of(base, tuned, config)
    assert found[QUERY]["permutation"] == found["model.layers.0.self_attn.o_proj.weight"]["permutation"] == order
    assert found[QUERY]["status"] == "permuted" and found.summary["permuted"] == 2
    tuned[QUERY][0, 0] += 1
    assert _diff_of(base, tuned, config)[QUERY]["permutation"] is None


def _diff_of(base, tuned, config):
    """A diff of mappings whose config somebody knows: as a Model's sides have it."""
    from llmc.diff.pairing import pairs_of
    from llmc.diff.sides import Arrays
    from llmc.diff.tensor_row import METRICS, Wanted, row_of
    from llmc.diff.totals import summary

    wanted = Wanted(METRICS[:3], "auto", 10, lambda token: None)
    rows = [row_of(pair, wanted) for pair in pairs_of(Arrays("base", base, config=config), Arrays("tuned", tuned))]
    return Diff(summary("base", "tuned", rows, True, 0.0), rows, [], [], [], [])


def test_of_fused_matrices_each_slice_is_measured(tmp_path):
    config = TINY["gpt2"]
    model = tiny_model(config)
    model.save_pretrained(tmp_path / "base")
    name = "transformer.h.1.attn.c_attn.weight"
    base = model.state_dict()[name].copy()
    with_change = model.state_dict()[name]
    with_change[:, 39 : 2 * 39] += numbers(39, 39, seed=3)
    row = diff(tmp_path / "base", model)[name]
    assert (row["unit"], row["units"], row["permutation"], list(row["slices"])) == ("head", 9, None, ["q", "k", "v"])
    assert {unit["slice"] for unit in row["moved"]} == {"k"} and len(row["moved"]) == 3
    delta = (with_change - base).T
    truth = reference.change(base.T[39:78], with_change.T[39:78])
    for key in ("base_norm", "delta_norm", "relative_change", "cosine"):
        assert row["slices"]["k"][key] == pytest.approx(truth[key], rel=1e-9)
    assert row["slices"]["k"]["spectral_norm"] == pytest.approx(reference.spectrum(delta[39:78], 0)["spectral_norm"])
    assert (row["slices"]["q"]["changed"], row["slices"]["v"]["delta_norm"]) == (0, 0.0)
    assert sum(each["numbers"] for each in row["slices"].values()) == row["numbers"]
    assert row["max_at"][1] in range(39, 78)


# --- spectra ---------------------------------------------------------------------------------------------------------
def test_exact_spectra_are_exact_and_a_sketch_is_taken_for_low_ranks():
    from llmc.diff import spectrum

    for matrix in (numbers(400, 300), numbers(300, 4) @ numbers(4, 350, seed=1), numbers(5, 900), numbers(900, 1)):
        sigma = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        found = spectrum.exact(matrix, np.linalg.norm(matrix.astype(np.float64)))
        missed = np.linalg.norm(sigma[len(found) :]) ** 2
        assert missed <= 1.1e-9 * np.linalg.norm(sigma) ** 2
        np.testing.assert_allclose(found, sigma[: len(found)], atol=1e-6 * sigma[0])
    assert len(spectrum.exact(numbers(300, 4) @ numbers(4, 350, seed=1), 1e9)) == 300  # a norm that the sketch lacks


def test_a_randomised_spectrum_is_the_same_every_time_and_says_what_it_does_not_know():
    from llmc.diff import spectrum

    full = numbers(220, 180)
    norm = float(np.linalg.norm(full.astype(np.float64)))
    found = spectrum.measure(full, norm, 0.0, "randomised")
    assert found == spectrum.measure(full, norm, 0.0, "randomised")
    sigma = np.linalg.svd(full.astype(np.float64), compute_uv=False)
    assert found["singular_values"][:10] == pytest.approx(sigma[:10], rel=1e-2)
    assert found["effective_rank"] is found["rank_99"] is found["signal_rank"] is None
    low = numbers(220, 20) @ numbers(20, 180, seed=1)
    found = spectrum.measure(low, float(np.linalg.norm(low.astype(np.float64))), 0.0, "randomised")
    truth = reference.spectrum(low, 0.0)
    assert found["effective_rank"] == pytest.approx(truth["effective_rank"], rel=1e-3)
    assert [found[key] for key in ("rank_90", "rank_99", "signal_rank")] == [truth["rank_90"], truth["rank_99"], 20]


def test_intruders_are_the_directions_that_the_base_has_not():
    base = {"x.weight": numbers(40, 30) * 0.1}
    spike = np.outer(numbers(40, seed=3), numbers(30, seed=4)).astype(np.float32)
    row = diff(base, {"x.weight": base["x.weight"] + spike}, metrics=("change", "intruders"))["x.weight"]
    u = np.linalg.svd(base["x.weight"])[0][:, :30], np.linalg.svd(base["x.weight"] + spike)[0][:, :10]
    likeness = np.abs(u[0].T @ u[1]).max(axis=0)
    assert row["intruder_cosines"] == pytest.approx(likeness, abs=1e-4)
    assert row["intruders"] == int((likeness < 0.5).sum()) and len(row["intruder_cosines"]) == 10


# --- totals ----------------------------------------------------------------------------------------------------------
def test_totals_are_roots_of_summed_squares():
    tuned = copied(llama())
    for name in (UP, QUERY, "model.norm.weight"):
        tuned[name] += numbers(*tuned[name].shape, seed=2)
    found = diff(llama(), tuned)
    for entries, key in ((found.by_layer, "layer"), (found.by_role, "role"), (found.by_part, "part")):
        for entry in entries:
            rows = [row for row in found.rows if row[key] == entry[key]]
            assert entry["tensors"] == len(rows) and entry["changed"] == sum(row["changed"] > 0 for row in rows)
            assert entry["delta_norm"] == pytest.approx(math.sqrt(sum(row["delta_norm"] ** 2 for row in rows)))
        assert sum(entry["share"] for entry in entries) == pytest.approx(1)
    assert [entry["layer"] for entry in found.by_layer] == [0, 1, None]
    shares = [entry["share"] for entry in found.by_role]
    assert shares == sorted(shares, reverse=True)
    assert found.summary["delta_norm"] == pytest.approx(math.sqrt(sum(row["delta_norm"] ** 2 for row in found.rows)))


def test_a_tied_copy_counts_once():
    base = llama()
    base["lm_head.weight"] = base["model.embed_tokens.weight"]
    tuned = copied(base)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tuned[name] += 1
    found = diff(base, tuned)
    alone = diff({"model.embed_tokens.weight": base["model.embed_tokens.weight"]}, tuned, match="model.embed*")
    assert found.summary["delta_norm"] == pytest.approx(alone.summary["delta_norm"])
    assert "head" not in {entry["role"] for entry in found.by_role}


# --- memory, bits ----------------------------------------------------------------------------------------------------
def test_the_same_call_gives_the_same_bits(tmp_path):
    tuned = {name: array + numbers(*array.shape, seed=4) for name, array in llama().items()}
    first, second = (diff(written(tmp_path / f"base{i}", llama()), tuned, metrics="all").rows for i in range(2))
    assert first == second
    threads = llmc.get_num_threads()
    llmc.set_num_threads(3)
    try:
        assert diff(llama() | {}, tuned, metrics="change").rows == diff(llama(), tuned, metrics="change").rows
    finally:
        llmc.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_one_pair_of_tensors_is_in_memory_at_a_time(tmp_path, kind):
    size, count = (4096, 128), 40  # 2 MiB each, 80 MiB a side
    base, tuned = ({f"layers.{i}.w.weight": numbers(*size, seed=1000 * side + i) for i in range(count)}
                   for side in (0, 1))
    folders = []
    for which, tensors in (("base", base), ("tuned", tuned)):
        (tmp_path / which).mkdir()
        if kind == "bin":
            llmc.checkpoint.write_torch(tmp_path / which / "pytorch_model.bin", tensors)
        else:
            llmc.checkpoint.write(tmp_path / which, tensors, max_shard_size="20MB")
        folders.append(tmp_path / which)
    del base, tuned
    diff(*folders, match="layers.0.*")  # what is imported and kept is there now
    tracemalloc.start()
    try:
        diff(*folders)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 40 << 20  # a fraction of one side
