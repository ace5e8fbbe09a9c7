"""`nll eval`: how well the scores of a table tell two labels apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nll.cli._terminal import plain, say

if TYPE_CHECKING:
    from nll.runs._eval import Evaluation

_WIDE = 10_000


def eval_command(
    scores: Annotated[
        Path, typer.Argument(help="A score table: .parquet, .csv, .tsv, .jsonl.", metavar="TABLE")
    ],
    label: Annotated[
        str, typer.Option("--label", help="Column of the label, which has two values.")
    ] = "label",
    group: Annotated[
        str | None, typer.Option("--group", help="Column; each of its values is measured too.")
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option("--score", help="A score column; repeat it. [default: all of numbers]"),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option("--positive", help="The label that counts as 1, or what 1 means: member, ..."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Another table that holds the label (and text, group)."),
    ] = None,
    on: Annotated[str, typer.Option("--on", help="Column that joins the two tables.")] = "id",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write .html, .json or .csv.", metavar="FILE"),
    ] = None,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap intervals.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of resampling and the baselines.", min=0)] = 0,
) -> None:
    """Measure how well each score of a table tells two labels apart, beside trivial baselines.

    \b
    Example: nll eval scores.parquet --label member --positive member -o eval.html
    """
    from nll.runs._atomic import write_atomic
    from nll.runs._eval import LIMITS, as_csv, as_json, evaluate
    from nll.runs._output import check_output

    if out is not None:
        inputs = [str(scores), *([str(labels)] if labels else [])]
        check_output(out, (".html", ".json", ".csv"), inputs)
    found = evaluate(
        scores, label=label, group=group, names=score or (), positive=positive, labels=labels,
        on=on, resamples=resamples, seed=seed,
    )  # fmt: skip
    if out is not None and out.suffix.lower() == ".html":
        from nll.web._eval import write_evaluation

        write_evaluation(out, found)
    elif out is not None:
        write_atomic(out, as_csv(found) if out.suffix.lower() == ".csv" else as_json(found))
    show_evaluation(found)
    negatives = found.n - found.positives
    say(
        f"positive means {found.positive}: {found.positives} positive, {negatives} negative rows"
        + (f", {found.unlabelled} without a label left out" if found.unlabelled else "")
        + (f"; wrote {out}" if out else "")
    )
    say(LIMITS)


def show_evaluation(found: Evaluation) -> None:
    """Every score beside the baselines, as a table."""
    from rich.console import Console
    from rich.table import Table

    grouped = any(r.group for r in found.results)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    heads = ["score", "higher means", "n", "dropped", "AUROC", "95% interval", "TPR@1%FPR",
             "TPR@5%FPR", "PRR", "note"]  # fmt: skip
    for head in (["group"] if grouped else []) + heads:
        left = head in ("group", "score", "higher means", "note")
        shown.add_column(head, justify="left" if left else "right", overflow="fold")
    for r in found.results:
        name = f"({r.name})" if r.kind == "baseline" else r.name
        cells = [
            name, r.higher_means + (", negated" if r.flipped else ""), str(r.n), str(r.dropped),
            _cell(r.auroc.value), f"{_cell(r.auroc.low)} to {_cell(r.auroc.high)}",
            _cell(r.tpr_at_1), _cell(r.tpr_at_5), _cell(r.prr), r.note,
        ]  # fmt: skip
        shown.add_row(*map(_text, ([r.group or "all"] if grouped else []) + cells))
    (Console() if sys.stdout.isatty() else Console(width=_WIDE)).print(shown)


def _cell(value: float) -> str:
    return "nan" if value != value else f"{value:.3f}"


def _text(value: str) -> Any:
    from rich.text import Text

    return Text(plain(value))
