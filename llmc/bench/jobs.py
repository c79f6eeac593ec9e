"""The jobs: what a user of a CPU asks of a language model, each a row. Configurations are public models' shapes.

A job has a kind of work (a function of that name in ours.py, and in theirs.py where a peer does the same), the work's
sizes, a precision, what bounds it, and what is run beside it: torch, or llmc itself asked otherwise.
"""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from llmc.errors import ConfigError, nearest

PRECISIONS = ("float32", "bfloat16", "int8")

GPT2 = {"model_type": "gpt2"}
LLAMA_1B = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True,
            "max_position_embeddings": 2048, "rope_theta": 500000.0}  # fmt: skip


def small(width, hidden, layers, heads, vocabulary, positions=1024):
    """The config of a small LLaMA."""
    return {"model_type": "llama", "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": vocabulary,
            "max_position_embeddings": positions}  # fmt: skip


@dataclass(frozen=True)
class Beside:
    """What runs in turn with a job.

    Attributes
    ----------
    label : str
    library : str
        "torch" or "llmc".
    precision : str
    threads : int or None
        None: as many as the job itself.
    sizes : dict
        Sizes of the work that differ from the job's.
    compiled : bool
        By torch.compile.
    """

    label: str
    library: str
    precision: str
    threads: int = None
    sizes: dict = field(default_factory=dict)
    compiled: bool = False


@dataclass(frozen=True)
class Job:
    """A row of the benchmark.

    Attributes
    ----------
    name, what : str
    work : str
        The function of ours.py that does it.
    sizes : dict
        Its arguments.
    precision : str
        Of products, or of stored weights where the work only reads them.
    bound : str
        "arithmetic" (rated against the register peak) or "memory" (against the best read bandwidth).
    beside : tuple of Beside
        The fastest of them is compared with.
    quick : bool
        Part of `--quick`.
    needs : tuple of str
        What a peer imports.
    same_work : bool
        What is beside does the same; otherwise costs are compared for a unit of work.
    """

    name: str
    what: str
    work: str
    sizes: dict
    precision: str
    bound: str = "arithmetic"
    beside: tuple = ()
    quick: bool = False
    needs: tuple = ("torch", "transformers")
    same_work: bool = True


def torch(*precisions):
    """Peers of these precisions, each eager and compiled."""
    names = {"float32": "torch float32", "bfloat16": "torch bfloat16"}
    return tuple(Beside(names[precision] + (" compiled" if compiled else ""), "torch", precision, compiled=compiled)
                 for precision in precisions for compiled in (False, True))


def _steps():
    """Training steps: forward, backward, clipping, AdamW."""
    gpt2 = {"config": GPT2, "batch": 4, "length": 1024}
    for precision in ("float32", "bfloat16"):
        yield Job(f"gpt2-step-{precision}", "GPT-2 124M training step, batch 4, length 1024", "train", gpt2, precision,
                  beside=torch(precision))
    shapes = (("small-384-b12", small(384, 1024, 6, 6, 65), 12, 64),
              ("small-384-b64", small(384, 1024, 6, 6, 65), 64, 256),
              ("small-128-b64", small(128, 512, 4, 4, 32), 64, 120),
              ("small-32-b64", small(32, 128, 4, 4, 32), 64, 120))
    for name, config, batch, length in shapes:
        what = (f"LLaMA L{config['num_hidden_layers']} C{config['hidden_size']} training step, batch {batch}, "
                f"length {length}")
        for precision in ("float32", "bfloat16"):
            yield Job(f"{name}-{precision}", what, "train", {"config": config, "batch": batch, "length": length},
                      precision, beside=torch("float32", "bfloat16"), quick=batch * length < 10000)
    lora = {"config": LLAMA_1B, "batch": 1, "length": 1024, "rank": 16}
    for precision in ("float32", "bfloat16"):
        yield Job(f"lora-1.2b-{precision}", "LoRA r16 all-linear step of a 1.2B LLaMA, 1024 tokens, frozen base",
                  "lora", lora, precision, beside=torch(precision), needs=("torch", "transformers", "peft"))


def _reading():
    """Prompts and greedy decoding."""
    for precision in ("float32", "bfloat16"):
        yield Job(f"prompt-1.2b-{precision}", "prompt of 1024 tokens, 1.2B LLaMA: the logits of the last", "prompt",
                  {"config": LLAMA_1B, "length": 1024}, precision, beside=torch(precision))
    for name, config in (("124m", GPT2), ("1.2b", LLAMA_1B)):
        for precision in PRECISIONS:
            peers = torch("float32") if precision == "float32" else torch("bfloat16")
            what = f"greedy decoding of {name.upper()}, batch 1: 128 tokens after a prompt of 32, timed from the first"
            sizes = {"config": config, "prompt": 32, "new": 128}
            yield Job(f"decode-{name}-{precision}", what, "decode", sizes, precision, "memory", beside=peers,
                      quick=name == "124m")


PRODUCTS = {
    "gpt2": (4096, {"qkv": (768, 2304), "proj": (768, 768), "up": (768, 3072), "down": (3072, 768)}),
    "1.2b": (1024, {"q": (2048, 2048), "kv": (2048, 512), "up": (2048, 8192), "down": (8192, 2048)}),
}


