"""Looking inside: hook points, views, stopping and writing, leaving out, patterns, and what prints itself."""

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import close, close_relative, fields, pair, random_ids, tiny_model

import llmc

B, T = 2, 21


@pytest.fixture
def tiny(family):
    """(config, model, ids) of every family."""
    config = TINY[family]
    return config, tiny_model(config), random_ids(config, B, T)


@pytest.fixture
def models(family, peers, tmp_path_factory):
    """(config, transformers' model, ours) of every family."""
    return fields(family), *pair(family, tmp_path_factory)


def block_of(model, layer):
    return f"{'model.layers' if model.config.model_type in ('llama', 'mistral') else 'transformer.h'}.{layer}"


def attention_of(model, layer):
    return f"{block_of(model, layer)}.{'self_attn' if model.config.model_type in ('llama', 'mistral') else 'attn'}"


# --- names and views


def test_hook_points_are_the_module_paths_of_the_checkpoint(tiny):
    config, model, ids = tiny
    names = model.run(B, T).names()
    assert len(names) == len(set(names))
    assert {name.rpartition(".")[0] for name in model.state_dict()} <= set(names)
    assert {block_of(model, layer) for layer in range(3)} | {attention_of(model, 0)} <= set(names)
    assert names[-1] == model._model.head_name


def test_keep_all_keeps_input_output_and_gradient_of_every_module_and_no_pattern(tiny):
    config, model, ids = tiny
    run = model.run(B, T, keep="all", backward=True)
    run.forward(ids, labels=ids)
    run.backward()
    for name in run.names():
        output, grad = run.output(name), run.grad(name)
        assert output.dtype == grad.dtype == np.float32
        assert output.shape == grad.shape and output.shape[:2] == (B, T), name
        assert np.isfinite(grad).all()
        if not name.endswith(("wte", "wpe", "embed", "embed_tokens", "transformer", "model")):
            assert run.input(name).shape[:2] == (B, T)
    assert not any(name.endswith("pattern") for name in run.names())
    np.testing.assert_array_equal(run.logits, run.output(model._model.head_name))


def test_globs_keep_what_they_match_and_nothing_else(tiny):
    config, model, ids = tiny
    run = model.run(B, T, keep=["*.1.mlp"])
    run.forward(ids)
    assert run.output(f"{block_of(model, 1)}.mlp").shape == (B, T, model.config.hidden_size)
    for name in (f"{block_of(model, 0)}.mlp", attention_of(model, 1)):
        with pytest.raises(llmc.UnknownNameError, match="was not kept.*keep="):
            run.output(name)
    assert run.nbytes < model.run(B, T, keep="all").nbytes


def test_one_name_may_stand_for_a_list(tiny):
    config, model, ids = tiny
    name = f"{block_of(model, 0)}.mlp"
    run = model.run(B, T, keep=name)
    run.forward(ids)
    assert run.output(name).any()


def test_view_is_a_window_and_a_copy_is_a_photograph(tiny):
    config, model, ids = tiny
    name = attention_of(model, 1)
    run = model.run(B, T, keep="all")
    run.forward(ids)
    view, photograph = run.output(name), run.output(name, copy=True)
    np.testing.assert_array_equal(view, photograph)
    assert photograph.flags.c_contiguous and photograph.flags.owndata
    run.forward((ids + 1) % config["vocab_size"])
    assert np.abs(view - photograph).max() > 1e-3
    np.testing.assert_array_equal(view, run.output(name))


def test_view_outlives_its_run_and_its_model(tiny):
    config, model, ids = tiny
    name = f"{block_of(model, 2)}.mlp"
    run = model.run(B, T, keep=[name], backward=True)
    run.forward_backward(ids)
    views = [run.output(name), run.grad(name), run.grad(model._model.embedding_name + ".weight")]
    copies = [view.copy() for view in views]
    weight = model.state_dict()[model._model.embedding_name + ".weight"]
    kept = weight.copy()
    del run, model, tiny
    for view, copy in zip([*views, weight], [*copies, kept]):
        np.testing.assert_array_equal(view, copy)


