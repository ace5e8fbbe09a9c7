"""What the statistics add to the head's matrix product, and which way of multiplying is fastest.

    python benchmarks/bench_kernels.py [--threads 1 2] [--rows 64 128 256] [--rounds 7]

Random hidden states and weights in the shape of SmolLM2-135M (d = 576, V = 49,152), float32. Each
round times all ways one after the other in one process; the table gives medians over the rounds.
Seconds are CPU seconds with one thread (other load matters less) and wall seconds with more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from common import interleaved, machine

from nll.kernels import Head, group_mass, lse_grid, moments, row_kernel, top_k, visit

D, V, BLOCKS = 576, 49152, 6


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print({**machine(), "row kernel": row_kernel()})
    print(
        f"d = {D}, V = {V}, {BLOCKS} blocks a round; ms per row, median of {options.rounds} rounds"
    )
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        for size in options.rows:
            seen = interleaved(ways(size), options.rounds, clock=clock)
            report(threads, size, seen)


def ways(size: int) -> dict[str, Callable[[], object]]:
    """All that is compared, for blocks of `size` rows."""
    torch.manual_seed(0)
    n = BLOCKS * size
    rows, weight = torch.randn(n, D), torch.randn(V, D) * 0.05
    transposed, targets, out = weight.T.contiguous(), torch.randint(V, (n,)), torch.empty(size, V)
    out_t, head = torch.empty(V, size), Head(weight)
    group = group_mass(range(0, V, 2))

    def blocks(step: Callable[[torch.Tensor], object]) -> Callable[[], object]:
        return lambda: [step(rows[a : a + size]) for a in range(0, n, size)]

    def stats(kernel: str, *reducers: object) -> Callable[[], object]:
        def run() -> None:
            os.environ["NLL_ROW_KERNEL"] = kernel
            visit(rows, targets, head, reducers, block_rows=size)
            os.environ.pop("NLL_ROW_KERNEL")

        return run

    return {
        "head": blocks(lambda h: head.logits(h, out=out)),
        "head, whole vocabulary": blocks(lambda h: torch.mm(h, weight.T, out=out)),
        "head, fresh memory": blocks(lambda h: h @ weight.T),
        "head, W transposed": blocks(lambda h: torch.mm(h, transposed, out=out)),
        "head, W h^T": blocks(lambda h: torch.mm(weight, h.T, out=out_t)),
        "+ moments": stats("auto", moments),
        "+ moments, top 10": stats("auto", moments, top_k(10)),
        "+ moments, top 10, torch": stats("torch", moments, top_k(10)),
        "+ moments, top 10, 2 betas, boundary": stats(
            "auto", moments, top_k(10), lse_grid([0.5, 2]), group
        ),
    }


def report(threads: int, size: int, seconds: dict[str, list[float]]) -> None:
    """Print one table of ms per row; ratios are taken within a round."""
    per_row = 1e3 / (BLOCKS * size)
    seen = {name: [t * per_row for t in times] for name, times in seconds.items()}
    print(f"\n{threads} thread(s), blocks of {size} rows      ms/row (range)      x head")
    for name, times in seen.items():
        ratio = statistics.median(t / h for t, h in zip(times, seen["head"], strict=True))
        middle = statistics.median(times)
        print(f"  {name:38s} {middle:6.3f} ({min(times):.3f}-{max(times):.3f})  {ratio:6.3f}")


if __name__ == "__main__":
    main()
