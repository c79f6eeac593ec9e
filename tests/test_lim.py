"""LIM and its kin: the float64 reference, torch's hooks, shapes, masks, streams, zeros and bits."""

import subprocess
import sys

import lim_reference as reference
import numpy as np
import pytest
from conftest import TINY
from tiny import GROWING, pair, random_ids, rope_change, tiny_model

import llmc
from llmc.analysis import METRICS, lim
from llmc.run import Run

CHEAP = METRICS[:5]
EXACT = 1e-10  # double against double, sums in another order; 1 - cos loses the leading digits
SINGLE = 2e-6  # sums of a token are shown in float32


def by_name(report):
    return {row["name"]: row for row in report.rows}


def values(row, metrics=METRICS):
    """The metrics of a row, those that do not exist left out."""
    return {metric: row[metric] for metric in metrics if row[metric] is not None}


def expected(metric, x, y, stream):
    if metric == "relative_contribution":
        return reference.relative_contribution(x, y, stream)
    return getattr(reference, metric)(x, y)


def check(model, report, ids, mask=None, metrics=CHEAP, tolerance=EXACT):
    rows, arrays = by_name(report), reference.captured(model, ids, mask)
    assert {name for name, row in rows.items() if row["shape_case"] != "skipped"} == set(arrays)
    for name, (x, y, stream) in arrays.items():
        for metric in metrics:
            truth = expected(metric, x, y, stream)
            assert abs(rows[name][metric] - truth) <= tolerance * max(1, abs(truth)), (name, metric)


def test_every_metric_equals_the_reference(family):
    model, ids = tiny_model(TINY[family], double=True), random_ids(TINY[family], 3, 11)
    check(model, lim(model, ids, metrics=METRICS[:6]), ids, metrics=METRICS[:6])


def test_float32_sums_are_exact_enough(family):
    model, ids = tiny_model(TINY[family]), random_ids(TINY[family], 3, 11)
    check(model, lim(model, ids, metrics=METRICS[:6]), ids, metrics=METRICS[:6], tolerance=SINGLE)


def test_cka_of_many_tokens_equals_the_reference():
    """More tokens than features: products of features are smaller than products of tokens."""
    model, ids = tiny_model(TINY["llama"], double=True), random_ids(TINY["llama"], 4, 60)
    check(model, lim(model, ids, metrics=("cka",)), ids, metrics=("cka",))


def test_feature_mean_compares_projections_with_the_mean_of_their_input(family):
    model, ids = tiny_model(TINY[family], double=True), random_ids(TINY[family], 2, 9)
    plain, rows = by_name(lim(model, ids)), by_name(lim(model, ids, projections="feature-mean"))
    arrays = reference.captured(model, ids)
    asked = [name for name, row in rows.items() if row["shape_case"] == "feature-mean"]
    assert asked and all("attn" in name for name in asked)
    for name in asked:
        assert rows[name]["input_shape"][-1] != rows[name]["output_shape"][-1]
        assert rows[name]["lim"] == pytest.approx(reference.lim_feature_mean(*arrays[name][:2]), rel=EXACT)
    assert all(rows[name] == plain[name] for name in rows if name not in asked)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_nowhere(family, side):
    config = TINY[family]
    model, ids = tiny_model(config, double=True), random_ids(config, 2, 10)
    mask = np.ones((2, 10), int)
    mask[1, :4] = 0
    if side == "right":
        mask = mask[:, ::-1].copy()
    report = lim(model, ids, attention_mask=mask, metrics=METRICS)
    check(model, report, ids, mask, metrics=METRICS[:6])
    other = np.where(mask == 1, ids, (ids + 1) % config["vocab_size"])
    for row, same in zip(report.rows, lim(model, other, attention_mask=mask, metrics=METRICS).rows):
        assert values(row) == pytest.approx(values(same), rel=1e-9, abs=1e-9)
    assert report.tokens == 16


def test_ablation_is_the_loss_without_a_block_minus_the_loss(family):
    config = TINY[family]
    model, ids = tiny_model(config, double=True), random_ids(config, 2, 9)
    report = lim(model, ids, metrics=("ablation",))
    run = model.run(2, 9)
    loss, checked = run.forward(ids, labels=ids), 0
    for row in report.rows:
        if row["kind"] in ("block", "attention", "feed-forward"):
            without = run.forward(ids, labels=ids, skip=[row["name"]])
            assert row["ablation"] == pytest.approx(without - loss, abs=1e-12)
            checked += 1
        else:
            assert row["ablation"] is None
    assert checked == 3 * 3


