"""Reliability checks 14, 16, 17 and 20 on real processes with a slow model."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROWS = 200
# Long enough that a shard holds about twenty of them.
TEXTS = [f"row {i} " + "lorem ipsum dolor " * 170 for i in range(ROWS)]
SHARD = 21
DELAY = "0.002"


@pytest.fixture
def data(tmp_path, monkeypatch) -> list[str]:
    """Arguments of a run over 200 rows, two of them bad, that takes about a second."""
    monkeypatch.setenv("LETTERS_DELAY", DELAY)
    rows = [json.dumps({"id": f"r{i}", "text": t}) for i, t in enumerate(TEXTS)]
    rows[50:50] = ['{"id": "bad", "text": ""}']
    rows[120:120] = ["broken"]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    return ["score", "in.jsonl", "--score", "mean_nll", "--score", "lrr"]


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def wait_for(log: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until the model has read this many texts in all."""
    end = time.monotonic() + 60
    while len(lines(log)) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


def clean_run(nll_there, data, tmp_path) -> tuple[bytes, bytes]:
    code, err = finish(nll_there(*data, "-o", "clean.parquet"))
    assert code == 1, err
    (tmp_path / "log").unlink()
    rejected = (tmp_path / "clean.parquet.rejected.jsonl").read_bytes()
    assert [json.loads(x)["reason"] for x in rejected.splitlines()] == ["empty", "bad_json"]
    return (tmp_path / "clean.parquet").read_bytes(), rejected


