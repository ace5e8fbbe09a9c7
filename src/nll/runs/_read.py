"""Texts from files, folders and standard input, row by row; what cannot be a text is set aside."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nll._errors import BadInput, BadText
from nll.runs._formats import Cell, csv_cells, jsonl_cells, parquet_cells
from nll.runs._places import (
    SUFFIXES,
    dataset_cells,
    is_dataset,
    is_url,
    listed,
    reading,
    suffix_of,
    table_source,
    url_files,
)
from nll.trace import Text

STDIN = "stdin"
_PEEK = 100
_MAGIC = (
    b"PAR1",
    b"PK\x03\x04",
    b"\x89PNG",
    b"%PDF",
    b"GIF8",
    b"\x7fELF",
    b"\xff\xd8\xff",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input: a text, or the reason why it is none.

    line: the line of a text file or the row of a Parquet file, from 1; None for a whole file.
    """

    index: int
    id: str
    source: str
    line: int | None
    text: Text | None = None
    reason: str | None = None
    detail: str | None = None
    label: Any = None

    @property
    def where(self) -> str:
        """`file:line`, or the file."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a table's texts and ids stand.

    Unless named, a text is what stands in `text`, or a completion in `prompt` and `completion`, or
    a chat in `messages`, or a text in `input` (as in WikiMIA), whichever is there first.
    Without an id column or value, a row's id is `file:line`. lines: a plain text file holds one
    text per line instead of one in all.
    label: a column that goes along with the row.   questions: a text may be a question alone, in
    `prompt` or `question` too, or a chat whose last message is the user's.
    """

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    id: str | None = None
    lines: bool = False
    label: str | None = None
    questions: bool = False

    def __post_init__(self) -> None:
        if (self.prompt is None) != (self.completion is None):
            raise BadInput("a prompt column and a completion column go together; give both")
        if self.prompt is not None and self.text is not None:
            raise BadInput("give either a text column, or a prompt and a completion column")

    def texts(self, held: Collection[str]) -> tuple[str, ...]:
        """The column of the text, or those of prompt and completion, for a row with these."""
        if self.prompt is not None:
            return (self.prompt, str(self.completion))
        if self.text is not None:
            return (self.text,)
        known = [("text",), ("prompt", "completion"), ("messages",)]
        more = [("prompt",), ("question",)] if self.questions else []
        last = [("input",)]
        return next((c for c in [*known, *more, *last] if set(c) <= set(held)), known[0])

    @property
    def beside(self) -> list[str]:
        """The named columns that hold no text."""
        return [name for name in (self.id, self.label) if name]

    def pick(self, source: str, held: Sequence[str]) -> list[str]:
        """Columns to read of a table; raises BadInput when a needed one is missing."""
        needed = list(dict.fromkeys([*self.texts(held), *self.beside]))
        for name in needed:
            if name not in held:
                has = ", ".join(repr(h) for h in held[:12]) or "none"
                raise BadInput(f"{source} has no column '{name}' (it has: {has})")
            if held.count(name) > 1:
                raise BadInput(f"{source} has {held.count(name)} columns '{name}'")
        return needed if "id" in needed or "id" not in held else [*needed, "id"]


def read_rows(inputs: Sequence[str | os.PathLike[str]], columns: Columns) -> Iterator[Row]:
    """Rows of files, folders (searched through, in sorted order) and `-` for standard input.

    Files may be packed (.gz .bz2 .zst .lz4 .xz) and lie behind a URL (s3://, gs://, https://, ...);
    `hf://NAME?split=test` is a dataset.

    Missing, empty and binary files are found at once, an unknown column when its file is reached:
    both raise BadInput, and so do named columns where every file is plain text. Rows that are no
    texts come with a reason, and the reading goes on.
    """
    files = input_files(inputs)
    named = columns.text or columns.prompt or columns.id or columns.label
    if named and all(suffix_of(file) == ".txt" for file in files):
        raise BadInput(f"column '{named}' was asked for, but {files[0]} is plain text, no table")
    if columns.lines and not any(suffix_of(f) in (".txt", "") for f in files):
        raise BadInput(f"--lines is for plain text files, and {files[0]} is none")
    return _numbered(files, columns)