def test_parameters_are_views_that_a_forward_sees(tiny):
    config, model, ids = tiny
    before = model(ids)
    state = model.state_dict()
    for array in state.values():
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    state[f"{block_of(model, 1)}.mlp.{'c_proj' if 'gpt' in config['model_type'] else 'down_proj'}.weight"] *= 2
    assert np.abs(model(ids) - before).max() > 1e-3


def test_views_have_the_shape_of_the_last_call(tiny):
    config, model, ids = tiny
    run = model.run(B, T, keep="all")
    for shape in ((1, 1), (2, 5), (B, T)):
        run.forward(ids[: shape[0], : shape[1]])
        assert run.output(block_of(model, 0)).shape[:2] == shape
        assert run.logits.shape == (*shape, config["vocab_size"])


def test_gradients_at_modules_are_torchs(models, peers):
    config, theirs, ours = models
    torch = peers.torch
    ids = random_ids(config, B, T)
    names = [name for name, module in theirs.named_modules() if name.endswith(("mlp", "ln_1", "layernorm", "c_attn",
                                                                              "v_proj", "down_proj"))]  # fmt: skip
    kept, handles = {}, []

    def keeps(name):
        def hook(module, args, output):
            output.retain_grad()
            kept[name] = output

        return hook

    for name, module in theirs.named_modules():
        if name in names:
            handles.append(module.register_forward_hook(keeps(name)))
    theirs.zero_grad()
    theirs(torch.tensor(ids), labels=torch.tensor(ids), use_cache=False).loss.backward()
    for handle in handles:
        handle.remove()
    run = ours.run(B, T, backward=True, keep=names)
    run.forward_backward(ids)
    for name in names:
        close_relative(run.grad(name), kept[name].grad.numpy(), TOLERANCE["gradient"], name)


def test_what_is_kept_must_be_there(tiny):
    config, model, ids = tiny
    right = f"{block_of(model, 1)}.mlp"
    for keep in ([right[:-1]], [right, "nowhere"], ["*.nowhere"], "nowhere", ""):
        with pytest.raises(llmc.UnknownNameError, match="keep: "):
            model.run(B, T, keep=keep)
    with pytest.raises(llmc.UnknownNameError, match=f"keep: .*nearest.*{right}"):
        model.run(B, T, keep=[f"{block_of(model, 1)}.mpl"])
    model.run(B, T, keep=["*.mlp", "*.another_family_has_this"])


# --- stopping, writing, leaving out


@pytest.mark.parametrize("part", ["", ".mlp", ".attention", ".projection"])
def test_what_is_written_into_an_output_is_what_torch_computes_with(part, models, peers):
    """Logits, loss and gradients behind a replaced output; the modules below it get none."""
    config, theirs, ours = models
    torch = peers.torch
    ids = random_ids(config, B, T)
    attention = attention_of(ours, 1)
    projection = next(name for name in (f"{attention}.k_proj", f"{attention}.c_attn") if name in ours.run(1, 1).names())
    name = {".attention": attention, ".projection": projection}.get(part, block_of(ours, 1) + part)
    width = ours.run(1, 1).shapes()[name][1][-1]
    value = np.random.default_rng(1).standard_normal((B, T, width)).astype(np.float32)
    leaf = torch.tensor(value, requires_grad=True)

    def replace(module, args, output):
        return [leaf, *output[1:]] if isinstance(output, list) else (leaf, *output[1:]) if isinstance(
            output, tuple) else leaf

    handle = theirs.get_submodule(name).register_forward_hook(replace)
    theirs.zero_grad()
    out = theirs(torch.tensor(ids), labels=torch.tensor(ids), use_cache=False)
    out.loss.backward()
    handle.remove()

    run = ours.run(B, T, backward=True, keep=[name, ours._model.head_name])
    assert run.forward(ids, labels=ids, until=name) is None
    run.output(name)[...] = value
    assert run.resume() == pytest.approx(out.loss.item(), abs=TOLERANCE["loss"])
    close(run.logits, out.logits.detach().numpy(), TOLERANCE["logits"], "logits")
    run.backward()
    close_relative(run.grad(name), leaf.grad.numpy(), TOLERANCE["gradient"], name)
    for parameter, tensor in theirs.named_parameters():
        if tensor.grad is None:
            assert not run.grad(parameter).any(), parameter
        else:
            close_relative(run.grad(parameter), tensor.grad.numpy(), TOLERANCE["gradient"], parameter)


