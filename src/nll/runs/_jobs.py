"""What the commands do: trace, score or report on inputs, from texts or from stored traces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nll import _arrow, _arrow_bundles
from nll._declare import Request, requests
from nll._errors import BadInput
from nll._table import score_batches, score_schema
from nll.runs._atomic import atomic_path
from nll.runs._obtain import Found, GatherOptions, check_takes
from nll.runs._output import WRITERS, check_output
from nll.runs._read import Columns, Row, input_files, read_rows
from nll.runs._run import Job, Outcome, run, streamed, write_rejects
from nll.runs._store import Say
from nll.runs._task import ModelOptions, Opened, Task, load_options, opened
from nll.trace import Trace

if TYPE_CHECKING:
    from nll.models import LanguageModel
    from nll.runs._ray import Cluster

Tick = Callable[[int], None]
_NO_MORE = GatherOptions()
# What the command line calls the columns.
_OPTIONS = {n: f"{n}-column" for n in ("text", "prompt", "completion", "id")}


def trace_to(
    inputs: Sequence[str],
    out: Path,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions = _NO_MORE,
    cluster: Cluster | None = None,
    *,
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
) -> Outcome:
    """Store the traces of all texts, holding what these scores need and the top alternatives.

    With a score of several traces of a text (answers drawn for it, its variants, a second model)
    the file holds bundles, and every text's own trace too.
    """
    wanted = requests(specs) if specs else []
    check_takes(wanted, options.reference, more)
    check_output(out, (".parquet",), inputs)
    rows = started(read_rows(inputs, columns))
    task = task_of("trace", specs, wanted, options, more)
    write = task.write
    with opened(task, cluster, say) as held:
        job = Job(
            held.parts, held.engine, merge=lambda path, shards: write(path, stored_rows(shards))
        )
        return run(rows, out, job, say=say, tick=tick, fail_on_error=fail_on_error, pace=held.pace)


def score_to(
    inputs: Sequence[str],
    out: Path | None,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions = _NO_MORE,
    cluster: Cluster | None = None,
    *,
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
) -> tuple[Outcome, pa.Table | None]:
    """Score all texts, or stored traces without any model, into `out` or, if None, a table."""
    wanted = requests(specs)
    schema = score_schema(wanted)
    if out is not None:
        check_output(out, tuple(WRITERS), inputs)
    stored = trace_files(inputs)
    check_cluster(cluster, out, stored)
    check_unused(stored, columns, options, more)
    if stored:
        batches = score_batches(ticked(stored_rows(stored), tick), wanted)
        return _score_stored(batches, schema, out)
    check_takes(wanted, options.reference, more)
    rows = started(read_rows(inputs, columns))
    task = task_of("score", specs, wanted, options, more)
    with opened(task, cluster, say) as held:
        return score_rows(rows, out, task, held, say=say, tick=tick, fail_on_error=fail_on_error)


def check_cluster(cluster: Cluster | None, out: Path | None, stored: Sequence[str]) -> None:
    """Raise BadInput where a cluster would have nothing to do, or to lose all that it did."""
    if cluster is None:
        return
    if stored:
        raise BadInput(f"{stored[0]} holds traces, which need no model; leave out --engine ray")
    if out is None:
        raise BadInput("a run on a cluster writes a file; name it with -o")


def check_unused(stored: Sequence[str], *given: Columns | ModelOptions | GatherOptions) -> None:
    """Raise BadInput when traces are stored and an option says how to read texts or run a model."""
    if not stored:
        return
    for options in given:
        usual = type(options)()
        for f in fields(options):
            if getattr(options, f.name) != getattr(usual, f.name):
                name = _OPTIONS.get(f.name, f.name.replace("_", "-"))
                raise BadInput(
                    f"{stored[0]} holds traces, which need no model and no columns; "
                    f"leave out --{name}"
                )


def score_rows(
    rows: Iterable[Row],
    out: Path | None,
    task: Task,
    held: Opened,
    *,
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
    finish: Callable[[pa.Table], pa.Table] | None = None,
) -> tuple[Outcome, pa.Table | None]:
    """Score rows into `out`, as a run that survives, or into a table when `out` is None.

    held: the task, opened.   finish: makes the final table, which is returned then even when it is
    written.
    """
    schema = task.schema
    if out is None:
        outcome, table = score_table(
            rows, task, held, say=say, tick=tick, fail_on_error=fail_on_error
        )
        return outcome, finish(table) if finish else table
    write = WRITERS[out.suffix.lower()]
    tables: list[pa.Table] = []

    def merge(path: Path, shards: Sequence[Path]) -> None:
        if finish is None:
            write(path, _batches(shards), schema)
            return
        tables.append(finish(pa.Table.from_batches(_batches(shards), schema)))
        write(path, tables[0].to_batches(), tables[0].schema)

    job = Job(held.parts, held.engine, merge)
    done = run(rows, out, job, say=say, tick=tick, fail_on_error=fail_on_error, pace=held.pace)
    return done, tables[0] if tables else None


def score_table(
    rows: Iterable[Row],
    task: Task,
    held: Opened,
    *,
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
) -> tuple[Outcome, pa.Table]:
    """The scores of rows; of the traces that they come from no more than a shard is in memory."""
    rejected: list[dict[str, Any]] = []
    if held.source is not None:
        found = streamed(rows, held.source, rejected, fail_on_error, held.pace)
        table = pa.Table.from_batches(task.batches(ticked(found, tick)), task.schema)
        _tell(rejected, say)
        return Outcome(len(table), len(rejected)), table
    # The workers of a cluster send files, and nobody could find these again after an interruption.
    kept: list[pa.Table] = []

    def keep(table: pa.Table) -> pa.Table:
        kept.append(table)
        return table

    with TemporaryDirectory() as folder:
        done, _ = score_rows(
            rows, Path(folder) / "scores.parquet", task, held, say=lambda _: None, tick=tick,
            fail_on_error=fail_on_error, finish=keep,
        )  # fmt: skip
        if done.rejects is not None:
            with done.rejects.open(encoding="utf-8") as lines:
                rejected = [json.loads(line) for line in lines]
    _tell(rejected, say)
    return Outcome(done.scored, done.rejected), kept[0]


def _tell(rejected: Sequence[Mapping[str, Any]], say: Say) -> None:
    for r in rejected[:10]:
        line = "" if r["line"] is None else f":{r['line']}"
        say(f"{r['source']}{line}: not scored: {r['detail']}")


def report_data(
    inputs: Sequence[str],
    out: Path,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions = _NO_MORE,
    *,
    draw: Callable[[Trace], None],
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
) -> tuple[Outcome, pa.Table]:
    """The scores that a report at `out` shows, of texts or stored traces; rejected rows go beside
    `out`, as in a run.

    draw: is given the trace of every text in order; none is kept here.
    """
    wanted = requests(specs)
    score_schema(wanted)  # an impossible option is told before anything is opened
    check_output(out, (".html", ".htm"), inputs)
    stored = trace_files(inputs)
    check_unused(stored, columns, options, more)
    rejected: list[dict[str, Any]] = []
    if stored:
        found = stored_rows(stored)
    else:
        check_takes(wanted, options.reference, more)
        rows = started(read_rows(inputs, columns))
        task = task_of("report", specs, wanted, options, more)
        wanted = requests(task.specs)
        _, pace, source = task.open()
        found = streamed(rows, source, rejected, fail_on_error, pace)

    def drawn() -> Iterator[Found]:
        for one in ticked(found, tick):
            draw(_shown(one))
            yield one

    table = pa.Table.from_batches(score_batches(drawn(), wanted), score_schema(wanted))
    _tell(rejected, say)
    rejects = None if stored else write_rejects(out, rejected)
    if not len(table):
        raise BadInput("none of the texts could be scored, so there is nothing to report")
    return Outcome(len(table), len(rejected), rejects=rejects), table


def task_of(
    command: Literal["trace", "score", "report", "answer"],
    specs: Sequence[str],
    wanted: Sequence[Request],
    options: ModelOptions,
    more: GatherOptions,
) -> Task:
    """With the scores that the model can give, before it is asked anything of the texts, and with
    the model if it was opened to know that."""
    from nll.models._sources import possible_of

    kept: list[Request] = []
    model: LanguageModel | None = None
    if wanted:
        kept, model = possible_of(
            options.model, wanted, load_options(options), answers=command == "answer"
        )
    given = tuple(specs) if len(kept) == len(wanted) else tuple(r.label for r in kept)
    return Task(command, given, options, more, model)


def _shown(found: Found) -> Trace:
    """The trace that a report shows of a text."""
    if isinstance(found, Trace):
        return found
    greedy = found.samples.greedy if found.samples else None
    shown = greedy if found.trace is None else found.trace
    if shown is None:
        raise BadInput(f"text '{found.id}' was stored without a trace of its own; nothing to show")
    return shown


def trace_files(inputs: Sequence[str]) -> list[str]:
    """The inputs when all of them are stored traces, nothing when none is."""
    files = input_files(inputs)
    stored = [f for f in files if f.endswith(".parquet") and _arrow.is_trace_file(f)]
    if stored and len(stored) < len(files):
        other = next(f for f in files if f not in stored)
        raise BadInput(f"{stored[0]} holds traces and {other} texts; score them one after another")
    return stored


def stored_rows(paths: Iterable[str | Path]) -> Iterator[Any]:
    """Traces, or bundles from files of such."""
    for path in paths:
        if _arrow_bundles.is_bundle_file(path):
            yield from _arrow_bundles.read_bundles(path)
        else:
            yield from _arrow.read_traces(path)


def _batches(shards: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            yield from file.iter_batches()


def _score_stored(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, out: Path | None
) -> tuple[Outcome, pa.Table | None]:
    scored = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal scored
        for batch in batches:
            scored += batch.num_rows
            yield batch

    if out is None:
        table = pa.Table.from_batches(counted(), schema)
        return Outcome(scored), table
    with atomic_path(out) as temporary:
        WRITERS[out.suffix.lower()](temporary, counted(), schema)
    write_rejects(out, ())
    return Outcome(scored), None


def ticked(traces: Iterable[Found], tick: Tick) -> Iterator[Found]:
    for trace in traces:
        tick(1)
        yield trace


def started(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, the first read now, so that a mistake shows before a model is loaded."""
    first = next(rows)
    return itertools.chain([first], rows)


def title_of(inputs: Sequence[str]) -> str:
    """What a report on these inputs is called."""
    names = ["standard input" if i == "-" else Path(i).name or i for i in inputs]
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
