"""Files that appear whole under their name or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from nll._errors import BadInput, NllError

TEMPORARY = ".nll-tmp-"


class WriteError(NllError):
    """The disk gave out while writing; what was finished before is intact."""

    exit_code = 1


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, beside: Path | None = None) -> Iterator[Path]:
    """A temporary file to write to, which becomes `path` when the block ends well.

    It lies in the folder of `path` (or in `beside`, which must be on the same file system), is
    flushed to the disk before it takes the name, and is removed when the block raises anything.
    Raises BadInput when the folder is missing or not writable, WriteError when the disk is full.
    """
    final = Path(os.path.realpath(path))
    if final.is_dir():
        raise BadInput(f"cannot write {path}: it is a folder")
    temporary = (beside or final.parent) / f"{TEMPORARY}{secrets.token_hex(6)}{final.suffix}"
    with telling(path):
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            if final.exists():
                os.chmod(temporary, final.stat().st_mode & 0o7777)
            sync(temporary)
            os.replace(temporary, final)
            sync(final.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


def write_atomic(
    path: str | os.PathLike[str], data: bytes | str, *, beside: Path | None = None
) -> None:
    """Write `data` (text as UTF-8) to `path`, whole or not at all."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_path(path, beside=beside) as temporary:
        temporary.write_bytes(raw)


def sync(path: Path) -> None:
    """Have the file's or folder's content reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def telling(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the operating system says about writing `path` into one line for the user."""
    try:
        yield
    except OSError as error:
        if isinstance(error, NllError):
            raise
        # pyarrow raises OSError without an errno for damaged files; that is not about writing.
        if error.errno is None:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise WriteError(
                f"no space left while writing {path}; free some space and run the same again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadInput(f"cannot write {path}: the folder is not writable") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not Path(path).parent.is_dir():
            parent = Path(path).parent
            raise BadInput(f"cannot write {path}: there is no folder {parent}") from error
        if error.errno == errno.ENAMETOOLONG:
            raise BadInput(f"cannot write {path}: the name is too long") from error
        raise
