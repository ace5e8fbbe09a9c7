"""Traces in Arrow and Parquet: lossless, one row per text, read and written in streams.

Per-token fields are list columns; two-dimensional ones are flat, their width is length / T. A float
column is double when any of its traces is, and `layout` says which rows to narrow again.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nll import __version__
from nll._errors import BadFile, BadInput
from nll.runs._atomic import atomic_path
from nll.trace import Array, Provenance, Trace

SCHEMA = 1
_FLOATS = (
    "logp", "entropy", "varentropy", "top_logp", "lse_at", "boundary", "boundary_at", "kl_uniform",
    "cross_mean", "cross_var", "hidden",
)  # fmt: skip
_INTS = ("rank", "ties", "ids", "spans", "top_ids")
_WIDTHS = ("top_ids", "top_logp", "hidden")
_NO_TAGS = pa.schema([])
Tagged: TypeAlias = tuple[Trace, tuple[Any, ...]]
_GROUP_ROWS = 256
# What pyarrow and the values of a damaged file raise.
_DAMAGED = (OSError, pa.ArrowException, ValueError, KeyError, IndexError, TypeError)
_GROUP_BYTES = 64 << 20
_REMEDY = "upgrade with: pip install -U nll"


def write_traces(path: str | os.PathLike[str], traces: Iterable[Trace]) -> None:
    """Write traces to a Parquet file, whole or not at all, holding a few hundred at a time.

    Raises BadInput when the folder is missing or not writable.
    """
    write_tagged(path, ((trace, ()) for trace in traces))


def read_traces(path: str | os.PathLike[str]) -> Iterator[Trace]:
    """Traces of a file in their order, read in batches; the file is checked at once.

    Raises BadFile when it is no trace file, damaged, or from a newer version.
    """
    if is_trace_file(path) and b"nll.bundles" in (pq.read_schema(path).metadata or {}):
        raise BadFile(f"{path} holds several traces of a text; read it with nll.read_bundles")
    return (trace for trace, _ in read_tagged(path))


def traces_to_table(traces: Iterable[Trace]) -> pa.Table:
    """Traces as one table, with the same columns as the file."""
    rows = list(traces)
    wide = _wide(rows)
    return pa.Table.from_batches([_encode(g, wide) for g in _groups(rows)], schema=_schema(wide))


def table_to_traces(table: pa.Table | pa.RecordBatch) -> Iterator[Trace]:
    """Inverse of `traces_to_table`, also for a slice of one."""
    _check(table.schema, "this table")
    batches = table.to_batches() if isinstance(table, pa.Table) else [table]
    return itertools.chain.from_iterable(_decode(b) for b in batches)


def is_trace_file(path: str | os.PathLike[str]) -> bool:
    """Whether this is a Parquet file that holds traces, of whatever version."""
    try:
        with Path(path).open("rb") as file:
            if file.read(4) != b"PAR1":
                return False
        return b"nll.schema" in (pq.read_schema(path).metadata or {})
    except _DAMAGED:
        return False


def write_tagged(
    path: str | os.PathLike[str], rows: Iterable[Tagged], tags: pa.Schema = _NO_TAGS
) -> None:
    """Write traces, each with a value for every field of `tags`, which become columns of their own;
    see `write_traces`."""
    with atomic_path(path) as temporary:
        wide: frozenset[str] = frozenset()
        writer = _writer(temporary, wide, tags)
        try:
            for group in _tagged_groups(rows):
                needed = wide | _wide([trace for trace, _ in group])
                if needed != wide:
                    writer.close()
                    writer, wide = _rewritten(temporary, needed, tags), needed
                writer.write_batch(_encode_tagged(group, wide, tags))
        finally:
            writer.close()


def read_tagged(path: str | os.PathLike[str], tags: pa.Schema = _NO_TAGS) -> Iterator[Tagged]:
    """The traces of a file with the values of their tags; see `read_traces`."""
    file = _open(path)
    try:
        _check(file.schema_arrow, str(path), tags)
    except BadFile:
        file.close()
        raise
    return _read(file, path, tags)


def _schema(wide: frozenset[str], tags: pa.Schema = _NO_TAGS) -> pa.Schema:
    def per_token(name: str) -> pa.DataType:
        if name in _INTS:
            return pa.list_(pa.int32())
        return pa.list_(pa.float64() if name in wide else pa.float32())

    fields = [
        ("id", pa.string()),
        ("text", pa.string()),
        ("prompt_tokens", pa.int32()),
        *((name, per_token(name)) for name in (*_FLOATS, *_INTS)),
        ("betas", pa.list_(pa.float64())),
        ("vocab", pa.map_(pa.int32(), pa.string())),
        ("provenance", pa.string()),
        ("layout", pa.string()),
    ]
    told = {"nll.schema": str(SCHEMA), "nll.version": __version__, **(tags.metadata or {})}
    return pa.schema([*fields, *tags], metadata=told)


def _writer(path: Path, wide: frozenset[str], tags: pa.Schema) -> pq.ParquetWriter:
    # Dictionaries would merge all nans into one and lose their payloads, so floats go without.
    dictionary = ["id", "provenance", "layout", "vocab.key_value.value"]
    dictionary += [f"{name}.list.element" for name in _INTS if name != "spans"]
    return pq.ParquetWriter(
        path,
        _schema(wide, tags),
        compression="zstd",
        use_dictionary=dictionary,
        use_byte_stream_split=[f"{name}.list.element" for name in (*_FLOATS, "betas")],
        column_encoding={"spans.list.element": "DELTA_BINARY_PACKED"},
        write_statistics=False,
    )


def _rewritten(path: Path, wide: frozenset[str], tags: pa.Schema) -> pq.ParquetWriter:
    """A writer into which the traces already in `path` went again, with more columns double."""
    old = path.with_name(path.name + ".narrow")
    path.rename(old)
    try:
        writer = _writer(path, wide, tags)
        for group in _tagged_groups(read_tagged(old, tags)):
            writer.write_batch(_encode_tagged(group, wide, tags))
    finally:
        old.unlink()
    return writer


def _groups(traces: Iterable[Trace]) -> Iterator[list[Trace]]:
    for group in _tagged_groups((trace, ()) for trace in traces):
        yield [trace for trace, _ in group]


def _tagged_groups(rows: Iterable[Tagged]) -> Iterator[list[Tagged]]:
    group: list[Tagged] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(a.nbytes for n in (*_FLOATS, *_INTS) if (a := getattr(row[0], n)) is not None)
        if len(group) == _GROUP_ROWS or size > _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _wide(traces: Sequence[Trace]) -> frozenset[str]:
    return frozenset(
        name
        for name in _FLOATS
        if any((a := getattr(t, name)) is not None and a.dtype == np.float64 for t in traces)
    )


def _encode(traces: Sequence[Trace], wide: frozenset[str]) -> pa.RecordBatch:
    schema = _schema(wide)
    columns: dict[str, pa.Array] = {
        "id": _strings([t.id for t in traces], "id"),
        "text": _strings([t.text for t in traces], "text"),
        "prompt_tokens": pa.array([t.prompt_tokens for t in traces], pa.int32()),
        "betas": pa.array([list(t.betas) for t in traces], pa.list_(pa.float64())),
        "vocab": _vocabs(traces),
        "provenance": pa.array([t.provenance.to_json() for t in traces]),
        "layout": pa.array([_layout(t, wide) for t in traces], pa.string()),
    }
    for name in (*_FLOATS, *_INTS):
        columns[name] = _lists([getattr(t, name) for t in traces], schema.field(name).type)
    return pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema)


def _encode_tagged(
    group: Sequence[Tagged], wide: frozenset[str], tags: pa.Schema
) -> pa.RecordBatch:
    batch = _encode([trace for trace, _ in group], wide)
    columns = [pa.array([values[i] for _, values in group], f.type) for i, f in enumerate(tags)]
    return pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=_schema(wide, tags))


def _strings(values: Sequence[str | None], name: str) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        raise BadInput(f"a trace's {name} holds a lone surrogate, which no file can hold") from None


def _lists(values: Sequence[Array | None], kind: pa.ListType) -> pa.Array:
    absent = np.array([v is None for v in values])
    if absent.all():
        return pa.nulls(len(values), kind)
    target = kind.value_type.to_pandas_dtype()
    flat = [_cast(v.reshape(-1), target) for v in values if v is not None]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([0 if v is None else v.size for v in values], out=offsets[1:])
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(np.concatenate(flat)), mask=pa.array(absent)
    )


def _cast(values: Array, target: Any) -> Array:
    """Between float32 and float64 and back without changing a bit, nan payloads included."""
    if values.dtype == target or values.dtype.kind == "i":
        return values.astype(target, copy=False)
    nan = np.isnan(values)
    out: Array = np.where(nan, 0, values).astype(target)
    if nan.any():
        # The hardware would make signalling nans quiet; moving the bits by hand does not.
        if target == np.float64:
            bits = values[nan].view(np.uint32).astype(np.uint64)
            moved = (bits >> 31 << 63) | np.uint64(0x7FF << 52) | ((bits & 0x7FFFFF) << 29)
            out.view(np.uint64)[nan] = moved
        else:
            bits = values[nan].view(np.uint64)
            moved = (bits >> 63 << 31) | np.uint64(0xFF << 23) | (bits >> 29 & 0x7FFFFF)
            out.view(np.uint32)[nan] = moved.astype(np.uint32)
    return out


def _vocabs(traces: Sequence[Trace]) -> pa.Array:
    offsets = np.zeros(len(traces) + 1, np.int32)
    np.cumsum([len(t.vocab) for t in traces], out=offsets[1:])
    keys: list[int] = []
    items: list[str] = []
    for trace in traces:
        keys += trace.vocab.keys()
        items += trace.vocab.values()
    return pa.MapArray.from_arrays(
        pa.array(offsets), pa.array(keys, pa.int32()), _strings(items, "vocab")
    )


def _layout(trace: Trace, wide: frozenset[str]) -> str | None:
    """What the columns alone do not tell: narrow floats in wide columns, widths without a token."""
    held = {n: a for n in {*_FLOATS, *_WIDTHS} if (a := getattr(trace, n)) is not None}
    narrow = sorted(n for n, a in held.items() if n in wide and a.dtype == np.float32)
    widths = {n: held[n].shape[1] for n in _WIDTHS if len(trace) == 0 and n in held}
    notes = {k: v for k, v in (("narrow", narrow), ("widths", widths)) if v}
    return json.dumps(notes, sort_keys=True) if notes else None


def _open(path: str | os.PathLike[str]) -> pq.ParquetFile:
    if not Path(path).exists():
        raise BadFile(f"{path}: no such file")
    try:
        return pq.ParquetFile(path)
    except _DAMAGED:
        raise BadFile(f"{path} is not a whole Parquet file; make it again with nll trace") from None


def _check(schema: pa.Schema, name: str, tags: pa.Schema = _NO_TAGS) -> None:
    held = (schema.metadata or {}).get(b"nll.schema")
    if held is None:
        raise BadFile(f"{name} holds no traces; make them with: nll trace INPUT -o traces.parquet")
    if not held.isdigit() or int(held) > SCHEMA:
        version = held.decode(errors="replace")
        raise BadFile(
            f"{name} was written by a newer nll (schema {version}, this one reads up to {SCHEMA}); "
            f"{_REMEDY}"
        )
    doubles = frozenset(n for n in _FLOATS if n in schema.names and _is_double(schema.field(n)))
    for field in _schema(doubles, tags):
        if field.name not in schema.names or schema.field(field.name).type != field.type:
            raise BadFile(f"{name} is a trace file whose column '{field.name}' is gone or changed")


def _is_double(field: pa.Field) -> bool:
    return bool(field.type == pa.list_(pa.float64()))


def _read(file: pq.ParquetFile, path: str | os.PathLike[str], tags: pa.Schema) -> Iterator[Tagged]:
    with file:
        try:
            for batch in file.iter_batches(batch_size=_GROUP_ROWS):
                columns = [batch.column(name).to_pylist() for name in tags.names]
                values = zip(*columns, strict=True) if columns else itertools.repeat(())
                yield from zip(_decode(batch), values, strict=False)
        except _DAMAGED:
            raise BadFile(f"{path} is damaged; make it again with nll trace") from None


def _decode(batch: pa.RecordBatch) -> Iterator[Trace]:
    lists = {n: _Lists(batch.column(n)) for n in (*_FLOATS, *_INTS, "betas")}
    vocab = batch.column("vocab")
    bounds, keys, items = vocab.offsets.to_numpy(), vocab.keys, vocab.items
    scalars = ("id", "text", "prompt_tokens", "provenance", "layout")
    for i, row in enumerate(zip(*(batch.column(n).to_pylist() for n in scalars), strict=True)):
        id_, text, prompt_tokens, provenance, layout = row
        notes = json.loads(layout) if layout else {}
        arrays = {n: values for n, column in lists.items() if (values := column[i]) is not None}
        betas = tuple(arrays.pop("betas").tolist())
        for name in notes.get("narrow", ()):
            arrays[name] = _cast(arrays[name], np.float32)
        yield Trace(
            **_shaped(arrays, len(betas), notes.get("widths", {})),
            text=text,
            prompt_tokens=prompt_tokens,
            betas=betas,
            vocab=_Vocab(keys, items, int(bounds[i]), int(bounds[i + 1])),
            provenance=_provenance(provenance),
            id=id_,
        )


def _shaped(arrays: dict[str, Array], betas: int, widths: Mapping[str, int]) -> dict[str, Any]:
    n = len(arrays["logp"])
    shapes = {"spans": (n, 2), "lse_at": (n, betas), "boundary_at": (n + 1, betas)}
    for name in arrays.keys() & {*shapes, *_WIDTHS}:
        flat = arrays[name]
        width = flat.size // n if n else widths.get(name, 0)
        arrays[name] = flat.reshape(shapes.get(name, (n, width)))
    return arrays


class _Lists:
    """A list column as slices of one flat numpy array; None where a row has no list."""

    def __init__(self, column: pa.ListArray):
        self.flat: Array = column.values.to_numpy(zero_copy_only=True)
        self.bounds = column.offsets.to_numpy().tolist()
        self.valid = column.is_valid().to_pylist()

    def __getitem__(self, i: int) -> Array | None:
        return self.flat[self.bounds[i] : self.bounds[i + 1]] if self.valid[i] else None


class _Vocab(Mapping[int, str]):
    """Token strings of one trace, made into Python objects only when somebody looks."""

    def __init__(self, keys: pa.Array, items: pa.Array, start: int, stop: int):
        self._source = (keys, items, start, stop)

    @functools.cached_property
    def _held(self) -> dict[int, str]:
        keys, items, start, stop = self._source
        a, b = keys.slice(start, stop - start), items.slice(start, stop - start)
        return dict(zip(a.to_pylist(), b.to_pylist(), strict=True))

    def __getitem__(self, key: int) -> str:
        return self._held[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __len__(self) -> int:
        return self._source[3] - self._source[2]

    def __repr__(self) -> str:
        return repr(self._held)


@functools.lru_cache(maxsize=256)
def _provenance(line: str) -> Provenance:
    return Provenance.from_json(line)
