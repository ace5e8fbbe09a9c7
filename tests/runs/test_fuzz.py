"""Whatever the bytes, the readers give rows, set rows aside, or refuse in one line."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nll
from nll._errors import NllError
from nll.runs import Columns, read_rows

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.xz", ".txt.zst")
KEYS = st.sampled_from(["text", "prompt", "completion", "messages", "id", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=4)
COLUMNS = st.sampled_from(
    [Columns(), Columns(text="x"), Columns(prompt="x", completion="text"), Columns(lines=True)]
)


def rows_of(name: str, data: bytes, columns: Columns) -> None:
    """Read to the end; a refusal must be one of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            for row in read_rows([str(path)], columns):
                assert (row.text is None) == (row.reason is not None)
        except NllError as error:
            one_line(error)


def one_line(error: NllError) -> None:
    assert "\n" not in str(error).strip()


@given(st.binary(max_size=200), st.sampled_from(SUFFIXES), COLUMNS)
@example(b"PAR1" + bytes(40) + b"PAR1", ".parquet", Columns())
@example(b"\x1f\x8b\x08\x00", ".jsonl.gz", Columns())
@example(b'text\n"never closed', ".csv", Columns())
@example(b"\xef\xbb\xbf{", ".jsonl", Columns())
@settings(max_examples=300, deadline=None)
def test_any_bytes(data: bytes, suffix: str, columns: Columns) -> None:
    rows_of(f"a{suffix}", data, columns)


@given(ROWS, COLUMNS, st.integers(0, 200), st.binary(max_size=2))
@settings(max_examples=300, deadline=None)
def test_json_lines_of_any_shape_torn_anywhere(rows, columns, at: int, torn: bytes) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    at = min(at, len(data))
    rows_of("a.jsonl", data[:at] + torn + data[at + len(torn) :], columns)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("traces") / "t.parquet"
    text = nll.Trace(logp=np.array([np.nan, -1.0, -2.0]), text="abc", id="a")
    nll.write_traces(path, [text, text])
    return path.read_bytes()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_of_traces_is_refused_or_read(stored, data) -> None:
    broken = bytearray(stored)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    broken = (
        broken[: data.draw(st.integers(0, len(broken)))] if data.draw(st.booleans()) else broken
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "t.parquet"
        path.write_bytes(bytes(broken))
        try:
            for trace in nll.read_traces(path):
                assert len(trace.logp) == len(trace)
        except NllError as error:
            one_line(error)
