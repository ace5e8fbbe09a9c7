"""One of the four questions asked of texts: scores, thresholds, evidence, and a plain reading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nll import metrics
from nll._bundle import Bundle
from nll._declare import TWO_MODELS, Request, requests
from nll._errors import BadInput, MissingField
from nll._table import score_batches, score_schema
from nll.runs._atomic import atomic_path
from nll.runs._eval import SIDES, Evaluated, Evaluation, binary_labels, measure, opposite
from nll.runs._eval_table import Scored, label_text
from nll.runs._jobs import (
    Tick,
    check_cluster,
    check_unused,
    score_rows,
    score_table,
    started,
    stored_rows,
    task_of,
    ticked,
    trace_files,
)
from nll.runs._obtain import Found, GatherOptions, check_takes
from nll.runs._output import WRITERS, check_output
from nll.runs._questions import Question, chosen, main_of
from nll.runs._read import Columns, Row, read_rows
from nll.runs._run import Outcome, write_rejects
from nll.runs._store import Say
from nll.runs._task import ModelOptions, Opened, Task, opened
from nll.trace import Text, Trace

if TYPE_CHECKING:
    from nll.runs._ray import Cluster

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ask:
    """What to ask beyond the scores.

    label: a column with two values, against which the scores are measured.   positive: as in
    `evaluate`; by default what the question or the name of the column says.   fit: a labelled file
    whose negatives give the thresholds, of which a share `fpr` may be flagged.
    own: whether questions are answered by the model itself; None to tell from the first text.
    """

    label: str | None = None
    positive: str | None = None
    fit: str | None = None
    fpr: float = 0.05
    own: bool | None = False
    seed: int = 0


@dataclass(frozen=True)
class Cut:
    """A threshold of one score, and how many of the texts asked about lie beyond it.

    caught: share of the fitted file's positives beyond it, nan when it has none.
    """

    score: str
    threshold: metrics.Threshold
    caught: float
    flagged: int
    n: int
    drift: metrics.Drift | None


@dataclass(frozen=True)
class Asked:
    """What came out; `table` has the scores and, with a threshold, the column `flagged`."""

    outcome: Outcome
    table: pa.Table
    main: str
    cuts: list[Cut]
    evaluation: Evaluation | None
    reading: str


@dataclass
class _Told:
    """Labels and texts of the rows by id, noted as the rows go by where they will be measured."""

    wanted: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def noting(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if self.wanted and row.text is not None:
                self.labels[row.id] = label_text(row.label)
                self.texts[row.id] = _words(row.text)
            yield row


def ask(
    question: Question,
    inputs: Sequence[str],
    out: Path | None,
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions,
    given: Ask,
    cluster: Cluster | None = None,
    *,
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
) -> Asked:
    """Score texts, or stored traces without a model, for one question; see `Question` and `Ask`.

    On a cluster the workers score; thresholds and evidence are made here, of the table of scores.
    Raises BadInput for what cannot be used, before any model is loaded where that can be told.
    """
    if out is not None:
        check_output(out, tuple(WRITERS), inputs)
    if not 0 <= given.fpr < 1:
        raise BadInput(f"--fpr is a share from 0 to below 1, not {given.fpr}")
    stored = trace_files(inputs)
    check_cluster(cluster, out, stored)
    check_unused(stored, options)
    if stored:
        return _ask_stored(question, stored, out, given, tick)
    columns = replace(columns, label=given.label, questions=given.own is not False)
    told = _Told(given.label is not None)
    rows = started(told.noting(read_rows(inputs, columns)))
    own = given.own
    if own is None:
        first = next(rows)
        own, rows = _is_question(first), _again(first, rows)
    wanted = chosen(
        question, reference=options.reference is not None, samples=more.n_samples > 0,
        perturbed=more.perturb is not None, neighbours=more.neighbours is not None,
        own_answers=own,
    )  # fmt: skip
    check_takes(requests(wanted), options.reference, more)
    fitting = None
    if given.fit is not None:
        fitting = _fitting(question, replace(columns, label=given.label or "label"), given)
    # Chosen here, not by the user, so what this model cannot give is left out.
    asked = [replace(r, optional=True) for r in requests(wanted)]
    task = task_of("answer" if own else "score", wanted, asked, options, more)
    labels = [r.label for r in task.wanted]
    left = [r.label for r in asked if r.label not in labels]
    if left:
        say(f"left out, because {options.model} cannot give what they read: {', '.join(left)}")
    main = main_of(question, labels)
    with opened(task, cluster, say) as held:
        thresholds = {}
        if fitting is not None:
            thresholds = _fitted(question, task, held, fitting, given, say, fail_on_error)

        def finish(table: pa.Table) -> pa.Table:
            return _flagged(table, thresholds.get(main, (None, math.nan))[0], main)

        outcome, table = score_rows(
            rows, out, task, held, say=say, tick=tick, fail_on_error=fail_on_error, finish=finish
        )
    if table is None or not len(table):
        raise BadInput("none of the texts could be scored, so there is no answer")
    return _asked(question, outcome, table, task.wanted, main, thresholds, given, told)


def _ask_stored(
    question: Question, stored: Sequence[str], out: Path | None, given: Ask, tick: Tick
) -> Asked:
    if given.label or given.fit:
        raise BadInput(
            "stored traces hold no labels; write their scores with -o, then: "
            "nll eval SCORES --labels FILE"
        )
    first = next(iter(stored_rows(stored)), None)
    if first is None:
        raise BadInput(f"{stored[0]} holds no traces")
    wanted = _possible(question, first)
    batches = score_batches(ticked(stored_rows(stored), tick), wanted)
    table = pa.Table.from_batches(batches, score_schema(wanted))
    if out is not None:
        with atomic_path(out) as temporary:
            WRITERS[out.suffix.lower()](temporary, table.to_batches(), table.schema)
        write_rejects(out, ())
    main = main_of(question, [r.label for r in wanted])
    return _asked(question, Outcome(len(table)), table, wanted, main, {}, given, _Told())


def _possible(question: Question, first: Found) -> list[Request]:
    """The question's scores that stored traces like this one can give."""
    bundle = Bundle(trace=first) if isinstance(first, Trace) else first
    greedy = bundle.trace is not None and bundle.trace.provenance.decoding == "greedy"
    names = [*question.scores, *question.reference, *question.samples, *question.perturbed,
             *question.neighbours]  # fmt: skip
    if not greedy:
        names = ["sequence_nll" if n == "g_nll" else n for n in names]
    out = []
    for request in requests(names):
        try:
            request(bundle)
        except MissingField:
            continue
        out.append(replace(request, optional=True))
    if not out:
        raise BadInput(f"the stored traces hold nothing that a score of {question.name} reads")
    return out


