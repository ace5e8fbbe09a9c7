"""A run on a Ray cluster: the same file as without one, whatever happens to its workers."""

from __future__ import annotations

import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nll import BadInput, BadModel, _arrow, read_traces
from nll.runs import (
    Ask,
    Cluster,
    Columns,
    GatherOptions,
    ModelOptions,
    ask,
    score_to,
    trace_to,
)
from nll.runs._questions import QUESTIONS
from nll.runs._ray import ray_engine
from nll.runs._run import Piece, RowRejected
from nll.runs._task import Task
from nll.testing import FaultyServer
from nll.trace import same

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray = pytest.importorskip("ray")

pytestmark = pytest.mark.slow
BIGRAM = ModelOptions("testing:bigram", device="cpu")
TWO = Cluster(workers=2, cpus=0.5)
TASK = Task("trace", (), BIGRAM, GatherOptions())


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [{"id": f"t{i}", "text": "ab" * (1 + i % 5) + "c" * (i % 3)} for i in range(700)]
    rows[50] = {"id": "t50", "text": ""}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def go(command, texts: Path, out: Path, cluster: Cluster | None, specs=(), **more):
    ticks: list[int] = []
    done = command(
        [str(texts)], out, list(specs), Columns(), BIGRAM, GatherOptions(), cluster,
        say=lambda _: None, tick=ticks.append, **more,
    )  # fmt: skip
    return done, sum(ticks)


@pytest.mark.parametrize(
    ("command", "specs"), [(trace_to, ()), (score_to, ("mean_nll", "min_k_prob(k=0.1)"))]
)
def test_the_output_is_that_of_a_run_without_a_cluster(texts, tmp_path, command, specs) -> None:
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    go(command, texts, here, None, specs)
    go(command, texts, there, TWO, specs)
    assert here.read_bytes() == there.read_bytes()
    mine, theirs = (Path(f"{path}.rejected.jsonl").read_text() for path in (here, there))
    assert mine == theirs
    assert '"reason": "empty"' in mine


def test_all_rows_are_counted(texts, tmp_path) -> None:
    outcome, ticks = go(trace_to, texts, tmp_path / "o.parquet", TWO)
    assert (outcome.scored, outcome.rejected, ticks) == (699, 1, 700)


def test_a_killed_worker_costs_nothing_but_time(tmp_path) -> None:
    """Check: the process of a worker is killed while shards are on their way."""
    rows = _rows(400)
    wanted = list(read_traces(_made(rows, tmp_path / "quiet", kill=False)))
    found = list(read_traces(_made(rows, tmp_path / "killed", kill=True)))
    assert len(found) == 400
    assert all(same(a, b) for a, b in zip(found, wanted, strict=True))


def _rows(count: int):
    from nll.runs._read import Row
    from nll.trace import Text

    return [
        Row(i, f"t{i}", "in", i + 1, Text("abca" * (1 + i % 9), id=f"t{i}")) for i in range(count)
    ]


def _made(rows, folder: Path, *, kill: bool) -> Path:
    folder.mkdir()
    pieces = [Piece(i, str(i), rows[20 * i : 20 * i + 20], 20 * i) for i in range(20)]
    shards = {}
    with ray_engine(TASK, TWO, lambda _: None) as (_, _, engine):
        for piece, make in engine(pieces, lambda _: None, False):
            path = folder / f"{piece.number:03d}.parquet"
            assert make(path) == (20, [])
            assert piece.number not in shards
            shards[piece.number] = path
            if kill and len(shards) == 5:
                _kill_a_worker()
    assert sorted(shards) == list(range(20))
    out = folder / "all.parquet"
    _arrow.write_traces(out, (t for i in range(20) for t in read_traces(shards[i])))
    return out


def _kill_a_worker() -> None:
    mine = psutil.Process().children(recursive=True)
    worker = next(p for p in mine if p.name().startswith("ray::_Worker"))
    os.kill(worker.pid, signal.SIGKILL)


def test_it_stops_at_the_first_bad_row_when_asked(texts, tmp_path) -> None:
    with pytest.raises(RowRejected, match=r"texts\.jsonl:51: empty"):
        go(trace_to, texts, tmp_path / "o.parquet", TWO, fail_on_error=True)


