"""Every public call answers None, what is empty and words it does not have in words of its own."""

import copy
import dataclasses
import inspect
import json
import linecache
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY

import llmc
from llmc import functional
from llmc.generate import settings
from llmc.inputs import as_ids, as_mask, as_positions, as_targets

PACKAGE = str(Path(llmc.__file__).parent)
CONFIG = {**TINY["llama"], "vocab_size": 300, "max_position_embeddings": 64}
IDS = np.arange(8)[None]
X, W, V, Q = (np.ones(shape, np.float32) for shape in ((2, 3, 4), (5, 4), 4, (1, 3, 2, 4)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the calls need: a model, a run of it, a tokenizer, files in `folder`."""
    w = SimpleNamespace(folder=tmp_path_factory.mktemp("world"), model=llmc.Model(llmc.Config(**CONFIG)))
    w.tokenizer = llmc.Tokenizer.train(["some words and some more words"], vocab_size=300)
    (w.folder / "text.txt").write_text("some words here\n" * 20)
    (w.folder / "lines.jsonl").write_text('{"prompt": "some", "response": " words"}\n')
    w.lime = llmc.Model(llmc.Config(**{**CONFIG, "model_type": "lime"}))
    (w.folder / "log").mkdir()
    (w.folder / "log" / "log.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens": 8}\n')
    w.model.save_pretrained(w.folder / "model")
    w.tokenizer.save_pretrained(w.folder / "model")
    adapted(w).save_adapter(w.folder / "adapter")
    llmc.data.tokenize_file(w.folder / "text.txt", w.tokenizer, w.folder / "tokens.bin", progress=False)
    w.run = w.model.run(1, 8, keep="all", backward=True)
    w.report = llmc.analysis.lim(w.model, IDS)
    w.arguments = llmc.TrainingArguments(output_dir=str(w.folder / "out"), max_steps=1, disable_tqdm=True,
                                         save_strategy="no")  # fmt: skip
    w.rows = [dict(input_ids=list(range(8)))] * 3
    w.trainer = llmc.Trainer(w.model, w.arguments, train_dataset=w.rows)
    return w


def adapted(w):
    """A model with two adapters."""
    model = llmc.Model(w.model.config)
    for name in ("default", "b"):
        model.add_adapter(llmc.LoraConfig(r=2, target_modules=["q_proj"]), adapter_name=name)
    return model


def method(name):
    """A method of a model with adapters, made for each call."""
    return lambda w: lambda **arguments: getattr(adapted(w), name)(**arguments)


def after_backward(name):
    def look(w):
        def call(**arguments):
            w.run.zero_grad()
            w.run.forward_backward(IDS)
            return getattr(w.run, name)(**arguments)

        return call

    return look


GENERATION = dict(
    ids=IDS, attention_mask=np.ones((1, 8), int), max_new_tokens=2, do_sample=None, temperature=None, top_k=None,
    top_p=None, min_p=None, repetition_penalty=None, prefill_chunk=None, min_new_tokens=None, eos_token_id=[3],
    pad_token_id=None, seed=None, use_cache=True, stop=None, tokenizer=None,
)  # fmt: skip
PASS = dict(ids=IDS, labels=IDS, attention_mask=np.ones((1, 8), int), num_items_in_batch=None, position_ids=IDS,
            skip=["model.layers.0"])  # fmt: skip
GOOD = {  # the call -> (what is called, arguments that it takes)
    "Model": (lambda w: llmc.Model, lambda w: dict(config=w.model.config, seed=0, dtype="float32", precision=None)),
    "Model()": (lambda w: w.model, dict(ids=IDS, attention_mask=None, position_ids=None, logits_to_keep=0)),
    "Model.from_pretrained": (lambda w: llmc.Model.from_pretrained, lambda w: dict(
        source=w.folder / "model", dtype="float32", precision=None, revision=None, local_files_only=True)),
    "Model.save_pretrained": (lambda w: w.model.save_pretrained, lambda w: dict(
        directory=w.folder / "saved", dtype="float32", max_shard_size="5GB")),
    "Model.load_state_dict": (lambda w: w.model.load_state_dict, lambda w: dict(tensors=w.model.state_dict())),
    "Model.loss": (lambda w: w.model.loss, dict(ids=IDS, labels=IDS, attention_mask=np.ones((1, 8)))),
    "Model.logprobs": (lambda w: w.model.logprobs, dict(ids=IDS, attention_mask=np.ones((1, 8)))),
    "Model.run": (lambda w: w.model.run, dict(batch=1, length=8, keep=["*.mlp"], backward=False, dropout=False, seed=0,
                                              gradients=None)),
    "Model.generate": (lambda w: w.model.generate, GENERATION | dict(num_return_sequences=1, return_logprobs=False)),
    "Model.stream": (lambda w: lambda **arguments: list(w.model.stream(**arguments)), GENERATION),
    "Model.estimate": (lambda w: w.model.estimate, dict(batch=1, length=8, train=False, keep=["*.mlp"], dropout=None,
                                                        generate=0)),
    **{f"Model.{name}": (lambda w, name=name: getattr(w.model, name), {}) for name in (
        "state_dict", "num_parameters", "summary")},
    "Model.add_adapter": (method("add_adapter"), dict(config=llmc.LoraConfig(target_modules=["q_proj"]),
                                                      adapter_name="c", seed=0)),
    "Model.load_adapter": (method("load_adapter"), lambda w: dict(directory=w.folder / "adapter", adapter_name="c",
                                                                  is_trainable=False)),
    "Model.save_adapter": (method("save_adapter"), lambda w: dict(directory=w.folder / "again", adapter_name="b")),
    "Model.delete_adapter": (method("delete_adapter"), dict(adapter_name="b")),
    "Model.set_adapter": (method("set_adapter"), dict(adapter_name=["b"])),
    "Model.add_weighted_adapter": (method("add_weighted_adapter"), dict(
        adapters=["default", "b"], weights=[0.5, 0.5], adapter_name="mix", combination_type="linear")),
    **{f"Model.{name}": (method(name), {}) for name in (
        "active_adapters", "disable_adapters", "enable_adapters", "merge_and_unload", "print_trainable_parameters")},
    "Model.merge_adapter": (method("merge_adapter"), dict(adapter_names=["b"])),
    "Run.forward": (lambda w: w.run.forward, PASS | dict(until=None, logits_to_keep=0)),
    "Run.forward_backward": (lambda w: w.run.forward_backward, PASS),
    **{f"Run.{name}": (after_backward(name), dict(name="model.layers.0.mlp", copy=False)) for name in (
        "input", "output", "grad")},
    **{f"Run.{name}": (lambda w, name=name: getattr(w.run, name), {}) for name in ("zero_grad", "names", "shapes")},
    "AdamW": (lambda w: llmc.AdamW, lambda w: dict(
        model=w.model, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, max_grad_norm=1.0, decay="matrices",
        on_nonfinite="raise")),
    "AdamW.step": (lambda w: lambda **arguments: (w.run.forward_backward(IDS),
                                                  llmc.AdamW(w.model).step(**arguments)), lambda w: dict(run=w.run)),
    "AdamW.load_state_dict": (lambda w: llmc.AdamW(w.model).load_state_dict,
                              lambda w: dict(state=llmc.AdamW(w.model).state_dict())),
    "TrainingArguments": (lambda w: llmc.TrainingArguments, lambda w: vars(w.arguments)),
    "Trainer": (lambda w: llmc.Trainer, lambda w: dict(model=w.model, args=w.arguments, train_dataset=w.rows,
                                                       eval_dataset=None, tokenizer=None, callbacks=[])),
    "Trainer.train": (lambda w: w.trainer.train, dict(resume_from_checkpoint=None)),
    "Trainer.evaluate": (lambda w: w.trainer.evaluate, lambda w: dict(eval_dataset=w.rows)),
    "Trainer.save_model": (lambda w: w.trainer.save_model, lambda w: dict(output_dir=w.folder / "trained")),
    "Trainer.collate": (lambda w: w.trainer.collate, lambda w: dict(items=w.rows)),
    "LoraConfig": (lambda w: llmc.LoraConfig, dict(r=8, target_modules=["q_proj"], lora_alpha=8, lora_dropout=0.0,
                                                   bias="none", rank_pattern={"q_proj": 3})),
    "LoraConfig.from_pretrained": (lambda w: llmc.LoraConfig.from_pretrained,
                                   lambda w: dict(directory=w.folder / "adapter")),
    "LoraConfig.save_pretrained": (lambda w: llmc.LoraConfig().save_pretrained,
                                   lambda w: dict(directory=w.folder / "lora")),
    "Config.from_pretrained": (lambda w: llmc.Config.from_pretrained, lambda w: dict(
        source=w.folder / "model", revision=None, local_files_only=True)),
    "Config.save_pretrained": (lambda w: w.model.config.save_pretrained, lambda w: dict(directory=w.folder / "config")),
    "lim": (lambda w: llmc.analysis.lim, lambda w: dict(
        model=w.model, ids=IDS, attention_mask=np.ones((1, 8)), metrics=("lim",), projections="truncate", labels=None)),
    **{name: (lambda w, name=name: getattr(llmc.analysis, name), lambda w: dict(
        model=w.lime, ids=IDS, attention_mask=np.ones((1, 8)))) for name in (
        "router_weights", "retrieval_curves", "router_heatmap")},
    "representations": (lambda w: llmc.analysis.representations, lambda w: dict(
        model=w.lime, ids=IDS, attention_mask=np.ones((1, 8)), of="values", select=np.ones((1, 8), bool))),
    "renyi_entropy": (lambda w: llmc.analysis.renyi_entropy, dict(z=W, alpha=0.5)),
    "matrix_entropy": (lambda w: llmc.analysis.matrix_entropy, lambda w: dict(
        model=w.lime, ids=IDS, attention_mask=np.ones((1, 8)), of="values", alpha=0.5)),
    "separability": (lambda w: llmc.analysis.separability, dict(
        x=np.eye(8, dtype=np.float32), y=np.arange(8) % 2, folds=2, seed=1, epochs=1, lr=0.1, batch_size=4)),
    "token_separability": (lambda w: llmc.analysis.token_separability, lambda w: dict(
        model=w.lime, ids=IDS % 2, tokens=[0, 1], attention_mask=np.ones((1, 8)), of="values", count=3, folds=2,
        seed=1, epochs=1)),
    "top_p_weights": (lambda w: llmc.analysis.top_p_weights, dict(theta=W, top_p=0.5)),
    "flops": (lambda w: llmc.analysis.flops, lambda w: dict(config=w.model.config, length=8)),
    "flops_table": (lambda w: llmc.analysis.flops_table, lambda w: dict(
        configs={"a": w.model.config}, batch=1, length=8)),
    "loss_per_flops": (lambda w: llmc.analysis.loss_per_flops, lambda w: dict(
        runs={"a": w.folder / "log"}, length=8, by="tokens")),
    "Report.save": (lambda w: w.report.save, lambda w: dict(path=w.folder / "report.csv")),
    "Report.compare": (lambda w: w.report.compare, lambda w: dict(other=w.report, path=None, metric=None,
                                                                  names=("before", "after"))),
    "embedding": (lambda w: functional.embedding, dict(ids=np.array([0, 1]), weight=W)),
    "rmsnorm": (lambda w: functional.rmsnorm, dict(x=X, weight=V, eps=1e-6)),
    "rmsnorm_backward": (lambda w: functional.rmsnorm_backward, dict(dout=X, x=X, weight=V, eps=1e-6)),
    "layernorm": (lambda w: functional.layernorm, dict(x=X, weight=V, bias=V, eps=1e-6)),
    "layernorm_backward": (lambda w: functional.layernorm_backward, dict(dout=X, x=X, weight=V, bias=V, eps=1e-6)),
    "linear": (lambda w: functional.linear, dict(x=X, weight=W, bias=np.ones(5), precision="float32")),
    "linear_backward": (lambda w: functional.linear_backward, dict(dout=np.ones((2, 3, 5)), x=X, weight=W)),
    "rope": (lambda w: functional.rope, dict(x=Q, positions=np.arange(3), theta=1e4)),
    "rope_backward": (lambda w: functional.rope_backward, dict(dout=Q, x=Q, positions=np.arange(3), theta=1e4)),
    "attention": (lambda w: functional.attention, dict(q=Q, k=Q, v=Q, causal=True, window=None, precision="float32",
                                                       attention_mask=np.ones((1, 3)))),
    "attention_backward": (lambda w: functional.attention_backward, dict(dout=Q, q=Q, k=Q, v=Q)),
    "gelu": (lambda w: functional.gelu, dict(x=X, approximate="none")),
    "gelu_backward": (lambda w: functional.gelu_backward, dict(dout=X, x=X, approximate="none")),
    "silu": (lambda w: functional.silu, dict(x=X)),
    "silu_backward": (lambda w: functional.silu_backward, dict(dout=X, x=X)),
    "swiglu": (lambda w: functional.swiglu, dict(gate=X, up=X)),
    "swiglu_backward": (lambda w: functional.swiglu_backward, dict(dout=X, gate=X, up=X)),
    "softmax": (lambda w: functional.softmax, dict(x=X)),
    "softmax_backward": (lambda w: functional.softmax_backward, dict(dout=X, x=X)),
    "cross_entropy": (lambda w: functional.cross_entropy, dict(logits=X, targets=np.ones((2, 3), int))),
    "cross_entropy_backward": (lambda w: functional.cross_entropy_backward, dict(dout=1.0, logits=X,
                                                                                 targets=np.ones((2, 3), int))),
    "TextDataset": (lambda w: llmc.data.TextDataset, lambda w: dict(
        texts=["some words"], tokenizer=w.tokenizer, block_size=8, append_eos=False, padding=False)),
    "StreamingTextDataset": (lambda w: lambda **arguments: list(llmc.data.StreamingTextDataset(**arguments)),
                             lambda w: dict(texts=["some words"], tokenizer=w.tokenizer, block_size=8)),
    "TokenBlockDataset": (lambda w: lambda **arguments: list(llmc.data.TokenBlockDataset(**arguments)),
                          lambda w: dict(source=w.folder / "tokens.bin", block_size=8, dtype=None, vocab_size=None)),
    "JsonlDataset": (lambda w: llmc.data.JsonlDataset, lambda w: dict(
        paths=[w.folder / "lines.jsonl"], tokenizer=w.tokenizer, block_size=8)),
    "tokenize_file": (lambda w: llmc.data.tokenize_file, lambda w: dict(
        text_path=[w.folder / "text.txt"], tokenizer=w.tokenizer, out_path=w.folder / "other.bin", progress=False)),
    "collate": (lambda w: llmc.data.collate, lambda w: dict(items=w.rows, pad_token_id=0, vocab_size=None)),
    "split_text": (lambda w: llmc.data.split_text, dict(text="some words\n\n" * 9 + "new\n\nother", held_out=0.1)),
    "builtin_text": (lambda w: llmc.data.builtin_text, {}),
    "Tokenizer.train": (lambda w: llmc.Tokenizer.train, dict(
        texts=["a b"], files=None, vocab_size=300, special_tokens=["<end>"], min_frequency=2, progress=False)),
    "Tokenizer.from_pretrained": (lambda w: llmc.Tokenizer.from_pretrained, lambda w: dict(name=w.folder / "model")),
    "Tokenizer.save_pretrained": (lambda w: w.tokenizer.save_pretrained, lambda w: dict(folder=w.folder / "words")),
    "Tokenizer()": (lambda w: w.tokenizer, dict(
        text=["some"], add_special_tokens=True, padding=True, truncation=False, max_length=None, padding_side="left")),
    "Tokenizer.encode": (lambda w: w.tokenizer.encode, dict(text="a", add_special_tokens=True)),
    "Tokenizer.tokenize": (lambda w: w.tokenizer.tokenize, dict(text="a")),
    "Tokenizer.decode": (lambda w: w.tokenizer.decode, dict(ids=[1, 2], skip_special_tokens=False)),
    "Tokenizer.batch_decode": (lambda w: w.tokenizer.batch_decode, dict(batch=[[1, 2]], skip_special_tokens=False)),
    "Tokenizer.convert_ids_to_tokens": (lambda w: w.tokenizer.convert_ids_to_tokens, dict(ids=[1])),
    "Tokenizer.convert_tokens_to_ids": (lambda w: w.tokenizer.convert_tokens_to_ids, dict(tokens=["a"])),
    "Tokenizer.add_special_tokens": (lambda w: copy.copy(w.tokenizer).add_special_tokens, dict(special_tokens=["<z>"])),
    "set_num_threads": (lambda w: llmc.set_num_threads, dict(n=1)),
    "get_num_threads": (lambda w: llmc.get_num_threads, {}),
    "doctor": (lambda w: llmc.doctor, {}),
    "checkpoint.open": (lambda w: llmc.checkpoint.open, lambda w: dict(path=w.folder / "model")),
}  # fmt: skip
HOSTILE = (None, [], (), {}, "", [[]], np.empty(0), np.empty((0, 4), np.int64))


def empty(value):
    """What is empty in the place of a value, of its own kind."""
    if isinstance(value, np.ndarray):
        return [np.empty((0, *value.shape[1:]), value.dtype), np.empty((*value.shape[:-1], 0), value.dtype), []]
    kinds = {str: [""], list: [[], ()], tuple: [(), []], dict: [{}]}
    return kinds.get(type(value), [])


def refusal(call, arguments):
    """What a call says to its arguments; None when it takes them."""
    try:
        call(**arguments)
    except Exception as error:
        return error
    return None


def is_our_own(error):
    """Whether a `raise` of the package made it, the core, or the system of a path."""
    if isinstance(error, llmc.Error) or (isinstance(error, OSError) and error.strerror):
        return True
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    return file.startswith(PACKAGE) and linecache.getline(file, trace.tb_lineno).strip().startswith("raise ")


@pytest.fixture(params=GOOD)
def call(request, world, capsys):
    """(its name, what is called, good arguments)"""
    make, arguments = GOOD[request.param]
    return request.param, make(world), arguments(world) if callable(arguments) else arguments


def test_every_call_of_the_table_is_taken(call):
    _, made, arguments = call
    assert refusal(made, arguments) is None


def test_a_word_that_a_call_does_not_have_is_named_with_the_nearest(call):
    name, made, arguments = call
    error = refusal(made, {**arguments, "frobnicate": 1})
    if name in ("LoraConfig", "Model.from_pretrained"):  # they take the fields of a file, and say what is none
        assert "frobnicate" in str(error) and is_our_own(error)
        return
    said = name.removesuffix("()").replace("checkpoint.open", "open_checkpoint")
    assert type(error) is TypeError and str(error).startswith(f"{said} has no argument 'frobnicate'; ")
    for argument in arguments:
        if len(argument) > 4:
            assert argument in str(refusal(made, {**arguments, argument + "_": 1})), "the nearest"


def test_none_and_what_is_empty_are_refused_in_words(call):
    name, made, arguments = call
    for argument, value in arguments.items():
        for nothing in (None, *empty(value)):
            error = refusal(made, {**arguments, argument: nothing})
            assert error is None or (is_our_own(error) and str(error)), f"{argument}={nothing!r}: {error!r}"


@pytest.mark.filterwarnings("ignore:.*path should be string:DeprecationWarning")
def test_nothing_in_any_place_shows_what_is_behind_a_call(call):
    name, made, arguments = call
    for argument in arguments:
        for nothing in HOSTILE:
            error = refusal(made, {**arguments, argument: nothing})
            assert error is None or isinstance(error, (llmc.Error, TypeError, ValueError, OSError)), repr(error)
            assert not re.search(r"\b_[a-z]\w*\(", str(error)), str(error)


def public_functions():
    """Every public function, and every method of a public class, of the namespaces a user has."""
    for space in (llmc, functional, llmc.data, llmc.analysis):
        names = [name for name in dir(space) if space is not llmc or name not in llmc._LATE]  # some are extras
        for name, thing in ((name, getattr(space, name)) for name in names):  # what is imported when asked for too
            if name.startswith("_") or not getattr(thing, "__module__", "").startswith("llmc"):
                continue
            if inspect.isfunction(thing) and thing.__module__ != "llmc.calls":
                yield name, thing
            elif inspect.isclass(thing) and not issubclass(thing, Exception) and not dataclasses.is_dataclass(thing):
                for member in dir(thing):
                    if not member.startswith("_") or member == "__call__":
                        yield f"{name}.{member}", inspect.getattr_static(thing, member)


def test_every_public_function_knows_its_words():
    for name, function in public_functions():
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function):
            kinds = [each.kind for each in inspect.signature(function).parameters.values()]
            assert hasattr(function, "__wrapped__") or inspect.Parameter.VAR_KEYWORD in kinds, name


def test_what_a_tokenizer_gives_goes_into_every_call_that_reads_ids(world):
    given = world.tokenizer("some words", return_tensors="np")
    ids, model = given["input_ids"], world.model
    np.testing.assert_array_equal(model(**given), model(ids))
    np.testing.assert_array_equal(model.generate(**given, max_new_tokens=2), model.generate(ids, max_new_tokens=2))
    assert model.loss(**given) == model.loss(ids) == world.run.forward(**given, labels=ids)
    assert llmc.analysis.lim(model, **given).rows == llmc.analysis.lim(model, ids).rows
    with pytest.raises(TypeError, match="multiple values for argument 'ids'"):
        model(ids, input_ids=ids)


def test_the_words_of_another_library_are_met_with_the_nearest(world):
    with pytest.raises(TypeError, match="Model.generate has no argument 'num_beams'; "):
        world.model.generate(IDS, num_beams=4)
    with pytest.raises(TypeError, match="Model.generate has no argument 'max_length'; nearest: .*max_new_tokens"):
        world.model.generate(IDS, max_length=4)


@pytest.mark.parametrize("size", [10, 200_000])
def test_ids_that_another_thread_overwrites_are_taken_or_refused(size):
    """What is checked is a copy: an id changed between two looks is no error of Python's, and never let through."""
    ids, mask, over = np.zeros((1, size), np.int32), np.ones((1, size), np.uint8), threading.Event()

    def overwrite():
        while not over.is_set():
            ids[0, -1], mask[0, -1] = 99, 2
            ids[0, -1], mask[0, -1] = 1, 1

    thread = threading.Thread(target=overwrite)
    thread.start()
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            for call in (lambda: as_ids(ids, 10), lambda: as_positions(ids, None, ids.shape, 10),
                         lambda: as_targets(ids, np.zeros_like(ids), None, 10), lambda: as_mask(mask, mask.shape)):
                try:
                    taken = call()
                    assert taken is None or taken.max() < 10
                except llmc.DataError as refused:
                    assert "99" in str(refused) or "other than 0" in str(refused)
    finally:
        over.set()
        thread.join()


def test_an_id_outside_says_that_this_is_the_vocabulary(world):
    with pytest.raises(llmc.DataError, match="input_ids holds 300, which is not from 0 to 299, the vocabulary of this"):
        world.trainer.evaluate([dict(input_ids=[1, 300])])


def halved(path):
    """The config.json of `path` with rotary positions that are stretched by less than one."""
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_scaling": {"rope_type": "linear", "factor": 0.5}}))
    return llmc.Config.from_pretrained(path)


def skipped(w):
    """A step of gradients that are no numbers."""
    w.run.zero_grad()
    w.run.forward_backward(IDS)
    w.run.grad("model.norm.weight")[0] = np.nan
    llmc.AdamW(w.model, on_nonfinite="skip").step(w.run)


@pytest.mark.parametrize("warned", [
    lambda w: adapted(w).delete_adapter("default"), skipped,
    lambda w: llmc.Model(w.model.config).add_adapter(llmc.LoraConfig(target_modules=["q_proj"], rank_pattern={"z": 3})),
    lambda w: halved(w.folder / "saved"), lambda w: llmc.Config(**CONFIG, rope_scaling=dict(rope_type="linear",
                                                                                            factor=0.5)),
    lambda w: w.model.generate(IDS, top_k=3, max_new_tokens=1),
])  # fmt: skip
def test_a_warning_points_at_the_line_of_the_call(warned, world, monkeypatch):
    monkeypatch.setattr(settings, "_said", set())
    world.model.save_pretrained(world.folder / "saved")
    with pytest.warns() as said:
        warned(world)
    assert [each.filename for each in said] == [__file__]
