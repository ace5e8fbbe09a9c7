"""The work folder beside an output: a lock, who it belongs to, and the finished shards.

A shard counts as finished when its note is whole, names the same input, and the data has the noted
checksum. Everything is written whole or not at all, so a kill at any moment costs one shard.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nll.runs._atomic import TEMPORARY, atomic_path, telling, write_atomic

Say = Callable[[str], None]
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """A finished shard: its data file, how many texts it scored, what it set aside."""

    path: Path
    scored: int
    rejected: Sequence[Mapping[str, Any]]


def work_folder(out: Path) -> Path:
    """`<out>.partial`, where an unfinished run of `out` lies."""
    return out.with_name(out.name + ".partial")


@contextlib.contextmanager
def open_store(out: Path, parts: Mapping[str, object], say: Say) -> Iterator[Path]:
    """The work folder of `out`, held by this process alone and belonging to these `parts`.

    `parts` is everything that decides the numbers. A folder that was left by a run with other parts
    is emptied, which is said, naming what changed. When the block ends well the folder goes; when
    it raises, finished shards stay for the next run.
    """
    folder = work_folder(out)
    with _locked(folder, out, say):
        try:
            _claim(folder, parts, say)
            yield folder
        except BaseException:
            _sweep(folder)
            if not any(folder.glob("shard-*.json")):
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def find_shard(folder: Path, number: int, content: str) -> Shard | None:
    """The finished shard of this number and input, or None when it must be computed."""
    data, note = _names(folder, number)
    held = _read_note(note)
    if held is None or held.get("content") != content or not data.is_file():
        return None
    if _file_hash(data) != held["sha256"]:
        return None
    return Shard(data, held["scored"], held["rejected"])


def finish_shard(
    folder: Path,
    number: int,
    content: str,
    write: Callable[[Path], tuple[int, Sequence[Mapping[str, Any]]]],
) -> Shard:
    """Have `write` make the data file (it returns how many were scored, and the rejected), then
    note it down as finished."""
    data, note = _names(folder, number)
    with contextlib.suppress(FileNotFoundError):
        note.unlink()
    with atomic_path(data) as temporary:
        scored, rejected = write(temporary)
        digest = _file_hash(temporary)
    _write_note(
        note, {"content": content, "sha256": digest, "scored": scored, "rejected": list(rejected)}
    )
    return Shard(data, scored, rejected)


def fingerprint(value: object) -> str:
    """SHA-256 of a value's JSON, the same for equal values."""
    line = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(line.encode("ascii")).hexdigest()


def _names(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"shard-{number:06d}.parquet", folder / f"shard-{number:06d}.json"


def _claim(folder: Path, parts: Mapping[str, object], say: Say) -> None:
    # Hashes only: whatever a part holds (a URL, a path) is not written down.
    mine = {name: fingerprint(value) for name, value in parts.items()}
    note = folder / "run.json"
    held = _read_note(note)
    if held is not None and (held.get("parts"), held.get("schema")) == (mine, _SCHEMA):
        _sweep(folder)
        return
    if any(folder.glob("shard-*.json")):
        before = (held or {}).get("parts", {})
        changed = sorted(n for n in mine.keys() | before.keys() if mine.get(n) != before.get(n))
        other = ", ".join(changed) or "version"
        say(f"{folder.name} is of an unfinished run with another {other}; starting anew")
    for leftover in folder.iterdir():
        if leftover.name != "lock":
            leftover.unlink()
    _write_note(note, {"schema": _SCHEMA, "parts": mine})


def _sweep(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink()


def _write_note(path: Path, note: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps({**note, "check": fingerprint(note)}))


def _read_note(path: Path) -> dict[str, Any] | None:
    """The note, or None when it is missing or torn."""
    try:
        note = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(note, dict):
        return None
    check = note.pop("check", None)
    return note if check == fingerprint(note) else None


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(folder: Path, out: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when a process dies, however it dies.

    The lock goes with the folder when a run ends, so a process that waited checks that the file it
    locked is still the one under that name, and otherwise begins again.
    """
    while True:
        with telling(out):
            folder.mkdir(exist_ok=True)
        try:
            with telling(out):
                handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process is writing {out}; waiting for it to end")
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_still(handle, folder / "lock"):
                yield
                return
        finally:
            os.close(handle)


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
