"""Agreement with transformers, live: logits, loss, gradients, every module's output, files, counts."""

import json

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from tiny import CASES, GROWING, close, close_relative, fields, hf_model, pair, random_ids, tiny_model

import llmc
from llmc import _core

LENGTH = 29  # beyond the 16 tokens the rope cases were trained with


@pytest.fixture(params=CASES)
def models(request, peers, tmp_path_factory):
    """(config, transformers' model, ours) of every case."""
    return fields(request.param), *pair(request.param, tmp_path_factory)


@pytest.fixture
def plain(family, peers, tmp_path_factory):
    """(config, transformers' model, ours) of every family as it is."""
    return fields(family), *pair(family, tmp_path_factory)


def labels_of(ids):
    labels = ids.copy()
    labels[0, :5] = -100
    labels[-1, -3] = -100
    return labels


def their_gradients(model):
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def test_logits_loss_and_every_gradient_agree(models, peers):
    config, theirs, ours = models
    ids = random_ids(config, 3, LENGTH)
    labels = labels_of(ids)
    theirs.zero_grad()
    out = theirs(peers.torch.tensor(ids), labels=peers.torch.tensor(labels), use_cache=False)
    out.loss.backward()
    logits = out.logits.detach().numpy()
    assert np.abs(logits).max() > 0.5, "a model that says nothing shows nothing"
    close(ours(ids), logits, TOLERANCE["logits"], "logits")
    run = ours.run(3, LENGTH, backward=True)
    assert run.forward(ids, labels=labels) == pytest.approx(out.loss.item(), abs=TOLERANCE["loss"])
    run.backward()
    gradients = their_gradients(theirs)
    assert gradients.keys() == ours._parameters.keys()
    for name, gradient in gradients.items():
        close_relative(run.grad(name), gradient, TOLERANCE["gradient"], name)


def test_gradients_accumulate_and_divide_as_transformers_does(plain, peers):
    config, theirs, ours = plain
    torch = peers.torch
    theirs.zero_grad()
    run = ours.run(2, LENGTH, backward=True)
    for seed in (1, 2):
        ids = random_ids(config, 2, LENGTH, seed=seed)
        labels = labels_of(ids)
        items = torch.tensor(77)
        out = theirs(torch.tensor(ids), labels=torch.tensor(labels), num_items_in_batch=items, use_cache=False)
        out.loss.backward()
        loss = run.forward_backward(ids, labels=labels, num_items_in_batch=77)
        assert loss == pytest.approx(out.loss.item(), abs=TOLERANCE["loss"])
    for name, gradient in their_gradients(theirs).items():
        close_relative(run.grad(name), gradient, TOLERANCE["gradient"], name)


def observed(model, call):
    """{module path: (what it read, what it gave)} of transformers' modules; ids are left out."""
    seen, handles = {}, []

    def tensor_of(value):
        value = getattr(value, "last_hidden_state", getattr(value, "logits", value))
        return value[0] if isinstance(value, (tuple, list)) else value

    def hook(path):
        def store(module, args, kwargs, output):
            read = args[0] if args else kwargs.get("hidden_states")
            read = read.detach().numpy() if read is not None and read.is_floating_point() else None
            seen[path] = (read, tensor_of(output).detach().numpy())

        return store

    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_hook(hook(path), with_kwargs=True))
    call()
    for handle in handles:
        handle.remove()
    return seen


def test_every_module_reads_and_gives_what_transformers_reads_and_gives(models, peers):
    config, theirs, ours = models
    ids = random_ids(config, 2, LENGTH)
    with peers.torch.no_grad():
        seen = observed(theirs, lambda: theirs(peers.torch.tensor(ids), use_cache=False))
    run = ours.run(2, LENGTH, keep="all")
    run.forward(ids)
    assert set(run.names()) <= seen.keys()
    with_parameters = {name.rpartition(".")[0] for name in ours.state_dict()}
    assert with_parameters <= set(run.names())
    for name in run.names():
        read, gave = seen[name]
        if name.endswith("wpe") or name.endswith("positions_embed"):
            gave = np.broadcast_to(gave, (2, *gave.shape[-2:]))  # transformers looks positions up once a batch
        close(run.output(name), gave, TOLERANCE["hidden"], f"output of {name}")
        if read is None:
            with pytest.raises(llmc.UnknownNameError, match="ids"):
                run.input(name)
        else:
            close(run.input(name), read, TOLERANCE["hidden"], f"input of {name}")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_agrees_on_real_tokens(side, plain, peers):
    config, theirs, ours = plain
    torch = peers.torch
    ids = random_ids(config, 3, LENGTH)
    mask = np.ones_like(ids)
    for row, padding in enumerate((0, 4, 11)):
        mask[row, slice(0, padding) if side == "left" else slice(LENGTH - padding, None)] = 0
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    labels = np.where(mask == 1, ids, -100)
    labels[:, 1:][mask[:, :-1] == 0] = -100
    theirs.zero_grad()
    out = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions),
                 labels=torch.tensor(labels), use_cache=False)  # fmt: skip
    out.loss.backward()
    logits = out.logits.detach().numpy()
    for given in ({}, {"position_ids": positions}):
        close(ours(ids, attention_mask=mask, **given)[mask == 1], logits[mask == 1], TOLERANCE["logits"], "logits")
    assert ours.loss(ids, attention_mask=mask) == pytest.approx(out.loss.item(), abs=TOLERANCE["loss"])
    run = ours.run(3, LENGTH, backward=True)
    run.forward(ids, labels=labels, attention_mask=mask)
    run.backward()
    for name, gradient in their_gradients(theirs).items():
        close_relative(run.grad(name), gradient, TOLERANCE["gradient"], name)


