"""Structural identities: two ways to the same numbers, which must agree whatever those numbers are."""

import numpy as np
import pytest
from conftest import EVERY, TINY, TOLERANCE
from tiny import close, close_relative, random_ids, tiny_model

import llmc
from llmc.run import Run

LENGTH = 23


@pytest.fixture(params=EVERY)
def family(request):
    """The name of each family in turn."""
    return request.param


@pytest.fixture
def tiny(family):
    """(config, model, ids) of every family."""
    config = EVERY[family]
    return config, tiny_model(config), random_ids(config, 4, LENGTH)


def copied(source, config):
    """A model of another config with the parameters of `source` that it has."""
    model = llmc.Model(llmc.Config(**config))
    given = source.state_dict()
    model.load_state_dict({name: given[name] for name in model.state_dict()})
    return model


def gradients(run):
    return {name: run.grad(name, copy=True) for name in run.model._parameters}


def assert_same(a, b, what=""):
    """The same bits, of arrays or dicts of arrays."""
    if isinstance(a, dict):
        for name in a:
            assert_same(a[name], b[name], name)
    else:
        np.testing.assert_array_equal(a, b, err_msg=what)


def close_but_rounding(ours, theirs, what):
    """Agreement of sums in another order, relative to the largest element where that is above one."""
    scale = max(1.0, float(np.abs(theirs).max()))
    close(ours / scale, theirs / scale, TOLERANCE["company"], what)


def stepwise(model, ids, chunk=1, mask=None):
    """Logits of every position, read in pieces of `chunk` tokens with a cache of the past."""
    (rows, length), pieces = ids.shape, []
    run = Run(model, rows, chunk, past=length)
    positions = np.broadcast_to(np.arange(length), ids.shape)
    if mask is not None:
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    for start in range(0, length, chunk):
        part = slice(start, start + chunk)
        piece = None if mask is None else mask[:, part]
        run.forward(ids[:, part], attention_mask=piece, position_ids=positions[:, part])
        pieces.append(run.logits.copy())
    return np.concatenate(pieces, axis=1)


def branches(model, layer):
    """(block, attention, feed-forward, what attention ends with, what the feed-forward ends with) of a layer."""
    if model.config.model_type in ("gpt2", "openai-gpt"):
        block = f"transformer.h.{layer}"
        return block, f"{block}.attn", f"{block}.mlp", f"{block}.attn.c_proj", f"{block}.mlp.c_proj"
    block = f"model.layers.{layer}"
    return block, f"{block}.self_attn", f"{block}.mlp", f"{block}.self_attn.o_proj", f"{block}.mlp.down_proj"


# --- the architecture


@pytest.mark.parametrize("window", [LENGTH, LENGTH + 1, 1000])
def test_window_of_the_whole_text_equals_no_window(window):
    config = {**TINY["mistral"], "sliding_window": None}
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)
    assert_same(copied(model, {**config, "sliding_window": window})(ids), model(ids))


def test_window_one_shorter_than_the_text_changes_the_last_token_alone():
    config = {**TINY["mistral"], "sliding_window": None}
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)
    shorter = copied(model, {**config, "sliding_window": LENGTH - 1})(ids)
    close_but_rounding(shorter[:, :-1], model(ids)[:, :-1], "tokens that see all")
    assert np.abs(shorter[:, -1] - model(ids)[:, -1]).max() > 1e-3


def test_mistral_without_a_window_is_llama():
    config = {**TINY["mistral"], "sliding_window": None, "hidden_size": 48}
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)
    llama = {name: value for name, value in config.items() if name != "sliding_window"}
    assert_same(copied(model, {**llama, "model_type": "llama"})(ids), model(ids))


def test_every_head_its_own_key_equals_shared_keys_repeated():
    config = TINY["llama"]
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)
    wide = llmc.Model(llmc.Config(**{**config, "num_key_value_heads": config["num_attention_heads"]}))
    tensors = dict(model.state_dict())
    for name, array in tensors.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = array.reshape(config["num_key_value_heads"], config["head_dim"], -1)
            tensors[name] = np.repeat(heads, 2, axis=0).reshape(-1, array.shape[1])
    wide.load_state_dict(tensors)
    close_but_rounding(wide(ids), model(ids), "logits")


