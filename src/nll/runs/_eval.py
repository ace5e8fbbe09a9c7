"""How well do the scores of a table tell two labels apart? What `nll eval` computes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nll import metrics
from nll._errors import BadInput
from nll.metrics import Interval
from nll.runs._eval_table import Scored, read_scored
from nll.runs._output import _csv_cell

# Labels that are the positive one when nothing else is said.
_USUAL = ("member", "yes", "positive", "machine", "wrong", "ood")
# What scores and labels speak of, each pair of lines the two sides of one question.
SIDES = (
    {"member", "seen"},
    {"non-member", "nonmember", "unseen"},
    {"machine", "generated", "ai"},
    {"human"},
    {"uncertain", "wrong", "incorrect", "error"},
    {"certain", "right", "correct"},
    {"ood", "out-of-distribution", "foreign"},
    {"in-distribution"},
)
LIMITS = (
    "These numbers hold for texts like those in this table, labelled as they are here; other "
    "sources, lengths or models can give others. A score that does not beat the trivial baselines "
    "says nothing that they do not."
)


@dataclass(frozen=True)
class Evaluated:
    """One score (or baseline) against the labels; every rate in [0, 1], nan where undefined.

    flipped: the score was negated first, since a lower value speaks for the positive label.
    """

    name: str
    kind: str
    higher_means: str
    flipped: bool
    n: int
    dropped: int
    positives: int
    auroc: Interval
    tpr_at_1: float
    tpr_at_5: float
    prr: float
    group: str = ""
    note: str = ""
    roc: list[tuple[float, float]] = field(default_factory=list, repr=False)
    risk: list[tuple[float, float]] = field(default_factory=list, repr=False)
    reliability: list[tuple[float, float, int]] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Evaluation:
    """Every score of a table, and what they were measured against."""

    source: str
    label: str
    positive: str
    n: int
    positives: int
    unlabelled: int
    resamples: int
    results: list[Evaluated]


def evaluate(
    scores: str | Path,
    *,
    label: str | None = None,
    group: str | None = None,
    names: Sequence[str] = (),
    positive: str | None = None,
    labels: str | Path | None = None,
    on: str = "id",
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Read a score table and measure each score against its label column.

    scores: .parquet, .csv, .tsv, .jsonl or .ndjson.   label: the column with two values.
    labels, on: a second table with the label, joined on this column.   positive: the label that
    counts as 1, or what label 1 stands for (`member`); 1, true, yes, ... by default.   A score
    whose declared direction is the opposite (`human` for positive `machine`) is negated, any other
    is taken as it stands.   group: evaluate within each value of this column too.

    Raises BadInput for a file, column or label that cannot be used.
    """
    table = read_scored(
        Path(scores), label=label, group=group, names=names,
        labels=None if labels is None else Path(labels), on=on,
    )  # fmt: skip
    y, meaning = binary_labels(table.label, positive)
    _check_meaning(positive, table)
    results = measure(table, y, meaning, "", resamples, seed)
    for value in sorted(set(table.group)):
        rows = np.array([g == value for g in table.group])
        results += measure(table.only(rows), y[rows], meaning, value, resamples, seed)
    return Evaluation(
        source=str(scores), label=table.label_name, positive=meaning, n=len(y),
        positives=int(y.sum()), unlabelled=table.unlabelled, resamples=resamples, results=results,
    )  # fmt: skip


def binary_labels(values: Sequence[str], positive: str | None) -> tuple[Any, str]:
    """0/1 labels, and the name of the positive class as it is shown.

    Raises BadInput unless there are two values of which one is known to be the positive one.
    """
    found = sorted(set(values))
    if len(found) != 2:
        shown = ", ".join(map(repr, found[:6])) + (" ..." if len(found) > 6 else "")
        raise BadInput(f"labels must have two values; there are {len(found)}: {shown}")
    if positive is not None and positive in found:
        one = positive
    elif found == ["0", "1"]:
        one = "1"
    else:
        known = [v for v in found if v.lower() in _USUAL]
        if len(known) != 1:
            raise BadInput(
                f"which of the labels {found[0]!r} and {found[1]!r} is positive? "
                "Say it with --positive LABEL"
            )
        one = known[0]
    return np.array([v == one for v in values], dtype=int), positive or one


def _check_meaning(positive: str | None, table: Scored) -> None:
    """A word that neither a label nor a score knows is a slip that would turn no score around."""
    words = {*table.label, *table.higher_means.values()}.union(*SIDES)
    if positive is not None and positive.lower() not in {w.lower() for w in words}:
        raise BadInput(
            f"--positive {positive} is neither a label of this table nor what a score speaks of "
            f"({', '.join(sorted(set().union(*SIDES)))})"
        )