def test_given_positions_agree(plain, peers):
    config, theirs, ours = plain
    ids = random_ids(config, 2, 11)
    positions = np.stack([np.arange(11) * 3 + 2, np.arange(11)[::-1]])
    mask = peers.torch.ones(2, 11)  # without one transformers takes the jumps for the seams of packed texts
    with peers.torch.no_grad():
        out = theirs(
            peers.torch.tensor(ids), attention_mask=mask, position_ids=peers.torch.tensor(positions), use_cache=False
        )
    close(ours(ids, position_ids=positions), out.logits.numpy(), TOLERANCE["logits"], "logits")


# --- greedy text


def assert_same_text(ours, theirs, model, what):
    """Equal tokens, up to a step whose two best logits are within 1e-4."""
    assert ours.shape == theirs.shape, what
    for row, (a, b) in enumerate(zip(ours, theirs)):
        if (a == b).all():
            continue
        first = int(np.argmax(a != b))
        best = np.sort(model(a[:first], logits_to_keep=1)[0, 0])[-2:]
        assert best[1] - best[0] <= 1e-4, f"{what}: row {row} differs at {first}: {a[first]} and {b[first]}"


@pytest.mark.parametrize("case", [*TINY, "llama: rope linear", "llama: rope yarn", "llama: rope llama3"])
def test_200_greedy_tokens_agree(case, peers, tmp_path_factory):
    """The rope cases were trained with 16 positions: this goes far past them."""
    theirs, ours = pair(case, tmp_path_factory)
    ids = random_ids(fields(case), 2, 9)
    text = theirs.generate(peers.torch.tensor(ids), max_new_tokens=200, do_sample=False, pad_token_id=0).numpy()
    assert_same_text(ours.generate(ids, max_new_tokens=200), text, ours, case)


@pytest.mark.parametrize("case", [f"llama: rope {name}" for name in GROWING])
@pytest.mark.parametrize("use_cache", [True, False])
def test_rope_that_grows_agrees_with_transformers_without_a_cache(case, use_cache, peers, tmp_path_factory):
    """With a cache transformers mixes keys of several frequencies; ours is the same text with and without."""
    theirs, ours = pair(case, tmp_path_factory)
    ids = random_ids(fields(case), 2, 9)
    text = theirs.generate(
        peers.torch.tensor(ids), max_new_tokens=30, do_sample=False, pad_token_id=0, use_cache=False
    ).numpy()
    assert_same_text(ours.generate(ids, max_new_tokens=30, use_cache=use_cache), text, ours, case)


def test_prompts_of_unequal_length_agree(plain, peers):
    config, theirs, ours = plain
    ids = random_ids(config, 3, 9)
    mask = np.ones_like(ids)
    mask[1, :4], mask[2, :7] = 0, 0
    if config["model_type"] != "openai-gpt":  # there transformers counts positions through the padding
        text = theirs.generate(peers.torch.tensor(ids), attention_mask=peers.torch.tensor(mask), max_new_tokens=40,
                               do_sample=False, pad_token_id=0).numpy()  # fmt: skip
        assert_same_text(ours.generate(ids, attention_mask=mask, max_new_tokens=40), text, ours, "a padded batch")
    for row in range(3):
        alone = ours.generate(ids[row][mask[row] == 1], max_new_tokens=40)
        together = ours.generate(ids, attention_mask=mask, max_new_tokens=40)[row, 9 - mask[row].sum() :]
        assert_same_text(together[None], alone, ours, f"row {row} alone")


# --- files


def reopened(peers, folder):
    """transformers' model from a folder of ours, which must have every key and no other."""
    model, info = peers.transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype="float32"
    )
    assert {key: list(found) for key, found in info.items() if len(found)} == {}
    return model.eval()


