"""LoRA on a LLaMA of 1.2B parameters: what adapters add to the frozen passes, and a whole step against peft.

    python benchmarks/bench_lora.py overhead [--layers 16] [--length 1024] [--repeats 5] [--threads 2]
    python benchmarks/bench_lora.py step     [--precision bfloat16] [--dtype bfloat16] [the same]

`overhead` alternates the frozen forward pass and the gradients of every linear's input, without the base's own
gradients, once with adapters on all linears and once with one of rank 1 at the very bottom, which is what makes those
gradients be wanted at all. `step` adds AdamW and clipping, and peft on torch as the other side; either program has a
process of its own, whose peak memory is printed. --dtype is how weights are stored, --precision how products are
computed (torch: weights of that dtype; autocast where they are float32). Weights are random, losses are printed.
"""

import argparse
import contextlib
import platform

from llmc.bench.alternate import Worker, alternate, serve

SHAPE = {"layers": 16, "hidden": 2048, "heads": 32, "kv-heads": 8, "ffn": 8192, "vocabulary": 128256}
WORK = {"batch": 1, "length": 1024, "rank": 16, "threads": 2}


def tokens(a):
    import numpy as np

    return np.random.default_rng(0).integers(0, a.vocabulary, (a.batch, a.length))


def fields(a):
    """The configuration, in the words that transformers shares."""
    return dict(vocab_size=a.vocabulary, hidden_size=a.hidden, num_hidden_layers=a.layers, num_attention_heads=a.heads,
                num_key_value_heads=a.kv_heads, intermediate_size=a.ffn, max_position_embeddings=max(a.length, 2048),
                rope_theta=500000.0, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)


def llmc_model(a):
    import llmc

    llmc.set_num_threads(a.threads)
    return llmc.Model(llmc.Config(model_type="llama", **fields(a)), dtype=a.dtype, precision=a.precision)


def passes_worker(a, config):
    """The frozen forward pass and the gradients of inputs, with the adapter of `config`."""
    model, ids = llmc_model(a), tokens(a)
    model.add_adapter(config)
    run = model.run(a.batch, a.length, backward=True)

    def passes():
        run.zero_grad()
        return {"loss": run.forward_backward(ids, labels=ids)}

    serve(passes)


def bare_worker(a):
    import llmc

    passes_worker(a, llmc.LoraConfig(r=1, target_modules=["q_proj"], layers_to_transform=[0]))


def adapted_worker(a):
    import llmc

    passes_worker(a, llmc.LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules="all-linear"))


def llmc_worker(a):
    import llmc

    model, ids = llmc_model(a), tokens(a)
    model.add_adapter(llmc.LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules="all-linear"))
    forecast = model.estimate(a.batch, a.length, train=True, dropout=False)
    run, optimizer = model.run(a.batch, a.length, backward=True), llmc.AdamW(model, lr=1e-4)

    def step():
        loss = run.forward_backward(ids, labels=ids)
        return {"loss": loss, "norm": optimizer.step(run)}

    serve(step, {"flops": forecast["flops"], "estimate": forecast["memory"]})


def peft_worker(a):
    import peft
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    config = transformers.LlamaConfig(use_cache=False, **fields(a))
    dtype = getattr(torch, a.dtype)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
    lora = peft.LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.tensor(tokens(a))
    narrow = a.precision == "bfloat16" and a.dtype == "float32"

    def step():
        with torch.autocast("cpu", torch.bfloat16) if narrow else contextlib.nullcontext():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.item(), "norm": norm.item()}

    serve(step, {"peft": peft.__version__, "torch": torch.__version__})


WORKERS = {"bare": bare_worker, "adapted": adapted_worker, "llmc": llmc_worker, "peft": peft_worker}


def workers(a, *names):
    given = [part for name in (*SHAPE, *WORK) for part in (f"--{name}", getattr(a, name.replace("-", "_")))]
    given += ["--dtype", a.dtype] + (["--precision", a.precision] if a.precision else [])
    pair = [Worker(name, [__file__, a.what, *given, "--worker", name], a.threads) for name in names]
    for worker in pair:
        worker.warm()
    return pair


def overhead(a):
    bare, adapted = workers(a, "bare", "adapted")
    alternate([bare, adapted], a.repeats)
    for worker in (bare, adapted):
        peak = worker.peak
        worker.close()
        print(f"  {worker.name:8s} median {worker.median:7.3f} s   least {min(worker.seconds):7.3f} s"
              f"   peak {peak / 1e9:5.2f} GB")
    print(f"  adapters add {adapted.median / bare.median - 1:+.1%} by medians, "
          f"{min(adapted.seconds) / min(bare.seconds) - 1:+.1%} by the least")


def step(a):
    ours, theirs = workers(a, "llmc", "peft")
    alternate([ours, theirs], a.repeats)
    flops, losses = ours.about["flops"], [worker.step()["loss"] for worker in (ours, theirs)]
    peaks = [worker.peak for worker in (ours, theirs)]
    for worker in (ours, theirs):
        worker.close()
    print(f"  peft {theirs.about['peft']}, torch {theirs.about['torch']}; llmc's estimate() said "
          f"{ours.about['estimate'] / 1e9:.2f} GB")
    for worker, peak, loss in zip((ours, theirs), peaks, losses):
        print(f"  {worker.name:5s} {worker.median:7.2f} s   {flops / worker.median / 1e9:6.0f} GFLOP/s"
              f"   peak {peak / 1e9:5.2f} GB   loss {loss:.3f}")
    print(f"  speed {theirs.median / ours.median:.2f} x peft   memory {peaks[0] / peaks[1]:.2f} x peft")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("overhead", "step"))
    for name, default in {**SHAPE, **WORK, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    parser.add_argument("--dtype", default="float32", help="how weights are stored [float32]")
    parser.add_argument("--precision", help="how products are computed [as weights are stored]")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        return WORKERS[a.worker](a)
    import llmc

    print(f"{llmc.doctor().rows[0]['value']}, {a.threads} threads, Python {platform.python_version()}")
    print(f"LLaMA, {a.layers} layers of width {a.hidden}, weights {a.dtype}, products {a.precision or a.dtype}, rank "
          f"{a.rank} on all linears, {a.batch} x {a.length} tokens; {a.repeats} alternating runs")
    {"overhead": overhead, "step": step}[a.what](a)


if __name__ == "__main__":
    main()