def measure(
    table: Scored, y: Any, meaning: str, group: str, resamples: int, seed: int
) -> list[Evaluated]:
    """Every score and baseline of a table against 0/1 labels whose 1 means `meaning`."""
    common = {"y": y, "group": group, "n": resamples, "seed": seed}
    out = []
    for name, values in table.scores.items():
        higher = table.higher_means.get(name, "")
        flipped = opposite(higher, meaning)
        out.append(_one(name, "score", -values if flipped else values, higher, flipped, **common))
    if table.tokens is not None:
        out.append(_one("length in tokens", "baseline", table.tokens, "longer", False, **common))
    rng = np.random.default_rng(seed)
    out.append(_one("random", "baseline", rng.random(len(y)), "nothing", False, **common))
    if table.text is not None:
        blind = metrics.blind_baseline(table.text, y, n=1, seed=seed)
        scores = blind.scores if len(blind.scores) else np.full(len(y), np.nan)
        one = _one("bag of words", "baseline", scores, "words of the positives", False, **common)
        reason = getattr(blind.auroc.value, "reason", "")
        out.append(one if not reason else Evaluated(**{**vars(one), "note": reason}))
    return out


def opposite(higher_means: str, meaning: str) -> bool:
    """Whether a higher score speaks for the other label than the positive one."""
    place = {word: i for i, words in enumerate(SIDES) for word in words}
    a, b = place.get(higher_means.lower()), place.get(meaning.lower())
    return a is not None and b is not None and a != b and a // 2 == b // 2


def _one(
    name: str, kind: str, values: Any, higher: str, flipped: bool, *, y: Any, group: str, n: int,
    seed: int,
) -> Evaluated:  # fmt: skip
    kept = ~np.isnan(values)
    s, labels = values[kept], y[kept]
    if len(s):
        found = metrics.bootstrap(metrics.auroc, labels, s, n=n, seed=seed, stratify=labels)
    else:
        lacking = metrics.auroc(labels, s)
        found = Interval(lacking, lacking, lacking)
    roc = metrics.roc_curve(labels, s)
    # As an uncertainty: answering is right where the label is 0.
    curve = metrics.risk_coverage(s, 1 - labels)
    return Evaluated(
        name=name, kind=kind, higher_means=higher, flipped=flipped, n=len(s),
        dropped=len(values) - len(s), positives=int(labels.sum()), group=group, auroc=found,
        tpr_at_1=metrics.tpr_at_fpr(labels, s, 0.01), tpr_at_5=metrics.tpr_at_fpr(labels, s, 0.05),
        prr=metrics.prr(s, 1 - labels), note=getattr(found.value, "reason", ""),
        roc=_thinned(roc.fpr, roc.tpr), risk=_thinned(curve.coverage, curve.risk),
        reliability=_reliability(s, labels),
    )  # fmt: skip


def _reliability(s: Any, y: Any) -> list[tuple[float, float, int]]:
    """Share of positives against the score, where the score can be read as a probability."""
    if not len(s) or s.min() < 0 or s.max() > 1:
        return []
    return [(b.confidence, b.accuracy, b.n) for b in metrics.reliability(s, y) if b.n]


def _thinned(x: Any, y: Any, most: int = 400) -> list[tuple[float, float]]:
    rows: Any = (
        np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).astype(int)) if len(x) else []
    )
    return [(float(x[i]), float(y[i])) for i in rows]


COLUMNS = (
    "score", "kind", "group", "higher_means", "flipped", "n", "dropped", "positives", "auroc",
    "auroc_low", "auroc_high", "tpr_at_1_fpr", "tpr_at_5_fpr", "prr", "note",
)  # fmt: skip


def rows_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One flat row per score and group; nan where undefined, with the reason under `note`."""
    return [
        dict(zip(COLUMNS, (
            r.name, r.kind, r.group, r.higher_means, r.flipped, r.n, r.dropped, r.positives,
            float(r.auroc.value), float(r.auroc.low), float(r.auroc.high), float(r.tpr_at_1),
            float(r.tpr_at_5), float(r.prr), r.note,
        ), strict=True))
        for r in evaluation.results
    ]  # fmt: skip


def as_json(evaluation: Evaluation) -> str:
    """The evaluation as JSON; nan is null."""
    rows = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in rows_of(evaluation)
    ]
    head = {k: v for k, v in vars(evaluation).items() if k != "results"}
    return json.dumps({**head, "limits": LIMITS, "results": rows}, ensure_ascii=False, indent=2)


def as_csv(evaluation: Evaluation) -> str:
    """A header and one line per score; texts that a spreadsheet would run are guarded by a `'`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows_of(evaluation):
        writer.writerow([_csv_cell(value) for value in row.values()])
    return out.getvalue()