def test_a_saved_model_opens_in_transformers_with_the_same_logits(models, peers, tmp_path):
    config, theirs, ours = models
    ids = random_ids(config, 2, LENGTH)
    ours.save_pretrained(tmp_path)
    with peers.torch.no_grad():
        logits = reopened(peers, tmp_path)(peers.torch.tensor(ids), use_cache=False).logits.numpy()
    close(ours(ids), logits, TOLERANCE["logits"], "logits")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shards_of_any_dtype_go_both_ways(dtype, plain, peers, tmp_path):
    config, theirs, ours = plain
    torch = peers.torch
    ids = random_ids(config, 2, LENGTH)
    ours.save_pretrained(tmp_path / "ours", dtype=dtype, max_shard_size="20KB")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    opened = reopened(peers, tmp_path / "ours")
    with torch.no_grad():
        logits = opened(torch.tensor(ids), use_cache=False).logits.numpy()
    close(llmc.Model.from_pretrained(tmp_path / "ours")(ids), logits, TOLERANCE["logits"], "our files")
    opened.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    close(llmc.Model.from_pretrained(tmp_path / "theirs")(ids), logits, TOLERANCE["logits"], "their files")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_files_open(dtype, zipped, plain, peers, tmp_path):
    config, theirs, _ = plain
    torch = peers.torch
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in theirs.state_dict().items()}
    theirs.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    ours = llmc.Model.from_pretrained(tmp_path)
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, state[name].float().numpy(), err_msg=name)


def test_sharded_torch_files_open(plain, peers, tmp_path):
    config, theirs, ours = plain
    torch = peers.torch
    theirs.config.save_pretrained(tmp_path)
    names = list(theirs.state_dict())
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({n: t for n, t in theirs.state_dict().items() if files[n] == file}, tmp_path / file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ids = random_ids(config, 2, 7)
    np.testing.assert_array_equal(llmc.Model.from_pretrained(tmp_path)(ids), ours(ids))


# --- counts and the optimizer


@pytest.mark.parametrize("model_type, parameters", [("openai-gpt", 116_534_784), ("gpt2", 124_439_808)])
def test_the_published_sizes_have_the_published_counts(model_type, parameters):
    shapes = _core.Model(llmc.Config(model_type=model_type).spec(), False).shapes()  # no memory is taken
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


def test_parameter_counts_and_names_agree(models):
    config, theirs, ours = models
    assert ours.num_parameters() == theirs.num_parameters()
    assert {name: array.shape for name, array in ours.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize("decay", ["matrices", "all"])
@pytest.mark.parametrize("max_grad_norm", [0.5, None])
def test_parameters_after_20_steps_of_adamw_agree(decay, max_grad_norm, family, peers, tmp_path):
    torch = peers.torch
    config = fields(family)
    theirs = hf_model(peers, config)
    theirs.save_pretrained(tmp_path)
    ours = llmc.Model.from_pretrained(tmp_path)
    # A smaller eps divides what is nothing but rounding (torch's tanh GELU has 6e-8 of it in its tail) by as little.
    settings = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-6)
    matrices = [p for p in theirs.parameters() if p.ndim > 1 or decay == "all"]
    others = [p for p in theirs.parameters() if not (p.ndim > 1 or decay == "all")]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    their_optimizer = torch.optim.AdamW(groups, **settings)
    our_optimizer = llmc.AdamW(ours, weight_decay=0.1, max_grad_norm=max_grad_norm, decay=decay, **settings)
    run = ours.run(2, 13, backward=True)
    for step in range(20):
        ids = random_ids(config, 2, 13, seed=step)
        their_optimizer.zero_grad()
        theirs(torch.tensor(ids), labels=torch.tensor(ids), use_cache=False).loss.backward()
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm or 1e30).item()
        their_optimizer.step()
        run.forward_backward(ids)
        assert our_optimizer.step(run) == pytest.approx(their_norm, rel=1e-4)
    for name, parameter in theirs.named_parameters():
        a, b = ours.state_dict()[name], parameter.detach().numpy()
        if name.endswith("c_attn.bias"):  # a key's bias moves no logit: its gradient is nothing but rounding
            a, b = (np.delete(x.reshape(3, -1), 1, axis=0) for x in (a, b))
        close(a, b, TOLERANCE["parameters"], name)


def test_dropout_is_drawn_at_the_rates_and_places_of_transformers(family, peers):
    """One mask cannot be compared, its statistics can: the mean over many masks of what each branch gives."""
    rate = 0.3
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop") if "gpt" in family else ("attention_dropout",)
    config = {**TINY[family], **dict.fromkeys(names, rate), "sliding_window": None}
    if "gpt" in family:
        del config["sliding_window"]
    theirs = hf_model(peers, config).train()
    ours = tiny_model(config)
    ours.load_state_dict({name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    ids = random_ids(config, 1, 9)
    rows = 3000
    many = np.repeat(ids, rows, axis=0)
    run = ours.run(rows, 9, dropout=True, seed=1)
    run.forward(many)
    with peers.torch.no_grad():
        peers.torch.manual_seed(1)
        logits = theirs(peers.torch.tensor(many), use_cache=False).logits.numpy()
    error = np.sqrt((logits.var(axis=0) + run.logits.var(axis=0)) / rows)
    apart = np.abs(run.logits.mean(axis=0) - logits.mean(axis=0)) / error
    assert apart.max() < 6, "standard errors between the means"
    ratio = run.logits.std(axis=0) / logits.std(axis=0)
    assert 0.8 < ratio.min() and ratio.max() < 1.2