def test_an_interrupted_run_goes_on(texts, tmp_path) -> None:
    out = tmp_path / "o.parquet"
    seen: list[str] = []

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace_to([str(texts)], out, [], Columns(), BIGRAM, GatherOptions(), TWO,
                 say=seen.append, tick=stop)  # fmt: skip
    assert not out.exists()
    go(trace_to, texts, out, TWO)
    go(trace_to, texts, tmp_path / "unbroken.parquet", None)
    assert out.read_bytes() == (tmp_path / "unbroken.parquet").read_bytes()


def test_a_model_that_cannot_be_loaded_is_told_as_it_is_here(texts, tmp_path) -> None:
    with pytest.raises(BadModel, match="no folder"):
        trace_to([str(texts)], tmp_path / "o.parquet", [], Columns(), ModelOptions("./no-model"),
                 GatherOptions(), TWO, say=lambda _: None, tick=lambda _: None)  # fmt: skip


def test_a_worker_with_another_model_is_refused() -> None:
    from nll.runs._ray import _Worker

    worker = _Worker(TASK)
    with pytest.raises(BadModel, match="another model"):
        worker.make(Piece(0, "", _rows(1), 0), "of another")


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        (lambda: Cluster(workers=0), "--workers"),
        (lambda: Cluster(cpus=0), "needs some of the cluster"),
    ],
)
def test_impossible_clusters(cluster, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        cluster()


def test_a_cluster_without_room_is_told() -> None:
    with (
        pytest.raises(BadInput, match="too few for a worker"),
        ray_engine(TASK, Cluster(cpus=64.0), lambda _: None),
    ):
        pass


def test_no_file_is_asked_for(texts) -> None:
    with pytest.raises(BadInput, match="name it with -o"):
        go(score_to, texts, None, TWO, ("mean_nll",))


@pytest.fixture
def labelled(tmp_path) -> str:
    path = tmp_path / "labelled.jsonl"
    rows = [{"id": f"t{i}", "text": "abcd "[i % 3 :] * (2 + i % 30), "label": i % 2}
            for i in range(300)]  # fmt: skip
    rows[40]["text"] = ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


QUESTIONED = {
    "uncertainty": (GatherOptions(2, max_new_tokens=3), Ask(fit="", own=True)),
    "membership": (GatherOptions(0, neighbours="words", copies=2), Ask("label", fit="")),
    "detect": (GatherOptions(0, perturb="spans", copies=2), Ask("label")),
    "ood": (GatherOptions(0), Ask(fit="")),
}


@pytest.mark.parametrize("name", QUESTIONED)
def test_questions_are_answered_as_without_a_cluster(labelled, tmp_path, name: str) -> None:
    more, given = QUESTIONED[name]
    if given.fit is not None:
        given = replace(given, fit=labelled)
    found, said = {}, {}
    for where, workers in (("here", None), ("there", TWO)):
        lines: list[str] = []
        found[where] = ask(
            QUESTIONS[name], [labelled], tmp_path / f"{where}.parquet", Columns(), BIGRAM, more,
            given, workers, say=lines.append, tick=lambda _: None,
        )  # fmt: skip
        said[where] = [line for line in lines if "Ray" not in line]
    here, there = found["here"], found["there"]
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    assert repr(there.table.to_pydict()) == repr(here.table.to_pydict())
    assert ("flagged" in there.table.column_names) == (given.fit is not None)
    assert (there.reading, there.main) == (here.reading, here.main)
    assert repr(there.cuts) == repr(here.cuts)
    assert repr(there.evaluation) == repr(here.evaluation)
    assert said["there"] == said["here"]
    assert any("labelled.jsonl:41: not scored" in line for line in said["here"]) == bool(given.fit)
    assert there.outcome.rejected == 1


def test_workers_do_not_ask_a_server_again_what_it_gives(texts, tmp_path) -> None:
    from nll.models import from_openai

    few = tmp_path / "few.jsonl"
    few.write_text("".join(texts.read_text().splitlines(keepends=True)[:20]))
    with FaultyServer() as server:
        assert from_openai(server.url).source.reads
        probing = len(server.asked)
    with FaultyServer() as server:
        options = ModelOptions(server.url)
        for out, workers in (("here.parquet", None), ("there.parquet", TWO)):
            before = len(server.asked)
            score_to([str(few)], tmp_path / out, ["mean_nll"], Columns(), options,
                     GatherOptions(), workers, say=lambda _: None, tick=lambda _: None)  # fmt: skip
            assert len(server.asked) - before == probing + 20
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