def test_stopping_keeps_the_output_that_was_asked_for_only_there(tiny):
    config, model, ids = tiny
    run = model.run(B, T)
    name = attention_of(model, 0)
    assert run.forward(ids, until=name) is None
    stopped = run.output(name, copy=True)
    whole = model.run(B, T, keep=[name])
    whole.forward(ids)
    np.testing.assert_array_equal(stopped, whole.output(name))
    assert run.resume() is None
    np.testing.assert_array_equal(run.logits, model(ids))


def test_skipped_branches_are_what_transformers_gives_with_zeros_there(models, peers):
    config, theirs, ours = models
    torch = peers.torch
    ids = random_ids(config, B, T)
    skip = [attention_of(ours, 0), f"{block_of(ours, 2)}.mlp"]

    def zero(module, args, output):
        if isinstance(output, (list, tuple)):
            return type(output)([torch.zeros_like(output[0]), *output[1:]])
        return torch.zeros_like(output)

    handles = [theirs.get_submodule(name).register_forward_hook(zero) for name in skip]
    with torch.no_grad():
        logits = theirs(torch.tensor(ids), use_cache=False).logits.numpy()
    for handle in handles:
        handle.remove()
    run = ours.run(B, T)
    run.forward(ids, skip=skip)
    close(run.logits, logits, TOLERANCE["logits"], "logits")


def test_pattern_is_the_softmax_of_transformers(models, peers):
    config, theirs, ours = models
    ids = random_ids(config, B, T)
    mask = np.ones_like(ids)
    mask[1, :6] = 0
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with peers.torch.no_grad():
        out = theirs(peers.torch.tensor(ids), attention_mask=peers.torch.tensor(mask),
                     position_ids=peers.torch.tensor(positions), output_attentions=True,
                     **({} if config["model_type"] == "openai-gpt" else {"use_cache": False}))  # fmt: skip
    run = ours.run(B, T, keep=["*.pattern"])
    run.forward(ids, attention_mask=mask)
    for layer, attentions in enumerate(out.attentions):
        pattern = run.output(f"{attention_of(ours, layer)}.pattern")
        assert pattern.shape == (B, config.get("num_attention_heads", config.get("n_head")), T, T)
        real = np.broadcast_to((mask == 1)[:, None, :, None], pattern.shape)
        close(pattern[real], attentions.numpy()[real], TOLERANCE["pattern"], f"layer {layer}")
        np.testing.assert_allclose(pattern.sum(axis=-1)[real[..., 0]], 1, atol=1e-5)


# --- words


def test_names_that_are_not_there_list_the_nearest(tiny):
    config, model, ids = tiny
    run = model.run(B, T, keep="all", backward=True)
    right, wrong = f"{block_of(model, 1)}.mlp", f"{block_of(model, 1)}.mpl"
    for look in (run.input, run.output, run.grad):
        with pytest.raises(llmc.UnknownNameError, match=f"'{wrong}'.*nearest.*{right}") as error:
            look(wrong)
        assert isinstance(error.value, KeyError)
    with pytest.raises(llmc.UnknownNameError, match="until: .*nowhere"):
        run.forward(ids, until="nowhere")
    for name in ("nowhere", model._model.head_name, f"{block_of(model, 3)}"):
        with pytest.raises(llmc.UnknownNameError, match="skip: .*neither a block nor a branch"):
            run.forward(ids, skip=[name])
    run.forward(ids)  # none of it broke the run
    np.testing.assert_array_equal(run.logits, model(ids))


def test_parameters_are_not_modules_and_tied_gradients_have_one_name(tiny):
    config, model, ids = tiny
    run = model.run(B, T, backward=True, keep="all")
    parameter = f"{model._model.embedding_name}.weight"
    for look in (run.input, run.output):
        with pytest.raises(llmc.UnknownNameError, match=f"'{parameter}' is a parameter.*path of a module"):
            look(parameter)
    if model.config.tie_word_embeddings:
        with pytest.raises(llmc.UnknownNameError, match=f"tied.*{parameter}"):
            run.grad(f"{model._model.head_name}.weight")