def input_files(inputs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files behind files, folders and `-`; raises BadInput as `read_rows` does."""
    files = [found for given in inputs for found in _files(str(given))]
    if not files:
        raise BadInput("no input; name files or folders, or - for standard input")
    return files


def _files(given: str) -> list[str]:
    """The paths of everything behind one argument."""
    if given == "-":
        return ["-"]
    if is_url(given):
        return url_files(given)
    path = Path(given)
    if path.is_dir():
        below = sorted(str(p) for p in path.rglob("*") if listed(p, path) and p.is_file())
        if not below:
            raise BadInput(f"the folder {given} holds no texts ({' '.join(SUFFIXES)})")
        return below
    if not path.exists():
        raise BadInput(f"{given}: no such file or folder")
    if not path.is_file():
        raise BadInput(f"{given} is not a regular file; pipe it in as -")
    if suffix_of(given) == ".json":
        raise BadInput(f"{given} is no JSON lines: give one object on each line, as .jsonl")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{given} cannot be read: permission denied")
    with reading(given) as file:
        head = file.read(8192)
    if not head:
        raise BadInput(f"{given} is empty")
    if path.suffix.lower() != ".parquet" and _looks_binary(head):
        raise BadInput(f"{given} is a binary file; texts must be UTF-8")
    return [given]


def _looks_binary(head: bytes) -> bool:
    """A known signature, or many bytes that no UTF-8 text has; a single NUL is no proof."""
    if head.startswith(_MAGIC):
        return True
    undecodable = head.decode("utf-8", errors="replace").count("\N{REPLACEMENT CHARACTER}")
    control = sum(head.count(bytes([c])) for c in (*range(9), *range(14, 27), *range(28, 32)))
    return undecodable * 4 > len(head) or (undecodable > 1 and control * 10 > len(head))


def _numbered(files: Sequence[str], columns: Columns) -> Iterator[Row]:
    seen: set[str] = set()
    index = 0
    for path in files:
        source = STDIN if path == "-" else path
        for cell in _cells(path, columns):
            yield _row(index, source, cell, columns, seen)
            index += 1
    if index == 0:
        named = [STDIN if path == "-" else path for path in files[:3]]
        raise BadInput(f"no texts in {', '.join(named)}")


def _cells(path: str, columns: Columns) -> Iterator[Cell]:
    if path == "-":
        yield from _stdin_cells(sys.stdin.buffer, columns)
        return
    suffix = suffix_of(path)
    pick = functools.partial(columns.pick, path)
    if is_dataset(path):
        yield from dataset_cells(path, pick)
    elif suffix == ".parquet":
        yield from parquet_cells(path, table_source(path), pick)
    else:
        with reading(path) as file:
            if suffix in (".csv", ".tsv"):
                yield from csv_cells(path, file, pick, "\t" if suffix == ".tsv" else ",")
            elif suffix in (".jsonl", ".ndjson"):
                yield from _known(path, jsonl_cells(file), columns)
            elif columns.lines:
                yield from _line_cells(file)
            else:
                yield _plain(None, file.read())


def _stdin_cells(file: BinaryIO, columns: Columns) -> Iterator[Cell]:
    first = file.readline()
    lines = itertools.chain([first] if first else [], file)
    if first.removeprefix(b"\xef\xbb\xbf").startswith(b"{"):
        yield from _known(STDIN, jsonl_cells(lines), columns)
    else:
        yield from _line_cells(lines)


def _known(source: str, cells: Iterator[Cell], columns: Columns) -> Iterator[Cell]:
    """The cells as they are; a column that none of the first ones has is a mistake in the call."""
    head = list(itertools.islice(cells, _PEEK))
    held = [list(c.values) for c in head if c.values is not None]
    fitting = [h for h in held if set(columns.texts(h)) <= set(h)]
    lost = [name for name in columns.beside if not any(name in h for h in held)]
    if held and (not fitting or lost):
        columns.pick(source, (fitting or held)[0])
    yield from head
    yield from cells


def _line_cells(lines: Iterable[bytes]) -> Iterator[Cell]:
    return (_plain(number, raw) for number, raw in enumerate(lines, 1))


def _plain(line: int | None, raw: bytes) -> Cell:
    """A text without columns; the line break that ends the file or line is not part of it."""
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if line in (None, 1):
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return Cell(line, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Cell(line, None, "not_utf8", f"byte {error.start} is not UTF-8")


def _row(index: int, source: str, cell: Cell, columns: Columns, seen: set[str]) -> Row:
    where = source if cell.line is None else f"{source}:{cell.line}"
    own, rejected = where, None
    try:
        if cell.values is None:
            raise BadText(str(cell.reason), str(cell.detail))
        own = _own_id(cell.values, columns) or where
        text = _text(cell.values, columns, own)
        if own in seen:
            raise BadText("duplicate_id", f"the id '{_short(own)}' occurred before")
        seen.add(own)
    except BadText as error:
        rejected = error
    if rejected is not None:
        own = own.encode("utf-8", "replace").decode("utf-8")
        detail = rejected.detail.encode("utf-8", "replace").decode("utf-8")
        return Row(index, own, source, cell.line, None, rejected.reason, detail)
    held = cell.values if isinstance(cell.values, Mapping) else {}
    label = held.get(columns.label) if columns.label else None
    return Row(index, own, source, cell.line, text, label=label)


def _own_id(values: Mapping[str, Any] | str, columns: Columns) -> str | None:
    value = None if isinstance(values, str) else values.get(columns.id or "id")
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadText("bad_id", f"an id must be a string or a number, not {type(value).__name__}")
    _check_unicode(str(value), "id")
    return str(value)


def _text(values: Mapping[str, Any] | str, columns: Columns, own: str) -> Text:
    if isinstance(values, str):
        text = Text(values, id=own)
    else:
        names = columns.texts(values.keys())
        absent = [n for n in names if n not in values]
        if absent:
            raise BadText("missing_column", f"the row has no '{absent[0]}'")
        held = [values[n] for n in names]
        if columns.questions and len(held) == 1 and isinstance(held[0], list) and _asks(held[0]):
            held = [[*held[0], {"role": "assistant", "content": ""}]]
        text = Text.pair(*held, id=own) if len(held) == 2 else Text.of(held[0], id=own)
    for part in (text.text, text.prompt or "", *(m["content"] for m in text.messages)):
        _check_unicode(part, "text")
    if not text.text and not (columns.questions and text.messages):
        raise BadText("empty", "the text is empty")
    return text


def _asks(messages: Sequence[Any]) -> bool:
    """Whether a chat ends with a message that is not the assistant's."""
    last = messages[-1] if messages else None
    return isinstance(last, Mapping) and last.get("role") not in ("assistant", None)


def _check_unicode(value: str, what: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        # CSV cells are decoded with surrogateescape, which puts undecodable bytes here.
        reason = "not_utf8" if 0xDC80 <= code <= 0xDCFF else "surrogates"
        raise BadText(reason, f"the {what} holds U+{code:04X} at character {error.start}") from None


def _short(value: str) -> str:
    return value if len(value) <= 80 else value[:77] + "..."
