"""The score table as the page shows it: columns that explain themselves, cells with reasons."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from nll._errors import BadInput
from nll.trace import Trace
from nll.web._text import number, significant, visible

_ARXIV = re.compile(r"(?:arxiv:)?(\d{4}\.\d{4,5}(?:v\d+)?|[a-z-]+(?:\.[A-Z]{2})?/\d{7})", re.I)
_DOI = re.compile(r"(?:doi:)?(10\.\d{4,9}/\S+)", re.I)
_URL = re.compile(r"https?://[^\s\"'<>]+", re.I)


@dataclass(frozen=True)
class Cell:
    """A value to read, the number to sort by (None: undefined) and why it is undefined."""

    text: str
    value: float | str | None
    reason: str = ""


@dataclass(frozen=True)
class Column:
    """A column, its cells, and what its values mean."""

    label: str
    cells: list[Cell]
    summary: str = ""
    higher: str = ""
    unit: str = ""
    range: str = ""
    parameters: str = ""
    papers: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""

    @property
    def axis(self) -> str:
        """Label with its unit, for an axis."""
        return f"{self.label} ({self.unit})" if self.unit and self.unit != "1" else self.label


_OWN = (
    ("mean nll", "nats", "Mean surprise per scored token: how badly the model predicted the text."),
    ("perplexity", "1", "exp(mean nll): as if each token were a fair pick among this many."),
)


def columns(traces: Sequence[Trace], table: pa.Table) -> list[Column]:
    """Mean nll and perplexity, unless the table brings them, then every score column in order.

    Raises BadInput when the table does not have one row per trace.
    """
    if table.num_rows != len(traces):
        raise BadInput(
            f"the score table has {table.num_rows} rows for {len(traces)} traces; "
            "a report needs one row per trace, in the same order"
        )
    names = [n for n in table.column_names if n not in ("id", "tokens", "undefined")]
    taken = {n.replace("_", " ") for n in names}
    means = [_mean(-t.values("logp")) for t in traces]
    with np.errstate(over="ignore"):
        own = (means, [float(np.exp(m)) for m in means])
    none = ["no token was scored"] * len(traces)
    out = [
        Column(label, _cells(values, none), text, "less expected", unit, "0 to ∞"
               if unit == "nats" else "1 to ∞")
        for (label, unit, text), values in zip(_OWN, own, strict=True)
        if label not in taken
    ]  # fmt: skip
    return out + [_score(table, name, _reasons(table)) for name in names]


def _score(table: pa.Table, name: str, reasons: list[Mapping[str, str]]) -> Column:
    kept = (table.schema.field(name).metadata or {}).get(b"nll", b"{}")
    meta: dict[str, Any] = json.loads(kept)
    values, note = table[name].to_pylist(), ""
    if any(isinstance(v, list) for v in values):
        values = [math.nan if v is None else _mean(np.array(v, dtype=np.float64)) for v in values]
        note = "One value per token or word; the column shows their mean."
    numbers = [math.nan if v is None else float(v) for v in values]
    why = [row.get(name, "not defined for this text") for row in reasons]
    parameters = meta.get("parameters") or {}
    return Column(
        label=visible(name),
        cells=_cells(numbers, why),
        summary=visible(str(meta.get("summary") or "")),
        higher=visible(str(meta.get("higher_means") or "")),
        unit=visible(str(meta.get("unit") or "")),
        range=_range(meta.get("range")),
        parameters=visible(", ".join(f"{k} = {v}" for k, v in parameters.items())),
        papers=_papers(visible(str(meta.get("paper") or ""))),
        note=note,
    )


def _mean(values: Any) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def _cells(values: Sequence[float], reasons: Sequence[str]) -> list[Cell]:
    # One number of decimals for the column, so that digits line up.
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    decimals = min(max(3 - math.floor(math.log10(largest)), 0), 5) if largest > 0 else 0
    if any(0 < abs(v) < 10 for v in values):
        decimals = max(decimals, 2)
    return [
        Cell(number(v, decimals), significant(v, 6), visible(why) if v != v else "")
        for v, why in zip(values, reasons, strict=True)
    ]


def _reasons(table: pa.Table) -> list[Mapping[str, str]]:
    if "undefined" not in table.column_names:
        return [{}] * table.num_rows
    return [json.loads(line) if line else {} for line in table["undefined"].to_pylist()]


def _range(bounds: Any) -> str:
    if not bounds:
        return ""
    low, high = (
        side if bound is None else float(bound)
        for bound, side in zip(bounds, (-math.inf, math.inf), strict=True)
    )
    return f"{number(low)} to {number(high)}"


def _papers(papers: str) -> list[tuple[str, str]]:
    """(text, address) of each paper; the address is empty unless it is an http one that we know."""
    out = []
    for paper in re.split(r"[,;]?\s+", papers.strip()) if papers.strip() else []:
        if found := _ARXIV.fullmatch(paper):
            out.append((f"arXiv {found[1]}", f"https://arxiv.org/abs/{found[1]}"))
        elif found := _DOI.fullmatch(paper):
            out.append((f"doi {found[1]}", f"https://doi.org/{found[1]}"))
        elif _URL.fullmatch(paper):
            out.append((paper, paper))
        else:
            out = [(papers.strip(), "")]
            break
    return out
