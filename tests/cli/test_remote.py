"""Commands on a model behind a server: numbers, refusals, kills and secrets (14, 19, 20)."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nll.cli import main
from nll.testing import FaultyServer, bigram_table, characters
from nll.trace import Trace

TABLE = bigram_table()
SECRET = "planted-7f3a9c-key"


def mean_nll(text: str) -> float:
    pairs = itertools.pairwise(characters(text))
    return -float(np.mean([TABLE[a, b] for a, b in pairs]))


@pytest.fixture
def nll(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run `nll ARGS` in this process, in an empty folder, with real models."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "NLL_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nll", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def write(folder: Path, texts: list[str]) -> None:
    rows = [json.dumps({"id": f"r{i}", "text": t}) for i, t in enumerate(texts)]
    (folder / "in.jsonl").write_text("\n".join(rows))


def test_scores_of_a_server_are_the_tables(nll, tmp_path) -> None:
    texts = ["hello, world.", "a man, a plan", "the end!"]
    write(tmp_path, texts)
    with FaultyServer() as server:
        code, _, err = nll("score", "in.jsonl", "-m", server.url, "-o", "out.parquet")
    assert code == 0, err
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["r0", "r1", "r2"]
    assert table["mean_nll"].to_pylist() == pytest.approx([mean_nll(t) for t in texts], rel=1e-6)
    assert "min_k_prob" in table.column_names
    assert "mean_entropy" not in table.column_names, "`all` is what the server can give"


def test_a_score_that_a_server_cannot_give_is_refused_in_one_line_unpaid(nll, tmp_path) -> None:
    write(tmp_path, ["hello"])
    with FaultyServer() as server:
        code, out, err = nll("score", "in.jsonl", "-m", server.url, "--score", "fast_detect_gpt")
        assert server.asked == []
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "score 'fast_detect_gpt' is impossible on this source: it needs" in err


@pytest.mark.parametrize("command", ["trace", "report"])
def test_traces_and_reports_of_a_server(nll, tmp_path, command: str) -> None:
    write(tmp_path, ["hello, world.", "the end!"])
    with FaultyServer(prompt_logprobs=True) as server:
        out = "t.parquet" if command == "trace" else "r.html"
        code, _, err = nll(command, "in.jsonl", "-m", server.url, "-o", out)
    assert code == 0, err
    if command == "trace":
        code, _, err = nll("score", out, "--score", "mean_nll", "-o", "s.jsonl")
        found = [json.loads(x)["mean_nll"] for x in (tmp_path / "s.jsonl").read_text().splitlines()]
        assert found == pytest.approx([mean_nll("hello, world."), mean_nll("the end!")], rel=1e-6)
    else:
        assert "</html>" in (tmp_path / out).read_text()


@pytest.mark.parametrize(
    "command", [("score", "o.csv"), ("score", None), ("trace", "o.parquet"), ("report", "o.html")]
)
def test_a_run_asks_a_server_once_what_it_gives(nll, tmp_path, command) -> None:
    from nll.models import from_openai

    write(tmp_path, ["hello, world.", "the end!"])
    with FaultyServer() as server:
        assert from_openai(server.url).source.reads
        probing = len(server.asked)
    name, out = command
    written = () if out is None else ("-o", out)
    with FaultyServer() as server:
        code, _, err = nll(name, "in.jsonl", "-m", server.url, "--score", "mean_nll", *written)
    assert code == 0, err
    assert len(server.asked) == probing + 2, "and each text once"


@pytest.mark.parametrize(
    ("command", "main", "left"),
    [
        ("membership", "min_k_prob", "min_k_plus_plus"),
        ("detect", "log_likelihood", "fast_detect_gpt, entropy_score"),
        ("ood", "negative_likelihood(normalise=True)", "mean_entropy"),
        ("uncertainty", "g_nll", "mean_entropy"),
    ],
)
def test_questions_take_the_scores_that_a_server_can_give(
    nll, tmp_path, command: str, main: str, left: str
) -> None:
    texts = ["hello, world.", "a man, a plan", "the end!"]
    write(tmp_path, texts)
    short = ("--max-new-tokens", 3) if command == "uncertainty" else ()
    with FaultyServer() as server:
        code, _, err = nll(command, "in.jsonl", "-m", server.url, *short, "-o", "o.parquet")
    assert code == 0, err
    assert f"cannot give what they read: {left}\n" in err
    assert f"nll: by {main} " in err
    table = pq.read_table(tmp_path / "o.parquet")
    assert not set(left.split(", ")) & set(table.column_names)
    assert None not in table[main].to_pylist()
    assert not any(map(math.isnan, table[main].to_pylist()))
    if main == "log_likelihood":
        assert table[main].to_pylist() == pytest.approx([-mean_nll(t) for t in texts], rel=1e-6)


def test_a_server_that_only_chats_answers_questions_and_judges_no_texts(nll, tmp_path) -> None:
    write(tmp_path, ["hello, world.", "the end!"])
    with FaultyServer(completions=False) as server:
        code, _, err = nll("uncertainty", "in.jsonl", "-m", server.url, "--max-new-tokens", 3,
                           "-o", "o.parquet")  # fmt: skip
        assert code == 0, err
        assert not any(map(math.isnan, pq.read_table(tmp_path / "o.parquet")["g_nll"].to_pylist()))
        asked = len(server.asked)
        code, out, err = nll("ood", "in.jsonl", "-m", server.url)
        probing = server.asked[asked:]
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "it cannot score texts" in err
    assert not any("the end!" in json.dumps(body) for body in probing)


def test_an_option_for_local_models_is_refused_before_a_server_is_asked(nll, tmp_path) -> None:
    write(tmp_path, ["hello"])
    with FaultyServer() as server:
        code, _, err = nll("score", "in.jsonl", "-m", server.url, "--dtype", "bfloat16")
        assert server.asked == []
    assert (code, "dtype is for local models" in err) == (2, True)


def test_rows_that_fail_are_set_aside_with_a_reason(nll, tmp_path) -> None:
    texts = ["hello, world.", "a man, a plan", "the end!"]
    write(tmp_path, texts)
    with FaultyServer(faults={texts[1]: ["400"]}) as server:
        code, _, _ = nll("score", "in.jsonl", "-m", server.url, "-o", "out.jsonl")
    assert code == 1
    (rejected,) = (tmp_path / "out.jsonl.rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["id"] == "r1"
    assert json.loads(rejected)["reason"] == "refused"


def test_parity_prints_a_certificate(nll, tmp_path) -> None:
    write(tmp_path, ["hello, world.", "the end!"])
    with FaultyServer(prompt_logprobs=True) as server:
        code, out, err = nll("parity", "testing:bigram", server.url, "in.jsonl")
        assert (code, "within the tolerance of 0.001" in err) == (0, True)
        assert "|logp a - b|" in out
        assert "b does not hold        entropy, varentropy" in out
        code, out, _ = nll("parity", "testing:bigram", server.url, "in.jsonl", "--json")
        held = json.loads(out)
        assert (code, held["within"], held["tokens"]) == (0, True, 19)
    with FaultyServer(table=bigram_table(seed=1)) as other:
        code, out, err = nll("parity", "testing:bigram", other.url, "in.jsonl")
        assert (code, "NOT within" in err) == (1, True)
        assert "worst token" in out


ROWS = 120
TEXTS = [
    f"row {'abcdefghij'[i // 100]}{'abcdefghij'[i // 10 % 10]}{'abcdefghij'[i % 10]} "
    + "lorem " * 400
    for i in range(ROWS)
]


def there(url: str, out: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    import os

    return subprocess.Popen(
        [sys.executable, "-m", "nll", "score", "in.jsonl", "-m", url, "-o", out,
         "--score", "mean_nll", "--score", "min_k_prob"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip


def wait_for(server: FaultyServer, count: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while sum(server.answered.values()) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_reliability_14_and_19_kill_9_in_the_middle_then_every_row_once(tmp_path) -> None:
    write(tmp_path, TEXTS)
    faults = {
        t: [["429:0.01"], ["reset"], ["truncated"], ["500"]][i % 4]
        for i, t in enumerate(TEXTS[::5])
    }
    with FaultyServer(delay=0.02) as server:
        process = there(server.url, "clean.parquet", tmp_path)
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
    with FaultyServer(delay=0.02, faults=faults) as server:
        kills = 0
        for share in (0.3, 0.7):
            process = there(server.url, "out.parquet", tmp_path)
            wait_for(server, int(share * ROWS), process)
            process.kill()
            process.communicate()
            kills += process.returncode == -9
        assert kills == 2
        assert (tmp_path / "out.parquet.partial").is_dir()
        before = sum(server.answered.values())
        process = there(server.url, "out.parquet", tmp_path)
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        assert "reused" in err
        assert sum(server.answered.values()) - before < ROWS, "what was done is not paid again"
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == [f"r{i}" for i in range(ROWS)]
    assert table["mean_nll"].to_pylist() == pytest.approx([mean_nll(t) for t in TEXTS], rel=1e-5)
    assert not (tmp_path / "out.parquet.rejected.jsonl").exists()
    assert not (tmp_path / "out.parquet.partial").exists()


@pytest.mark.slow
def test_reliability_20_the_key_is_written_nowhere(tmp_path) -> None:
    write(tmp_path, TEXTS[:60])
    said = ""
    env = {"NLL_API_KEY": SECRET, "OPENAI_LOG": "debug", "NLL_DEBUG": "1", "NLL_CONCURRENCY": "2"}
    with FaultyServer(token=SECRET, delay=0.02, faults={TEXTS[3]: ["400"] * 9}) as server:
        process = there(server.url, "cut.parquet", tmp_path, **env)
        wait_for(server, 40, process)
        process.kill()
        said += "".join(process.communicate())
        assert (tmp_path / "cut.parquet.partial").is_dir()
        kept = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
        process = there(server.url, "out.parquet", tmp_path, **env)
        said += "".join(process.communicate())
        assert process.returncode == 1
    with FaultyServer(token="another") as server:
        for url in (server.url, server.url + "#table"):
            process = there(url, "no.parquet", tmp_path, **env)
            said += "".join(process.communicate())
            assert process.returncode != 0
    assert "Traceback" in said
    kept += [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(kept) > 5
    assert SECRET not in said
    assert not any(SECRET.encode() in content for content in kept)


def test_a_run_that_found_no_server_goes_on_when_there_is_one(nll, tmp_path, monkeypatch) -> None:
    """A row set aside as unavailable is asked again by the next run, not taken as settled."""
    from nll import _arrow
    from nll.runs._read import Columns, read_rows
    from nll.runs._run import Job, RowRejected, local_engine, run  # noqa: F401
    from nll.testing import table_model
    from nll.trace import Rejected

    write(tmp_path, ["one", "two", "three"])
    model, state = table_model(), {"up": False, "calls": 0}

    def source(texts, on_reject, start):
        for i, text in enumerate(texts):
            state["calls"] += 1
            if text.text == "three" and not state["up"]:
                raise KeyboardInterrupt
            if text.text == "two" and not state["up"]:
                on_reject(Rejected(i, "unavailable", "the server answered 503", text.id))
                continue
            yield next(iter(model.trace([text])))

    def stored(shards) -> Iterator[Trace]:
        return itertools.chain.from_iterable(map(_arrow.read_traces, shards))

    def merge(path: Path, shards) -> None:
        _arrow.write_traces(path, stored(shards))

    def go() -> object:
        job = Job({}, local_engine(source, _arrow.write_traces), merge)
        rows = read_rows(["in.jsonl"], Columns())
        return run(rows, tmp_path / "o.parquet", job, say=lambda _: None, shard_rows=2)

    with pytest.raises(KeyboardInterrupt):
        go()
    state["up"] = True
    outcome = go()
    assert (outcome.scored, outcome.rejected, outcome.reused) == (3, 0, 0)
    assert [t.text for t in _arrow.read_traces(tmp_path / "o.parquet")] == ["one", "two", "three"]
    assert math.isnan(next(_arrow.read_traces(tmp_path / "o.parquet")).logp[0])