def killed_and_resumed(nll_there, data, tmp_path, kills: int, seed: int) -> None:
    expected = clean_run(nll_there, data, tmp_path)
    chance = random.Random(seed)
    log = tmp_path / "log"
    landed = 0
    for _ in range(kills):
        process = nll_there(*data, "-o", "out.parquet")
        wait_for(log, len(lines(log)) + chance.randrange(0, 3 * ROWS // (2 * kills) + 5), process)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate()
        landed += process.returncode == -signal.SIGKILL
        if process.returncode != -signal.SIGKILL:
            # It was done before the kill; the next one starts on an empty slate.
            (tmp_path / "out.parquet").unlink()
            log.unlink()
            landed = 0
    assert landed, "the last kill must have hit a run that was under way"
    code, err = finish(nll_there(*data, "-o", "out.parquet"))
    assert code == 1, err
    assert "waiting" not in err, "the lock of a dead process must not hold"
    assert (tmp_path / "out.parquet").read_bytes() == expected[0]
    assert (tmp_path / "out.parquet.rejected.jsonl").read_bytes() == expected[1]
    ids = pq.read_table(tmp_path / "out.parquet")["id"].to_pylist()
    assert ids == [f"r{i}" for i in range(ROWS)]
    assert len(lines(log)) <= ROWS + landed * SHARD, "a kill costs at most one shard"
    assert_tidy(tmp_path)


def assert_tidy(folder: Path) -> None:
    """No temporary file anywhere, no work folder."""
    assert [str(p) for p in folder.rglob("*nll-tmp*")] == []
    assert [str(p) for p in folder.glob("*.partial")] == []


def test_reliability_14_kill_9_at_5_random_moments(nll_there, data, tmp_path) -> None:
    killed_and_resumed(nll_there, data, tmp_path, kills=5, seed=14)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_reliability_14_kill_9_at_20_random_moments(nll_there, data, tmp_path, seed) -> None:
    killed_and_resumed(nll_there, data, tmp_path, kills=20, seed=seed)


def test_reliability_14_traces_too(nll_there, data, tmp_path) -> None:
    trace = ["trace", "in.jsonl", "--model", "m"]
    assert finish(nll_there(*trace, "-o", "clean.parquet"))[0] == 1
    (tmp_path / "log").unlink()
    process = nll_there(*trace, "-o", "out.parquet")
    wait_for(tmp_path / "log", 70, process)
    process.kill()
    process.communicate()
    (tmp_path / "log").unlink()
    code, err = finish(nll_there(*trace, "-o", "out.parquet"))
    assert (code, "reused" in err) == (1, True)
    assert len(lines(tmp_path / "log")) <= ROWS - 2 * SHARD
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()
    assert_tidy(tmp_path)


def wait_until_blocked(process, seconds: float = 120) -> None:
    """Return when the system lists the process among those that wait for a file lock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        if any("->" in words and str(process.pid) in words for words in waiting):
            return
        time.sleep(0.05)
    raise AssertionError("the second process never came to wait for the lock")


def test_reliability_16_two_processes_on_one_output(nll_there, data, tmp_path) -> None:
    expected = clean_run(nll_there, data, tmp_path)
    first = nll_there(*data, "-o", "out.parquet")
    wait_for(tmp_path / "log", 30, first)
    first.send_signal(signal.SIGSTOP)  # until the second has come to the lock, however slowly
    second = nll_there(*data, "-o", "out.parquet")
    wait_until_blocked(second)
    first.send_signal(signal.SIGCONT)
    (code_1, err_1), (code_2, err_2) = finish(first), finish(second)
    assert (code_1, code_2) == (1, 1), err_1 + err_2
    assert "another process is writing out.parquet; waiting" in err_2
    assert (tmp_path / "out.parquet").read_bytes() == expected[0]
    assert (tmp_path / "out.parquet.rejected.jsonl").read_bytes() == expected[1]
    assert_tidy(tmp_path)


def test_reliability_16_many_processes_at_the_same_moment(nll_there, data, tmp_path) -> None:
    expected = clean_run(nll_there, data, tmp_path)
    env = os.environ | {"LETTERS_DELAY": "0"}
    many = [nll_there(*data, "-o", "out.parquet", env=env) for _ in range(3)]
    assert [finish(p)[0] for p in many] == [1] * 3
    assert (tmp_path / "out.parquet").read_bytes() == expected[0]
    assert_tidy(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_reliability_17_signals_end_cleanly(nll_there, data, tmp_path, number) -> None:
    expected = clean_run(nll_there, data, tmp_path)
    (tmp_path / "out.parquet").write_bytes(b"old")
    process = nll_there(*data, "-o", "out.parquet")
    wait_for(tmp_path / "log", 80, process)
    process.send_signal(number)
    code, err = finish(process)
    assert code == 128 + number
    assert len(err.splitlines()) == 1, err
    assert "interrupted" in err
    assert "the same command goes on from there" in err
    assert (tmp_path / "out.parquet").read_bytes() == b"old"
    assert [str(p) for p in tmp_path.rglob("*nll-tmp*")] == []
    done = len(lines(tmp_path / "log"))
    code, err = finish(nll_there(*data, "-o", "out.parquet"))
    assert code == 1
    assert len(lines(tmp_path / "log")) - done <= ROWS - 2 * SHARD
    assert (tmp_path / "out.parquet").read_bytes() == expected[0]
    assert_tidy(tmp_path)


@pytest.mark.parametrize("room", [100, 2_000])
def test_reliability_17_disk_full(nll_there, data, tmp_path, room: int) -> None:
    """A limit on the size of files stands for the full disk: writing fails half way."""
    expected = clean_run(nll_there, data, tmp_path)
    (tmp_path / "out.parquet").write_bytes(b"old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # noqa: E731
    env = os.environ | {"LETTERS_LOG": ""}
    code, err = finish(nll_there(*data, "-o", "out.parquet", env=env, preexec_fn=limit))
    assert code == 1
    assert len(err.splitlines()) == 1, err
    assert "no space left while writing" in err
    assert (tmp_path / "out.parquet").read_bytes() == b"old"
    assert [str(p) for p in tmp_path.rglob("*nll-tmp*")] == []
    assert finish(nll_there(*data, "-o", "out.parquet"))[0] == 1
    assert (tmp_path / "out.parquet").read_bytes() == expected[0]
    assert_tidy(tmp_path)


def test_reliability_20_a_planted_secret_is_written_nowhere(
    nll_there, data, tmp_path, monkeypatch
) -> None:
    secret = "planted-7f3a9c"
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "NLL_SECRET", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    refused = nll_there(*data, "-o", "no.parquet", "--model", f"http://user:{secret}@host/v1")
    said = "".join(refused.communicate())
    assert refused.returncode == 2
    assert "must hold no key" in said
    interrupted = nll_there(*data, "-o", "cut.parquet")
    wait_for(tmp_path / "log", 60, interrupted)
    interrupted.kill()
    said += "".join(interrupted.communicate())
    assert (tmp_path / "cut.parquet.partial").is_dir()
    monkeypatch.setenv("LETTERS_DELAY", "0")
    (tmp_path / "in.jsonl").write_text('{"text": "short"}\n{"text": ""}\n')
    for out in ("a.parquet", "a.jsonl", "a.csv"):
        process = nll_there(*data, "-o", out)
        said += "".join(process.communicate())
    for command in (["report", "in.jsonl", "-o", "a.html"], ["trace", "in.jsonl"], ["score", "no"]):
        said += "".join(nll_there(*command).communicate())
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 8
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
    assert secret not in said
