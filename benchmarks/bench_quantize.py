"""int8 against float32 on a CPU: speed, memory of the layers, and how far log p moves.

    OMP_NUM_THREADS=1 python benchmarks/bench_quantize.py [--rounds 3]

The embedded model (135M, whose published weights had 4 bits, so that more rounding shows) on 32
paragraphs. On an AVX2 processor without VNNI, with one thread, 8 paragraphs took 1.16 times less
CPU time than in float32 (three rounds, 0.97 to 1.24); the linear layers take about a quarter of
the memory. Left out because they were slower than float32 there: `_weight_int8pack_mm` and
`_int_mm` (50 times), bfloat16 products (8 times).
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from common import interleaved, paragraphs, ratio, save

import nll


def layer_mib(base: torch.nn.Module) -> float:
    """MiB that the linear layers hold."""
    total = 0
    for module in base.modules():
        if type(module) is torch.nn.Linear:
            total += module.weight.nbytes
        elif type(module).__name__ == "Int8Linear":
            total += module.in_features * module.out_features + module._columns.nbytes
    return total / 2**20


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    rounds = options.parse_args().rounds
    texts = paragraphs()
    exact, rounded = nll.load(device="cpu"), nll.load(device="cpu", dtype="int8")
    a = np.concatenate([t.logp for t in exact.trace(texts)])
    b = np.concatenate([t.logp for t in rounded.trace(texts)])
    alone = np.concatenate([next(rounded.trace([t])).logp for t in texts[:8]])
    gap, moved = np.abs(a - b), np.abs(alone - b[: len(alone)])
    seen = interleaved(
        {"float32": lambda: list(exact.trace(texts)), "int8": lambda: list(rounded.trace(texts))},
        rounds, warm=False,
    )  # fmt: skip
    found = {
        "threads": torch.get_num_threads(),
        "tokens": len(a),
        "seconds": {name: statistics.median(times) for name, times in seen.items()},
        "speedup": 1 / ratio(seen, "int8", "float32"),
        "layer_mib": {
            "float32": layer_mib(exact.network.hf.base_model),
            "int8": layer_mib(rounded.network.hf.base_model),
        },
        "declared": rounded.provenance.declared_error,
        "error_mean": float(np.nanmean(gap)),
        "error_max": float(np.nanmax(gap)),
        "bias": float(np.nanmean(b - a)),
        "alone_against_batch_mean": float(np.nanmean(moved)),
        "alone_against_batch_max": float(np.nanmax(moved)),
    }  # fmt: skip
    save("quantize", found)
    print(found)


if __name__ == "__main__":
    main()
