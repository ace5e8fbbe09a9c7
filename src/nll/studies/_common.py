"""What studies share: AUROC findings with intervals, carried tables."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nll import metrics
from nll.studies._study import Finding, Setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#1f3b66", "#c44e52", "#8c8c8c", "#55a868")


def auroc_finding(
    name: str, positive: npt.ArrayLike, score: npt.ArrayLike, *, seed: int = 0
) -> Finding:
    """AUROC with its 95% bootstrap interval, as a finding."""
    y, s = np.asarray(positive, int), np.asarray(score, float)
    found = metrics.bootstrap(metrics.auroc, y, s, n=1000, seed=seed, stratify=y)
    return Finding(name, float(found.value), float(found.low), float(found.high), len(y))


def seeds_finding(name: str, values: Sequence[float], *, share: bool = False) -> Finding:
    """Mean over seeds with its 95% interval by Student's t; without one for a single seed.

    share: the values cannot leave [0, 1] (a share, an AUROC), and so the interval ends there.
    """
    from scipy import stats

    held = np.asarray(values, float)
    if len(held) < 2:
        return Finding(name, float(held.mean()), n=len(held))
    wide = float(stats.t.ppf(0.975, len(held) - 1) * held.std(ddof=1) / np.sqrt(len(held)))
    low, high = float(held.mean()) - wide, float(held.mean()) + wide
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return Finding(name, float(held.mean()), low, high, len(held))


def by_name(findings: Sequence[Finding]) -> Mapping[str, Finding]:
    """Findings by their name."""
    return {f.name: f for f in findings}


def read_table(path: Path, *, delimiter: str) -> list[dict[str, Any]]:
    """Rows of a delimited file with a header, gzipped or not; quotes are data."""
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").splitlines()
    return list(csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON Lines file, gzipped or not."""
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def read_pairs(setting: Setting) -> list[dict[str, Any]]:
    """Human and machine texts (`set`, `label`, `text`) of the detection study's data."""
    source = "baoguangsheng/fast-detect-gpt, exp_main/data, as pairs.jsonl with set, label and text"
    lines = setting.file("detect-llm", "pairs.jsonl", source=source).read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def interval_figure(found: Sequence[Finding], label: str, *, chance: float | None = None) -> Figure:
    """Findings as points with their intervals, the first on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.8 + 0.34 * len(found)))
    axes = figure.add_subplot()
    for row, f in enumerate(reversed(found)):
        if f.low is not None and f.high is not None:
            axes.plot([f.low, f.high], [row, row], color="#4c72b0", linewidth=2)
        axes.plot(f.value, row, "o", color="#1f3b66")
    axes.set_yticks(range(len(found)), [f.name for f in reversed(found)])
    if chance is not None:
        axes.axvline(chance, color="#888888", linewidth=1, linestyle="--")
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def grouped_bars(rows: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Horizontal bars, one group a row and one colour a series, the first row on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.24 * len(rows) * (len(series) + 0.6)))
    axes = figure.add_subplot()
    wide = 0.8 / len(series)
    at = np.arange(len(rows))[::-1]
    for i, (name, values) in enumerate(series.items()):
        place = at + 0.4 - wide * (i + 0.5)
        axes.barh(place, values, wide, label=name, color=COLOURS[i % len(COLOURS)])
    axes.set_yticks(at, list(rows))
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_xlabel(label)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
