"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from nll import BadInput
from nll.runs import WriteError, atomic_path, write_atomic


def test_content_mode_and_links_are_kept(tmp_path) -> None:
    real = tmp_path / "real.txt"
    real.write_text("old")
    real.chmod(0o640)
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_atomic(link, "new é")
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "new é"
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(os, "fsync", lambda fd, real=os.fsync: calls.append("fsync") or real(fd))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or real(a, b))
    write_atomic(tmp_path / "a.txt", b"x")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, WriteError, "no space left"),
        (errno.EDQUOT, WriteError, "no space left"),
        (errno.EACCES, BadInput, "not writable"),
        (errno.EROFS, BadInput, "not writable"),
        (errno.ENAMETOOLONG, BadInput, "too long"),
        (errno.EIO, OSError, "EIO"),
    ],
)
def test_what_the_system_says_becomes_one_line(tmp_path, number: int, kind, says: str) -> None:
    with pytest.raises(kind, match=says), atomic_path(tmp_path / "a.txt"):
        raise OSError(number, errno.errorcode[number])
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_and_folder_in_the_way(tmp_path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        write_atomic(tmp_path / "none" / "a.txt", "x")
    with pytest.raises(BadInput, match="it is a folder"):
        write_atomic(tmp_path, "x")
