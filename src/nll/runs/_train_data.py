"""Rows to train on: JSON lines, CSV, Parquet or a dataset of the hub, each with its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nll._errors import BadInput
from nll.runs._formats import Cell, csv_cells, jsonl_cells, parquet_cells
from nll.runs._places import dataset_cells, is_dataset, reading, suffix_of, table_source
from nll.runs._read import input_files

TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
# Columns that hold lists, which CSV can only bring as JSON.
LISTS = ("rejected_scores", "messages", "perturbed_answer")
_TOLD = 5


class Located(NamedTuple):
    """The values of a row, and where it stands."""

    values: dict[str, Any]
    where: str


class Template(NamedTuple):
    """What stands before, between and after a prompt and its completion."""

    before: str
    between: str
    after: str
    space: str

    @classmethod
    def of(cls, template: str) -> Template:
        """From a string with `{prompt}` and then `{completion}`, once each.

        Spaces before `{completion}` belong to it: the words of most vocabularies begin with one.
        Raises BadInput for any other string.
        """
        template = template.replace("\\n", "\n")
        before, found, rest = template.partition("{prompt}")
        between, also, after = rest.partition("{completion}")
        again = any(w in part for part in (before, between, after) for w in _MARKS)
        if not found or not also or again:
            raise BadInput(
                "a template has {prompt} and after it {completion}, once each, such as "
                "'Question: {prompt}\\nAnswer: {completion}'"
            )
        bare = between.rstrip(" ")
        return cls(before, bare, after, between[len(bare) :])

    def prompt(self, text: str) -> str:
        """A prompt as the model reads it."""
        return self.before + text + self.between

    def completion(self, text: str) -> str:
        """A completion as the model is to give it."""
        return self.space + text + self.after


_MARKS = ("{prompt}", "{completion}")
PLAIN = Template("", "", "", "")
_COMPLETIONS = ("completion", "chosen", "rejected", "alternate")


def templated(row: Mapping[str, Any], template: Template) -> dict[str, Any]:
    """The row with its strings set into the template; chats have one of their own."""
    out = dict(row)
    if isinstance(out.get("prompt"), str):
        out["prompt"] = template.prompt(out["prompt"])
        for name in _COMPLETIONS:
            if isinstance(out.get(name), str):
                out[name] = template.completion(out[name])
    return out


def read_table(
    inputs: Sequence[str], *, renamed: Mapping[str, str] | None = None, most: int | None = None
) -> list[Located]:
    """All rows of these files, folders or `hf://` datasets; a column `old` is called `new`.

    renamed: new name to old one.   most: only the first so many rows.
    Raises BadInput naming the first lines that cannot be read: a run on part of the data, without
    a word, would be worse than none.
    """
    rows: list[Located] = []
    bad: list[str] = []
    for path in input_files(inputs):
        for cell in _cells(path):
            where = f"{path}:{cell.line}"
            if not isinstance(cell.values, Mapping):
                bad.append(f"{where}: {cell.detail}")
                continue
            rows.append(Located(_named(cell.values, renamed or {}, where), where))
            if len(rows) == most:
                break
    if bad:
        more = f" (and {len(bad) - _TOLD} more)" if len(bad) > _TOLD else ""
        lines = "line cannot be read" if len(bad) == 1 else "lines cannot be read"
        raise BadInput(f"{len(bad)} {lines}: {'; '.join(bad[:_TOLD])}{more}")
    if not rows:
        raise BadInput(f"no rows in {', '.join(inputs)}")
    return rows


def _cells(path: str) -> Iterator[Cell]:
    suffix = suffix_of(path)
    if is_dataset(path):
        yield from dataset_cells(path, list)
    elif suffix == ".parquet":
        yield from parquet_cells(path, table_source(path), list)
    elif suffix in (".csv", ".tsv"):
        with reading(path) as file:
            for cell in csv_cells(path, file, list, "\t" if suffix == ".tsv" else ","):
                yield _with_lists(cell)
    elif suffix in (".jsonl", ".ndjson"):
        with reading(path) as file:
            yield from jsonl_cells(file)
    else:
        raise BadInput(f"{path} is no table; rows come from {', '.join(TABLES)} or hf://NAME")


def _with_lists(cell: Cell) -> Cell:
    """A CSV row with its empty cells left out and its lists read."""
    if not isinstance(cell.values, Mapping):
        return cell
    values = {k: v for k, v in cell.values.items() if v != ""}
    for name in LISTS:
        if isinstance(values.get(name), str) and values[name].lstrip().startswith("["):
            try:
                values[name] = json.loads(values[name])
            except ValueError as error:
                return Cell(cell.line, None, "bad_json", f"'{name}' is not JSON: {error}")
    return Cell(cell.line, values)


def _named(values: Mapping[str, Any], renamed: Mapping[str, str], where: str) -> dict[str, Any]:
    out = dict(values)
    for new, old in renamed.items():
        if old not in values:
            has = ", ".join(repr(name) for name in values) or "none"
            raise BadInput(f"{where} has no column '{old}' (it has: {has})")
        out[new] = values[old]
    for new, old in renamed.items():
        if old not in renamed and new != old:
            out.pop(old, None)
    return out


def renamings(pairs: Iterable[str]) -> dict[str, str]:
    """New names to old ones, of `NEW=OLD`. Raises BadInput for anything else."""
    out = {}
    for pair in pairs:
        new, equals, old = pair.partition("=")
        if not (new and equals and old):
            raise BadInput(f"--column is NEW=OLD, such as prompt=question, not '{pair}'")
        out[new] = old
    return out


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of the rows as they are trained on, wherever they came from."""
    found = hashlib.sha256()
    for row in rows:
        line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        found.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()
