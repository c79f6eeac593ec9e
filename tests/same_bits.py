"""What small models come to, to the bit: a hash of each piece of what they do, with every kernel there is.

    python tests/same_bits.py                   prints {kernels: {piece: hash}} of the kernels in use
    python tests/same_bits.py --store [BEGIN]   stores them for all kernels that run here; only pieces that begin so

It calls what a user types and nothing below, so that what is below may change. Names are case/precision/piece; those
that begin with `estimate:` are bytes and FLOPs, which a better plan may change.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import llmc

STORED = Path(__file__).parent / "vectors" / "same_bits.json"
KERNELS = [("portable", "own"), ("avx2", "own"), ("avx512", "own"), ("avx512_bf16", "own"), ("best", "openblas")]
PRECISIONS = ("float32", "bfloat16")

# Sizes are odd and differ where the family allows it; weights are large, so that logits are not all nearly zero.
_ALL = dict(vocab_size=97, initializer_range=0.15, bos_token_id=None, eos_token_id=None)
_GPT = dict(resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1, n_positions=512, **_ALL)
_LLAMA = dict(attention_dropout=0.1, max_position_embeddings=512, **_ALL)


def _rope(kind, **numbers):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=777.0, **numbers), max_position_embeddings=16)


_LLAMA3 = _rope("llama3", factor=8.0, original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0)
CASES = {
    "openai-gpt": dict(model_type="openai-gpt", n_embd=45, n_layer=2, n_head=5, **_GPT),
    "gpt2": dict(model_type="gpt2", n_embd=39, n_layer=3, n_head=3, n_inner=53, **_GPT),
    "llama": dict(model_type="llama", hidden_size=44, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=10, intermediate_size=37, **_LLAMA),
    "llama, biased and tied": dict(
        model_type="llama", hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=61,
        attention_bias=True, mlp_bias=True, tie_word_embeddings=True, **(_LLAMA | _LLAMA3)),
    "mistral": dict(model_type="mistral", hidden_size=43, num_hidden_layers=3, num_attention_heads=6,
                    num_key_value_heads=2, head_dim=6, intermediate_size=47, sliding_window=7, **_LLAMA),
}  # fmt: skip
LARGE = dict(model_type="llama", hidden_size=192, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3,
             intermediate_size=403, **(_LLAMA | dict(vocab_size=500, max_position_embeddings=160)))  # fmt: skip
VARIANTS = {
    "openai-gpt": {"relu": dict(afn="relu"), "silu": dict(afn="silu"), "untied": dict(tie_word_embeddings=False)},
    "gpt2": {**{act: dict(activation_function=act) for act in ("gelu", "relu", "quick_gelu", "tanh")},
             "unscaled": dict(scale_attn_weights=False), "untied": dict(tie_word_embeddings=False),
             "scaled by layer": dict(scale_attn_by_inverse_layer_idx=True)},
    "llama": {"one key head": dict(num_key_value_heads=1), "padding token": dict(pad_token_id=3),
              "gelu": dict(hidden_act="gelu"), "epsilon": dict(rms_norm_eps=0.3),
              "linear": _rope("linear", factor=2.5), "dynamic": _rope("dynamic", factor=2.0),
              "yarn": _rope("yarn", factor=4.0, original_max_position_embeddings=8)},
    "mistral": {"no window": dict(sliding_window=None), "tied": dict(tie_word_embeddings=True)},
}  # fmt: skip

_random = np.random.default_rng(0)
IDS, MANY_IDS, LARGE_IDS = (_random.integers(0, *most) for most in ((97, (3, 23)), (97, (6, 400)), (500, (3, 130))))
LABELS = np.where(_random.random(IDS.shape) < 0.3, -100, IDS)
LEFT, RIGHT = np.ones_like(IDS), np.ones_like(IDS)
LEFT[1, :4], LEFT[2, :1], RIGHT[0, 20:], RIGHT[2, 5:] = 0, 0, 0, 0
POSITIONS = np.arange(23) + np.array([[0], [5], [11]])
GREEDY = dict(repetition_penalty=1.5)  # without, small models say one word for ever
GENERATIONS = {
    "likeliest": {}, "greedy": GREEDY, "greedy, no cache": GREEDY | dict(use_cache=False),
    "prompt in pieces": GREEDY | dict(prefill_chunk=4), "left padding": GREEDY | dict(attention_mask=LEFT[:, :9]),
    "right padding": GREEDY | dict(attention_mask=RIGHT[:, :9], prefill_chunk=4),
    "rows that end": dict(eos_token_id=list(range(24)), pad_token_id=5, min_new_tokens=2),
    "sampled": dict(do_sample=True, temperature=1.5, top_k=60, top_p=0.95, seed=3),
    "long": dict(do_sample=True, temperature=1.5, seed=5, max_new_tokens=300),  # a window's cache forgets
    "sampled, no cache": dict(do_sample=True, min_p=0.02, seed=4, use_cache=False),
}  # fmt: skip
METRICS = ("lim", "negative_cosine", "block_influence", "angular_distance", "relative_contribution", "cka", "ablation")
COLUMNS = ("name", "kind", "layer", "shape_case", "input_shape", "output_shape", *METRICS)


def digest(value):
    """One word for all bits of arrays, numbers and words, however they are nested."""
    total = hashlib.blake2b(digest_size=8)

    def feed(value):
        if isinstance(value, dict):
            value = sorted(value.items())
        if isinstance(value, (list, tuple)):
            total.update(f"{len(value)}:".encode())
            for each in value:
                feed(each)
        elif isinstance(value, np.ndarray):
            total.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        else:
            total.update(f"{value.item() if isinstance(value, np.generic) else value!r};".encode())

    feed(value)
    return total.hexdigest()


def shown(view, names):
    """[what `run.output`, `.input` or `.grad` shows of each name, None where there is nothing]."""
    def of(name):
        with contextlib.suppress(llmc.Error):
            return view(name, copy=True)

    return [(name, of(name)) for name in names]


def gradients(model, run):
    return shown(run.grad, sorted(model.state_dict()))


def new_model(config, precision="float32"):
    """A model of which every parameter is random: biases and norms too."""
    model, random = llmc.Model(llmc.Config(**config), seed=1, precision=precision), np.random.default_rng(2)
    for _, view in sorted(model.state_dict().items()):
        view += 0.1 * random.standard_normal(view.shape, dtype=np.float32)
    return model


# --- what is done with a config: (piece, value) in turn --------------------------------------------------------------
def passes(config, precision):
    fresh = llmc.Model(llmc.Config(**config), seed=1, precision=precision)
    yield "initial parameters", fresh.state_dict()
    yield "names", [fresh.run(1, 1).names(), sorted(fresh.state_dict()), fresh.num_parameters()]
    model = new_model(config, precision)
    for what, options in {"": {}, ", left padding": dict(attention_mask=LEFT), ", the last": dict(logits_to_keep=3),
                          ", right padding": dict(attention_mask=RIGHT), ", positions": dict(position_ids=POSITIONS)
                          }.items():  # fmt: skip
        yield f"logits{what}", model(IDS, **options)
    yield "loss", [model.loss(IDS), model.loss(IDS, labels=LABELS, attention_mask=LEFT)]
    run = model.run(*IDS.shape, backward=True)
    loss = run.forward(IDS, labels=LABELS)
    run.backward()
    yield "forward, backward", [loss, gradients(model, run)]
    run.zero_grad()
    losses = [run.forward_backward(IDS, attention_mask=RIGHT)]
    yield "forward_backward", [losses, gradients(model, run)]
    other = model.run(2, 11, backward=True, gradients=run)
    losses.append(run.forward_backward(IDS[:2], labels=LABELS[:2], num_items_in_batch=50))
    losses.append(other.forward_backward(IDS[1:, :11]))
    yield "micro-batches", [losses, gradients(model, run)]
    run = model.run(*MANY_IDS.shape, backward=True)
    yield "many tokens", [run.forward_backward(MANY_IDS), gradients(model, run)]


def inside(config, precision):
    model = new_model(config, precision)
    run = model.run(*IDS.shape, keep="all", backward=True)
    run.forward(IDS, labels=IDS, attention_mask=LEFT)
    run.backward()
    for what in ("output", "input", "grad"):
        yield f"kept {what}s", shown(getattr(run, what), run.names())
    run = model.run(*IDS.shape, keep=["*.pattern"], backward=True)
    patterns = [name for name in run.names() if name.endswith(".pattern")]
    blocks = [name for name in run.names() if re.search(r"\.\d+$", name)]
    run.forward(IDS, labels=IDS)
    run.backward()
    yield "patterns", [shown(run.output, patterns), gradients(model, run)]
    for what, name in (("a block", blocks[0]), ("a branch", f"{blocks[1]}.mlp"), ("a pattern", patterns[1])):
        run = model.run(*IDS.shape, keep=[name], backward=True)
        run.forward(IDS, labels=IDS, until=name)
        stopped = run.output(name, copy=True)
        run.output(name)[...] *= 1.25
        loss = run.resume()
        run.backward()
        yield f"until {what}", [stopped, loss, shown(run.grad, [name]), gradients(model, run)]
    branches = [patterns[0].removesuffix(".pattern"), f"{blocks[1]}.mlp"]
    for what, skip in (("a block", [blocks[1]]), ("branches", branches)):
        run = model.run(*IDS.shape, backward=True)
        run.forward(IDS, skip=skip)
        logits = run.logits.copy()
        yield f"without {what}", [logits, run.forward_backward(IDS, skip=skip), gradients(model, run)]


def steps(model, dropout, count, ids=IDS, mask=RIGHT):
    """What some steps of AdamW come to: losses and norms, moments, parameters."""
    run = model.run(*ids.shape, backward=True, dropout=dropout, seed=7)
    optimizer, losses = llmc.AdamW(model, lr=1e-2, weight_decay=0.1, max_grad_norm=0.5), []
    for _ in range(count):
        loss = run.forward_backward(ids, attention_mask=mask)
        losses.append((loss, optimizer.step(run)))
    state = optimizer.state_dict()
    return {"losses, norms": losses, "moments": [state["exp_avg"], state["exp_avg_sq"]], "after": model.state_dict()}


def training(config, precision):
    for what, dropout in (("steps", False), ("steps with dropout", True)):
        for piece, value in steps(new_model(config, precision), dropout, 3).items():
            yield f"{what}, {piece}", value
    model = new_model(config, precision)
    rows = [{"input_ids": IDS[n % 3, n : n + length]} for n, length in enumerate((9, 12, 5, 12, 7, 10))]
    with tempfile.TemporaryDirectory() as folder:
        arguments = llmc.TrainingArguments(
            output_dir=folder, max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            learning_rate=1e-2, lr_scheduler_type="cosine", warmup_steps=1, weight_decay=0.1, seed=3,
            eval_steps=2, save_strategy="no", disable_tqdm=True)  # fmt: skip
        llmc.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:3]).train()
        log = [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]
    columns = ("step", "loss", "grad_norm", "learning_rate", "tokens")
    yield "trainer, steps", [[line[column] for column in columns] for line in log if "loss" in line]
    yield "trainer, evaluations", [line["eval_loss"] for line in log if "eval_loss" in line and line["step"]]
    yield "trainer, after", model.state_dict()


def generation(config, precision):
    model = new_model(config, precision)
    for what, options in GENERATIONS.items():
        yield f"generation, {what}", model.generate(IDS[:, :9], **(dict(max_new_tokens=16) | options))


def adapt(model, name="default", **fields):
    """Add an adapter that is not zero at first."""
    model.add_adapter(llmc.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **fields), adapter_name=name)


def adapted(model):
    """Logits, loss and gradients."""
    run = model.run(*IDS.shape, backward=True)
    return [model(IDS), run.forward_backward(IDS, attention_mask=LEFT), gradients(model, run)]


def adapters(config, precision):
    model = new_model(config, precision)
    model.add_adapter(llmc.LoraConfig(r=3, target_modules="attention"), adapter_name="new", seed=4)
    yield "lora, new", model.state_dict()
    model.delete_adapter("new")
    adapt(model, "a", target_modules="attention", lora_dropout=0.1)
    yield "lora, attention", adapted(model)
    yield "lora, attention, steps with dropout", steps(model, True, 2)
    adapt(model, "b", target_modules="mlp", use_rslora=True)
    model.set_adapter("b")
    yield "lora, mlp", adapted(model)
    model.set_adapter(["a", "b"])
    yield "lora, two at once", adapted(model)
    yield "lora, two at once, steps", steps(model, False, 2)
    yield "lora, generation", model.generate(IDS[:, :9], max_new_tokens=12, **GREEDY)
    model.merge_adapter()
    yield "lora, merged", [model.state_dict(), model(IDS)]
    model.unmerge_adapter()
    yield "lora, unmerged", [model.state_dict(), model(IDS)]
    model.add_weighted_adapter(["a", "b"], [0.7, -0.4], "mix", combination_type="linear")
    model.set_adapter("mix")
    yield "lora, weighted", [model.active_adapters(), model.state_dict(), model(IDS)]
    model.disable_adapters()
    yield "lora, disabled", model(IDS)
    model.enable_adapters()
    yield "lora, enabled", model(IDS)
    model = new_model(config, precision)
    more = dict(bias="all") if model.config.tie_word_embeddings else dict(modules_to_save=["lm_head"])
    adapt(model, target_modules="all-linear", lora_dropout=0.1, **more)
    yield "lora, all linears and more", adapted(model)
    yield "lora, all linears and more, steps", steps(model, True, 2)
    yield "lora, merged for good", model.merge_and_unload().state_dict()


def measured(config, precision):
    model = new_model(config, precision)
    for projections in ("truncate", "feature-mean"):
        report = llmc.analysis.lim(model, IDS, attention_mask=LEFT, metrics=METRICS, projections=projections)
        yield f"lim, {projections}", [[row[column] for column in COLUMNS] for row in report.rows]
    report = llmc.analysis.lim(model, [IDS, IDS[:2, :11]], metrics=METRICS)
    yield "lim, batches", [[row[column] for column in METRICS] for row in report.rows]


def estimates(config, precision):
    model, threads = new_model(config, precision), llmc.get_num_threads()
    llmc.set_num_threads(1)  # each has room of its own
    for what, options in (("forward", {}), ("train", dict(train=True)), ("generate", dict(generate=64))):
        yield what, model.estimate(batch=3, length=23, **options)
    llmc.set_num_threads(threads)


def storage(config, dtype):
    with tempfile.TemporaryDirectory() as folder:
        new_model(config).save_pretrained(f"{folder}/saved")
        model = llmc.Model.from_pretrained(f"{folder}/saved", dtype=dtype)
        yield "parameters", model.state_dict()
        yield "logits", [model(IDS), model(IDS[:1, :1])]
        yield "logits by float32", llmc.Model.from_pretrained(f"{folder}/saved", dtype=dtype, precision="float32")(IDS)
        yield "generation", model.generate(IDS[:, :9], max_new_tokens=12, **GREEDY)
        model.save_pretrained(f"{folder}/again", dtype="bfloat16")
        yield "saved and opened", llmc.Model.from_pretrained(f"{folder}/again", dtype=dtype)(IDS)
    adapt(model, target_modules="all-linear")
    yield "lora", adapted(model)
    yield "lora, steps", steps(model, False, 2)


def large(config, precision):
    model = new_model(config, precision)
    yield "logits", model(LARGE_IDS)
    run = model.run(*LARGE_IDS.shape, backward=True)
    yield "forward_backward", [run.forward_backward(LARGE_IDS), gradients(model, run)]
    yield "step with dropout", steps(model, True, 1, LARGE_IDS, None)
    for dtype in ("bfloat16", "int8"):
        model = llmc.Model(llmc.Config(**config), seed=1, dtype=dtype, precision=precision)
        yield f"stored as {dtype}", [model(LARGE_IDS), model(LARGE_IDS[:1, :1])]


def functions():
    """`llmc.functional`, each forwards and backwards."""
    random = np.random.default_rng(3)
    some = functools.partial(random.standard_normal, dtype=np.float32)
    x, weight, bias, q, k, v = map(some, ((3, 5, 37), (29, 37), 29, (2, 41, 6, 18), (2, 41, 2, 18), (2, 41, 2, 18)))
    mask = np.ones((2, 41), dtype=int)
    mask[0, :9], mask[1, 33:] = 0, 0
    targets = random.integers(0, 37, (3, 5))
    targets[1, 2] = -100
    table = [
        ("embedding", (random.integers(0, 29, (3, 5)), weight), {}),
        *(("rmsnorm", (x, some(37)), dict(eps=eps)) for eps in (1e-6, 0.3)),
        *(("layernorm", (x, some(37), some(37)), dict(eps=eps)) for eps in (1e-5, 0.3)),
        *(("linear", (x, weight, b), dict(precision=precision)) for b in (bias, None) for precision in PRECISIONS),
        ("rope", (q,), {}), ("rope", (q,), dict(positions=np.arange(41) + 7, theta=500.0)),
        *(("attention", (q, k, v), dict(precision=precision, **options)) for precision in PRECISIONS
          for options in ({}, dict(window=5, attention_mask=mask), dict(causal=False, scale=0.3))),
        ("attention", (q[:, :3], k, v), {}),
        ("gelu", (x,), {}), ("gelu", (x,), dict(approximate="tanh")), ("silu", (x,), {}),
        ("swiglu", (x, some((3, 5, 37))), {}), ("softmax", (x,), {}), ("cross_entropy", (x, targets), {}),
    ]  # fmt: skip
    for number, (name, arrays, options) in enumerate(table):
        out = getattr(llmc.functional, name)(*arrays, **options)
        dout = 0.7 if isinstance(out, float) else some(out.shape)
        yield f"{number} {name}", out
        yield f"{number} {name}_backward", getattr(llmc.functional, f"{name}_backward")(dout, *arrays, **options)


def everything():
    """{piece: hash} of all of it."""
    found = {}

    def add(begin, values):
        found.update({f"{begin}/{piece}": digest(value) for piece, value in values})

    add("functional", functions())
    for case, config in CASES.items():
        for precision in PRECISIONS:
            for work in (passes, inside, training, generation, adapters, measured):
                add(f"{case}/{precision}", work(config, precision))
            add(f"estimate:{case}/{precision}", estimates(config, precision))
        for dtype in ("float32", "bfloat16", "int8"):
            add(f"{case}/stored as {dtype}", storage(config, dtype))
        changed = {name: new_model(config | change) for name, change in VARIANTS.get(case, {}).items()}
        add(f"{case}/variants", ((name, [model.generate(IDS[:, :9], max_new_tokens=12, **GREEDY), adapted(model)])
                                 for name, model in changed.items()))  # fmt: skip
    for precision in PRECISIONS:
        add(f"large/{precision}", large(LARGE, precision))
    return found


# --- kernels ---------------------------------------------------------------------------------------------------------
def key():
    """What decides the bits: the kernels, the compiler that made them, and the libraries beside them."""
    info = llmc._core.info()
    gemm = f"openblas {info['openblas_kernels']}" if info["gemm"] == "openblas" else info["gemm"]
    core = Path(llmc._core.__file__).read_bytes()  # compilers sign what they make
    made = re.search(rb"(clang) version (\d+\.\d+)", core) or re.search(rb"(GCC): \([^)]*\) (\d+\.\d+)", core)
    compiler = b" ".join(made.groups()).decode() if made else "unknown compiler"
    numpy = ".".join(np.__version__.split(".")[:2])
    return f"{info['instruction_set']} | {gemm} | {compiler} | {' '.join(platform.libc_ver())} | numpy {numpy}"


def bits(isa, gemm):
    """(key, {piece: hash}) of these kernels; None where the processor or the build has no such."""
    if isa not in (*llmc._core.offers(), "best"):
        return None
    environment = os.environ | {"LLMC_ISA": "" if isa == "best" else isa, "LLMC_GEMM": gemm, "OMP_NUM_THREADS": "2"}
    this = str(Path(llmc.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([this, environment.get("PYTHONPATH", "")])
    # NumPy multiplies and sums in `lim` and in merging: let it do so as on any other processor.
    environment["NPY_DISABLE_CPU_FEATURES"] = " ".join(np.show_config("dicts")["SIMD Extensions"].get("found", []))
    if gemm == "own" or "avx512" in llmc._core.offers():
        environment["OPENBLAS_CORETYPE"] = "Haswell" if gemm == "own" else "SkylakeX"
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600)
    if "this build carries no OpenBLAS" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout).popitem()


def store(begin):
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    for kernels, found in filter(None, (bits(*each) for each in KERNELS)):
        kept = {name: word for name, word in stored.get(kernels, {}).items() if not name.startswith(begin)}
        stored[kernels] = kept | {name: word for name, word in found.items() if name.startswith(begin)}
        print(f"{kernels}: {len(found)} pieces")
    STORED.write_text(json.dumps(stored, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--store"]:
        store("".join(sys.argv[2:]))
    else:
        sys.modules["matplotlib"] = None  # no picture of a training is drawn
        with contextlib.redirect_stdout(sys.stderr):
            found = everything()
        print(json.dumps({key(): found}, indent=0))
