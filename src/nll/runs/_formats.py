"""The cells of JSON lines, CSV and Parquet; a broken row is a cell with a reason."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from nll._errors import BadFile, BadInput

# The csv module's limit guards against nothing here and would end the run at a long text.
_FIELD_LIMIT = 2**31 - 1
# Given the columns of a table, those to read; raises BadInput when one that must be there is not.
Pick = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """What one row holds: a text, or values by column; None with the reason it cannot be read."""

    line: int | None
    values: Mapping[str, Any] | str | None
    reason: str | None = None
    detail: str | None = None


def jsonl_cells(lines: Iterable[bytes]) -> Iterator[Cell]:
    """One JSON object per line; blank lines are passed over."""
    for number, raw in enumerate(lines, 1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw.strip():
            continue
        try:
            values = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield Cell(number, None, "not_utf8", f"byte {error.start} of the line is not UTF-8")
        except (ValueError, RecursionError) as error:
            yield Cell(number, None, "bad_json", f"the line is not JSON: {str(error)[:120]}")
        else:
            if isinstance(values, dict):
                yield Cell(number, values)
            else:
                kind = type(values).__name__
                yield Cell(number, None, "bad_json", f"the line is a JSON {kind}, not an object")


def csv_cells(path: str, raw: BinaryIO, pick: Pick, delimiter: str) -> Iterator[Cell]:
    """Rows of a CSV file with a header line. `pick` refuses it by its columns."""
    csv.field_size_limit(_FIELD_LIMIT)
    with io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as file:
        # strict: a quote that is never closed is an error and does not swallow rows in silence.
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise BadInput(f"{path}: the header line cannot be read as CSV: {error}") from None
        pick(header)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Cell(line, None, "bad_csv", f"{error} (the row began at line {line})")
                continue
            if not cells:
                continue
            if len(cells) > len(header):
                detail = f"the row has {len(cells)} cells, the header {len(header)}"
                yield Cell(line, None, "bad_csv", detail)
                continue
            yield Cell(line, dict(zip(header, cells, strict=False)))


def parquet_cells(path: str, source: Any, pick: Pick) -> Iterator[Cell]:
    """Rows of a Parquet file, the picked columns only. Raises BadFile when it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(source) as file:
            held = file.schema_arrow.names
            wanted = pick(held)
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                columns = [_values(batch.column(name), pa) for name in wanted]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield _parquet_cell(number, dict(zip(wanted, cells, strict=True)))
    except BadInput:
        raise
    except (OSError, pa.ArrowException, ValueError):
        raise BadFile(f"{path} is not a whole Parquet file") from None


def _values(column: Any, pa: Any) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # Bytes, so that one row that is not UTF-8 does not take the batch with it.
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _parquet_cell(number: int, values: dict[str, Any]) -> Cell:
    for name, value in values.items():
        if isinstance(value, bytes):
            try:
                values[name] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                detail = f"byte {error.start} of '{name}' is not UTF-8"
                return Cell(number, None, "not_utf8", detail)
    return Cell(number, values)
