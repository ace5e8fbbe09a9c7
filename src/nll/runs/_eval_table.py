"""Score tables with a label: Parquet, CSV and JSON lines as columns of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nll._errors import BadFile, BadInput
from nll.runs._formats import Cell, csv_cells, jsonl_cells, parquet_cells
from nll.runs._read import input_files

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
# Columns that are no scores unless they are named as such.
_NOT_SCORES = {
    "id", "text", "prompt", "completion", "messages", "tokens", "undefined", "answer", "flagged",
}  # fmt: skip
_NONE = {"", "nan", "null", "none"}


@dataclass(frozen=True)
class Scored:
    """Columns of the labelled rows: labels as strings, scores as float64 with nan for none."""

    label_name: str
    label: list[str]
    scores: dict[str, npt.NDArray[np.float64]]
    higher_means: dict[str, str]
    group: list[str]
    tokens: npt.NDArray[np.float64] | None
    text: list[str] | None
    unlabelled: int

    def only(self, rows: npt.NDArray[np.bool_]) -> Scored:
        """The same columns at some rows."""
        at = np.flatnonzero(rows).tolist()
        return Scored(
            self.label_name, [self.label[i] for i in at],
            {k: v[at] for k, v in self.scores.items()}, self.higher_means,
            [self.group[i] for i in at] if self.group else [],
            None if self.tokens is None else self.tokens[at],
            None if self.text is None else [self.text[i] for i in at], 0,
        )  # fmt: skip


def read_scored(
    path: Path,
    *,
    label: str | None,
    group: str | None,
    names: Sequence[str],
    labels: Path | None,
    on: str,
) -> Scored:
    """The labelled rows of a score table; rows without a label are counted and left out.

    label: its column, `label` by default, in this table or in `labels`, which is joined on column
    `on` and may hold the text and the group too.
    Raises BadInput for files, columns and cells that cannot be used.
    """
    wanted = label or "label"
    rows = read_table(path)
    own = columns = list(dict.fromkeys(name for row in rows for name in row))
    if labels is not None:
        _check(path, columns, on)
        rows = _joined(rows, labels, wanted, on, path)
        columns = list(dict.fromkeys(name for row in rows for name in row))
    _check(path, columns, wanted)
    found = [row.get(wanted) for row in rows]
    if group is not None:
        _check(path, columns, group)
    kept = [i for i, value in enumerate(found) if label_text(value)]
    if not kept:
        raise BadInput(f"no row of {path} has a label in '{wanted}'")
    rows, shown = [rows[i] for i in kept], [label_text(found[i]) for i in kept]
    taken = {wanted, group, on if labels else None}
    return Scored(
        label_name=wanted,
        label=shown,
        scores=_scores(path, rows, own, names, taken),
        higher_means=_directions(path, own),
        group=[str(row.get(group)) for row in rows] if group else [],
        tokens=_numbers(rows, "tokens") if "tokens" in columns else None,
        text=[str(row.get("text") or "") for row in rows] if "text" in columns else None,
        unlabelled=len(found) - len(kept),
    )


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a table by its suffix. Raises BadInput naming the first line that is broken."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{path} is no table; its name must end in {' '.join(SUFFIXES)}")
    (source,) = input_files([path])
    suffix = Path(source).suffix.lower()
    pick: Callable[[Sequence[str]], Sequence[str]] = partial(_all, source)
    if suffix == ".parquet":
        cells = list(parquet_cells(source, source, pick))
    else:
        with path.open("rb") as file:
            if suffix in (".csv", ".tsv"):
                cells = list(csv_cells(source, file, pick, "\t" if suffix == ".tsv" else ","))
            else:
                cells = list(jsonl_cells(file))
    if not cells:
        raise BadInput(f"{path} has no rows")
    return [_row(path, cell) for cell in cells]


def label_text(value: Any) -> str:
    """A label as text, `1` for 1, 1.0 and true; empty where there is none."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        if value.is_integer():
            return str(int(value))
    text = "" if value is None else str(value).strip()
    if text.lower() in _NONE:
        return ""
    return {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}.get(text.lower(), text)


def _all(source: str, held: Sequence[str]) -> list[str]:
    twice = {name for name in held if list(held).count(name) > 1}
    if twice:
        raise BadInput(f"{source} has two columns called '{sorted(twice)[0]}'")
    return list(held)


def _row(path: Path, cell: Cell) -> dict[str, Any]:
    if not isinstance(cell.values, dict):
        raise BadFile(f"{path}:{cell.line}: {cell.detail}")
    return cell.values


def _check(path: Path, columns: Sequence[str], name: str) -> None:
    if name not in columns:
        has = ", ".join(repr(c) for c in columns[:12]) or "none"
        raise BadInput(f"{path} has no column '{name}' (it has: {has})")


def _joined(
    rows: Sequence[dict[str, Any]], labels: Path, wanted: str, on: str, path: Path
) -> list[dict[str, Any]]:
    """The rows with what the other table says of them; a column of both is that of `path`, but for
    the label."""
    others = read_table(labels)
    columns = list(dict.fromkeys(name for row in others for name in row))
    _check(labels, columns, on)
    _check(labels, columns, wanted)
    by_key: dict[str, dict[str, Any]] = {}
    for row in others:
        key = label_text(row.get(on))
        if key in by_key and label_text(by_key[key].get(wanted)) != label_text(row.get(wanted)):
            raise BadInput(f"{labels} gives '{key}' two labels")
        by_key[key] = row
    joined = []
    for row in rows:
        other = by_key.get(label_text(row.get(on)), {})
        joined.append({**other, **row, wanted: other.get(wanted)})
    if not any(label_text(row[wanted]) for row in joined):
        raise BadInput(f"no '{on}' of {path} occurs in {labels} with a label")
    return joined


def _scores(
    path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str], names: Sequence[str],
    taken: set[str | None],
) -> dict[str, npt.NDArray[np.float64]]:  # fmt: skip
    if names:
        for name in names:
            _check(path, columns, name)
        wanted = list(dict.fromkeys(names))
    else:
        wanted = [c for c in columns if c not in _NOT_SCORES | taken and _numeric(rows, c)]
    if not wanted:
        raise BadInput(f"{path} has no column of numbers to take as a score")
    return {name: _numbers(rows, name) for name in wanted}


def _numeric(rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether every value is a number or missing, and at least one is there."""
    try:
        return not all(np.isnan(_numbers(rows, name)))
    except BadInput:
        return False


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> npt.NDArray[np.float64]:
    out = np.empty(len(rows))
    for i, row in enumerate(rows):
        value = row.get(name)
        text = value.strip().lower() if isinstance(value, str) else value
        try:
            out[i] = math.nan if text is None or text in _NONE else float(text)
        except (TypeError, ValueError):
            raise BadInput(f"column '{name}' holds {str(value)[:60]!r}, not a number") from None
    return out


def _directions(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """What a higher value of each score means: from the file, else from the declarations."""
    from nll._declare import declarations

    known = declarations()
    out = {}
    for name in columns:
        declared = known.get(name.partition("(")[0])
        if declared is not None:
            out[name] = declared.higher_means
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        for held in pq.read_schema(path):
            meta = json.loads((held.metadata or {}).get(b"nll", b"{}"))
            if meta.get("higher_means"):
                out[held.name] = str(meta["higher_means"])
    return out