def _pieces():
    """Products of the linears of two models in all three transposes, and attention."""
    for precision in ("float32", "bfloat16"):
        for model, (rows, shapes) in PRODUCTS.items():
            for name, (inputs, outputs) in shapes.items():
                for which in ("forward", "dx", "dw"):
                    yield Job(f"gemm-{model}-{name}-{which}-{precision}",
                              f"{which} product of a linear, {rows} x {inputs} -> {outputs}", "product",
                              {"rows": rows, "inputs": inputs, "outputs": outputs, "which": which}, precision,
                              beside=torch(precision), quick=model == "gpt2", needs=("torch",))
        for which in ("forward", "backward"):
            sizes = {"batch": 4, "length": 1024, "heads": 12, "size": 64, "which": which}
            what = f"causal attention {which}, 4 x 12 heads of 64, length 1024"
            yield Job(f"attention-gpt2-{which}-{precision}", what, "attention", sizes, precision,
                      beside=torch(precision), quick=True, needs=("torch",))


def _beside_the_plain():
    """What adapters and LIM add to the same work without them."""
    for precision in ("float32", "bfloat16"):
        sizes = {"config": LLAMA_1B, "batch": 1, "length": 1024, "rank": 16}
        yield Job(f"adapters-1.2b-{precision}", "frozen 1.2B LLaMA, forward and input gradients of 1024 tokens, with "
                  "adapters r16 all-linear beside none", "frozen", sizes, precision,
                  beside=(Beside("no adapters", "llmc", precision, sizes={"rank": None}),))
        sizes = {"config": GPT2, "batch": 1, "length": 512}
        yield Job(f"lim-124m-{precision}", "the five metrics of LIM on GPT-2, batch 1, length 512, beside the plain "
                  "forward pass", "lim", sizes, precision, quick=True,
                  beside=(Beside("plain", "llmc", precision, sizes={"metrics": ()}),))


def _routed():
    """Families that read earlier layers, beside the LLaMA of their size: a training step and decoding."""
    plain = {**small(768, 3072, 12, 12, 50257, 2048), "tie_word_embeddings": True}
    families = (("lime", {}), ("lime1-static", {}), ("lime1-dynamic", {}), ("hc", {"hyper_rate": 4}))
    for precision in ("float32", "bfloat16"):
        llama = (Beside("llama", "llmc", precision, sizes={"config": plain}),)
        for name, fields in families:
            config = {**plain, **fields, "model_type": name}
            yield Job(f"{name}-step-{precision}", f"{name} L12 C768 training step, batch 4, length 512, beside llama",
                      "train", {"config": config, "batch": 4, "length": 512}, precision, beside=llama)
        deep = small(256, 1024, 128, 8, 50257, 512)
        for name in ("lime", "lime1-static", "lime1-dynamic"):
            sizes = {"config": {**deep, "model_type": name}, "batch": 1, "length": 512}
            yield Job(f"{name}-deep-{precision}", f"{name} L128 C256 training step, batch 1, length 512, beside llama",
                      "train", sizes, precision, beside=(Beside("llama", "llmc", precision, sizes={"config": deep}),))
        for name, fields in families:
            config = {**plain, **fields, "model_type": name}
            yield Job(f"{name}-decode-{precision}", f"greedy decoding of {name} L12 C768, batch 1: 128 tokens after a "
                      "prompt of 32, beside llama", "decode", {"config": config, "prompt": 32, "new": 128}, precision,
                      "memory", beside=llama)


def _shape_of_cost():
    """llmc beside itself: threads, everything kept, and cost per unit of work in depth, batch and length."""
    gpt2 = {"config": GPT2, "batch": 4, "length": 1024}
    tall = {"config": small(384, 1024, 4, 6, 65), "batch": 4, "length": 256}
    for precision in ("float32", "bfloat16"):
        def beside(label, threads=None, precision=precision, **sizes):
            return (Beside(label, "llmc", precision, threads, sizes),)

        yield Job(f"threads-gpt2-{precision}", "GPT-2 training step on all threads beside one", "train", gpt2,
                  precision, beside=beside("1 thread", threads=1))
        yield Job(f"keep-gpt2-{precision}", "GPT-2 training step beside the same with everything kept", "train", gpt2,
                  precision, beside=beside("keep='all'", keep="all"))
        for name, label, sizes in (("depth", "16 layers", {"config": small(384, 1024, 16, 6, 65)}),
                                   ("batch", "batch 32", {"batch": 32}), ("length", "length 1024", {"length": 1024})):
            what = f"cost per operation: LLaMA L4 C384 step, batch 4, length 256, beside {label}"
            yield Job(f"flat-{name}-{precision}", what, "train", tall, precision, beside=beside(label, **sizes),
                      quick=True, same_work=False)


JOBS = tuple(job for each in (_steps, _reading, _pieces, _beside_the_plain, _routed, _shape_of_cost) for job in each())


def select(globs=(), precisions=PRECISIONS, quick=False, jobs=JOBS):
    """The jobs whose names match one of the globs (none: all), of these precisions, in their order.

    Raises
    ------
    ConfigError
        When a glob matches no job, or nothing is left.
    """
    for glob in globs:
        if not any(fnmatchcase(job.name, glob) for job in jobs):
            near = nearest(glob, [job.name for job in jobs])
            raise ConfigError(f"no job is called {glob!r}; {near + '; ' if near else ''}there are "
                              + ", ".join(job.name for job in jobs))
    found = [job for job in jobs if (not globs or any(fnmatchcase(job.name, glob) for glob in globs))
             and job.precision in precisions and (job.quick or not quick)]
    if not found:
        raise ConfigError("no job is left: --jobs, --precision and --quick exclude each other")
    return found