def test_ablation_uses_the_labels_that_are_given():
    config = TINY["gpt2"]
    model, ids = tiny_model(config, double=True), random_ids(config, 2, 9)
    labels = ids.copy()
    labels[:, :5] = -100
    row = by_name(lim(model, ids, metrics=("ablation",), labels=labels))["transformer.h.1"]
    run = model.run(2, 9)
    loss = run.forward(ids, labels=labels)
    assert row["ablation"] == pytest.approx(run.forward(ids, labels=labels, skip="transformer.h.1") - loss, abs=1e-12)


def test_every_module_with_parameters_has_a_row(family):
    model = tiny_model(TINY[family])
    rows = by_name(lim(model, random_ids(TINY[family], 1, 5)))
    assert {name.rpartition(".")[0] for name in model.state_dict()} <= set(rows)
    assert list(rows) == model.run(1, 5).names()
    kinds = {row["kind"] for row in rows.values()}
    assert kinds == {"embedding", "norm", "linear", "attention", "feed-forward", "block", "head", "model"}
    for row in rows.values():
        assert (row["kind"] in ("embedding", "model")) == (row["shape_case"] == "skipped") == (row["lim"] is None)


def test_layers_are_numbered_inside_the_blocks_only(family):
    rows = lim(tiny_model(TINY[family]), random_ids(TINY[family], 1, 5)).rows
    assert {row["layer"] for row in rows} == {None, 0, 1, 2}
    for row in rows:
        inside = any(step.isdigit() for step in row["name"].split("."))
        assert (row["layer"] is not None) == inside


def test_mismatches_are_reported_with_both_shapes():
    model = tiny_model(TINY["llama"])
    lines = lim(model, random_ids(TINY["llama"], 1, 5)).mismatches
    assert "layer model.layers.0.self_attn.q_proj: input [1, 5, 44], output [1, 5, 40]" in lines
    assert "layer model.layers.2.mlp.down_proj: input [1, 5, 37], output [1, 5, 44]" in lines
    assert "layer model.embed_tokens: input [1, 5], output [1, 5, 44]" in lines
    assert not any("input_layernorm" in line for line in lines)
    assert len(lines) == 3 * 7 + 3  # q, k, v, o, gate, up, down of three layers; embedding, model, head


def test_shapes_of_rows_say_what_was_compared():
    row = by_name(lim(tiny_model(TINY["llama"]), random_ids(TINY["llama"], 2, 5)))["model.layers.1.self_attn.k_proj"]
    assert (row["kind"], row["layer"], row["shape_case"]) == ("linear", 1, "last-dimension")
    assert (row["input_shape"], row["output_shape"]) == ((2, 5, 44), (2, 5, 20))


def test_one_row_of_ids_is_a_batch():
    model, ids = tiny_model(TINY["gpt2"]), random_ids(TINY["gpt2"], 7)
    assert lim(model, ids).rows == lim(model, ids[None]).rows == lim(model, ids.tolist()).rows


def test_over_batches_values_are_weighted_means_beside_their_spread():
    config = TINY["mistral"]
    model, batches = tiny_model(config, double=True), [random_ids(config, 2, t, seed=t) for t in (9, 5, 7)]
    weights = np.array([18, 10, 14])
    alone = [by_name(lim(model, ids, metrics=CHEAP)) for ids in batches]
    report = lim(model, (ids for ids in batches), metrics=CHEAP)
    for name, row in by_name(report).items():
        for metric in CHEAP if row["shape_case"] != "skipped" else ():
            each = np.array([rows[name][metric] for rows in alone])
            mean = np.average(each, weights=weights)
            assert row[metric] == pytest.approx(mean, rel=1e-9)
            spread = np.sqrt(np.average((each - mean) ** 2, weights=weights))
            assert row[f"{metric}_spread"] == pytest.approx(spread, rel=1e-6, abs=1e-12)
    assert (report.tokens, report.batches) == (42, 3)


def test_means_over_tokens_do_not_depend_on_how_tokens_are_batched():
    config = TINY["gpt2"]
    model, ids = tiny_model(config, double=True), random_ids(config, 4, 8)
    whole, pieces = lim(model, ids, metrics=CHEAP), lim(model, list(ids), metrics=CHEAP)
    for a, b in zip(whole.rows, pieces.rows):
        assert values(a, CHEAP[1:]) == pytest.approx(values(b, CHEAP[1:]), rel=1e-9)


def test_slow_metrics_go_over_batches_too():
    config = TINY["gpt2"]
    model, batches = tiny_model(config, double=True), [random_ids(config, 1, 8, seed=s) for s in range(2)]
    alone = [by_name(lim(model, ids, metrics=METRICS)) for ids in batches]
    for name, row in by_name(lim(model, iter(batches), metrics=METRICS)).items():
        slow = values(row, ("cka", "ablation"))
        assert set(slow) == set(values(alone[0][name], ("cka", "ablation")))
        for metric, value in slow.items():
            assert value == pytest.approx(np.mean([rows[name][metric] for rows in alone]), rel=1e-9, abs=1e-12)


