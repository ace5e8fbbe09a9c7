"""Runs that survive: texts in, shards as they go, one file at the end, the same however often cut.

The plan of the shards depends on the texts alone, each shard is computed on its own, and the final
file is made from the shards in order; so an interrupted run that was started again ends with the
same bytes as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from nll._errors import BadInput, NllError
from nll.models._retry import UNAVAILABLE
from nll.runs._atomic import atomic_path, write_atomic
from nll.runs._obtain import Found, Source
from nll.runs._read import Row
from nll.runs._store import (
    Say,
    Shard,
    find_shard,
    fingerprint,
    finish_shard,
    open_store,
    work_folder,
)
from nll.trace import Rejected

# A shard is what a kill costs: about half a minute of the embedded model on two cores.
SHARD_ROWS = 256
SHARD_CHARACTERS = 64_000


class RowRejected(NllError):
    """A row could not be scored in a run that was told to stop at the first such row."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. `reused`: texts whose results an earlier, interrupted run had left."""

    scored: int = 0
    rejected: int = 0
    reused: int = 0
    rejects: Path | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of a shard, with its number, and how many texts stand before it in the run."""

    number: int
    content: str
    rows: Sequence[Row]
    start: int


Tick: TypeAlias = Callable[[int], None]
# Makes the file of a shard; returns how many texts it scored and what it set aside.
Make: TypeAlias = Callable[[Path], tuple[int, Sequence[Mapping[str, Any]]]]
# From pieces, taken as they are needed, to how their shards are made, in any order.
Engine: TypeAlias = Callable[[Iterable[Piece], Tick, bool], Iterator[tuple[Piece, Make]]]
Write: TypeAlias = Callable[[Path, Iterator[Any]], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do: the engine makes shards, `merge` the final file of them.

    parts: everything beyond the texts that decides the result, for the identity of the run.
    """

    parts: Mapping[str, object]
    engine: Engine
    merge: Callable[[Path, Sequence[Path]], None]


def local_engine(source: Source, write: Write) -> Engine:
    """Shards made here, one after another: `write` stores what the source gives for their texts."""

    def engine(
        pieces: Iterable[Piece], tick: Tick, fail_on_error: bool
    ) -> Iterator[tuple[Piece, Make]]:
        for piece in pieces:
            yield piece, maker(piece, source, write, tick, fail_on_error)

    return engine


def run(
    rows: Iterable[Row],
    out: Path,
    job: Job,
    *,
    say: Say,
    tick: Tick = lambda _: None,
    fail_on_error: bool = False,
    pace: int = 1,
    shard_rows: int = SHARD_ROWS,
    shard_characters: int = SHARD_CHARACTERS,
) -> Outcome:
    """Do the job on all rows and write `out`, reusing what an interrupted run has left.

    Rejected rows go to `<out>.rejected.jsonl`, which is there only if there are any. `tick` hears
    how many rows were dealt with; `pace` multiplies the size of the shards. Raises RowRejected
    with `fail_on_error` at the first bad row.
    """
    limits = (pace * shard_rows, pace * shard_characters)
    parts = {**job.parts, "shard size": limits}
    with open_store(out, parts, say) as folder:
        done: dict[int, Shard] = {}
        reused = 0

        def missing() -> Iterator[Piece]:
            nonlocal reused
            told = False
            start = 0
            for number, part in enumerate(plan(rows, *limits)):
                content = fingerprint([_content(row) for row in part])
                shard = find_shard(folder, number, content)
                if shard is not None and any(r["reason"] == UNAVAILABLE for r in shard.rejected):
                    yield Piece(number, content, part, start)  # a server that may answer by now
                elif shard is None:
                    stale = (folder / f"shard-{number:06d}.json").exists()
                    if stale and not told:
                        say(f"{folder.name} is damaged or of another input; computing it again")
                        told = True
                    yield Piece(number, content, part, start)
                else:
                    if fail_on_error and shard.rejected:
                        raise refusal(shard.rejected[0])
                    done[number] = shard
                    reused += shard.scored
                    tick(len(part))
                start += sum(row.text is not None for row in part)

        try:
            for piece, make in job.engine(missing(), tick, fail_on_error):
                done[piece.number] = finish_shard(folder, piece.number, piece.content, make)
        except BaseException as error:
            if not isinstance(error, Exception):
                say(
                    f"interrupted; {sum(s.scored for s in done.values())} texts are done and kept "
                    f"in {work_folder(out).name}, the same command goes on from there"
                    if done
                    else "interrupted before anything was done; the same command starts again"
                )
            raise
        if reused:
            say(f"{reused} texts were done before and are reused")
        shards = [done[number] for number in sorted(done)]
        rejected = [r for s in shards for r in s.rejected]
        rejects = write_rejects(out, rejected, beside=folder)
        with atomic_path(out, beside=folder) as temporary:
            job.merge(temporary, [s.path for s in shards])
    return Outcome(sum(s.scored for s in shards), len(rejected), reused, rejects)


