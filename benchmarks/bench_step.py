"""The training step of GPT-2 124M in float32 against torch: forward, backward, clipping, AdamW.

    python benchmarks/bench_step.py [--batch 4] [--length 1024] [--repeats 5] [--threads 2]

Both programs get the same configuration and the same tokens; dropout is off in both; torch runs eagerly with SDPA.
Prints the median seconds of alternating steps, their ratio, and the peak memory of either process.
"""

import argparse
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from alternate import Worker, alternate, serve  # noqa: E402

VOCABULARY = 50257


def tokens(batch, length):
    import numpy as np

    return np.random.default_rng(0).integers(0, VOCABULARY, (batch, length))


def llmc_worker(batch, length, threads):
    import llmc

    llmc.set_num_threads(threads)
    model = llmc.Model(llmc.Config(model_type="gpt2"))
    run, optimizer, ids = model.run(batch, length, backward=True), llmc.AdamW(model, lr=1e-4), tokens(batch, length)

    def step():
        loss = run.forward_backward(ids, labels=ids)
        return {"loss": loss, "norm": optimizer.step(run)}

    forecast = model.estimate(batch, length, train=True, dropout=False)
    serve(step, {"flops": forecast["flops"], "estimate": forecast["memory"]})


def torch_worker(batch, length, threads):
    import torch
    import transformers

    torch.set_num_threads(threads)
    config = transformers.GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False)
    model = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    ids = torch.tensor(tokens(batch, length))

    def step():
        loss = model(ids, labels=ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.item(), "norm": norm.item()}

    serve(step, {"torch": torch.__version__})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("batch", 4), ("length", 1024), ("repeats", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--worker", choices=("llmc", "torch"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        return {"llmc": llmc_worker, "torch": torch_worker}[a.worker](a.batch, a.length, a.threads)
    sizes = [part for name in ("batch", "length", "threads") for part in (f"--{name}", getattr(a, name))]
    workers = [Worker(name, __file__, [*sizes, "--worker", name], a.threads) for name in ("llmc", "torch")]
    alternate(workers, a.repeats)
    ours, theirs = workers
    flops, estimate = ours.about["flops"], ours.about["estimate"]
    peaks = [worker.close() for worker in workers]
    import llmc

    print(f"{llmc.doctor().rows[0]['value']}, {a.threads} threads, Python {platform.python_version()}, torch {theirs.about['torch']}")
    print(f"GPT-2 124M, float32, batch {a.batch}, length {a.length}: median of {a.repeats} alternating steps")
    for worker, peak in zip(workers, peaks):
        print(f"  {worker.name:6s} {worker.median:7.2f} s   {flops / worker.median / 1e9:6.0f} GFLOP/s   peak {peak / 1e9:5.2f} GB")
    print(f"  speed  {theirs.median / ours.median:7.2f} x torch   memory {peaks[0] / peaks[1]:.2f} x torch")
    print(f"  estimate() said {estimate / 1e9:.2f} GB for what llmc itself takes")


if __name__ == "__main__":
    main()
