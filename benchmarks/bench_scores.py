"""Forty scores of ten thousand stored traces of 500 tokens: the command as users type it, one core.

    python benchmarks/bench_scores.py [--traces 10000] [--tokens 500]

`nll score traces.parquet --score ... -o scores.parquet` in a process of its own that is held to one
core; its CPU seconds count everything: start, reading, scoring, writing. No model is loaded.
Wanted: at most 30 s, which is 167,000 tokens a second. What each score costs is told too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import machine, prose, save

import nll
from nll._declare import requests

COUNT, LIMIT = 40, 30.0
VOCABULARY, TOP_K = 49_152, 15
OF_GREEDY = ("g_nll", "zero_one_uncertainty")  # undefined for texts that were given
MORE = (
    "instability_strength", "min_k_prob(k=0.1)", "min_k_prob(k=0.3)", "min_k_plus_plus(k=0.1)",
    "gltr_fraction(cut=10)", "gltr_fraction(cut=1000)", "sequence_nll(normalize=True)",
    "top_k_negentropy(reduce='min')", "surp(k=0.2)", "negative_likelihood(normalise=True)",
)  # fmt: skip


def made_up(count: int, tokens: int) -> Iterator[nll.Trace]:
    """Traces of real words with random numbers, every field there that these scores read."""
    draw = np.random.default_rng(0)
    words = prose()
    for number in range(count):
        start = int(draw.integers(0, len(words)))
        pieces = [f" {words[(start + i) % len(words)]}" for i in range(tokens)]
        for at in range(39, tokens, 40):
            pieces[at] += "\n\n"  # steps, for the scores that look for them
        ends = np.cumsum([len(p) for p in pieces])
        logp = -draw.exponential(3.0, tokens).astype(np.float32)
        logp[0] = np.nan
        top = np.sort(-draw.exponential(3.0, (tokens, TOP_K)).astype(np.float32), axis=1)[:, ::-1]
        yield nll.Trace(
            logp=logp,
            entropy=draw.exponential(2.0, tokens).astype(np.float32),
            varentropy=draw.exponential(5.0, tokens).astype(np.float32),
            kl_uniform=draw.exponential(5.0, tokens).astype(np.float32),
            rank=draw.integers(1, VOCABULARY, tokens),
            ties=np.zeros(tokens, np.int32),
            ids=draw.integers(0, VOCABULARY, tokens),
            top_ids=draw.integers(0, VOCABULARY, (tokens, TOP_K)),
            top_logp=top,
            spans=np.stack([ends - [len(p) for p in pieces], ends], axis=1),
            text="".join(pieces),
            provenance=nll.Provenance(model="made up", vocab_size=VOCABULARY),
            id=str(number),
        )


def command(path: Path, out: Path, labels: list[str]) -> tuple[float, float]:
    """(CPU seconds, seconds) of the whole command on one core."""
    named = [part for label in labels for part in ("--score", label)]
    core = min(os.sched_getaffinity(0))
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "nll", "score", str(path), *named, "-o", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"nll score ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, seconds


def each(path: Path, labels: list[str], count: int = 200) -> dict[str, float]:
    """Microseconds per trace of every score alone, reading left out."""
    traces = [t for t, _ in zip(nll.read_traces(path), range(count), strict=False)]
    out = {}
    for request in requests(labels):
        request(traces[0])
        start = time.process_time()
        for trace in traces:
            request(trace)
        out[request.label] = 1e6 * (time.process_time() - start) / len(traces)
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=500)
    options = parser.parse_args()
    print(machine())
    pa.set_cpu_count(1)
    labels = [r.label for r in requests(["all", *MORE]) if r.label not in OF_GREEDY][:COUNT]
    count = options.traces * options.tokens
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "traces.parquet", Path(folder) / "scores.parquet"
        nll.write_traces(path, made_up(options.traces, options.tokens))
        size = path.stat().st_size / 2**20
        cpu, seconds = command(path, out, labels)
        table = pq.read_table(out)
        start = time.process_time()
        rows = sum(1 for _ in nll.read_traces(path))
        reading = time.process_time() - start
        cost = each(path, labels)
    if not rows == table.num_rows == options.traces or table.num_columns < COUNT:
        raise SystemExit(f"{rows} read, {table.num_rows} scored, {options.traces} written")
    empty = [x for x in labels if not np.isfinite(table[x].to_numpy()).all()]
    if empty:
        raise SystemExit(f"not every trace has a value of {', '.join(empty)}")
    result = {
        "scores": len(labels), "traces": rows, "tokens": count, "MiB stored": size,
        "the command, CPU seconds": cpu, "the command, seconds": seconds, "wanted, seconds": LIMIT,
        "of which reading, CPU seconds": reading, "tokens per CPU second": count / cpu,
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    for name, value in cost.items():
        print(f"  {name:34s} {value:8.1f} us a trace")
    save("scores", {**result, "microseconds per trace": cost})


if __name__ == "__main__":
    main()
