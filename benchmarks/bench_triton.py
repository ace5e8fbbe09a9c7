"""The Triton row kernel against its torch twin on a GPU, logits given, top-10 included.

    python benchmarks/bench_triton.py [--rounds 7]

Prints milliseconds per block and the gigabytes per second of logits that each way reads.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from common import interleaved, save

from nll.kernels import _torch_rows, _triton

ROWS = 512


def synchronised(work: Callable[[], object]) -> Callable[[], None]:
    """The same, waiting for the device."""

    def run() -> None:
        work()
        torch.cuda.synchronize()

    return run


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=7)
    rounds = options.parse_args().rounds
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device")
    _triton.need(torch.device("cuda", 0))
    result: dict[str, object] = {"device": torch.cuda.get_device_name()}
    for V in (49_152, 128_256, 256_000):
        z = torch.randn(ROWS, V, device="cuda") * 3
        y = torch.randint(0, V, (ROWS,), device="cuda")
        seen = interleaved(
            {
                f"{name}, k={k}": synchronised(lambda f=f, k=k, z=z, y=y: f(z, y, k))
                for name, f in (("triton", _triton.row_stats), ("torch", _torch_rows.row_stats))
                for k in (0, 10)
            },
            rounds,
        )
        for name, times in seen.items():
            middle = statistics.median(times)
            result[f"V={V}, {name}"] = {"ms": middle * 1e3, "GB/s": z.nbytes / middle / 1e9}
            print(f"V={V:7d} {name:14s} {middle * 1e3:8.3f} ms {z.nbytes / middle / 1e9:8.1f} GB/s")
    save("triton", result)


if __name__ == "__main__":
    main()