def test_datasets_and_what_tokenizers_return_are_batches():
    config = TINY["gpt2"]
    model, ids = tiny_model(config), random_ids(config, 2, 6)
    mask = np.array([[1, 1, 1, 1, 0, 0], [1] * 6])
    direct = lim(model, ids, attention_mask=mask)
    assert lim(model, {"input_ids": ids, "attention_mask": mask}).rows == direct.rows
    items = [{"input_ids": ids[i], "attention_mask": mask[i], "labels": ids[i]} for i in range(2)]

    class Dataset:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return items[index]

    assert lim(model, Dataset()).rows == lim(model, items).rows == lim(model, list(ids), attention_mask=list(mask)).rows


@pytest.mark.parametrize("tokens", [1, 7, 12])
@pytest.mark.parametrize("config", [*TINY.values(), *({**TINY["llama"], **rope_change(name)} for name in GROWING)],
                         ids=[*TINY, *GROWING])  # fmt: skip
def test_a_text_read_in_pieces_gives_the_same_numbers(config, tokens, monkeypatch):
    """Where all logits at once are too many; frequencies that depend on the length are those of the whole text."""
    model = tiny_model(config, double=True)
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="attention", init_lora_weights=False))
    texts = [random_ids(config, 3, 20), random_ids(config, 2, 31, seed=1), random_ids(config, 4, 2, seed=2)]
    masks = [np.arange(20) >= np.array([[0], [5], [19]]), np.arange(31) < np.array([[31], [3]]), np.ones((4, 2))]
    whole = lim(model, texts, attention_mask=masks, metrics=CHEAP)
    monkeypatch.setattr(sys.modules["llmc.analysis.lim"], "LOGITS_AT_ONCE", tokens * config["vocab_size"])
    pieces = lim(model, texts, attention_mask=masks, metrics=CHEAP)
    assert pieces.mismatches == whole.mismatches
    for row, other in zip(pieces.rows, whole.rows):
        columns = [name for name in row if isinstance(row[name], float)]
        assert row == {**other, **{name: pytest.approx(other[name], rel=SINGLE, abs=SINGLE) for name in columns}}


