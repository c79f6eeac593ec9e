"""Opening GPT-2 124M against transformers, in alternating processes: seconds, and peak memory beyond what was there.

    python benchmarks/bench_loading.py [--repeats 5]
    python benchmarks/bench_loading.py --gguf FILE.gguf     # instead: opening it, against its numbers by the gguf library

The checkpoint is made for the purpose, as one file, as shards, and in bfloat16 (opened in float32 by both), and lies in
the page cache. transformers maps a float32 file and reads it when it computes, so the time until every number has been
looked at stands beside the time to open.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

FORMS = {"one file": {}, "shards of 100 MB": {"max_shard_size": "100MB"}, "bfloat16": {"dtype": "bfloat16"}}


def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def opened(program, folder):
    """Open `folder` in this process, which has opened a tiny model before; prints what it took, as JSON."""
    import time

    if program == "llmc":
        import llmc

        llmc.Model(llmc.Config(model_type="gpt2", n_embd=8, n_layer=1, n_head=1))
        opener, arrays = llmc.Model.from_pretrained, lambda model: model.state_dict().values()
    else:
        import torch
        import transformers

        torch.set_num_threads(1)
        transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1))
        opener = lambda folder: transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)  # noqa: E731
        arrays = lambda model: model.parameters()  # noqa: E731
    before, start = kilobytes("VmRSS"), time.perf_counter()
    model = opener(folder)
    took, peak = time.perf_counter() - start, kilobytes("VmHWM")
    for array in arrays(model):
        array.sum()
    print(json.dumps({"open": took, "read": time.perf_counter() - start, "memory": (peak - before) * 1024}))


def dequantised(program, path):
    """Open a .gguf file as a model, or have the gguf library give the numbers of all its tensors; prints the seconds."""
    import time

    import numpy as np

    if program == "llmc":
        import llmc

        step = lambda: llmc.Model.from_pretrained(path)  # noqa: E731
    else:
        import gguf

        step = lambda: [np.asarray(gguf.dequantize(each.data, each.tensor_type), np.float32)  # noqa: E731
                        for each in gguf.GGUFReader(path).tensors]
    start = time.perf_counter()
    kept = step()
    print(json.dumps({"open": time.perf_counter() - start}))
    return kept


def compare_gguf(path, repeats):
    """Alternating processes, of which the first warm the page cache."""
    found = {"llmc": [], "gguf": []}
    for _ in range(repeats + 1):
        for program, results in found.items():
            done = subprocess.run([sys.executable, __file__, "--program", program, "--gguf", path], check=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
            results.append(json.loads(done.stdout)["open"])
    ours, theirs = (statistics.median(results[1:]) for results in found.values())
    print(f"{os.path.basename(path)}: opened by llmc in {ours:.3f} s, its numbers by the gguf library in {theirs:.3f} s: "
          f"{ours / theirs:.2f} of the time")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gguf", metavar="FILE", help="a file of llama.cpp's, in place of the checkpoints made here")
    parser.add_argument("--program", choices=("llmc", "transformers", "gguf"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.gguf:
        dequantised(a.program, a.gguf) if a.program else compare_gguf(a.gguf, a.repeats)
        return
    if a.program:
        return opened(a.program, a.folder)
    import llmc

    model = llmc.Model(llmc.Config(model_type="gpt2"))
    print(f"{llmc.doctor().rows[0]['value']}: median of {a.repeats} alternating processes")
    with tempfile.TemporaryDirectory() as parent:
        for form, options in FORMS.items():
            folder = os.path.join(parent, form)
            model.save_pretrained(folder, **options)
            size = sum(each.stat().st_size for each in os.scandir(folder) if each.name.endswith(".safetensors"))
            found = {"llmc": [], "transformers": []}
            for _ in range(a.repeats + 1):  # the first warms the page cache
                for program, results in found.items():
                    done = subprocess.run([sys.executable, __file__, "--program", program, "--folder", folder],
                                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                    results.append(json.loads(done.stdout))
            for program, results in found.items():
                median = {key: statistics.median(each[key] for each in results[1:]) for key in results[0]}
                print(f"{form:18} {program:13} open {median['open']:6.3f} s   open and read {median['read']:6.3f} s   "
                      f"memory {median['memory'] / 1e6:5.0f} MB, {median['memory'] / size:.2f} x file")


if __name__ == "__main__":
    main()
