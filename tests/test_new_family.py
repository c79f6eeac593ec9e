"""A family from outside: a row of kinds, names and numbers, and everything built on configurations knows it."""

import inspect
import json

import numpy as np
import pytest
import reference
from conftest import TOLERANCE
from test_truth import assert_gradients_are_slopes, left_mask, truth
from tiny import close, random_ids, tiny_model

import llmc
from llmc.families import row


def add_brook():
    """OLMo 2 without the norms of its heads: RMSNorm on what each branch gives, names and fields of its own."""
    llmc.families.add(llmc.families.Row(
        model_type="brook",
        architecture="BrookForCausalLM",
        norm="rms",
        position="rope",
        feed_forward="gated",
        modules={
            "root": "stream", "embed": "source", "block": "reaches", "final_norm": "mouth", "head": "sea",
            "attention": "eddy", "q": "ask", "k": "key", "v": "value", "o": "give", "attention_norm_out": "weir",
            "feed_forward": "mill", "gate": "gate", "up": "race", "down": "tail", "feed_forward_norm_out": "sluice",
        },
        spellings={"hidden_size": "breadth", "num_hidden_layers": "n_reaches", "norm_eps": "epsilon",
                   "num_attention_heads": "n_heads"},
        defaults=dict(
            vocab_size=100, hidden_size=64, intermediate_size=None, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=None, head_dim=None, max_position_embeddings=512, hidden_act="silu", norm_eps=1e-6,
            initializer_range=0.02, attention_bias=False, tie_word_embeddings=False, sliding_window=None,
            bos_token_id=None, eos_token_id=None, pad_token_id=None, dtype="float32",
        ),
        fixed=dict(
            embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0, mlp_bias=False, scale_attn_weights=True,
            scale_attn_by_inverse_layer_idx=False, reorder_and_upcast_attn=False,
        ),
        may_be_none=("num_key_value_heads", "head_dim", "intermediate_size"),
        peft_targets=("ask", "value"),
        rope_theta=500000.0,
    ))  # fmt: skip


FIELDS = dict(model_type="brook", vocab_size=53, breadth=24, n_reaches=3, n_heads=4, num_key_value_heads=2,
              intermediate_size=19, epsilon=0.01, sliding_window=5, initializer_range=0.15)  # fmt: skip
OF_THE_REFERENCE = {  # LLaMA's names, which the reference reads
    "stream": "model", "source": "embed_tokens", "reaches": "layers", "mouth": "norm", "sea": "lm_head",
    "eddy": "self_attn", "ask": "q_proj", "key": "k_proj", "value": "v_proj", "give": "o_proj",
    "weir": "post_attention_layernorm", "mill": "mlp", "gate": "gate_proj", "race": "up_proj", "tail": "down_proj",
    "sluice": "post_feedforward_layernorm",
}  # fmt: skip


@pytest.fixture(autouse=True)
def brook():
    """The family, for the time of a test."""
    add_brook()
    yield
    del row._ROWS["brook"]


def truth_of(model, ids, **options):
    """Arguments of the reference: the same kinds as an assembled decoder's, the same numbers under LLaMA's names."""
    kinds = dict(norm="rms", norm_place="out", final_norm=True, position="rope", feed_forward="gated",
                 order="sequential", bias=False)  # fmt: skip
    sizes = dict(vocab_size=53, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=19, norm_eps=0.01, sliding_window=5, max_position_embeddings=512)  # fmt: skip
    config = llmc.Architecture(**kinds, **sizes).to_dict()
    given = truth(model, config, ids, **options)
    params = {".".join(OF_THE_REFERENCE.get(word, word) for word in name.split(".")): array
              for name, array in given.pop("params").items()}  # fmt: skip
    return dict(given, params=params)


def test_a_family_takes_less_than_forty_lines():
    assert len(inspect.getsource(add_brook).splitlines()) < 40


def test_there_is_one_family_of_a_name():
    with pytest.raises(llmc.ConfigError, match="there is a family 'brook' already"):
        add_brook()
    with pytest.raises(TypeError, match="Row is needed, not dict"):
        llmc.families.add({"model_type": "brook"})
    assert "brook" in llmc.families.rows()


