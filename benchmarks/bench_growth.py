"""How cost grows: time over tokens, memory over the corpus, seconds to the first result.

    python benchmarks/bench_growth.py [--million 10]

Time: texts of 256 to 4,096 tokens on the embedded model. Memory: a corpus of 10 million tokens
through the exact toy model and the store, where the model costs nothing and only the machinery is
left. First result: the whole command, from the shell, on the converted embedded model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, peak_mib, prose, save

import nll
from nll.testing import ALPHABET
from nll.trace import Fields


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--million", type=float, default=10.0)
    options = parser.parse_args()
    print(machine())
    result = {
        "ms per token by length": by_length(),
        "first result, seconds": first_result(),
        "memory": by_corpus(options.million),
    }
    save("growth", result)


def by_length() -> dict[str, dict[str, float]]:
    """ms per token of a trace, and of the bare forward, for single texts of growing length."""
    model = nll.load()
    ids = model.tokenizer.hf(" ".join(prose() * 12), verbose=False)["input_ids"]
    out = {}
    for length in (256, 512, 1024, 2048, 4096):
        text = model.tokenizer.hf.decode(ids[:length])
        given = torch.tensor([ids[:length]])

        def bare(given=given):
            with torch.inference_mode():
                model.network.hf.base_model(given, use_cache=False)

        times = {"trace": [], "backbone": []}
        for _ in range(3):
            for name, run in (("trace", lambda t=text: next(model.trace([t]))), ("backbone", bare)):
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start) / length)
        out[str(length)] = {k: float(np.median(v)) for k, v in times.items()}
        print(f"{length} tokens: {out[str(length)]} ms per token")
    return out


def by_corpus(millions: float) -> dict[str, float]:
    """Peak MiB above the loaded model while tracing a corpus with the toy model."""
    torch.set_num_threads(1)  # the toy's matrices are too small for more
    model = nll.load("testing:bigram")
    draw = np.random.default_rng(0)
    letters = np.array(list(ALPHABET[2:]))
    out = {}
    for share in (0.1, 1.0):
        wanted = int(millions * share * 1e6)

        def texts(wanted=wanted):
            left = wanted
            while left > 0:
                n = int(draw.integers(50, 1500))
                yield "".join(draw.choice(letters, n))
                left -= n

        def run(texts=texts):
            for _ in model.trace(texts(), fields=Fields(top_k=10)):
                pass

        start = time.perf_counter()
        peak = peak_mib(run)
        seconds = time.perf_counter() - start
        print(f"{wanted} tokens: peak {peak:.0f} MiB, {wanted / seconds:.0f} tokens/s of machinery")
        out[f"{wanted} tokens, peak MiB"] = peak
        out[f"{wanted} tokens, tokens/s"] = wanted / seconds
    return out


def first_result() -> float:
    """Seconds of `nll score` on one short text, from the shell to the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.txt"
        path.write_text("The capital of France is Paris.")
        command = [sys.executable, "-m", "nll", "score", str(path)]
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
    print(f"first result: {np.median(times):.2f} s")
    return float(np.median(times))


if __name__ == "__main__":
    main()