def test_a_large_vocabulary_takes_no_memory_for_all_its_logits():
    code = """
import numpy as np, llmc
config = llmc.Config(model_type="llama", vocab_size=200_000, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                     intermediate_size=8, max_position_embeddings=1024)
model, ids = llmc.Model(config), np.arange(1024)
llmc.analysis.lim(model, ids[:8])
kilobytes = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before = kilobytes()
report = llmc.analysis.lim(model, ids)
assert report.rows[-1]["output_shape"] == (1, 1024, 200_000) and report.rows[-1]["lim"] > 0
print(kilobytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250_000, "all logits would be 800 MB"


def test_zero_input_and_zero_output_is_zero():
    model = tiny_model(TINY["llama"])
    for name in ("v_proj", "o_proj"):
        model.state_dict()[f"model.layers.1.self_attn.{name}.weight"][...] = 0
    report = lim(model, random_ids(TINY["llama"], 1, 6), metrics=METRICS[:6])
    row = by_name(report)["model.layers.1.self_attn.o_proj"]
    assert [row[metric] for metric in METRICS[:6]] == [0.0] * 6


def test_zero_input_alone_is_none_and_says_so():
    model = tiny_model(TINY["gpt2"])
    model.state_dict()["transformer.h.1.attn.c_attn.weight"][:, 2 * 39 :] = 0
    model.state_dict()["transformer.h.1.attn.c_attn.bias"][2 * 39 :] = 0
    report = lim(model, random_ids(TINY["gpt2"], 1, 6), metrics=METRICS[:6])
    row = by_name(report)["transformer.h.1.attn.c_proj"]
    assert [row[metric] for metric in METRICS[:6]] == [None] * 6
    line = "layer transformer.h.1.attn.c_proj: the input is zero and the output is not: no lim, negative_cosine, "
    assert any(each.startswith(line) for each in report.mismatches)


def test_a_zero_token_is_left_out_and_counted():
    """An embedding row of zeros is a zero token for the first RMSNorm: its length has no ratio to anything."""
    config = TINY["llama"]
    model, ids = tiny_model(config), random_ids(config, 1, 8)
    ids[0, :] = np.arange(1, 9)
    model.state_dict()["model.embed_tokens.weight"][3] = 0
    report = lim(model, ids, metrics=CHEAP)
    name = "model.layers.0"
    x, y, _ = reference.captured(model, ids)[name]
    there = ids[0] != 3
    assert by_name(report)[name]["relative_contribution"] == pytest.approx(
        reference.relative_contribution(x[there], y[there]), rel=1e-5)
    assert by_name(report)[name]["lim"] == pytest.approx(reference.lim(x, y), rel=1e-5)
    assert any(line.startswith(f"layer {name}: the input is zero and the output is not in 1 of 8 tokens")
               for line in report.mismatches)


def test_numbers_that_are_not_finite_are_none_and_say_so():
    model = tiny_model(TINY["gpt2"])
    model.state_dict()["transformer.h.2.mlp.c_fc.weight"][0, 0] = np.inf
    report = lim(model, random_ids(TINY["gpt2"], 1, 6), metrics=METRICS)
    assert values(by_name(report)["transformer.h.2.mlp.c_fc"]) == {}
    assert any("transformer.h.2.mlp.c_fc: numbers are not finite: no lim," in line for line in report.mismatches)
    assert any("transformer.h.1: a loss is not finite: no ablation" in line for line in report.mismatches)
    assert all(value is None or np.isfinite(value) for row in report.rows for value in map(row.get, METRICS))


def test_the_same_call_gives_the_same_bits(family):
    model, ids = tiny_model(TINY[family]), random_ids(TINY[family], 2, 9)
    assert lim(model, ids, metrics=METRICS).rows == lim(model, ids, metrics=METRICS).rows


def test_looking_changes_nothing(family):
    model, ids = tiny_model(TINY[family]), random_ids(TINY[family], 2, 9)
    before = model(ids)
    lim(model, ids, metrics=METRICS)
    assert np.array_equal(model(ids), before)
    run = Run(model, 2, 9, observe=True)
    run.forward(ids)
    assert np.array_equal(run.logits, before)


def test_adapters_take_part(family):
    model, ids = tiny_model(TINY[family], double=True), random_ids(TINY[family], 2, 7)
    before = by_name(lim(model, ids, metrics=CHEAP))
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="all-linear"))
    rng = np.random.default_rng(0)
    for name, array in model.state_dict().items():
        if "lora_B" in name:
            array += rng.standard_normal(array.shape)
    arrays = reference.captured(model, ids)
    after = by_name(lim(model, ids, metrics=METRICS[:6]))
    for name, row in after.items():
        if row["kind"] == "adapter":
            linear, _, half = name.rpartition(".lora_")
            a, b = (model.state_dict()[f"{linear}.lora_{each}.default.weight"] for each in "AB")
            down = arrays[linear][0] @ a.T
            x, y, stream = (arrays[linear][0], down, None) if half == "A.default" else (down, down @ b.T, None)
        elif row["shape_case"] != "skipped":
            x, y, stream = arrays[name]
        else:
            continue
        for metric in METRICS[:6]:
            assert row[metric] == pytest.approx(expected(metric, x, y, stream), rel=EXACT, abs=EXACT), (name, metric)
    linears = [name for name, row in after.items() if row["kind"] == "linear"]
    assert all(after[name]["lim"] != before[name]["lim"] for name in linears)
    assert all(f"{name}.lora_{half}.default" in after for name in linears for half in "AB")
    assert {name.rpartition(".")[0] for name in model.state_dict()} <= set(after)


def test_adapters_that_are_disabled_take_no_part():
    model, ids = tiny_model(TINY["gpt2"]), random_ids(TINY["gpt2"], 2, 7)
    before = lim(model, ids).rows
    model.add_adapter(llmc.LoraConfig(r=2, target_modules="all-linear"))
    model.disable_adapters()
    assert lim(model, ids).rows == before


def test_every_module_agrees_with_torch_forward_hooks(family, peers, tmp_path_factory):
    theirs, ours = pair(family, tmp_path_factory)
    torch, ids = peers.torch, random_ids(TINY[family], 2, 11)
    mask = np.ones_like(ids)
    mask[0, 8:] = 0
    seen = {}

    def hook(name):
        def look(module, args, kwargs, out):
            given = args[0] if args else kwargs.get("hidden_states")
            out = out[0] if isinstance(out, (tuple, list)) else out
            tensors = [each for each in (given, out) if torch.is_tensor(each) and each.is_floating_point()]
            if [each.shape[:2] for each in tensors] == [mask.shape] * 2:
                seen[name] = given.double().numpy()[mask == 1], out.double().numpy()[mask == 1]
        return look

    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in theirs.named_modules()]
    with torch.no_grad():
        theirs(torch.tensor(ids), attention_mask=torch.tensor(mask))
    for handle in handles:
        handle.remove()
    rows = by_name(lim(ours, ids, attention_mask=mask, metrics=CHEAP[:4]))
    there = [name for name, row in rows.items() if row["shape_case"] != "skipped"]
    assert set(there) <= set(seen)
    for name in there:
        for metric in CHEAP[:4]:
            truth = getattr(reference, metric)(*seen[name])
            assert rows[name][metric] == pytest.approx(truth, rel=1e-4, abs=1e-4), (name, metric)
