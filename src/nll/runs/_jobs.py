"""What the commands do: trace, score or report on inputs, from texts or from stored traces."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nll import __version__, _arrow, _arrow_bundles
from nll._declare import Request, requests
from nll._errors import BadInput
from nll._table import fields_for, score_batches, score_schema
from nll.runs._atomic import atomic_path
from nll.runs._obtain import Found, GatherOptions, Source, check_takes, is_bundled, source_of
from nll.runs._output import WRITERS, check_output, write_parquet
from nll.runs._read import Columns, Row, input_files, read_rows
from nll.runs._run import Job, Outcome, run, set_aside, write_rejects
from nll.runs._store import Say
from nll.trace import Fields, Trace

if TYPE_CHECKING:
    from nll.models import LanguageModel

Tick = Callable[[int], None]
TOP_K = 10
# A score whose only need is the text's own trace.
OWN = "mean_nll"
_NO_MORE = GatherOptions()


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model and how to run it; see `nll.load` and `LanguageModel.trace`.

    top_k: how many alternatives to keep; None for what the command needs.
    """

    model: str | None = None
    reference: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "float32"
    device: str = "auto"
    bos: str = "auto"
    stride: int | None = None
    top_k: int | None = None
    batch_tokens: int | None = None


def trace_to(
    inputs: Sequence[str],
    out: Path,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions = _NO_MORE,
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
    rows = _started(read_rows(inputs, columns))
    bundled = is_bundled(wanted)
    wanted = [*requests(OWN), *wanted] if bundled else wanted
    source, parts, pace = _opened("trace", wanted, options, more, default_top_k=TOP_K)
    write: Callable[[Path, Iterator[Any]], None]
    write = _arrow_bundles.write_bundles if bundled else _arrow.write_traces
    job = Job(
        parts=parts,
        trace=source,
        write=write,
        merge=lambda path, shards: write(path, _stored(shards)),
    )
    return run(rows, out, job, say=say, tick=tick, fail_on_error=fail_on_error, pace=pace)


def score_to(
    inputs: Sequence[str],
    out: Path | None,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions = _NO_MORE,
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
    stored = _trace_files(inputs)
    if stored:
        batches = score_batches(_ticked(_stored(stored), tick), wanted)
        return _score_stored(batches, schema, out)
    check_takes(wanted, options.reference, more)
    rows = _started(read_rows(inputs, columns))
    source, parts, pace = _opened("score", wanted, options, more, default_top_k=0)
    if out is None:
        outcome, found = _traced(rows, source, say, tick, fail_on_error)
        return outcome, pa.Table.from_batches(score_batches(found, wanted), schema)
    write = WRITERS[out.suffix.lower()]
    job = Job(
        parts={
            **parts,
            "scores": [(r.label, r.declaration.name, dict(r.parameters)) for r in wanted],
        },
        trace=source,
        write=lambda path, found: write_parquet(path, score_batches(found, wanted), schema),
        merge=lambda path, shards: write(path, _batches(shards), schema),
    )
    return run(rows, out, job, say=say, tick=tick, fail_on_error=fail_on_error, pace=pace), None


def report_data(
    inputs: Sequence[str],
    out: Path,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions = _NO_MORE,
    *,
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
) -> tuple[Outcome, list[Trace], pa.Table]:
    """All that a report at `out` shows: traces of all texts (or stored ones) and their scores.

    Rejected rows go beside `out`, as in a run.
    """
    wanted = requests(specs)
    schema = score_schema(wanted)
    check_output(out, (".html", ".htm"), inputs)
    stored = _trace_files(inputs)
    if stored:
        found = list(_ticked(_stored(stored), tick))
        outcome = Outcome(len(found))
    else:
        check_takes(wanted, options.reference, more)
        rows = _started(read_rows(inputs, columns))
        needed = [*requests(OWN), *wanted]
        source, _, _ = _opened("report", needed, options, more, default_top_k=TOP_K)
        outcome, found = _traced(rows, source, say, tick, fail_on_error, out)
    if not found:
        raise BadInput("none of the texts could be scored, so there is nothing to report")
    table = pa.Table.from_batches(score_batches(found, wanted), schema)
    return outcome, [_shown(f) for f in found], table


def _shown(found: Found) -> Trace:
    """The trace that a report shows of a text."""
    if isinstance(found, Trace):
        return found
    greedy = found.samples.greedy if found.samples else None
    shown = greedy if found.trace is None else found.trace
    if shown is None:
        raise BadInput(f"text '{found.id}' was stored without a trace of its own; nothing to show")
    return shown


def _trace_files(inputs: Sequence[str]) -> list[str]:
    """The inputs when all of them are stored traces, nothing when none is."""
    files = input_files(inputs)
    stored = [f for f in files if f.endswith(".parquet") and _arrow.is_trace_file(f)]
    if stored and len(stored) < len(files):
        other = next(f for f in files if f not in stored)
        raise BadInput(f"{stored[0]} holds traces and {other} texts; score them one after another")
    return stored


def _stored(paths: Iterable[str | Path]) -> Iterator[Any]:
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


def _traced(
    rows: Iterable[Row],
    source: Source,
    say: Say,
    tick: Tick,
    fail_on_error: bool,
    out: Path | None = None,
) -> tuple[Outcome, list[Found]]:
    """All traces in memory, for a table or report that shows every text anyway."""
    rejected: list[dict[str, Any]] = []
    traces = list(_ticked(set_aside(list(rows), source, rejected, fail_on_error), tick))
    for r in rejected[:10]:
        line = "" if r["line"] is None else f":{r['line']}"
        say(f"{r['source']}{line}: not scored: {r['detail']}")
    rejects = write_rejects(out, rejected) if out is not None else None
    return Outcome(len(traces), len(rejected), rejects=rejects), traces


def _ticked(traces: Iterable[Found], tick: Tick) -> Iterator[Found]:
    for trace in traces:
        tick(1)
        yield trace


def _started(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, the first read now, so that a mistake shows before a model is loaded."""
    first = next(rows)
    return itertools.chain([first], rows)


def _opened(
    command: str,
    wanted: Sequence[Request],
    options: ModelOptions,
    more: GatherOptions,
    *,
    default_top_k: int,
) -> tuple[Source, dict[str, object], int]:
    """The source with its models loaded, all that decides its numbers, and the pace of shards."""
    model, reference = _models(options)
    top_k = default_top_k if options.top_k is None else options.top_k
    fields = Fields(top_k=top_k)
    source = source_of(model, wanted, fields, reference, options.stride, more)
    parts = _parts(command, model, reference, fields_for(wanted) | fields, options)
    if is_bundled(wanted):
        parts["scores"] = [r.label for r in wanted]
        parts["choice of samples"] = dataclasses.asdict(more)
    return source, parts, _pace(model)


def _models(options: ModelOptions) -> tuple[LanguageModel, LanguageModel | None]:
    from nll import models

    def open_model(name: str | None, revision: str | None) -> LanguageModel:
        return models.load(
            name,
            device=options.device,
            dtype=options.dtype,
            bos=options.bos,
            revision=revision,
            trust_remote_code=options.trust_remote_code,
            batch_tokens=options.batch_tokens,
        )

    model = open_model(options.model, options.revision)
    return model, open_model(options.reference, None) if options.reference else None


def _pace(model: LanguageModel) -> int:
    """How many times larger shards may be than on a CPU for the same loss at a kill."""
    return 1 if model.identity.get("device", "cpu") == "cpu" else 16


def _parts(
    command: str,
    model: LanguageModel,
    reference: LanguageModel | None,
    fields: Fields,
    options: ModelOptions,
) -> dict[str, object]:
    """Everything that decides the numbers to the last bit, by the word told when it changes."""
    return {
        "command": command,
        "model": dict(model.identity),
        "reference": dict(reference.identity) if reference else None,
        "choice of fields": dataclasses.asdict(fields),
        "stride": options.stride,
        "batch size": options.batch_tokens,
        "library version": (__version__, _arrow.SCHEMA),
    }


def title_of(inputs: Sequence[str]) -> str:
    """What a report on these inputs is called."""
    names = ["standard input" if i == "-" else Path(i).name or i for i in inputs]
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
