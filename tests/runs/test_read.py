"""Reading inputs: every kind, and every bad row set aside with its line and reason."""

from __future__ import annotations

import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nll import BadInput
from nll.runs import Columns, Row, read_rows


def rows(*inputs: object, **columns: object) -> list[Row]:
    return list(read_rows([str(i) for i in inputs], Columns(**columns)))


def texts(found: list[Row]) -> list[str | None]:
    return [None if r.text is None else r.text.text for r in found]


def write(path, data: str | bytes):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_text_file_is_one_text_without_its_last_line_break(tmp_path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n")
    (row,) = rows(path)
    assert (row.text.text, row.id, row.line) == ("one\r\ntwo", str(path), None)


def test_lines_are_texts_when_asked(tmp_path) -> None:
    path = write(tmp_path / "a.txt", b"one\r\n\ntw\xffo\nlast")
    found = rows(path, lines=True)
    assert texts(found) == ["one", None, None, "last"]
    assert [(r.line, r.reason) for r in found] == [
        (1, None), (2, "empty"), (3, "not_utf8"), (4, None),
    ]  # fmt: skip
    assert found[3].id == f"{path}:4"


def test_json_lines_and_their_bad_rows(tmp_path) -> None:
    lines = [
        b'{"text": "good", "id": 7}',
        b'{"text": ""}',
        b'{"text": null}',
        b'{"text": 3.5}',
        b'{"text": "\\ud800"}',
        b'{"text": "caf\xe9"}',
        b'{"text": "cut',
        b"",
        b'["text"]',
        b'{"other": 1}',
        b'{"text": "again", "id": "7"}',
        b'{"text": "nul \\u0000 \xf0\x9f\x98\x80 \xd7\x90"}',
        b'{"text": "x", "id": [1]}',
        b"[" * 200_000,
        b'{"text": NaN}',
    ]
    found = rows(write(tmp_path / "a.jsonl", b"\n".join(lines)))
    assert [(r.line, r.reason) for r in found] == [
        (1, None), (2, "empty"), (3, "null"), (4, "not_a_string"), (5, "surrogates"),
        (6, "not_utf8"), (7, "bad_json"), (9, "bad_json"), (10, "missing_column"),
        (11, "duplicate_id"), (12, None), (13, "bad_id"), (14, "bad_json"), (15, "not_a_string"),
    ]  # fmt: skip
    assert found[0].id == "7"
    assert found[10].text.text == "nul \0 \U0001f600 א"
    assert [r.index for r in found] == list(range(14))
    assert all(r.detail for r in found if r.reason)


def test_a_text_may_stand_in_a_column_called_input(tmp_path) -> None:
    """WikiMIA's rows hold `input` and `label`."""
    lines = [b'{"input": "good", "label": 1}', b'{"input": "other", "text": "first"}',
             b'{"input": "x", "prompt": "a", "completion": "b"}']  # fmt: skip
    found = rows(write(tmp_path / "a.jsonl", b"\n".join(lines)), label="label")
    assert [r.text.text for r in found] == ["good", "first", "b"]
    assert found[0].label == 1


def test_csv_and_its_bad_rows(tmp_path) -> None:
    long = "x" * 300_000
    data = (
        b"id,text\na,good\nb,\nc\nd,caf\xe9\ne," + long.encode() + b"\n"
        b'f,"two\nlines"\n\ng,one,two\nh,"x"y\ni,fine\nj,"never closed\nk,swallowed\n'
    )
    found = rows(write(tmp_path / "a.csv", data))
    assert [(r.line, r.reason) for r in found] == [
        (2, None), (3, "empty"), (4, "missing_column"), (5, "not_utf8"), (6, None), (7, None),
        (10, "bad_csv"), (11, "bad_csv"), (12, None), (13, "bad_csv"),
    ]  # fmt: skip
    assert found[4].text.text == long
    assert found[5].text.text == "two\nlines"


def test_parquet_and_its_bad_rows(tmp_path) -> None:
    bad = pa.array([b"fine", b"\xff\xfe", None, b""], pa.binary())
    strings = pa.StringArray.from_buffers(4, bad.buffers()[1], bad.buffers()[2], bad.buffers()[0])
    pq.write_table(pa.table({"text": strings, "id": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    found = rows(tmp_path / "a.parquet")
    assert [(r.line, r.reason) for r in found] == [
        (1, None), (2, "not_utf8"), (3, "null"), (4, "empty"),
    ]  # fmt: skip
    assert found[0].id == "1"


def test_prompt_and_completion_columns(tmp_path) -> None:
    line = json.dumps({"q": "1+1=", "a": "2", "prompt": "P", "completion": "C"})
    path = write(tmp_path / "a.jsonl", line)
    (row,) = rows(path, prompt="q", completion="a")
    assert (row.text.prompt, row.text.text) == ("1+1=", "2")
    (row,) = rows(path)
    assert (row.text.prompt, row.text.text) == ("P", "C")
    (row,) = rows(path, text="q", id="a")
    assert (row.text.text, row.id) == ("1+1=", "2")
    for wrong in ({"prompt": "q"}, {"prompt": "q", "completion": "a", "text": "q"}):
        with pytest.raises(BadInput):
            Columns(**wrong)


def test_chats(tmp_path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = write(tmp_path / "a.jsonl", json.dumps({"messages": chat}))
    (row,) = rows(path)
    assert row.text.text == "hello"
    assert len(row.text.messages) == 2
    for wrong in (chat[:1], []):
        path = write(tmp_path / "b.jsonl", json.dumps({"messages": wrong}))
        assert [r.reason for r in rows(path)] == ["bad_chat"]


def test_folders_are_searched_in_order(tmp_path) -> None:
    for name in ("b.txt", "a/z.txt", "a/.hidden.txt", ".git/x.txt", "c.pdf", "d.rejected.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write(path, name)
    write(tmp_path / "e.txt", "")
    found = rows(tmp_path)
    assert [r.source for r in found] == [str(tmp_path / n) for n in ("a/z.txt", "b.txt", "e.txt")]
    assert [r.reason for r in found] == [None, None, "empty"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"one\ntwo\n", ["one", "two"]), (b'{"text": "j"}\n{"text": "k"}', ["j", "k"])],
)
def test_standard_input(monkeypatch, data: bytes, expected: list[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    found = rows("-")
    assert texts(found) == expected
    assert found[1].id == "stdin:2"


def test_a_two_megabyte_line_is_read(tmp_path) -> None:
    long = "ab " * 700_000
    for name, options in (("a.txt", {"lines": True}), ("a.jsonl", {})):
        data = long if options else json.dumps({"text": long})
        assert texts(rows(write(tmp_path / name, data), **options)) == [long]


def test_reading_streams(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "x"}\n' * 100_000)
    stream = read_rows([path], Columns())
    assert next(stream).text.text == "x"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", b"", "is empty"),
        ("blank.jsonl", b"\n\n", "no texts in"),
        ("head.csv", b"id,text\n", "no texts in"),
        ("pic.txt", b"\x89PNG\r\n\x1a\n", "binary"),
        ("any.txt", bytes(range(256)) * 9, "binary"),
        ("utf16.txt", "some words here".encode("utf-16"), "binary"),
        ("a.jsonl", b'{"body": "x"}', "no column 'text' .it has: 'body'"),
        ("a.csv", b"body\nx\n", "no column 'text' .it has: 'body'"),
        ("a.parquet", b"PAR1 nonsense", "not a whole Parquet file"),
        ("a.json", b'[{"text": "x"}]', "no JSON lines"),
        ("twice.csv", b"text,text\nx,y\n", "2 columns 'text'"),
    ],
)
def test_wrong_inputs_say_so(tmp_path, name: str, data: bytes | None, says: str) -> None:
    if data is not None:
        write(tmp_path / name, data)
    with pytest.raises(BadInput, match=says):
        rows(tmp_path / name)


def test_wrong_folders_and_no_input(tmp_path) -> None:
    with pytest.raises(BadInput, match="holds no texts"):
        rows(tmp_path)
    with pytest.raises(BadInput, match="no input"):
        rows()


def test_text_with_a_nul_or_few_bad_bytes_is_not_binary(tmp_path) -> None:
    assert texts(rows(write(tmp_path / "a.txt", "nul \0 inside"))) == ["nul \0 inside"]
    (row,) = rows(write(tmp_path / "b.txt", b"mostly readable, one bad byte \xff here"))
    assert row.reason == "not_utf8"
