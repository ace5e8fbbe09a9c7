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

from nll import __version__, _arrow
from nll._declare import TWO_MODELS, Request, requests
from nll._errors import BadInput
from nll._table import fields_for, score_batches, score_schema
from nll.runs._atomic import atomic_path
from nll.runs._output import WRITERS, check_output, write_parquet
from nll.runs._read import Columns, Row, input_files, read_rows
from nll.runs._run import Job, Outcome, run, set_aside, tracer, write_rejects
from nll.runs._store import Say
from nll.trace import Fields, Trace

if TYPE_CHECKING:
    from nll.models import LanguageModel

Tick = Callable[[int], None]
TOP_K = 10


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
    *,
    say: Say,
    tick: Tick,
    fail_on_error: bool = False,
) -> Outcome:
    """Store the traces of all texts, holding what these scores need and the top alternatives."""
    wanted = requests(specs) if specs else []
    _check_reference(wanted, options)
    check_output(out, (".parquet",), inputs)
    rows = _started(read_rows(inputs, columns))
    fields = _fields(wanted, options, default_top_k=TOP_K)
    model, reference = _models(options)
    job = Job(
        parts=_parts("trace", model, reference, fields, options),
        trace=tracer(model, fields, reference, options.stride),
        write=_arrow.write_traces,
        merge=lambda path, shards: _arrow.write_traces(path, _stored(shards)),
    )
    pace = _pace(model)
    return run(rows, out, job, say=say, tick=tick, fail_on_error=fail_on_error, pace=pace)


def score_to(
    inputs: Sequence[str],
    out: Path | None,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
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
    _check_reference(wanted, options)
    rows = _started(read_rows(inputs, columns))
    fields = _fields(wanted, options, default_top_k=0)
    model, reference = _models(options)
    trace = tracer(model, fields, reference, options.stride)
    if out is None:
        outcome, traces = _traced(rows, trace, say, tick, fail_on_error)
        return outcome, pa.Table.from_batches(score_batches(traces, wanted), schema)
    write = WRITERS[out.suffix.lower()]
    job = Job(
        parts={
            **_parts("score", model, reference, fields, options),
            "scores": [(r.label, r.declaration.name, dict(r.parameters)) for r in wanted],
        },
        trace=trace,
        write=lambda path, traces: write_parquet(path, score_batches(traces, wanted), schema),
        merge=lambda path, shards: write(path, _batches(shards), schema),
    )
    pace = _pace(model)
    return run(rows, out, job, say=say, tick=tick, fail_on_error=fail_on_error, pace=pace), None


def report_data(
    inputs: Sequence[str],
    out: Path,
    specs: Sequence[str],
    columns: Columns,
    options: ModelOptions,
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
        traces = list(_ticked(_stored(stored), tick))
        outcome = Outcome(len(traces))
    else:
        _check_reference(wanted, options)
        rows = _started(read_rows(inputs, columns))
        fields = _fields(wanted, options, default_top_k=TOP_K)
        model, reference = _models(options)
        trace = tracer(model, fields, reference, options.stride)
        outcome, traces = _traced(rows, trace, say, tick, fail_on_error, out)
    if not traces:
        raise BadInput("none of the texts could be scored, so there is nothing to report")
    table = pa.Table.from_batches(score_batches(traces, wanted), schema)
    return outcome, traces, table


def _trace_files(inputs: Sequence[str]) -> list[str]:
    """The inputs when all of them are stored traces, nothing when none is."""
    files = input_files(inputs)
    stored = [f for f in files if f.endswith(".parquet") and _arrow.is_trace_file(f)]
    if stored and len(stored) < len(files):
        other = next(f for f in files if f not in stored)
        raise BadInput(f"{stored[0]} holds traces and {other} texts; score them one after another")
    return stored


def _stored(paths: Iterable[str | Path]) -> Iterator[Trace]:
    return itertools.chain.from_iterable(_arrow.read_traces(path) for path in paths)


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
    trace: Any,
    say: Say,
    tick: Tick,
    fail_on_error: bool,
    out: Path | None = None,
) -> tuple[Outcome, list[Trace]]:
    """All traces in memory, for a table or report that shows every text anyway."""
    rejected: list[dict[str, Any]] = []
    traces = list(_ticked(set_aside(list(rows), trace, rejected, fail_on_error), tick))
    for r in rejected[:10]:
        line = "" if r["line"] is None else f":{r['line']}"
        say(f"{r['source']}{line}: not scored: {r['detail']}")
    rejects = write_rejects(out, rejected) if out is not None else None
    return Outcome(len(traces), len(rejected), rejects=rejects), traces


def _ticked(traces: Iterable[Trace], tick: Tick) -> Iterator[Trace]:
    for trace in traces:
        tick(1)
        yield trace


def _started(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, the first read now, so that a mistake shows before a model is loaded."""
    first = next(rows)
    return itertools.chain([first], rows)


def _fields(wanted: Sequence[Request], options: ModelOptions, *, default_top_k: int) -> Fields:
    top_k = default_top_k if options.top_k is None else options.top_k
    return fields_for(wanted) | Fields(top_k=top_k)


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


def _check_reference(wanted: Sequence[Request], options: ModelOptions) -> None:
    for request in wanted:
        if request.declaration.takes != ("trace",):
            takes = ", ".join(request.declaration.takes)
            raise BadInput(
                f"score '{request.label}' takes more than one trace of a text ({takes}); "
                "obtain them in Python with nll.gather"
            )
        if TWO_MODELS & set(request.declaration.reads) and options.reference is None:
            raise BadInput(
                f"score '{request.label}' compares two models; name the second with --reference"
            )


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