def plan(rows: Iterable[Row], max_rows: int, max_characters: int) -> Iterator[list[Row]]:
    """Cut rows into shards by texts and characters; a row that is no text goes with its neighbours
    and does not move the cuts."""
    part: list[Row] = []
    texts = characters = 0
    for row in rows:
        if row.text is not None:
            size = len(row.text.text) + len(row.text.prompt or "")
            size += sum(len(m["content"]) for m in row.text.messages)
            if texts and (texts == max_rows or characters + size > max_characters):
                yield part
                part, texts, characters = [], 0, 0
            texts, characters = texts + 1, characters + size
        part.append(row)
    if part:
        yield part


def write_rejects(
    out: Path, rejects: Iterable[Mapping[str, Any]], *, beside: Path | None = None
) -> Path | None:
    """Write `<out>.rejected.jsonl`, or remove an old one when nothing was rejected."""
    path = out.with_name(out.name + ".rejected.jsonl")
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejects)
    if not lines:
        path.unlink(missing_ok=True)
        return None
    write_atomic(path, lines, beside=beside)
    return path


def reject(row: Row, reason: str | None = None, detail: str | None = None) -> dict[str, Any]:
    """What is written down about a row that could not be scored."""
    return {
        "index": row.index,
        "id": row.id,
        "source": row.source,
        "line": row.line,
        "reason": reason or row.reason,
        "detail": detail or row.detail,
    }


def refusal(rejected: Mapping[str, Any]) -> RowRejected:
    """The error that ends a run at this row."""
    line = "" if rejected["line"] is None else f":{rejected['line']}"
    return RowRejected(
        f"{rejected['source']}{line}: {rejected['reason']}: {rejected['detail']} "
        "(stopped by --fail-on-error)"
    )


def set_aside(
    part: Sequence[Row],
    trace: Source,
    rejected: list[dict[str, Any]],
    fail_on_error: bool,
    start: int = 0,
) -> Iterator[Found]:
    """What the source gives for the rows that are texts, the first of which is number `start` of
    the run; the others, and those that the model refuses, are added to `rejected`.

    Raises RowRejected with `fail_on_error` at the first of them.
    """
    good = [row for row in part if row.text is not None]
    bad = [reject(row) for row in part if row.text is None]
    if bad and fail_on_error:
        raise refusal(bad[0])
    rejected += bad

    def on_reject(told: Rejected) -> None:
        found = reject(good[told.index], told.reason, told.detail)
        if fail_on_error:
            raise refusal(found)
        rejected.append(found)

    yield from trace([row.text for row in good if row.text is not None], on_reject, start)
    rejected.sort(key=lambda r: int(r["index"]))


def streamed(
    rows: Iterable[Row],
    trace: Source,
    rejected: list[dict[str, Any]],
    fail_on_error: bool,
    pace: int,
) -> Iterator[Found]:
    """`set_aside` of all rows, cut as `run` cuts them: of the texts and traces no more than a shard
    is in memory, and answers are drawn as in a run."""
    start = 0
    for part in plan(rows, pace * SHARD_ROWS, pace * SHARD_CHARACTERS):
        yield from set_aside(part, trace, rejected, fail_on_error, start)
        start += sum(row.text is not None for row in part)


def maker(piece: Piece, source: Source, write: Write, tick: Tick, fail_on_error: bool) -> Make:
    """How a shard's file is made of what the source gives for its texts."""

    def make(path: Path) -> tuple[int, list[dict[str, Any]]]:
        rejected: list[dict[str, Any]] = []
        scored = 0

        def counted() -> Iterator[Found]:
            nonlocal scored
            for found in set_aside(piece.rows, source, rejected, fail_on_error, piece.start):
                scored += 1
                tick(1)
                yield found

        write(path, counted())
        texts = sum(row.text is not None for row in piece.rows)
        if scored + len(rejected) != len(piece.rows):
            raise BadInput(
                f"the model returned {scored} traces for {texts} texts; this is a fault of its code"
            )
        tick(len(rejected))
        return scored, rejected

    return make


def _content(row: Row) -> list[object]:
    text = row.text
    held = None if text is None else [text.text, text.prompt, [dict(m) for m in text.messages]]
    return [row.index, row.id, row.source, row.line, held, row.reason, row.detail]
