"""What every benchmark shares: the machine, the model, interleaved rounds, the texts."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> dict[str, str]:
    """The processor, cores, system and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = {}
    for package in ("nll", "torch", "transformers", "numpy", "minicons", "lm-eval", "surprisal"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


def interleaved(
    todo: dict[str, Callable[[], object]],
    rounds: int,
    *,
    warm: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every way, one value a round, all in turn; a first round is not counted.

    warm: False when every way has run already.
    """
    seen: dict[str, list[float]] = {name: [] for name in todo}
    for run in todo.values() if warm else ():
        run()
    for _ in range(rounds):
        for name, run in todo.items():
            start = clock()
            run()
            seen[name].append(clock() - start)
    return seen


def ratio(seen: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of time(name) / time(base)."""
    return statistics.median(a / b for a, b in zip(seen[name], seen[base], strict=True))


def peak_mib(work: Callable[[], object]) -> float:
    """MiB of resident memory above the start, sampled every 5 ms while `work` runs."""
    process = psutil.Process()
    start = process.memory_info().rss
    seen, done = [start], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(process.memory_info().rss)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return (max(seen) - start) / 2**20


def prose() -> list[str]:
    """The words of the example texts, in order."""
    whole = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "examples").glob("*.txt"))]
    return " ".join(whole).split()


def paragraphs(count: int = 32, shortest: int = 7, longest: int = 110, seed: int = 0) -> list[str]:
    """Real prose in pieces of uniformly drawn word counts: about 10 to 150 tokens each."""
    words, draw = prose(), np.random.default_rng(seed)
    out = []
    for _ in range(count):
        length = int(draw.integers(shortest, longest))
        start = int(draw.integers(0, len(words) - length))
        out.append(" ".join(words[start : start + length]))
    return out


def corpus(seed: int = 0, tokens: int = 4_000, longest: int = 1_500) -> list[str]:
    """Texts of 4 to `longest` words, log-uniform: about 5 to 2,000 tokens each."""
    words, draw = prose() * 8, np.random.default_rng(seed)
    out, total = [], 0
    while total < tokens:
        length = int(4 * (longest / 4) ** draw.random())
        start = int(draw.integers(0, len(words) - length))
        out.append(" ".join(words[start : start + length]))
        total += int(length * 1.3)
    return out


def save(name: str, result: dict[str, object]) -> None:
    """Keep a result beside the machine it was measured on."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    print(f"kept in {path.relative_to(ROOT)}")
