"""The wheel that users get: contents, and an import that costs and changes nothing (check 25)."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = re.compile(
    r"nll/(?:[\w/]+\.py|py\.typed|[\w/]+\.(?:html\.j2|html|css|js|svg|c))"
    r"|nll/studies/data/[\w-]+/(?:SOURCE\.md|[\w.-]+\.(?:conll|csv|json|jsonl|tsv|txt)\.gz)"
    r"|nll-[\d.]+\.dist-info/(?:METADATA|WHEEL|RECORD|entry_points\.txt|licenses/\w+)"
)


def build_wheel(folder: Path) -> Path:
    assert importlib.util.find_spec("hatchling"), "hatchling is missing; run `make env`"
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def run_installed(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run Python code against the installed wheel, away from the checkout."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True
    )

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=target.parent,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            check=False,
        )

    where = run("import nll; print(nll.__file__)").stdout.strip()
    assert Path(where).is_relative_to(target)
    return run


def test_25_wheel_holds_the_listed_files_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [n for n in names if not ALLOWED.fullmatch(n)] == []
    in_tree = {
        str(p.relative_to(ROOT / "src"))
        for p in (ROOT / "src" / "nll").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {n for n in names if n.startswith("nll/")} == in_tree
    assert "nll/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_25_carried_data_states_its_source(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {n.rsplit("/", 1)[0] for n in names if n.startswith("nll/studies/data/")}
    assert folders
    assert all(f"{folder}/SOURCE.md" in names for folder in folders)


def test_25_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 10_000_000


def test_25_same_source_same_bytes(wheel: Path, tmp_path: Path) -> None:
    again = build_wheel(tmp_path)
    assert (
        hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()
    )


def test_25_import_is_light_and_offline(run_installed, record_property) -> None:
    done = run_installed("""
        import socket, sys, time
        def refuse(*args, **kwargs):
            raise AssertionError("import nll opened a socket")
        socket.socket.connect = socket.getaddrinfo = refuse
        began = time.perf_counter()
        import nll
        print(time.perf_counter() - began)
        heavy = {"torch", "transformers", "numpy", "pyarrow"} & set(sys.modules)
        assert not heavy, heavy
    """)
    assert done.returncode == 0, done.stderr
    record_property("import_seconds", float(done.stdout))


def test_25_help_loads_no_torch(run_installed, record_property) -> None:
    done = run_installed("""
        import sys, time
        began = time.perf_counter()
        sys.argv = ["nll", "--help"]
        from nll.cli import main
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, stop.code
        print("seconds", time.perf_counter() - began)
        heavy = {"torch", "transformers"} & set(sys.modules)
        assert not heavy, heavy
    """)
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout
    record_property("help_seconds", float(done.stdout.split()[-1]))


def test_25_every_room_leaves_global_state_alone(run_installed) -> None:
    done = run_installed("""
        import logging, os, random, signal, sys, threading, warnings
        import numpy, scipy.special, torch, transformers

        def state():
            return {
                "grad": torch.is_grad_enabled(),
                "dtype": torch.get_default_dtype(),
                "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "torch seed": torch.get_rng_state().tolist(),
                "numpy seed": str(numpy.random.get_state()),
                "numpy errors": numpy.geterr(),
                "python seed": random.getstate(),
                "warnings": list(warnings.filters),
                "log levels": {
                    name: (log.level, log.disabled, list(log.handlers))
                    for name, log in logging.root.manager.loggerDict.items()
                    if isinstance(log, logging.Logger) and name in known
                },
                "root log": (logging.root.level, list(logging.root.handlers)),
                "transformers log": transformers.logging.get_verbosity(),
                "environment": dict(os.environ),
                "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
                "python threads": threading.active_count(),
                "hooks": (sys.excepthook, sys.displayhook),
            }

        known = set(logging.root.manager.loggerDict)
        before = state()
        import nll
        for name in nll.__all__:
            getattr(nll, name)
        nll.declarations()
        after = state()
        changed = [key for key in before if before[key] != after[key]]
        assert not changed, changed
    """)
    assert done.returncode == 0, done.stderr


def test_25_public_names_all_resolve(run_installed) -> None:
    done = run_installed("""
        import nll
        missing = [name for name in nll.__all__ if not hasattr(nll, name)]
        assert not missing, missing
        assert set(nll.__all__) <= set(dir(nll))
    """)
    assert done.returncode == 0, done.stderr
