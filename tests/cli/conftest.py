"""The command line in this process or another, with the letters model for all others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fake_nll
import pytest

import nll.models
from nll.cli import main

Popen = Callable[..., "subprocess.Popen[str]"]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def nll_here(tmp_path, monkeypatch, capsys) -> Callable[..., Ran]:
    """Run `nll ARGS` in this process, in an empty folder."""
    monkeypatch.setattr(nll.models, "load", fake_nll.letters.load)
    return runner(tmp_path, monkeypatch, capsys)


@pytest.fixture
def nll_real(tmp_path, monkeypatch, capsys) -> Callable[..., Ran]:
    """Run `nll ARGS` in this process, in an empty folder, with the models that ARGS name."""
    return runner(tmp_path, monkeypatch, capsys)


def runner(tmp_path, monkeypatch, capsys) -> Callable[..., Ran]:
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["nll", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert isinstance(code, int)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def nll_there(tmp_path, monkeypatch) -> Popen:
    """Start `nll ARGS` as a process of its own, in the same folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETTERS_LOG", str(tmp_path / "log"))
    script = str(Path(fake_nll.__file__))

    def start(*args: object, **options: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, script, *map(str, args)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path, **options,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    return start
