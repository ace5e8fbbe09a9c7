"""Tables on the terminal."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from nll.cli._terminal import plain, say

if TYPE_CHECKING:
    import pyarrow as pa

_WIDE = 10_000
_ID_WIDTH = 32
_ROWS = 256  # put into words and printed at a time


def show_table(table: pa.Table) -> None:
    """One row per text: id, tokens, mean nll, perplexity, then the other scores.

    On a terminal columns that do not fit are left out, which is said; piped, nothing is.
    """
    from rich.console import Console
    from rich.table import Table

    on_terminal = sys.stdout.isatty()
    first = ["id", "tokens", "mean_nll", "perplexity"]
    names = [n for n in first if n in table.column_names]
    names += [n for n in table.column_names if n not in (*first, "undefined")]
    widths = {n: _width(table, n) for n in names}
    fitting = names
    if on_terminal:
        room, fitting = Console().width, []
        for name in names:
            room -= (_ID_WIDTH if name == "id" else widths[name]) + 2
            if room < 0 and len(fitting) > 1:
                break
            fitting.append(name)
        widths |= {n: min(widths[n], _ID_WIDTH) for n in fitting if n == "id"}
    widths = _narrowed({n: widths[n] for n in fitting}, Console().width if on_terminal else _WIDE)
    for start in range(0, max(len(table), 1), _ROWS):
        shown = Table(box=None, header_style="bold", pad_edge=False, show_header=start == 0)
        for name in fitting:
            # Everything from outside goes in as plain Text, or rich would obey markup in it.
            shown.add_column(
                _text(name), justify="left" if name == "id" else "right", overflow="fold",
                width=widths[name],
            )  # fmt: skip
        for row in zip(*_cells(table.select(fitting).slice(start, _ROWS)), strict=True):
            shown.add_row(*map(_text, row))
        _print(shown)
    if len(fitting) < len(names):
        say(f"{len(names) - len(fitting)} more scores do not fit here; a file holds all of them")


def show_scores(as_json: bool) -> None:
    """Every declared score with what it takes, direction, unit, needs and paper."""
    from nll._declare import declarations, question_place

    rows: list[dict[str, Any]] = [
        {
            "name": d.name,
            "higher_means": d.higher_means,
            "unit": d.unit,
            "range": [end if math.isfinite(end) else None for end in d.range],
            "takes": list(d.takes),
            "needs": list(d.reads),
            "parameters": d.parameters,
            "paper": d.paper,
            "question": d.question,
            "shape": d.shape,
            "experimental": d.experimental,
            "summary": d.summary,
        }
        for d in sorted(declarations().values(), key=lambda d: (question_place(d), d.name))
    ]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False, default=str) + "\n")
        return
    _print(_short_list(rows) if sys.stdout.isatty() else _long_list(rows))
    if sys.stdout.isatty():
        say("options, units, needs and papers: nll scores --json, or piped into a file")


def _long_list(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("score", "takes", "higher means", "unit", "needs", "paper", "what it is"):
        shown.add_column(name, overflow="fold")
    for r in rows:
        options = ", ".join(f"{k}={v!r}" for k, v in r["parameters"].items())
        name = f"{r['name']}({options})" if options else r["name"]
        takes, needs = ", ".join(r["takes"]), ", ".join(r["needs"])
        cells = (name, takes, r["higher_means"], r["unit"], needs, r["paper"])
        shown.add_row(*(_text(str(c)) for c in (*cells, r["summary"])))
    return shown


def _short_list(rows: list[dict[str, Any]]) -> Any:
    """What fits on a terminal, under a heading for each question."""
    from rich.table import Table

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("score", "higher means", "what it is"):
        shown.add_column(name, overflow="fold")
    for question in dict.fromkeys(r["question"] for r in rows):
        shown.add_row(_text(""))
        shown.add_row(_text(question.replace("_", " ").upper()))
        for r in rows:
            if r["question"] == question:
                cells = (r["name"], r["higher_means"], r["summary"].replace("`", ""))
                shown.add_row(*map(_text, cells))
    return shown


def _cells(table: pa.Table) -> list[list[str]]:
    """By column, what is shown of its rows."""
    return [[plain(_cell(v)) for v in column.to_pylist()] for column in table.columns]


def _width(table: pa.Table, name: str) -> int:
    """How many columns of a terminal this one takes."""
    from rich.cells import cell_len

    column, widest = table.select([name]), cell_len(plain(name))
    for start in range(0, len(table), _ROWS):
        (cells,) = _cells(column.slice(start, _ROWS))
        widest = max(widest, *map(cell_len, cells))
    return widest


def _narrowed(widths: dict[str, int], room: int) -> dict[str, int]:
    """Cut from the widest, whose cells then take several lines, until all fit side by side."""
    widths = dict(widths)
    over = sum(widths.values()) + 2 * len(widths) - room
    while over > 0 and max(widths.values()) > 1:
        widest, *others = sorted(widths, key=lambda n: -widths[n])
        ahead = widths[widest] - max((widths[n] for n in others), default=1)
        cut = min(over, max(ahead, 1))
        widths[widest] -= cut
        over -= cut
    return widths


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_cell(v) for v in value)
    return str(value)


def _text(value: str) -> Any:
    from rich.text import Text

    return Text(plain(value))


def _print(shown: Any) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    console.print(shown)