class _Fitting(NamedTuple):
    """The labelled rows that thresholds are fitted on, and the column of their labels."""

    rows: Sequence[Row]
    told: _Told
    column: str | None


def _fitting(question: Question, columns: Columns, given: Ask) -> _Fitting:
    told = _Told(True)
    rows = list(told.noting(read_rows([str(given.fit)], columns)))
    y = _labels(question, [told.labels[r.id] for r in rows if r.text], columns.label, given)
    if all(y == 1):
        raise BadInput(f"{given.fit} has no text that is not '{question.positive}' to fit on")
    return _Fitting(rows, told, columns.label)


def _fitted(
    question: Question,
    task: Task,
    held: Opened,
    fitting: _Fitting,
    given: Ask,
    say: Say,
    fail_on_error: bool,
) -> dict[str, tuple[metrics.Threshold, float]]:
    """A threshold for each score, with the share of positives beyond it."""
    _, table = score_table(
        fitting.rows, task, held, say=say, tick=lambda _: None, fail_on_error=fail_on_error
    )
    kept, y = _labelled(question, table, fitting.column, fitting.told, given)
    out = {}
    for request in task.wanted:
        values = _values(table, request.label)[kept]
        if np.isnan(values[y == 0]).all():
            say(f"{request.label}: no threshold, it is undefined for every negative of {given.fit}")
            continue
        lower = opposite(request.declaration.higher_means, question.positive)
        cut = metrics.fit_threshold(values[y == 0], given.fpr, "lower" if lower else "higher")
        caught = float(np.mean(cut.flags(values[y == 1]))) if (y == 1).any() else math.nan
        out[request.label] = (cut, caught)
    return out


