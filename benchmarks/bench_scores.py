"""All scores of whole texts on stored traces: tokens per second of one core.

    python benchmarks/bench_scores.py [--traces 10000] [--tokens 500]

The traces are read from Parquet, as `nll score traces.parquet` does, and scored together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import machine, save

import nll
from nll._declare import requests
from nll._table import score_batches

VOCABULARY = 49_152


def trace(draw: np.random.Generator, tokens: int) -> nll.Trace:
    """A made-up trace with every field that the scores read."""
    logp = -draw.exponential(3.0, tokens).astype(np.float32)
    logp[0] = np.nan
    top = np.sort(-draw.exponential(3.0, (tokens, 15)).astype(np.float32), axis=1)[:, ::-1]
    words = ["some", "words", "to", "compress", "again", "and", "more"]
    return nll.Trace(
        logp=logp,
        entropy=draw.exponential(2.0, tokens).astype(np.float32),
        varentropy=draw.exponential(5.0, tokens).astype(np.float32),
        kl_uniform=draw.exponential(5.0, tokens).astype(np.float32),
        rank=draw.integers(1, VOCABULARY, tokens),
        ties=np.zeros(tokens, np.int32),
        ids=draw.integers(0, VOCABULARY, tokens),
        top_ids=draw.integers(0, VOCABULARY, (tokens, 15)),
        top_logp=top,
        text=" ".join(draw.choice(words, tokens)),
        provenance=nll.Provenance(model="made up", vocab_size=VOCABULARY, decoding="greedy"),
    )


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=500)
    options = parser.parse_args()
    print(machine())
    pa.set_cpu_count(1)
    wanted = requests("all")
    draw = np.random.default_rng(0)
    count = options.traces * options.tokens
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.parquet"
        pool = [trace(draw, options.tokens) for _ in range(50)]
        nll.write_traces(path, (pool[i % len(pool)] for i in range(options.traces)))
        start = time.process_time()
        rows = sum(1 for _ in nll.read_traces(path))
        reading = time.process_time() - start
        start = time.process_time()
        scored = sum(b.num_rows for b in score_batches(nll.read_traces(path), wanted))
        whole = time.process_time() - start
    if not rows == scored == options.traces:
        raise SystemExit(f"{rows} read, {scored} scored, {options.traces} written")
    result = {
        "scores": len(wanted), "traces": rows, "tokens": count,
        "reading, CPU seconds": reading, "reading and scoring, CPU seconds": whole,
        "tokens per second, scoring": count / (whole - reading),
        "tokens per second, reading and scoring": count / whole,
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    save("scores", result)


if __name__ == "__main__":
    main()
