"""Scores of many traces as an Arrow table: one row per text, one column per score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import chain, islice
from operator import or_
from typing import Any

import numpy as np
import pyarrow as pa

from nll._bundle import Bundle, Samples
from nll._declare import Request, Undefined, requests
from nll._errors import BadInput, MissingField, NllError
from nll.trace import Fields, Provenance, Trace

# What a score may raise on one text without ending the run; it becomes that row's reason.
FAILURES = (ValueError, ArithmeticError, LookupError)

Row = Trace | Bundle
Specs = str | Callable[..., Any] | Iterable[str | Callable[..., Any] | Request]


def score(traces: Row | Iterable[Row], specs: Specs) -> Any:
    """A pyarrow.Table with the scores of every trace, in order; no model runs.

    traces: traces or, for scores that compare several, bundles of them as `nll.gather` makes.

    specs: names, `name(option=value)`, declared functions, a list of these, or `all`: every score
    of a whole text that one model's plain trace can give.

    Columns: `id` (null when a trace has none), `tokens` (how many were scored), one per score
    (float64, or a list for scores of tokens and words), and `undefined`: null, or JSON that says
    for each nan of the row why it is one. A column's metadata tells direction, unit, range, paper.

    Raises BadInput for an unknown score or option, and MissingField when the first trace lacks what
    a score named here needs; scores that `all` brought in are undefined then.
    """
    wanted = requests(specs)
    batches = score_batches([traces] if isinstance(traces, Trace | Bundle) else traces, wanted)
    return pa.Table.from_batches(batches, schema=score_schema(wanted))


def score_batches(
    traces: Iterable[Row], wanted: Sequence[Request], batch_size: int = 512
) -> Iterator[Any]:
    """Record batches of at most `batch_size` rows, as the traces come, none of which is held once
    it is scored; see `score`."""
    schema = score_schema(wanted)
    rows = iter(traces)
    first = next(rows, None)
    if first is None:
        return
    _check_fields(first, wanted)
    rows = chain([first], rows)
    del first
    while (batch := _batch(islice(rows, batch_size), wanted, schema)).num_rows:
        yield batch


def fields_for(wanted: Iterable[Request]) -> Fields:
    """The least a trace must hold for all these scores."""
    return reduce(or_, (request.fields for request in wanted), Fields())


def score_schema(wanted: Sequence[Request]) -> Any:
    """The schema of the score table; raises BadInput when an option has an impossible value.

    Each score's field has the metadata key `nll`: JSON with name, parameters, higher_means, unit,
    range (null for an open end), paper, question, summary and shape.
    """
    for request in wanted:
        _check_options(request)
    kinds = {"text": pa.float64(), "token": pa.list_(pa.float64()), "word": pa.list_(pa.float64())}
    columns = [pa.field("id", pa.string()), pa.field("tokens", pa.int32())]
    columns += [
        pa.field(r.label, kinds[r.declaration.shape], metadata={"nll": _metadata(r)})
        for r in wanted
    ]
    return pa.schema([*columns, pa.field("undefined", pa.string())])


def _metadata(request: Request) -> str:
    d = request.declaration
    return json.dumps(
        {
            "name": d.name,
            "parameters": {k: _told(v) for k, v in {**d.parameters, **request.parameters}.items()},
            "higher_means": d.higher_means,
            "unit": d.unit,
            "range": [end if math.isfinite(end) else None for end in d.range],
            "paper": d.paper,
            "question": d.question,
            "summary": d.summary,
            "shape": d.shape,
        },
        ensure_ascii=False,
        default=str,
    )


def _told(value: Any) -> Any:
    """An option as it stands in the metadata: tables and the like by their kind only."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain or len(str(value)) <= 80 else f"<{type(value).__name__}>"


def _check_options(request: Request) -> None:
    """Run a score on a text of no tokens that lacks nothing: only its options can be wrong then."""
    asked = request.fields
    none, k, g = np.empty(0), asked.top_k, len(asked.betas)
    nothing = Trace(
        logp=none, entropy=none, varentropy=none, kl_uniform=none, cross_mean=none, cross_var=none,
        rank=none, ties=none, ids=none, spans=np.empty((0, 2)),
        top_ids=np.empty((0, k)), top_logp=np.empty((0, k)), betas=asked.betas,
        lse_at=np.empty((0, g)), boundary=np.empty(1), boundary_at=np.empty((1, g)),
        provenance=Provenance(vocab_size=max(k, 2)),
    )  # fmt: skip
    bundle = Bundle(
        trace=nothing, reference=nothing, lower=nothing, alone=nothing, neighbours=(nothing,),
        perturbed=(nothing,), samples=Samples(drawn=(nothing,), greedy=nothing, clusters=(0,)),
    )  # fmt: skip
    try:
        request(bundle)
    except BadInput as error:
        raise BadInput(f"score '{request.label}': {error}") from None
    except FAILURES:
        # A score from elsewhere may not know empty texts; its rows will tell.
        return


def _check_fields(row: Row, wanted: Iterable[Request]) -> None:
    """Raise MissingField if a score that was asked for by name cannot read this row."""
    bundle = Bundle(trace=row) if isinstance(row, Trace) else row
    for request in wanted:
        takes = request.declaration.takes
        if request.optional or set(takes) & set(bundle.missing):
            continue
        try:
            for role in takes:
                for trace in _traces_of(bundle.role(role)):
                    for name in request.declaration.reads:
                        trace.field(name)
                    for beta in request.fields.betas:
                        trace.lse(beta)
            request(row)
        except MissingField as error:
            raise MissingField(f"score '{request.label}': {error}") from None
        except FAILURES:
            continue


def _traces_of(given: object) -> Sequence[Trace]:
    if isinstance(given, Samples):
        return given.drawn
    return given if isinstance(given, Sequence) else [given]  # type: ignore[list-item]


def _batch(traces: Iterable[Row], wanted: Sequence[Request], schema: Any) -> Any:
    ids: list[str | None] = []
    tokens: list[int | None] = []
    columns: list[list[Any]] = [[] for _ in wanted]
    undefined: list[str | None] = []
    for trace in traces:
        ids.append(trace.id)
        tokens.append(trace.n_scored)
        reasons: dict[str, str] = {}
        for request, column in zip(wanted, columns, strict=True):
            value, reason = _evaluate(request, trace)
            column.append(value)
            if reason is not None:
                reasons[request.label] = reason
        undefined.append(json.dumps(reasons, ensure_ascii=False) if reasons else None)
    arrays = [ids, tokens, *columns, undefined]
    return pa.record_batch(
        [pa.array(a, type=f.type, from_pandas=False) for a, f in zip(arrays, schema, strict=True)],
        schema=schema,
    )


def _evaluate(request: Request, trace: Row) -> tuple[Any, str | None]:
    """The value, and why it is nan if it is."""
    text = request.declaration.shape == "text"
    try:
        value = request(trace)
    except FAILURES as error:
        kind = "" if isinstance(error, NllError) else f"{type(error).__name__}: "
        return (math.nan if text else []), f"{kind}{error}"
    if not text:
        values = np.asarray(value, dtype=np.float64)
        lacking = bool(np.isnan(values).all())
        return values, "no token was scored" if lacking else None
    if value == value:
        return float(value), None
    reason = value.reason if isinstance(value, Undefined) else "not a number, without a reason"
    return math.nan, reason