def test_gradients_need_a_run_made_for_them(tiny):
    config, model, ids = tiny
    run = model.run(B, T, keep="all")
    run.forward(ids, labels=ids)
    for name in (block_of(model, 0), f"{model._model.embedding_name}.weight"):
        with pytest.raises(llmc.UnknownNameError, match="backward=True"):
            run.grad(name)
    with pytest.raises(llmc.Error, match="backward=True"):
        run.backward()


def test_one_backward_for_each_forward(tiny):
    config, model, ids = tiny
    run = model.run(B, T, backward=True)
    with pytest.raises(llmc.Error, match="forward"):
        run.backward()
    run.forward(ids)
    with pytest.raises(llmc.Error, match="labels"):
        run.backward()
    run.forward(ids, labels=ids)
    run.backward()
    with pytest.raises(llmc.Error, match="forward"):
        run.backward()
    with pytest.raises(llmc.Error, match="resume"):
        run.resume()


def test_logits_that_were_not_formed_say_so(tiny):
    config, model, ids = tiny
    run = model.run(B, T)
    run.forward(ids, labels=ids)
    with pytest.raises(llmc.UnknownNameError, match="logits were not formed"):
        run.logits


def test_calls_that_do_not_fit_the_run_are_refused(tiny):
    config, model, ids = tiny
    run = model.run(B, T)
    for shape in ((B + 1, T), (B, T + 1)):
        with pytest.raises(llmc.ShapeError, match=rf"\({shape[0]}, {shape[1]}\).*batch {B}, length {T}"):
            run.forward(random_ids(config, *shape))
    with pytest.raises(llmc.ShapeError, match="labels"):
        run.forward(ids, labels=ids[:, :-1])
    with pytest.raises(llmc.DataError, match="labels: 5000"):
        run.forward(ids, labels=np.full_like(ids, 5000))
    with pytest.raises(llmc.DataError, match="labels: -7"):
        run.forward(ids, labels=np.full_like(ids, -7))
    for items in (0, -1, float("nan"), float("inf")):
        with pytest.raises(llmc.DataError, match=f"num_items_in_batch is {items}"):
            run.forward(ids, labels=ids, num_items_in_batch=items)
    with pytest.raises(TypeError, match="num_items_in_batch"):
        run.forward(ids, labels=ids, num_items_in_batch="all")
    with pytest.raises(TypeError, match="skip"):
        run.forward(ids, skip=[1])
    with pytest.raises(llmc.ShapeError, match="attention_mask.*unequal"):
        run.forward(ids, attention_mask=[[1], [1, 1]])
    with pytest.raises(llmc.DataError, match="position"):
        run.forward(ids, position_ids=np.full_like(ids, -1))
    with pytest.raises(llmc.ConfigError, match="keep"):
        model.run(B, T, keep=[1])
    with pytest.raises(llmc.ConfigError, match="batch is 0"):
        model.run(0, T)
    for shape in ((2**31, 1), (1, 2**40), (10**6, 10**6)):
        for call in (model.run, model.estimate):
            with pytest.raises(llmc.ConfigError, match="at most|more than"):
                call(*shape)
    with pytest.raises(TypeError):
        model.run(B, T, kept="all")


def test_a_model_prints_its_tree(family):
    config = TINY[family]
    text = str(tiny_model(config))
    wide = config["vocab_size"]
    kinds = ["Conv1D(nf=", "LayerNorm((", "(wte)" if family == "gpt2" else "tokens_embed"]
    if family in ("llama", "mistral"):
        kinds = ["Linear(in_features=", "RMSNorm((", "(q_proj)", "(down_proj)"]
    for part in [*kinds, f"Embedding({wide}, ", "(0-2): 3 x Block(", "(lm_head): Linear(in_features="]:
        assert part in text
    assert text.count("(") == text.count(")")


def test_the_printed_tree_names_transformers_modules_and_sizes(models):
    config, theirs, ours = models
    text = str(ours)
    for name, module in theirs.named_modules():
        if name.endswith(("c_fc", "o_proj", "norm", "ln_2", "lm_head", "down_proj")):
            kind = type(module).__name__
            if kind == "Linear":
                expected = f"Linear(in_features={module.in_features}, out_features={module.out_features}, "
            elif kind == "Conv1D":
                expected = f"Conv1D(nf={module.nf}, nx={module.nx})"
            else:
                expected = "Norm(("
            assert f"({name.rpartition('.')[2]}): {expected}" in text or expected == "Norm(("


