"""The settings of LIMe's paper: its models have the sizes it prints, and its recipe fits every family."""

import subprocess
import sys

import numpy as np
import pytest
from tiny import random_ids

import llmc
from llmc.errors import ConfigError, UnknownNameError

FAMILIES = ("llama", "lime", "lime1-static", "lime1-dynamic", "hc", "hc-paper")
each_family = pytest.mark.parametrize("family", FAMILIES)


def parameters(config):
    return llmc._core.Model(config.spec(), False).parameter_count


@pytest.mark.parametrize("family, size, changes, expected", [
    ("llama", "1b", {}, 1_176_735_744), ("lime", "1b", {}, 1_176_873_984),
    ("llama", "1b-gqa", {}, 1_076_072_448), ("lime", "1b-gqa", {}, 1_076_081_088),
    ("lime1-static", "1b", {}, 1_176_770_784), ("lime1-dynamic", "1b", {}, 1_185_613_824),
    ("hc", "1b", {}, 1_177_064_256), ("hc", "1b-gqa", {}, 1_076_400_960), ("hc-paper", "1b", {}, 1_177_129_792),
    ("lime", "150m", {}, None), ("llama", "aet", {}, 66_496), ("lime", "aet", {}, 66_640),
])  # fmt: skip
def test_sizes_are_the_papers(family, size, changes, expected):
    config = llmc.lime.config(family, size, **changes)
    found = parameters(config)
    assert found == expected or (expected is None and found == 151_862_784 + 12**2 * (12 * 13 // 2 - 1))
    assert config.model_type == family and config.tie_word_embeddings
    assert (config.bos_token_id, config.eos_token_id) == (None, 2 if size == "aet" else None)
    assert config.max_position_embeddings == (128 if size == "aet" else 2048)
    assert config.vocab_size == (21 if size == "aet" else 50257)


def test_the_first_size_is_1b_and_changes_go_before():
    assert llmc.lime.config("lime") == llmc.lime.config("lime", size="1b")
    deep = llmc.lime.config("lime", "deep", num_hidden_layers=64, kv_init="llama")
    assert (deep.num_hidden_layers, deep.hidden_size, deep.intermediate_size) == (64, 256, 1024)
    assert (deep.num_attention_heads, deep.num_key_value_heads, deep.kv_init) == (8, 8, "llama")
    assert llmc.lime.config("llama", "1b-gqa").num_key_value_heads == 8
    assert llmc.lime.config("llama", "aet", num_attention_heads=8).num_key_value_heads == 8
    assert llmc.lime.config("llama", "deep", n_layer=2).num_hidden_layers == 2


@pytest.mark.parametrize("call, error, words", [
    (lambda: llmc.lime.config("lime", "1bn"), UnknownNameError, "size is '1bn'.*1b"),
    (lambda: llmc.lime.config("lime", 3), UnknownNameError, "size is 3"),
    (lambda: llmc.lime.arguments("out", size="deeper"), UnknownNameError, "nearest: deep"),
    (lambda: llmc.lime.config("lima"), ConfigError, "lime"),
    (lambda: llmc.lime.config("lime", "aet", layers=3), TypeError, "no argument 'layers'"),
    (lambda: llmc.lime.config("llama", "aet", router_init="identity"), ConfigError, "router_init"),
    (lambda: llmc.lime.arguments("out", rate=3), TypeError, "no argument 'rate'"),
])  # fmt: skip
def test_what_the_paper_does_not_have_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("size, steps", [("1b", 20_000), ("1b-gqa", 20_000), ("150m", 20_000), ("deep", 5_000)])
def test_arguments_are_those_of_table_3(size, steps):
    args = llmc.lime.arguments("out", size)
    assert (args.output_dir, args.max_steps, args.seed, args.max_grad_norm) == ("out", steps, 42, 1.0)
    assert (args.learning_rate, args.router_learning_rate, args.weight_decay) == (1e-3, 1e-2, 0.1)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.95, 1e-8)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 1024
    rates = [args.rate(step, steps) for step in (0, 100, 200, steps)]
    assert rates == [0, 5e-4, 1e-3, pytest.approx(1e-9)]


def test_arguments_of_the_arithmetic_task():
    args = llmc.lime.arguments("out", "aet")
    assert (args.max_steps, args.num_train_epochs, args.warmup(1000)) == (-1, 200, 0)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (128, 1)
    assert [args.rate(step, 100) for step in (0, 50, 100)] == [1e-3, 5e-4, 0]
    assert (args.router_learning_rate, args.weight_decay, args.seed) == (1e-2, 0.1, 42)


def test_changes_go_before_the_recipe():
    args = llmc.lime.arguments("out", "1b", lr_scheduler_type="linear", max_steps=7, seed=1, parameter_groups=None)
    assert (args.lr_scheduler_kwargs, args.max_steps, args.seed, args.parameter_groups) == (None, 7, 1, None)
    args = llmc.lime.arguments("out", "aet", lr_scheduler_type="cosine_with_floor")
    assert args.lr_scheduler_kwargs == {"floor": 1e-6}


@each_family
def test_the_recipe_fits_every_family(family, tmp_path):
    model = llmc.Model(llmc.lime.config(family, "aet"), seed=1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    args = llmc.lime.arguments(str(tmp_path), "1b", max_steps=2, warmup_steps=1, weight_decay=0.5,
                               gradient_accumulation_steps=1, lr_scheduler_type="constant_with_warmup",
                               save_strategy="no", disable_tqdm=True)  # fmt: skip
    data = [{"input_ids": row} for row in random_ids({"vocab_size": 21}, 16, 9).tolist()]
    llmc.Trainer(model, args, train_dataset=data).train()
    assert not np.array_equal(before["model.norm.weight"], model.state_dict()["model.norm.weight"])
    moved = model.state_dict()["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]
    assert np.abs(moved).max() <= 1.1e-3  # Adam's step alone
    for name, array in model.state_dict().items():
        if "router" in name:
            assert 2e-3 < np.abs(array - before[name]).max(), name


def test_what_decays_is_what_the_authors_decay():
    model = llmc.Model(llmc.lime.config("lime", "aet"))
    args = llmc.lime.arguments("out")
    optimizer = llmc.AdamW(model, lr=1.0, weight_decay=0.1, groups=args.groups(model.trained()))
    _, decays = optimizer._rates_and_decays()
    decays = dict(zip(model.trained(), decays))
    assert {name for name, decay in decays.items() if not decay} == {
        name for name in decays if "norm" in name or "router" in name or "embed" in name}  # fmt: skip


def test_the_tasks_are_the_eight_of_table_1():
    assert llmc.lime.TASKS == ("arc_easy", "arc_challenge", "winogrande", "copa", "multirc", "rte", "hellaswag", "piqa")


def test_the_package_is_imported_when_it_is_named():
    code = ("import sys, llmc; assert 'llmc.lime' not in sys.modules and 'lime' in dir(llmc); llmc.lime.TASKS; "
            "assert 'llmc.lime' in sys.modules")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lemon'"):
        llmc.lemon
