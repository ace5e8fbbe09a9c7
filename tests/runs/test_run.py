"""Runs: shards, resuming, identity, rejected rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import letters
import pyarrow.parquet as pq
import pytest

import nll.models
import nll.runs._run as run_module
from nll import BadInput, _arrow, read_traces
from nll.runs import Columns, ModelOptions, score_to, trace_to
from nll.runs._obtain import tracer
from nll.runs._read import Row
from nll.runs._run import Job, RowRejected, local_engine, plan, run
from nll.runs._store import fingerprint, work_folder
from nll.trace import Fields, Text

GOOD = [f"text number {i} " + "abc" * (i % 7) for i in range(60)]


class Stopped(BaseException):
    pass


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LETTERS_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(nll.models, "load", letters.load)
    return tmp_path / "log"


def as_rows(texts: list[str]) -> list[Row]:
    return [Row(i, f"id{i}", "in", i + 1, Text(t, id=f"id{i}")) for i, t in enumerate(texts)]


def a_job(parts: dict[str, Any], model: letters.Letters | None = None) -> Job:
    return Job(
        parts=parts,
        engine=local_engine(
            tracer(model or letters.Letters(), Fields(top_k=2), None, None), _arrow.write_traces
        ),
        merge=lambda path, shards: _arrow.write_traces(
            path, (t for s in shards for t in read_traces(s))
        ),
    )


def go(out: Path, texts: list[str] = GOOD, stop_at: int | None = None, **parts: Any) -> list[str]:
    """Run with shards of ten; returns what was said."""
    said: list[str] = []
    done = 0

    def tick(n: int) -> None:
        nonlocal done
        done += n
        if stop_at is not None and done >= stop_at:
            raise Stopped

    job = a_job({"model": "m", **parts})
    run(as_rows(texts), out, job, say=said.append, tick=tick, shard_rows=10)
    return said


def computed(log: Path) -> list[str]:
    lines = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def interrupted(out: Path, log: Path, at: int = 35, **parts: Any) -> None:
    with pytest.raises(Stopped):
        go(out, stop_at=at, **parts)
    computed(log)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, log) -> None:
    go(tmp_path / "clean.parquet")
    interrupted(tmp_path / "cut.parquet", log)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clean.parquet", "cut.parquet.partial"]
    said = go(tmp_path / "cut.parquet")
    assert computed(log) == [f"id{i}" for i in range(30, 60)]
    assert said == ["30 texts were done before and are reused"]
    assert (tmp_path / "cut.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()
    assert not work_folder(tmp_path / "cut.parquet").exists()


def test_reliability_15_the_same_identity_hits(tmp_path, log) -> None:
    interrupted(tmp_path / "o.parquet", log)
    go(tmp_path / "o.parquet")
    assert len(computed(log)) == 30


@pytest.mark.parametrize(
    "change",
    ["model", "revision", "weights", "tokenizer", "dtype", "bos", "template", "library"],
)
def test_reliability_15_every_change_of_the_model_misses(tmp_path, log, change: str) -> None:
    before = {"model": {"model": "m", "dtype": "float32"}}
    interrupted(tmp_path / "o.parquet", log, **before)
    said = go(tmp_path / "o.parquet", model={**before["model"], change: "other"})
    assert len(computed(log)) == 60
    assert said == ["o.parquet.partial is of an unfinished run with another model; starting anew"]


@pytest.mark.parametrize("name", ["--dtype", "--score", "--top-k", "--stride", "--model"])
def test_reliability_15_every_option_misses(tmp_path, log, monkeypatch, name: str) -> None:
    (tmp_path / "in.txt").write_text("\n".join(GOOD))
    monkeypatch.setattr(run_module, "plan", lambda rows, *_: plan(rows, 10, 10**9))
    options: dict[str, Any] = {"model": "m"}
    specs = ["mean_nll"]

    def score(stop_at: int | None = None) -> list[str]:
        said: list[str] = []
        done = 0

        def tick(n: int) -> None:
            nonlocal done
            done += n
            if stop_at is not None and done >= stop_at:
                raise Stopped

        score_to(
            [str(tmp_path / "in.txt")], tmp_path / "o.parquet", specs, Columns(lines=True),
            ModelOptions(**options), say=said.append, tick=tick,
        )  # fmt: skip
        return said

    with pytest.raises(Stopped):
        score(stop_at=35)
    computed(log)
    changes: dict[str, dict[str, Any]] = {
        "--dtype": {"dtype": "bfloat16"},
        "--top-k": {"top_k": 3},
        "--stride": {"stride": 7},
        "--model": {"model": "n"},
        "--score": {},
    }
    options.update(changes[name])
    if name == "--score":
        specs = ["mean_nll", "min_k_prob(k=0.1)"]
    said = score()
    assert len(computed(log)) == 60
    assert "starting anew" in said[0]


def test_reliability_15_another_library_schema_misses(tmp_path, log, monkeypatch) -> None:
    interrupted(tmp_path / "o.parquet", log)
    monkeypatch.setattr("nll.runs._store._SCHEMA", 2)
    said = go(tmp_path / "o.parquet")
    assert len(computed(log)) == 60
    assert "another version" in said[0]


def test_a_changed_input_is_computed_again_and_said(tmp_path, log) -> None:
    interrupted(tmp_path / "o.parquet", log)
    changed = ["another first text", *GOOD[1:]]
    said = go(tmp_path / "o.parquet", changed)
    assert computed(log) == [f"id{i}" for i in [*range(10), *range(30, 60)]]
    assert "another input" in said[0]
    assert next(read_traces(tmp_path / "o.parquet")).text == changed[0]


@pytest.mark.parametrize("damage", ["data", "half", "gone", "note", "no note"])
def test_a_torn_shard_is_computed_again(tmp_path, log, damage: str) -> None:
    go(tmp_path / "clean.parquet")
    out = tmp_path / "o.parquet"
    interrupted(out, log)
    shard = work_folder(out) / "shard-000001.parquet"
    note = shard.with_suffix(".json")
    match damage:
        case "data":
            raw = bytearray(shard.read_bytes())
            raw[len(raw) // 2] ^= 1
            shard.write_bytes(raw)
        case "half":
            shard.write_bytes(shard.read_bytes()[:-20])
        case "gone":
            shard.unlink()
        case "note":
            note.write_text(note.read_text().replace('"scored": 10', '"scored": 11'))
        case "no note":
            note.unlink()
    go(out)
    assert computed(log) == [f"id{i}" for i in [*range(10, 20), *range(30, 60)]]
    assert out.read_bytes() == (tmp_path / "clean.parquet").read_bytes()


def test_an_interruption_before_the_first_shard_leaves_nothing(tmp_path, log) -> None:
    interrupted(tmp_path / "o.parquet", log, at=5)
    assert list(tmp_path.iterdir()) == []


def test_an_old_output_stays_until_the_new_one_is_whole(tmp_path, log) -> None:
    out = tmp_path / "o.parquet"
    out.write_bytes(b"old")
    interrupted(out, log)
    assert out.read_bytes() == b"old"
    go(out)
    assert len(list(read_traces(out))) == 60


def test_plans_cut_by_rows_and_characters_and_ignore_rejected_rows() -> None:
    rows = as_rows(["x" * 4] * 5 + ["x" * 20, "y"])
    assert [len(p) for p in plan(rows, 3, 100)] == [3, 3, 1]
    assert [len(p) for p in plan(rows, 100, 8)] == [2, 2, 1, 1, 1]
    bad = [Row(99, "b", "in", 9, None, "empty", "the text is empty")] * 4
    mixed = [*bad[:1], *rows[:2], *bad[1:], *rows[2:]]
    cuts = [[r.id for r in p if r.text] for p in plan(mixed, 3, 100)]
    assert cuts == [[r.id for r in p] for p in plan(rows, 3, 100)]


def test_rejected_rows_are_written_and_removed_when_there_are_none(tmp_path, log) -> None:
    rejects = tmp_path / "o.parquet.rejected.jsonl"
    rows = as_rows(GOOD[:12])
    rows[3] = Row(3, "id3", "in", 4, None, "empty", "the text is empty")
    rows[11] = Row(11, "id11", "in", 12, Text("\N{OBJECT REPLACEMENT CHARACTER}", id="id11"))
    ticks: list[int] = []
    outcome = run(
        rows, tmp_path / "o.parquet", a_job({}), say=print, tick=ticks.append, shard_rows=5
    )
    assert (outcome.scored, outcome.rejected, outcome.rejects) == (10, 2, rejects)
    assert sum(ticks) == 12
    assert [json.loads(line) for line in rejects.read_text().splitlines()] == [
        {"index": 3, "id": "id3", "source": "in", "line": 4, "reason": "empty",
         "detail": "the text is empty"},
        {"index": 11, "id": "id11", "source": "in", "line": 12, "reason": "no_tokens",
         "detail": "the text has no tokens"},
    ]  # fmt: skip
    run(as_rows(GOOD[:3]), tmp_path / "o.parquet", a_job({}), say=print)
    assert not rejects.exists()


@pytest.mark.parametrize("bad", [3, 11])
def test_fail_on_error_stops_at_the_first(tmp_path, log, bad: int) -> None:
    rows = as_rows(GOOD[:12])
    text = None if bad == 3 else Text("\N{OBJECT REPLACEMENT CHARACTER}")
    reason = ("empty", "the text is empty") if bad == 3 else (None, None)
    rows[bad] = Row(bad, "x", "in", bad + 1, text, *reason)
    with pytest.raises(RowRejected, match=f"in:{bad + 1}: ") as error:
        run(rows, tmp_path / "o.parquet", a_job({}), say=print, fail_on_error=True)
    assert error.value.exit_code == 1
    assert list(tmp_path.glob("o.parquet")) == []


def test_a_model_that_loses_a_text_is_found_out(tmp_path) -> None:
    model = letters.Letters()
    model.trace = lambda texts, **o: iter([])  # type: ignore[method-assign]
    with pytest.raises(BadInput, match="returned 0 traces for 3 texts"):
        run(as_rows(GOOD[:3]), tmp_path / "o.parquet", a_job({}, model), say=print)


def test_fingerprints_see_every_change_and_no_order() -> None:
    assert fingerprint({"a": 1, "b": "é"}) == fingerprint({"b": "é", "a": 1})
    assert fingerprint(["a", "b"]) != fingerprint(["ab"])
    assert fingerprint({"a": None}) != fingerprint({})


def test_a_stored_run_scores_like_a_direct_one(tmp_path, log) -> None:
    (tmp_path / "in.txt").write_text("\n".join(GOOD))
    common: dict[str, Any] = {"say": print, "tick": lambda _: None}
    source, columns, options = [str(tmp_path / "in.txt")], Columns(lines=True), ModelOptions("m")
    specs = ["mean_nll", "min_k_prob(k=0.1)", "lrr"]
    score_to(source, tmp_path / "a.parquet", specs, columns, options, **common)
    trace_to(source, tmp_path / "t.parquet", specs, columns, options, **common)
    os.environ.pop("LETTERS_LOG")
    stored, out = [str(tmp_path / "t.parquet")], tmp_path / "b.parquet"
    score_to(stored, out, specs, Columns(), ModelOptions(), **common)
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))