def _asked(
    question: Question,
    outcome: Outcome,
    table: pa.Table,
    wanted: Sequence[Request],
    main: str,
    thresholds: dict[str, tuple[metrics.Threshold, float]],
    given: Ask,
    told: _Told,
) -> Asked:
    from nll.runs._reading import read

    cuts = []
    for name, (cut, caught) in thresholds.items():
        values = _values(table, name)
        held = values[~np.isnan(values)]
        drift = cut.drift(held) if len(held) else None
        cuts.append(Cut(name, cut, caught, int(cut.flags(values).sum()), len(held), drift))
    evaluation = None
    if given.label is not None:
        evaluation = _evaluation(question, table, wanted, told, given)
    down = opposite(
        next(r for r in wanted if r.label == main).declaration.higher_means, question.positive
    )
    order = _values(table, main) * (1 if down else -1)
    top = None
    if np.unique(order[~np.isnan(order)]).size > 1:
        top = str(table["id"][int(np.nanargmin(order))].as_py())
    alone = not any(TWO_MODELS & set(r.declaration.reads) or "reference" in r.declaration.takes
                    for r in wanted)  # fmt: skip
    reading = read(question, main, len(table), top, cuts, evaluation, given.fpr, alone)
    return Asked(outcome, table, main, cuts, evaluation, reading)


def _evaluation(
    question: Question, table: pa.Table, wanted: Sequence[Request], told: _Told, given: Ask
) -> Evaluation:
    kept, y = _labelled(question, table, given.label, told, given)
    ids = [i for i, k in zip(table["id"].to_pylist(), kept, strict=True) if k]
    scored = Scored(
        label_name=str(given.label),
        label=[told.labels[i] for i in ids],
        scores={r.label: _values(table, r.label)[kept] for r in wanted},
        higher_means={r.label: r.declaration.higher_means for r in wanted},
        group=[],
        tokens=np.array(table["tokens"].to_pylist(), np.float64)[kept],
        text=[told.texts[i] for i in ids],
        unlabelled=len(table) - len(ids),
    )
    results: list[Evaluated] = measure(scored, y, question.positive, "", 1000, given.seed)
    return Evaluation(
        source="", label=str(given.label), positive=question.positive, n=len(y),
        positives=int(y.sum()), unlabelled=scored.unlabelled, resamples=1000, results=results,
    )  # fmt: skip


def _labelled(
    question: Question, table: pa.Table, column: str | None, told: _Told, given: Ask
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int_]]:
    """Which rows have a label, and what the labels of these are."""
    found = [told.labels.get(i, "") for i in table["id"].to_pylist()]
    kept = np.array([bool(v) for v in found])
    return kept, _labels(question, [v for v in found if v], column, given)


def _labels(
    question: Question, values: Sequence[str], column: str | None, given: Ask
) -> npt.NDArray[np.int_]:
    """1 where the question's answer is yes, whatever side the labels speak of."""
    values = [v for v in values if v]
    if not values:
        raise BadInput(f"no text has a label in column '{column}'")
    # A column called `correct` or `human` says which side its 1 is on.
    named = column if column and opposite(column, question.positive) else question.positive
    positive = given.positive or named
    found = sorted(set(values))
    if positive not in {*found, named}.union(*SIDES):
        raise BadInput(f"--positive {positive} is no label of column '{column}': {found[:6]}")
    against = [v for v in found if opposite(v, positive)]
    if len(found) == 2 and len(against) == 1 and positive not in found:
        positive = next(v for v in found if v not in against)
        return np.array([v == positive for v in values], int)
    y, meaning = binary_labels(values, positive)
    flipped: npt.NDArray[np.int_] = 1 - y if opposite(meaning, question.positive) else y
    return flipped


def _flagged(table: pa.Table, threshold: metrics.Threshold | None, main: str) -> pa.Table:
    if threshold is None:
        return table
    flags = pa.array(threshold.flags(_values(table, main)), pa.bool_())
    at = table.column_names.index("undefined")
    return table.add_column(at, pa.field("flagged", pa.bool_()), flags)


def _values(table: pa.Table, name: str) -> Floats:
    return np.array(table[name].to_pylist(), np.float64)


def _is_question(row: Row) -> bool:
    text = row.text
    return text is not None and (not text.text if text.messages else text.prompt is None)


def _again(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _words(text: Text) -> str:
    return " ".join(m["content"] for m in text.messages) or f"{text.prompt or ''}{text.text}"
