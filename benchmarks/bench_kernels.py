"""Products and attention on one thread, in GFLOP/s of thread CPU time, through the pieces of llmc.functional.

    python benchmarks/bench_kernels.py [--repeats 7]          (LLMC_ISA and LLMC_GEMM choose the kernels)

The pieces copy their operands in and their result out, so figures are a few per cent below those of the bare kernels.
"""

import argparse
import statistics
import time

import numpy as np

import llmc
from llmc import functional


def rate(flops, work, repeats):
    """Median GFLOP/s of `work()`, by the thread's own clock."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.thread_time()
        work()
        seconds.append(time.thread_time() - start)
    return flops / statistics.median(seconds) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    llmc.set_num_threads(1)
    random = np.random.default_rng(0)

    def numbers(*shape):
        return random.standard_normal(shape, dtype=np.float32)

    info = {row["what"]: row["value"] for row in llmc.doctor().rows}
    print(f"{info['processor']}, {info['instruction set']}, products by {info['products by']}, one thread")
    for n, i, o in ((512, 768, 768), (512, 768, 3072), (512, 3072, 768)):
        x, weight, dout = numbers(n, i), numbers(o, i), numbers(n, o)
        forward = rate(2 * n * i * o, lambda: functional.linear(x, weight), repeats)
        backward = rate(6 * n * i * o, lambda: functional.linear_backward(dout, x, weight), repeats)
        print(f"linear    N {n:4d}, {i:4d} -> {o:4d}      forward {forward:5.0f}   with backward {backward:5.0f}")
    for T in (256, 1024):
        q, k, v, dout = (numbers(1, T, 12, 64) for _ in range(4))
        flops = 4 * 12 * 64 * T * (T + 1) / 2
        forward = rate(flops, lambda: functional.attention(q, k, v), repeats)
        both = rate(flops * 3.5, lambda: functional.attention_backward(dout, q, k, v), repeats)
        print(f"attention T {T:4d}, 12 heads of 64   forward {forward:5.0f}   with backward {both:5.0f}")


if __name__ == "__main__":
    main()
