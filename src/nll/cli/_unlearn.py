"""`nll unlearn-report`: what a model forgot, and what it is still good for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nll.cli import _options as o
from nll.cli._terminal import plain, progress, say

if TYPE_CHECKING:
    from nll.runs._unlearn_report import UnlearnReport

_WIDE = 10_000


def unlearn_report(
    before: Annotated[
        str, typer.Argument(help="The model before; - for the embedded one.", metavar="BEFORE")
    ],
    after: Annotated[str, typer.Argument(help="The model after.", metavar="AFTER")],
    *,
    forget: Annotated[
        list[str],
        typer.Option(
            help="Rows to be forgotten: question, answer, paraphrased_answer, perturbed_answer.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    retain: Annotated[
        list[str], typer.Option(help="Rows to be kept.", metavar="FILE", show_default=False)
    ],
    authors: Annotated[
        list[str] | None, typer.Option(help="TOFU's real authors.", metavar="FILE")
    ] = None,
    facts: Annotated[
        list[str] | None, typer.Option(help="TOFU's world facts.", metavar="FILE")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="A model that never saw the forget set.", metavar="MODEL"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write .html or .json.", metavar="FILE")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Call a column otherwise: question=q.", metavar="NEW=OLD"),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help=r"Such as 'Question: {prompt}\nAnswer: {completion}'. [default: that AFTER was "
            "trained with]",
            metavar="TEXT",
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Of each set only the first so many.", min=1)
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Of generated answers; 0: no ROUGE-L, no MEMO.", min=0)
    ] = 64,
    memo_rows: Annotated[
        int, typer.Option(help="Rows of the forget set whose MEMO is measured.", min=0)
    ] = 8,
    memo_window: Annotated[int, typer.Option(help="Characters between its cuts.", min=1)] = 25,
    dtype: o.Dtype = "float32",
    device: o.Device = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
) -> int:
    """Measure forgetting and utility before and after: forget quality, truth ratio, ROUGE-L, MEMO.

    \b
    Example: nll unlearn-report - out --forget f.jsonl --retain r.jsonl -o report.html
    """
    from nll import models
    from nll.runs import _unlearn_report as runs
    from nll.runs._atomic import write_atomic
    from nll.runs._output import check_output
    from nll.runs._train_data import renamings
    from nll.web._unlearn import reading, write_unlearn_report

    given = {
        runs.FORGET: forget, runs.RETAIN: retain, runs.AUTHORS: authors, runs.FACTS: facts,
    }  # fmt: skip
    if out is not None:
        check_output(out, (".html", ".json"), [f for files in given.values() for f in files or ()])
    renamed = renamings(column or ())
    sets = {name: runs.read_items(f, renamed, rows) for name, f in given.items() if f}
    asked, told = runs.template_of(template, after)
    if told:
        say(told)
    roles = {"before": before, "after": after, **({"reference": reference} if reference else {})}

    def opening(name: str) -> Any:
        found = None if name == "-" else name
        return lambda: models.load(
            found, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )

    with progress("rows") as (tell, tick):
        report = runs.unlearn_report(
            {role: opening(name) for role, name in roles.items()},
            {role: "the embedded model" if name == "-" else name for role, name in roles.items()},
            sets, runs.How(asked, max_new_tokens, memo_rows, memo_window), say=tell, tick=tick,
        )  # fmt: skip
    if out is not None and out.suffix.lower() == ".html":
        write_unlearn_report(out, report)
    elif out is not None:
        write_atomic(out, runs.as_json(report))
    _show(report)
    for note in report.notes:
        say(note)
    say(reading(report) + (f" Wrote {out}." if out else ""))
    say(runs.LIMITS)
    return 0


def _show(report: UnlearnReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from nll.runs._unlearn_report import table_of

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("measure")
    shown.add_column("better")
    for model in report.models:
        shown.add_column(model.role, justify="right")
    for name, better, values in table_of(report):
        shown.add_row(*(plain(cell) for cell in (name, better, *map(_cell, values))))
    (Console() if sys.stdout.isatty() else Console(width=_WIDE)).print(shown)


def _cell(value: float) -> str:
    return "nan" if value != value else f"{value:.4g}"
