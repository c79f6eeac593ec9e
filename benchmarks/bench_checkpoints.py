"""What is done with two checkpoints, beside what people write for it: alternating processes, medians.

    python benchmarks/bench_checkpoints.py [change spectrum extract trace-full trace-adapter] [--repeats 3]

change: `diff` of a pair of 1 GB in float32 beside a script with safetensors and torch: tensor by tensor the difference,
both norms, the cosine and the largest change. spectrum: all exact spectra of GPT-2's differences beside
`numpy.linalg.svd`, values alone. extract: `extract_lora(rank=16)` beside `torch.linalg.svd` of the same differences.
trace-full, trace-adapter: `trace` of 512 tokens beside two plain forward passes with everything kept.
"""

import argparse
import os
import tempfile

import numpy as np

import llmc
from llmc.bench.alternate import Worker, alternate, serve

LAYERS = {"change": 32}  # of a GPT-2, which has 12; 1.06 GB
BESIDE = {"change": "safetensors and torch", "spectrum": "numpy.linalg.svd", "extract": "torch.linalg.svd",
          "trace-full": "two forward passes", "trace-adapter": "two forward passes"}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 50257, (1, 512))


def make(job, folder):
    """A base and what became of it: all weights moved a little, or an adapter."""
    base, tuned = (os.path.join(folder, name) for name in ("base", "tuned"))
    model = llmc.Model(llmc.Config(model_type="gpt2", n_layer=LAYERS.get(job, 12)))
    model.save_pretrained(base)
    rng = np.random.default_rng(0)
    if job == "trace-adapter":
        model.add_adapter(llmc.LoraConfig(r=16, target_modules="all-linear"))
        for name, array in model.state_dict().items():
            if "lora_B" in name:
                array[:] = 0.01 * rng.standard_normal(array.shape, dtype=np.float32)
        model.save_adapter(tuned)
        return base, tuned
    for array in model.state_dict().values():
        array += 0.001 * rng.standard_normal(array.shape, dtype=np.float32)
    model.save_pretrained(tuned)
    return base, tuned


def deltas(base, tuned):
    """The differences of all matrices, float32."""
    sides = [llmc.checkpoint.open(path) for path in (base, tuned)]
    for name in sides[0]:
        if len(sides[0][name].shape) == 2:
            yield np.asarray(sides[1][name]) - np.asarray(sides[0][name])


def ours(job, base, tuned):
    """What llmc does, as a step."""
    if job == "change":
        return lambda: llmc.checkpoint.diff(base, tuned, metrics=("change",), disable_tqdm=True)
    if job == "spectrum":
        return lambda: llmc.checkpoint.diff(base, tuned, metrics=("spectrum",), spectrum="exact", disable_tqdm=True)
    if job == "extract":
        return lambda: llmc.checkpoint.extract_lora(base, tuned, rank=16, disable_tqdm=True)
    model = llmc.Model.from_pretrained(base)
    other = tuned if job == "trace-adapter" else llmc.Model.from_pretrained(tuned)
    return lambda: llmc.analysis.trace(model, other, IDS, disable_tqdm=True)


def theirs(job, base, tuned, threads):
    """What stands beside it, as a step."""
    if job.startswith("trace"):
        models = [llmc.Model.from_pretrained(base) for _ in range(2)]
        return lambda: [model.run(*IDS.shape, keep="all").forward(IDS) for model in models]
    if job == "spectrum":
        return lambda: [np.linalg.svd(delta, compute_uv=False) for delta in deltas(base, tuned)]
    import torch
    from safetensors import safe_open

    torch.set_num_threads(threads)
    if job == "extract":
        linears = [delta for delta in deltas(base, tuned) if 50257 not in delta.shape and 1024 not in delta.shape]
        return lambda: [torch.linalg.svd(torch.from_numpy(delta), full_matrices=False) for delta in linears]

    def script():
        found = {}
        files = [safe_open(os.path.join(path, "model.safetensors"), "pt") for path in (base, tuned)]
        for name in files[0].keys():
            a, b = (file.get_tensor(name).float() for file in files)
            delta = b - a
            cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
            found[name] = delta.norm() / a.norm(), cosine, delta.abs().max(), delta.abs().argmax()
        return {name: [float(value) for value in values] for name, values in found.items()}

    return script


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"{', '.join(BESIDE)} [all]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--do", nargs=4, metavar=("JOB", "PROGRAM", "BASE", "TUNED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do:
        job, program, *folders = args.do
        llmc.set_num_threads(args.threads)
        step = ours(job, *folders) if program == "llmc" else theirs(job, *folders, args.threads)
        return serve(lambda: [step()] and None)
    if unknown := set(args.jobs) - set(BESIDE):
        parser.error(f"no job is called {', '.join(sorted(unknown))}; there are {', '.join(BESIDE)}")
    about = {row["what"]: row["value"] for row in llmc.doctor().rows}
    print(f"{about['processor']}, {args.threads} threads, medians of {args.repeats} alternating rounds")
    for job in args.jobs or BESIDE:
        with tempfile.TemporaryDirectory() as folder:
            sides = make(job, folder)
            words = ["--threads", args.threads, "--do", job]
            with (Worker("llmc", [__file__, *words, "llmc", *sides], args.threads) as mine,
                  Worker(BESIDE[job], [__file__, *words, "beside", *sides], args.threads) as other):
                for worker in (mine, other):
                    worker.warm()
                alternate([mine, other], args.repeats)
                print(f"{job:14} llmc {mine.median:7.3f} s, {BESIDE[job]} {other.median:7.3f} s: "
                      f"{mine.median / other.median:.2f} of the time; peak memory {mine.peak / 2**20:,.0f} and "
                      f"{other.peak / 2**20:,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
