"""Runs that survive: texts in, shards as they go, one file at the end, the same however often cut.

The plan of the shards depends on the texts alone, each shard is computed on its own, and the final
file is made from the shards in order; so an interrupted run that was started again ends with the
same bytes as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nll._errors import BadInput, NllError
from nll.runs._atomic import atomic_path, write_atomic
from nll.runs._obtain import Found, Source
from nll.runs._read import Row
from nll.runs._store import Say, find_shard, fingerprint, finish_shard, open_store, work_folder
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
class Job:
    """What to do with traces or bundles: `write` makes a shard of them, `merge` the final file.

    parts: everything beyond the texts that decides the result, for the identity of the run.
    """

    parts: Mapping[str, object]
    trace: Source
    write: Callable[[Path, Iterator[Any]], None]
    merge: Callable[[Path, Sequence[Path]], None]


def run(
    rows: Iterable[Row],
    out: Path,
    job: Job,
    *,
    say: Say,
    tick: Callable[[int], None] = lambda _: None,
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
    outcome = Outcome()
    with open_store(out, parts, say) as folder:
        shards = []
        told = False
        texts = 0
        try:
            for number, part in enumerate(plan(rows, *limits)):
                content = fingerprint([_content(row) for row in part])
                shard = find_shard(folder, number, content)
                if shard is None:
                    stale = (folder / f"shard-{number:06d}.json").exists()
                    if stale and not told:
                        say(f"{folder.name} is damaged or of another input; computing it again")
                        told = True
                    writer = _writer(part, job, texts, tick, fail_on_error)
                    shard = finish_shard(folder, number, content, writer)
                else:
                    outcome = replace(outcome, reused=outcome.reused + shard.scored)
                    if fail_on_error and shard.rejected:
                        raise _refusal(shard.rejected[0])
                    tick(len(part))
                shards.append(shard)
                texts += sum(row.text is not None for row in part)
                outcome = replace(
                    outcome,
                    scored=outcome.scored + shard.scored,
                    rejected=outcome.rejected + len(shard.rejected),
                )
        except BaseException as error:
            if not isinstance(error, Exception):
                say(
                    f"interrupted; {outcome.scored} texts are done and kept in "
                    f"{work_folder(out).name}, the same command goes on from there"
                    if shards
                    else "interrupted before anything was done; the same command starts again"
                )
            raise
        if outcome.reused:
            say(f"{outcome.reused} texts were done before and are reused")
        rejects = write_rejects(out, (r for s in shards for r in s.rejected), beside=folder)
        with atomic_path(out, beside=folder) as temporary:
            job.merge(temporary, [s.path for s in shards])
    return replace(outcome, rejects=rejects)


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


def _refusal(rejected: Mapping[str, Any]) -> RowRejected:
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
        raise _refusal(bad[0])
    rejected += bad

    def on_reject(told: Rejected) -> None:
        found = reject(good[told.index], told.reason, told.detail)
        if fail_on_error:
            raise _refusal(found)
        rejected.append(found)

    yield from trace([row.text for row in good if row.text is not None], on_reject, start)
    rejected.sort(key=lambda r: int(r["index"]))


def _writer(
    part: Sequence[Row], job: Job, start: int, tick: Callable[[int], None], fail_on_error: bool
) -> Callable[[Path], tuple[int, list[dict[str, Any]]]]:
    def write(path: Path) -> tuple[int, list[dict[str, Any]]]:
        rejected: list[dict[str, Any]] = []
        scored = 0

        def counted() -> Iterator[Found]:
            nonlocal scored
            for trace in set_aside(part, job.trace, rejected, fail_on_error, start):
                scored += 1
                tick(1)
                yield trace

        job.write(path, counted())
        texts = sum(row.text is not None for row in part)
        if scored + len(rejected) != len(part):
            raise BadInput(
                f"the model returned {scored} traces for {texts} texts; this is a fault of its code"
            )
        tick(len(rejected))
        return scored, rejected

    return write


def _content(row: Row) -> list[object]:
    text = row.text
    held = None if text is None else [text.text, text.prompt, [dict(m) for m in text.messages]]
    return [row.index, row.id, row.source, row.line, held, row.reason, row.detail]