def test_its_fields_are_read_under_their_names_and_the_common_ones():
    config = llmc.Config(**FIELDS)
    assert (config.breadth, config.hidden_size, config.n_embd) == (24, 24, 24)
    assert (config.n_reaches, config.n_heads, config.epsilon) == (3, 4, 0.01)
    assert config == llmc.Config("brook", **{"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
                                             "norm_eps": 0.01, **{name: value for name, value in FIELDS.items()
                                             if name not in ("model_type", "breadth", "n_reaches", "n_heads",
                                                             "epsilon")}})  # fmt: skip
    assert config.replace(breadth=32).hidden_size == 32
    with pytest.raises(llmc.ConfigError, match="breadth 24 and hidden_size 28 are the same field"):
        llmc.Config(**FIELDS, hidden_size=28)
    with pytest.raises(llmc.ConfigError, match="breadth 26 is not a multiple of n_heads 4"):
        config.replace(breadth=26)
    with pytest.raises(llmc.ConfigError, match="mlp_bias True: brook has no such field"):
        llmc.Config(**FIELDS, mlp_bias=True)
    with pytest.raises(llmc.ConfigError, match="brok.*brook"):
        llmc.Config("brok")


def test_a_spelling_of_one_family_is_no_field_of_another():
    with pytest.raises(AttributeError, match="breadth"):
        llmc.Config("llama").breadth


def test_its_logits_and_loss_are_the_references():
    model, ids, mask = tiny_model(FIELDS, double=True), random_ids(FIELDS, 3, 13), left_mask(3, 13)
    close(model(ids), reference.model_logits(**truth_of(model, ids)), TOLERANCE["double"], "logits")
    loss = reference.model_loss(**truth_of(model, ids, attention_mask=mask))
    assert model.loss(ids, attention_mask=mask) == pytest.approx(loss, abs=TOLERANCE["double"])


def test_its_gradients_are_slopes():
    model, ids = tiny_model(FIELDS, double=True), random_ids(FIELDS, 2, 9)
    run = model.run(2, 9, backward=True)
    assert_gradients_are_slopes(model, run, lambda: run.forward(ids, labels=ids), directions=1)


def test_it_is_saved_in_its_spelling_and_opens_as_the_same(tmp_path):
    model, ids = tiny_model(FIELDS), random_ids(FIELDS, 2, 9)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["breadth"], written["n_reaches"], written["epsilon"]) == (24, 3, 0.01)
    assert "hidden_size" not in written and written["architectures"] == ["BrookForCausalLM"]
    again = llmc.Model.from_pretrained(tmp_path)
    assert again.config == model.config and np.array_equal(again(ids), model(ids))
    assert "stream.reaches.2.eddy.ask.weight" in again.state_dict()


def test_it_generates_with_the_cache_as_without():
    model, ids = tiny_model(FIELDS), random_ids(FIELDS, 2, 9)
    texts = [model.generate(ids, max_new_tokens=20, use_cache=cached) for cached in (True, False)]
    assert np.array_equal(*texts)


def test_its_linears_carry_adapters():
    for targets, names in ((None, {"ask", "value"}), ("mlp", {"gate", "race", "tail"}), (["give"], {"give"})):
        model = llmc.Model(llmc.Config(**FIELDS))
        model.add_adapter(llmc.LoraConfig(r=2, target_modules=targets))
        adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in model.state_dict() if ".lora_A." in name}
        assert adapted == names


def test_it_is_drawn_and_looked_into():
    config = llmc.Config(**FIELDS)
    lines = config.drawing().splitlines()
    assert "BrookForCausalLM: blocks 0-2 of 3" in lines[0]
    at = {word: next(i for i, line in enumerate(lines) if word in line) for word in ("give", "weir", "tail", "sluice")}
    assert sorted(at, key=at.get) == ["give", "weir", "tail", "sluice"]
    rows = {each["name"]: each for each in llmc.analysis.lim(llmc.Model(config), random_ids(FIELDS, 2, 9)).rows}
    assert rows["stream.reaches.0"]["lim"] > 0 and rows["stream.reaches.2.mill"]["kind"] == "feed-forward"
    assert "mill" in repr(llmc.Model(config))


def test_it_trains(tmp_path):
    model, ids = llmc.Model(llmc.Config(**FIELDS)), random_ids(FIELDS, 8, 9)
    before = model.loss(ids)
    arguments = llmc.TrainingArguments(str(tmp_path), max_steps=20, per_device_train_batch_size=4, learning_rate=1e-2,
                                       save_strategy="no", disable_tqdm=True)  # fmt: skip
    llmc.Trainer(model, arguments, train_dataset=[{"input_ids": each.tolist()} for each in ids]).train()
    assert model.loss(ids) < 0.7 * before
