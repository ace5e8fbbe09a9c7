"""The score table as the page shows it: columns that explain themselves, cells with reasons."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, overload

import numpy as np
import pyarrow as pa

from nll._errors import BadInput
from nll.trace import Array, Trace
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


class Cells(Sequence[Cell]):
    """The cells of a column, made when they are looked at: a long table has millions of them."""

    def __init__(self, values: Array, why: Callable[[int], str]):
        # One number of decimals for the column, so that digits line up.
        sizes = np.abs(values[np.isfinite(values)])
        largest = float(sizes.max()) if len(sizes) else 0.0
        decimals = min(max(3 - math.floor(math.log10(largest)), 0), 5) if largest > 0 else 0
        if ((sizes > 0) & (sizes < 10)).any():
            decimals = max(decimals, 2)
        self._values, self._why, self._decimals = values, why, decimals

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, i: int) -> Cell: ...
    @overload
    def __getitem__(self, i: slice) -> list[Cell]: ...
    def __getitem__(self, i: int | slice) -> Cell | list[Cell]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        v = float(self._values[i])
        why = visible(self._why(i)) if v != v else ""
        return Cell(number(v, self._decimals), significant(v, 6), why)


@dataclass(frozen=True)
class Column:
    """A column, its cells, and what its values mean."""

    label: str
    cells: Sequence[Cell]
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
    return columns_of([_mean(-t.values("logp")) for t in traces], table)


def columns_of(means: Sequence[float], table: pa.Table) -> list[Column]:
    """`columns` of texts with these mean nlls, nan without a scored token."""
    if table.num_rows != len(means):
        raise BadInput(
            f"the score table has {table.num_rows} rows for {len(means)} traces; "
            "a report needs one row per trace, in the same order"
        )
    names = [n for n in table.column_names if n not in ("id", "tokens", "undefined")]
    taken = {n.replace("_", " ") for n in names}
    mean = np.array(means, np.float64)
    with np.errstate(over="ignore"):
        own = (mean, np.exp(mean))
    out = [
        Column(label, Cells(values, lambda _: "no token was scored"), text, "less expected", unit,
               "0 to ∞" if unit == "nats" else "1 to ∞")
        for (label, unit, text), values in zip(_OWN, own, strict=True)
        if label not in taken
    ]  # fmt: skip
    why = _reasons(table)
    return out + [_score(table, name, why) for name in names]


def _score(table: pa.Table, name: str, why: Callable[[int], Mapping[str, str]]) -> Column:
    kept = (table.schema.field(name).metadata or {}).get(b"nll", b"{}")
    meta: dict[str, Any] = json.loads(kept)
    note = ""
    if pa.types.is_nested(table[name].type):
        note = "One value per token or word; the column shows their mean."
        means = (math.nan if not v.is_valid else _mean(np.array(v.as_py(), np.float64))
                 for v in table[name])  # fmt: skip
        numbers = np.fromiter(means, np.float64, table.num_rows)
    else:
        numbers = table[name].cast(pa.float64()).to_numpy()
    parameters = meta.get("parameters") or {}
    return Column(
        label=visible(name),
        cells=Cells(numbers, lambda i: why(i).get(name, "not defined for this text")),
        summary=visible(str(meta.get("summary") or "").replace("`", "")),
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


def _reasons(table: pa.Table) -> Callable[[int], Mapping[str, str]]:
    """By score, why a row's values are undefined."""
    if "undefined" not in table.column_names:
        return lambda _: {}
    lines = table["undefined"]

    @lru_cache(maxsize=1)
    def of(i: int) -> Mapping[str, str]:
        line = lines[i].as_py()
        return json.loads(line) if line else {}

    return of


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