def test_summary_counts_every_parameter_once(tiny):
    config, model, ids = tiny
    table = model.summary()
    assert table.columns == ["module", "kind", "shape", "parameters", "FLOPs", "bytes"]
    assert sum(row["parameters"] for row in table.rows) == model.num_parameters()
    assert sum(row["bytes"] for row in table.rows) == 4 * model.num_parameters()
    assert [row["module"] for row in table.rows][-1] == model._model.head_name
    products = {row["module"]: 2 * np.prod(row["shape"]) for row in table.rows if row["kind"] in ("Linear", "Conv1D")}
    assert products == {row["module"]: row["FLOPs"] for row in table.rows if row["module"] in products}
    assert f"{model.num_parameters():,} parameters" in str(table)
    assert "<table>" in table._repr_html_()


def test_plan_prints_its_steps(tiny):
    config, model, ids = tiny
    run = model.run(B, T, backward=True, keep=["*.mlp"])
    text = str(run.plan)
    for part in ("step", "FLOPs", "attend", "embed", f"({B}, {T}, ", f"{block_of(model, 2)}.mlp", "bytes taken"):
        assert part in text
    assert len(run.plan.rows) > 20
    linear = [row for row in run.plan.rows if row["step"] == "linear"]
    assert linear and all(row["FLOPs"] for row in linear)


@pytest.mark.parametrize("keep", [None, "all", ["*.mlp"]], ids=str)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (8, 128)])
def test_estimate_forecasts_what_a_run_takes(keep, train, shape, tiny):
    config, model, ids = tiny
    forecast = model.estimate(*shape, train=train, keep=keep)
    kinds = {"parameters", "gradients", "optimizer", "activations", "cache", "packed"}
    assert set(forecast) == kinds | {"memory", "flops"}
    assert forecast["memory"] == sum(forecast[kind] for kind in kinds)
    run = model.run(*shape, backward=train, dropout=train, keep=keep)
    taken = run.nbytes - forecast["gradients"]
    assert forecast["activations"] == pytest.approx(taken, rel=0.1)
    assert forecast["parameters"] == pytest.approx(4 * model.num_parameters(), rel=0.1)
    assert (forecast["gradients"] > 0) == (forecast["optimizer"] > 0) == train


def test_estimate_counts_the_cache_of_a_generation(tiny):
    config, model, ids = tiny
    c = model.config
    forecast = model.estimate(batch=2, length=9, generate=100)
    positions = 100
    exact = 2 * 2 * c.num_hidden_layers * positions * c.num_key_value_heads * c.head_dim * 4
    assert forecast["cache"] == pytest.approx(exact, rel=0.1)


def test_flops_of_a_pass_are_those_of_its_products(tiny):
    config, model, ids = tiny
    c = model.config
    forecast = model.estimate(batch=B, length=T)
    matrices = sum(a.size for n, a in model.state_dict().items()
                   if a.ndim == 2 and "embed" not in n and "wte" not in n and "wpe" not in n)  # fmt: skip
    window = c.sliding_window or T
    seen = sum(min(t + 1, window) for t in range(T))
    attention = 4 * B * c.num_hidden_layers * c.num_attention_heads * c.head_dim * seen
    assert forecast["flops"] == pytest.approx(2 * B * T * matrices + attention, rel=0.03)
    assert 2.5 < model.estimate(batch=B, length=T, train=True)["flops"] / forecast["flops"] < 3.5


def test_the_likeliest_token_is_the_first_of_the_highest_logits_and_none_where_one_is_not_finite(tiny):
    _, model, ids = tiny
    run = model.run(B, T)
    with pytest.raises(llmc.Error, match="no logits"):
        run._core.likeliest()
    run.forward(ids)
    assert run._core.likeliest() == run.logits.argmax(axis=-1).ravel().tolist()
    highest = run.logits.max() + 1
    run.logits[0, 0], run.logits[0, 1, [70, 9]] = 7, highest
    run.logits[0, 2, 0], run.logits[0, 3, 5], run.logits[0, 4, -1] = np.nan, -np.inf, np.inf
    assert run._core.likeliest()[:5] == [0, 9, -1, -1, -1]