def test_as_many_key_heads_as_heads_is_the_default():
    config = {name: value for name, value in TINY["llama"].items() if name != "num_key_value_heads"}
    model = tiny_model({**config, "num_key_value_heads": config["num_attention_heads"]})
    ids = random_ids(config, 2, LENGTH)
    assert_same(copied(model, config)(ids), model(ids))


def test_tied_head_equals_a_copy_of_the_embedding(family):
    config = {**EVERY[family], "tie_word_embeddings": True}
    tied = tiny_model(config)
    untied = copied(tied, {**config, "tie_word_embeddings": False})
    ids = random_ids(config, 2, LENGTH)
    assert_same(untied(ids), tied(ids))
    head, embedding = (f"{path}.weight" for path in (tied._model.head_name, tied._model.embedding_name))
    runs = [model.run(2, LENGTH, backward=True) for model in (tied, untied)]
    for run in runs:
        run.forward_backward(ids)
    both = runs[1].grad(embedding) + runs[1].grad(head)
    close_relative(runs[0].grad(embedding), both, TOLERANCE["gradient"], "gradient of a tied head")
    assert tied.num_parameters() == untied.num_parameters() - untied.state_dict()[head].size
    tied.state_dict()[head][...] = 0
    assert not tied.state_dict()[embedding].any()


def test_positions_that_are_all_shifted_change_nothing_under_rope():
    for family in ("llama", "mistral"):
        model = tiny_model(EVERY[family])
        ids = random_ids(EVERY[family], 2, LENGTH)
        shifted = model(ids, position_ids=np.arange(LENGTH)[None, :] + 50)
        close(shifted, model(ids), TOLERANCE["logits"], family)


def test_no_token_sees_a_later_one(tiny):
    config, model, ids = tiny
    changed = ids.copy()
    changed[:, 11:] = (changed[:, 11:] + 1) % config["vocab_size"]
    before, after = model(ids), model(changed)
    close_but_rounding(after[:, :11], before[:, :11], "tokens before the change")
    assert (np.abs(after[:, 11:] - before[:, 11:]).max(axis=(0, 2)) > 1e-3).all()


# --- masks, batches, shapes


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_real_token_and_no_loss(side, tiny):
    config, model, ids = tiny
    junk = random_ids(config, 4, 9, seed=5)
    ones, zeros = np.ones_like(ids), np.zeros_like(junk)
    order = slice(None, None, -1) if side == "left" else slice(None)
    padded = np.concatenate([ids, junk][order], axis=1)
    mask = np.concatenate([ones, zeros][order], axis=1)
    real = mask[0] == 1
    close_but_rounding(model(padded, attention_mask=mask)[:, real], model(ids), "logits")
    assert model.loss(padded, attention_mask=mask) == pytest.approx(model.loss(ids), abs=TOLERANCE["loss"])
    runs = [model.run(4, LENGTH + 9, backward=True) for _ in range(2)]
    runs[0].forward_backward(ids)
    runs[1].forward_backward(padded, attention_mask=mask)
    for name, gradient in gradients(runs[0]).items():
        close_relative(runs[1].grad(name), gradient, TOLERANCE["gradient"], name)


def test_company_in_a_batch_changes_nothing(tiny):
    config, model, ids = tiny
    together = model(ids)
    for row in range(4):
        close_but_rounding(model(ids[row])[0], together[row], f"row {row} alone")
    crowd = np.concatenate([ids, random_ids(config, 29, LENGTH, seed=3)])
    close_but_rounding(model(crowd)[:4], together, "in a crowd")


def test_mask_of_ones_equals_no_mask(tiny):
    config, model, ids = tiny
    assert_same(model(ids, attention_mask=np.ones_like(ids)), model(ids))


def test_kept_logits_are_the_last_ones(tiny):
    config, model, ids = tiny
    whole = model(ids)
    for n in (1, 3, LENGTH):
        kept = model(ids, logits_to_keep=n)
        assert kept.shape == (4, n, config["vocab_size"])
        close_but_rounding(kept, whole[:, -n:], f"the last {n}")


