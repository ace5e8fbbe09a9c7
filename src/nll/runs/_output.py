"""Score tables as files: Parquet, JSON lines, CSV."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nll._errors import BadInput
from nll.runs._atomic import telling

Batches = Iterable[pa.RecordBatch]


def check_output(out: Path, suffixes: Sequence[str], inputs: Sequence[str]) -> None:
    """Raise BadInput when `out` cannot be written, before anything is computed for it."""
    if out.suffix.lower() not in suffixes:
        raise BadInput(f"cannot write {out}: its name must end in {' or '.join(suffixes)}")
    if out.is_dir():
        raise BadInput(f"cannot write {out}: it is a folder")
    parent = out.parent
    if not parent.is_dir():
        raise BadInput(f"cannot write {out}: there is no folder {parent}")
    if not os.access(parent, os.W_OK):
        raise BadInput(f"cannot write {out}: the folder {parent} is not writable")
    with telling(out):
        mine = [i for i in inputs if i != "-" and "://" not in i]
        same = [i for i in mine if out.exists() and os.path.samefile(i, out)]
    if same:
        raise BadInput(f"cannot write {out}: it is also an input")


def write_parquet(path: Path, batches: Batches, schema: pa.Schema) -> None:
    """The table as Parquet, with the scores' declarations in the columns' metadata."""
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_jsonl(path: Path, batches: Batches, schema: pa.Schema) -> None:
    """One object per line; nan is null (its reason stands under `undefined`), infinity 1e999."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in batches:
            for row in batch.to_pylist():
                row["undefined"] = json.loads(row["undefined"]) if row["undefined"] else None
                file.write(_json(row) + "\n")


def write_csv(path: Path, batches: Batches, schema: pa.Schema) -> None:
    """A header and one line per row; texts that a spreadsheet would run as a formula get a `'`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_guarded(name) for name in schema.names])
        for batch in batches:
            for row in batch.to_pylist():
                writer.writerow([_csv_cell(value) for value in row.values()])


WRITERS: dict[str, Callable[[Path, Batches, pa.Schema], None]] = {
    ".parquet": write_parquet,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
}


def _json(value: Any) -> str:
    """JSON that any reader takes: nan is null, infinity a number too large for a float."""
    if isinstance(value, float) and not math.isfinite(value):
        return "null" if math.isnan(value) else "1e999" if value > 0 else "-1e999"
    if isinstance(value, dict):
        inner = ", ".join(f"{_json(k)}: {_json(v)}" for k, v in value.items())
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        return _guarded(value)
    return _json(value) if isinstance(value, list) else value


def _guarded(text: str) -> str:
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
