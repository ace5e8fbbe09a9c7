"""`nll uncertainty`, `membership`, `detect`, `ood`: four questions with scores chosen for them."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from nll.cli import _options as o
from nll.cli._shared import (
    ask_options,
    cluster,
    columns,
    done,
    model_options,
    neighbour_options,
    perturb_options,
    sampling_options,
    takes,
    without,
)
from nll.cli._terminal import plain, progress, say

if TYPE_CHECKING:
    import pyarrow as pa

    from nll.runs import Ask, Cluster, Columns, GatherOptions, ModelOptions

_ANSWER_WIDTH = 40
# Their scores are chosen here, so nobody could ask for the alternatives.
_MODEL = without(model_options, "top_k")
_ONE_MODEL = without(model_options, "top_k", "reference")


@takes(
    columns=columns, options=_ONE_MODEL, more=sampling_options, given=ask_options, cluster=cluster
)
def uncertainty(
    inputs: o.Inputs,
    *,
    out: o.Out = None,
    given_answers: o.Given = None,
    more: GatherOptions,
    given: Ask,
    columns: Columns,
    options: ModelOptions,
    cluster: Cluster | None,
    fail_on_error: o.FailOnError = False,
) -> int:
    """How sure is the model of its answers, or of those in the data?

    \b
    Questions (column text, question, prompt, or messages) are answered by the model, greedily;
    with --n-samples more answers are drawn, and how far they agree is scored too. A chat model
    wants messages, [{"role": "user", "content": ...}]: text is continued without its template.
    Scores: G-NLL, perplexity, mean entropy, worst token; semantic entropy and others of samples;
    of answers that are given, how much the prompt adds to their likelihood (PMI).
    Example: nll uncertainty questions.jsonl --n-samples 10 -o answers.parquet
    Example: nll uncertainty answers.jsonl --label correct
    """
    own = None if given_answers is None else not given_answers
    given = dataclasses.replace(given, own=own)
    return _ask("uncertainty", inputs, out, columns, options, more, given, cluster, fail_on_error)


@takes(columns=columns, options=_MODEL, more=neighbour_options, given=ask_options, cluster=cluster)
def membership(
    inputs: o.Inputs,
    *,
    out: o.Out = None,
    given: Ask,
    more: GatherOptions,
    columns: Columns,
    options: ModelOptions,
    cluster: Cluster | None,
    fail_on_error: o.FailOnError = False,
) -> int:
    """Was the model trained on these texts? Evidence, never proof.

    \b
    Scores: Min-K%++, Min-K% Prob, zlib, lower case, loss; with --reference the difference to a
    second model, with --neighbours that to texts alike.
    Example: nll membership pages.jsonl --fit known.jsonl --fpr 0.01 -o pages.parquet
    """
    return _ask("membership", inputs, out, columns, options, more, given, cluster, fail_on_error)


@takes(columns=columns, options=_MODEL, more=perturb_options, given=ask_options, cluster=cluster)
def detect(
    inputs: o.Inputs,
    *,
    out: o.Out = None,
    given: Ask,
    more: GatherOptions,
    columns: Columns,
    options: ModelOptions,
    cluster: Cluster | None,
    fail_on_error: o.FailOnError = False,
) -> int:
    """Did a machine write these texts? Evidence, never proof.

    \b
    Scores: Fast-DetectGPT, LRR, log-rank, likelihood, entropy; with --reference Binoculars, with
    --perturb DetectGPT and NPR.
    Example: nll detect essays/ --fit labelled.jsonl --fpr 0.01
    """
    return _ask("detect", inputs, out, columns, options, more, given, cluster, fail_on_error)


@takes(columns=columns, options=_MODEL, given=ask_options, cluster=cluster)
def ood(
    inputs: o.Inputs,
    *,
    out: o.Out = None,
    given: Ask,
    columns: Columns,
    options: ModelOptions,
    cluster: Cluster | None,
    fail_on_error: o.FailOnError = False,
) -> int:
    """Are these texts foreign to what the model was fine-tuned on?

    \b
    Scores: negative likelihood, perplexity, entropy; with --reference (the model before it was
    fine-tuned) the likelihood ratio, which is the better founded.
    Example: nll ood requests.jsonl -m ./tuned --reference ./base --fit labelled.jsonl
    """
    from nll.runs import GatherOptions

    more = GatherOptions(0)
    return _ask("ood", inputs, out, columns, options, more, given, cluster, fail_on_error)


def _ask(
    name: str,
    inputs: list[str],
    out: Any,
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions,
    given: Ask,
    cluster: Cluster | None,
    fail_on_error: bool,
) -> int:
    from nll.cli._eval import show_evaluation
    from nll.cli._show import show_table
    from nll.runs import ask
    from nll.runs._questions import QUESTIONS

    with progress() as (tell, tick):
        found = ask(
            QUESTIONS[name], inputs, out, columns, options, more, given, cluster,
            say=tell, tick=tick, fail_on_error=fail_on_error,
        )  # fmt: skip
    show_table(_short(found.table, found.main))
    if found.cuts:
        _show_cuts(found.cuts)
    if found.evaluation is not None:
        sys.stdout.write("\n")
        show_evaluation(found.evaluation)
    for cut in found.cuts:
        if cut.score == found.main and cut.drift is not None and cut.drift.warning:
            say(cut.drift.warning)
    code = done(found.outcome, out)
    if line := _of_empty_answers(found.table):
        say(line)
    say(found.reading)
    return code


def _of_empty_answers(table: pa.Table) -> str:
    """What to say where the model ended at once, as chat models do on bare questions."""
    answers = table["answer"].to_pylist() if "answer" in table.column_names else []
    empty = sum(not a for a in answers)
    if not empty:
        return ""
    return (
        f"{empty} of {len(answers)} answers are empty: the model ended at once; a chat model wants "
        "the questions as a column messages"
    )


def _short(table: pa.Table, main: str) -> pa.Table:
    """The table as it is shown: what decides first, long answers cut, flags as a word."""
    import pyarrow as pa

    for name, change in (("answer", _cut), ("flagged", lambda v: "yes" if v else "no")):
        if name in table.column_names:
            values = [change(v) for v in table[name].to_pylist()]
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array(values, pa.string()))
    first = [n for n in ("id", "tokens", "flagged", "answer", main) if n in table.column_names]
    return table.select([*first, *(n for n in table.column_names if n not in first)])


def _cut(answer: str | None) -> str:
    line = " ".join((answer or "").split())
    return line if len(line) <= _ANSWER_WIDTH else line[: _ANSWER_WIDTH - 3] + "..."


def _show_cuts(cuts: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("score", "threshold", "95% interval", "false alarms", "95% interval", "caught",
                 "flagged here", "moved"):  # fmt: skip
        shown.add_column(head, justify="left" if head == "score" else "right")
    for c in cuts:
        side = ">" if c.threshold.direction == "higher" else "<"
        value, rate = c.threshold.value, c.threshold.fpr
        cells = (
            c.score, f"{side} {value.value:.4g}", f"{value.low:.4g} to {value.high:.4g}",
            f"{rate.value:.1%}", f"{rate.low:.1%} to {rate.high:.1%}",
            "" if c.caught != c.caught else f"{c.caught:.1%}", f"{c.flagged} of {c.n}",
            "" if c.drift is None else "yes" if c.drift.warning else "no",
        )  # fmt: skip
        shown.add_row(*(Text(plain(cell)) for cell in cells))
    sys.stdout.write("\n")
    (Console() if sys.stdout.isatty() else Console(width=10_000)).print(shown)
