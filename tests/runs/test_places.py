"""Inputs that are packed, behind a URL, or a dataset."""

from __future__ import annotations

import bz2
import gzip
import http.server
import json
import lzma
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nll import BadFile, BadInput
from nll.runs import Columns, read_rows
from nll.runs._places import suffix_of

LINES = b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n'


def texts(*inputs: str, **columns: object) -> list[str]:
    return [row.text.text for row in read_rows(inputs, Columns(**columns))]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", PACKERS)
def test_packed_files_are_read_as_what_is_in_them(tmp_path, packed: str) -> None:
    (tmp_path / f"a.jsonl{packed}").write_bytes(PACKERS[packed](LINES))
    (tmp_path / f"b.csv{packed}").write_bytes(PACKERS[packed](b"text\nthree\n"))
    (tmp_path / f"c.txt{packed}").write_bytes(PACKERS[packed]("vier ü".encode()))
    assert texts(str(tmp_path)) == ["one", "two", "three", "vier ü"]
    assert texts(str(tmp_path / f"a.jsonl{packed}")) == ["one", "two"]


@pytest.mark.parametrize("packed", [".gz", ".xz", ".zst"])
def test_a_torn_file_is_told(tmp_path, packed: str) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % (i * 7919) for i in range(5_000))
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACKERS[packed](lines)[:2_000])
    with pytest.raises(BadFile, match=r"a\.jsonl\.\w+ cannot be read"):
        texts(str(path))


def test_the_kind_of_a_file_is_in_its_name() -> None:
    assert suffix_of("x/a.JSONL.gz") == ".jsonl"
    assert suffix_of("s3://bucket/a.parquet?versionId=3") == ".parquet"
    assert suffix_of("a.gz") == ""


def test_urls_of_files_and_folders(tmp_path) -> None:
    (tmp_path / "b.jsonl").write_bytes(LINES)
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "other.bin").write_bytes(b"no")
    pq.write_table(pa.table({"text": ["from a table"]}), tmp_path / "c.parquet")
    assert texts(tmp_path.as_uri()) == ["first", "one", "two", "from a table"]
    assert texts((tmp_path / "c.parquet").as_uri()) == ["from a table"]


def test_a_file_system_of_fsspec() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/texts/b.jsonl.gz", gzip.compress(LINES))
    memory.pipe("/texts/a.txt", b"first")
    try:
        assert texts("memory://texts") == ["first", "one", "two"]
        assert texts("memory://texts/b.jsonl.gz") == ["one", "two"]
    finally:
        memory.rm("/texts", recursive=True)


def test_a_file_over_http(tmp_path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "b.jsonl").write_bytes(LINES)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert texts(f"http://127.0.0.1:{server.server_port}/b.jsonl") == ["one", "two"]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://nothing", "no such file"),
        ("nowhere://a", "cannot be read"),
        ("file:///no/such/file.txt", "no such file"),
    ],
)
def test_what_is_not_there_is_told(url: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        texts(url)


@pytest.fixture
def dataset(tmp_path) -> Path:
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    for split, words in (("train", ["one", "two"]), ("test", ["three"])):
        rows = [json.dumps({"content": w, "n": i}) + "\n" for i, w in enumerate(words)]
        (folder / f"{split}.jsonl").write_text("".join(rows))
    return folder


def test_a_dataset_is_streamed(dataset) -> None:
    assert texts(f"hf://{dataset}", text="content") == ["one", "two"]
    assert texts(f"hf://{dataset}?split=test", text="content") == ["three"]


def test_a_dataset_that_cannot_be_had_is_told(dataset) -> None:
    with pytest.raises(BadInput, match="has no column 'text'"):
        texts(f"hf://{dataset}")
    with pytest.raises(BadInput, match="'part' is none of"):
        texts(f"hf://{dataset}?part=1")
    with pytest.raises(BadInput, match="cannot be read"):
        texts(f"hf://{dataset}/missing")