def test_a_row_without_a_batch_axis_means_a_batch_of_one(tiny):
    config, model, ids = tiny
    assert_same(model(ids[0]), model(ids[:1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, np.int64])
def test_ids_of_any_integer_dtype_and_layout_are_the_same(dtype, tiny):
    config, model, ids = tiny
    wide = np.empty((4, 2 * LENGTH), dtype)
    wide[:, ::2] = ids
    view = wide[:, ::2]
    view.flags.writeable = False
    assert_same(model(view), model(ids))
    assert_same(model(np.asfortranarray(ids)), model(ids))
    assert_same(model(ids.tolist()), model(ids))
    assert_same(model(ids.astype(np.dtype(dtype).newbyteorder())), model(ids))
    unaligned = np.zeros(ids.size * view.itemsize + 1, np.uint8)[1:].view(dtype).reshape(ids.shape)
    unaligned[...] = ids
    assert_same(model(unaligned, position_ids=np.broadcast_to(np.arange(LENGTH), ids.shape)), model(ids))


def test_larger_run_gives_the_same_bits(tiny):
    config, model, ids = tiny
    exact, large = model.run(4, LENGTH, backward=True), model.run(7, 50, backward=True)
    assert exact.forward_backward(ids) == large.forward_backward(ids)
    assert_same(gradients(exact), gradients(large))


def test_run_returns_to_a_shape_with_the_same_bits(tiny):
    config, model, ids = tiny
    run = model.run(4, LENGTH, backward=True)
    first = run.forward_backward(ids)
    before = gradients(run)
    run.zero_grad()
    run.forward_backward(ids[:2, :7])
    run.forward(ids[:, :3])
    run.zero_grad()
    assert run.forward_backward(ids) == first
    assert_same(gradients(run), before)


# --- passes


def test_every_pass_of_a_run_gives_what_a_fresh_run_gives(tiny):
    """What a backward pass computes again must be back in its place for the next forward."""
    config, model, ids = tiny
    run = model.run(4, LENGTH, backward=True)
    for seed in range(3):
        other = random_ids(config, 4, LENGTH, seed=seed)
        fresh = model.run(4, LENGTH, backward=True)
        assert run.forward(other, labels=other) == fresh.forward(other, labels=other) == model.loss(other)
        run.backward()
        fresh.backward()
        assert_same(gradients(run), gradients(fresh))
        run.zero_grad()


def test_forward_backward_equals_forward_and_backward(tiny):
    config, model, ids = tiny
    one, two = model.run(4, LENGTH, backward=True), model.run(4, LENGTH, backward=True)
    for _ in range(2):  # the second adds to the first
        loss = two.forward(ids, labels=ids)
        two.backward()
        assert one.forward_backward(ids) == loss == one.loss == two.loss
        assert_same(gradients(one), gradients(two))


KEEPS = ["all", ["*"], ["*.mlp"], ["*.1", "*.1.*"], ["lm_head"], ["*attn.pattern", "*attn"], ["*ln_1", "*layernorm"]]


@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_kept_or_not_the_bits_are_the_same(keep, tiny):
    config, model, ids = tiny
    bare, kept = model.run(4, LENGTH, backward=True), model.run(4, LENGTH, backward=True, keep=keep)
    bare.forward(ids)
    kept.forward(ids)
    assert_same(kept.logits, bare.logits)
    assert kept.forward_backward(ids) == bare.forward_backward(ids)
    assert_same(gradients(kept), gradients(bare))
    loss = kept.forward(ids, labels=ids)
    kept.backward()
    assert loss == bare.loss


def test_with_labels_or_without_the_logits_have_the_same_bits(tiny):
    config, model, ids = tiny
    run = model.run(4, LENGTH, keep=[model._model.head_name])
    run.forward(ids, labels=ids)
    assert_same(run.logits, model(ids))


def test_four_micro_batches_of_one_equal_one_of_four(tiny):
    config, model, ids = tiny
    labels = ids.copy()
    labels[0, 5:] = -100  # unequal numbers of labels
    items = int((labels[:, 1:] != -100).sum())
    whole, parts = model.run(4, LENGTH, backward=True), model.run(1, LENGTH, backward=True)
    loss = whole.forward_backward(ids, labels=labels)
    rows = [slice(i, i + 1) for i in range(4)]
    each = [parts.forward_backward(ids[row], labels=labels[row], num_items_in_batch=items) for row in rows]
    assert sum(each) == pytest.approx(loss, abs=TOLERANCE["loss"])
    for name, gradient in gradients(whole).items():
        close_relative(parts.grad(name), gradient, TOLERANCE["gradient"], name)


def test_runs_that_share_gradients_add_into_them(tiny):
    config, model, ids = tiny
    whole = model.run(4, LENGTH, backward=True)
    first = model.run(2, LENGTH, backward=True)
    second = model.run(2, LENGTH, backward=True, gradients=first)
    whole.forward_backward(ids)
    items = 4 * (LENGTH - 1)
    first.forward_backward(ids[:2], num_items_in_batch=items)
    second.forward_backward(ids[2:], num_items_in_batch=items)
    assert_same(gradients(first), gradients(second))
    for name, gradient in gradients(whole).items():
        close_relative(first.grad(name), gradient, TOLERANCE["gradient"], name)


def test_stopping_anywhere_and_going_on_changes_no_bit(tiny):
    config, model, ids = tiny
    whole = model.run(4, LENGTH, keep="all")
    loss = whole.forward(ids, labels=ids)
    run = model.run(4, LENGTH, keep=[model._model.head_name])
    for name in whole.names()[:-1]:
        assert run.forward(ids, labels=ids, until=name) is None
        assert_same(run.output(name), whole.output(name), name)
        assert run.resume() == loss
        assert_same(run.logits, whole.logits, name)


# --- what is left out


@pytest.mark.parametrize("family", TINY)  # of the others, layers behind read what a block offers
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_skipped_block_is_the_identity(layer, tiny):
    config, model, ids = tiny
    block, *_ = branches(model, layer)
    run = model.run(4, LENGTH, keep="all")
    run.forward(ids, skip=[block])
    assert_same(run.output(block), run.input(block))
    field = "n_layer" if "n_layer" in config else "num_hidden_layers"
    fewer = llmc.Model(llmc.Config(**{**config, field: 2}))
    tensors = dict(model.state_dict())
    if not config.get("scale_attn_by_inverse_layer_idx"):
        for new, old in enumerate(l for l in range(3) if l != layer):
            to, source = branches(model, new)[0] + ".", branches(model, old)[0] + "."
            moved = {to + n.removeprefix(source): a for n, a in model.state_dict().items() if n.startswith(source)}
            tensors |= moved
        last = branches(model, 2)[0] + "."
        fewer.load_state_dict({name: array for name, array in tensors.items() if not name.startswith(last)})
        assert_same(run.logits, fewer(ids))


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("which", ["attention", "feed-forward"])
def test_skipped_branch_is_zero(which, tiny):
    config, model, ids = tiny
    _, attention, mlp, attention_end, mlp_end = branches(model, 1)
    name, end = (attention, attention_end) if which == "attention" else (mlp, mlp_end)
    run = model.run(4, LENGTH)
    run.forward(ids, skip=name)
    without = run.logits.copy()
    for leaf in ("weight", "bias"):
        if f"{end}.{leaf}" in model.state_dict():
            model.state_dict()[f"{end}.{leaf}"][...] = 0
    assert_same(without, model(ids))


def test_skipping_nothing_changes_nothing(tiny):
    config, model, ids = tiny
    run = model.run(4, LENGTH)
    run.forward(ids, skip=[])
    assert_same(run.logits, model(ids))


# --- the past


@pytest.mark.parametrize("chunk", [1, 5, 8, LENGTH])
def test_reading_with_a_past_equals_reading_at_once(chunk, tiny):
    config, model, ids = tiny
    close_but_rounding(stepwise(model, ids, chunk), model(ids), f"in pieces of {chunk}")


@pytest.mark.parametrize("chunk", [1, 4])
def test_reading_padded_rows_with_a_past_equals_reading_at_once(chunk, tiny):
    config, model, ids = tiny
    mask = (np.arange(LENGTH)[None, :] >= 4 * np.arange(4)[:, None]).astype(int)
    whole = model(ids, attention_mask=mask)
    close_but_rounding(stepwise(model, ids, chunk, mask)[mask == 1], whole[mask == 1], "real tokens")


# --- dropout


def test_dropout_happens_only_in_runs_made_for_it(family):
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop") if "gpt" in family else ("attention_dropout",)
    config = {**EVERY[family], **dict.fromkeys(names, 0.3)}
    model = tiny_model(config)
    ids = random_ids(config, 4, LENGTH)
    dry = copied(model, EVERY[family])
    assert_same(model(ids), dry(ids))
    assert model.loss(ids) == dry.loss(ids) == model.run(4, LENGTH, backward=True).forward_backward(ids)
    wet = model.run(4, LENGTH, dropout=True, seed=1)
    assert wet.forward(ids, labels=ids) != model.loss(ids)
    again = model.run(4, LENGTH, dropout=True, seed=1)
    assert again.forward(ids, labels=ids) == wet.loss
    other = model.run(4, LENGTH, dropout=True, seed=2)
    assert other.forward(ids, labels=ids) != wet.loss


def test_dropout_of_rate_zero_is_none(tiny):
    config, model, ids = tiny
    assert model.run(4, LENGTH, dropout=True).forward(ids, labels=ids) == model.loss(ids)


def test_every_pass_of_a_training_loop_drops_others(family):
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop") if "gpt" in family else ("attention_dropout",)
    config = {**EVERY[family], **dict.fromkeys(names, 0.3)}
    model = tiny_model(config)
    ids = random_ids(config, 2, LENGTH)

    def losses():
        run, optimizer = model.run(2, LENGTH, backward=True, dropout=True, seed=4), llmc.AdamW(model, lr=0.0)
        found = []
        for _ in range(3):
            found += [run.forward_backward(ids), run.forward_backward(ids)]
            optimizer.step(run)
        return found

    first = losses()
    assert len(set(first)) == 6
    assert losses() == first


# --- any order of calls


def one_call(rng, config, names, blocks):
    """Arguments of a random forward pass."""
    shape = (int(rng.integers(1, 5)), int(rng.integers(1, LENGTH + 1)))
    ids = rng.integers(0, config["vocab_size"], shape)
    call = dict(ids=ids)
    if rng.random() < 0.7:
        call["labels"] = np.where(rng.random(shape) < 0.2, -100, ids)
    if rng.random() < 0.4:
        call["attention_mask"] = (rng.random(shape) < 0.7).astype(int)
    if rng.random() < 0.3:
        call["skip"] = [str(name) for name in rng.choice(blocks, int(rng.integers(1, 3)), replace=False)]
    if rng.random() < 0.3 and "skip" not in call:
        call["until"] = str(rng.choice(names))
    return call


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_calls_gives_what_fresh_runs_give(seed, tiny):
    """Shapes, masks, stops, gaps and backward passes in any order leave nothing behind in a run."""
    config, model, _ = tiny
    rng = np.random.default_rng(seed)
    keep = [None, "all", ["*.mlp", "*attn"], ["*.pattern", "*norm*", "*ln_*"]][seed]
    run = model.run(4, LENGTH, backward=True, keep=keep)
    blocks = [name for layer in range(3) for name in branches(model, layer)[:3]]
    for _ in range(25):
        call = one_call(rng, config, run.names()[:-1] if keep is None else run.names()[:3], blocks)
        fresh = model.run(*call["ids"].shape, backward=True, keep=keep)
        losses = [each.forward(**call) for each in (run, fresh)]
        if "until" in call:
            assert_same(run.output(call["until"]), fresh.output(call["until"]), call["until"])
            if rng.random() < 0.5:
                continue  # left where it stopped
            losses = [each.resume() for each in (run, fresh)]
        assert losses[0] == losses[1]
        if "labels" not in call:
            assert_same(run.logits, fresh.logits)
            continue
        if rng.random() < 0.3:
            continue  # no backward pass
        run.zero_grad()
        for each in (run, fresh):
            each.backward()
        assert_same(gradients(run), gradients(fresh))
        if keep == "all":
            for name in run.names():
                assert_same(run.grad(name), fresh.grad(name), name)
