"""Scores that are shown and reports: what they give, and how little of the texts they hold."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import letters
import pyarrow as pa
import pytest

import nll.models
from nll import BadInput
from nll.runs import Cluster, Columns, GatherOptions, ModelOptions, ask, report_data, score_to
from nll.runs._questions import QUESTIONS
from nll.runs._run import SHARD_ROWS
from nll.trace import Trace

TEXTS = 1_500
SPECS = ["mean_nll", "min_k_prob"]


class Counting(letters.Letters):
    """Notes how many of its traces were held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[int] = set()
        self.most = self.asked = 0

    def trace(self, texts, **options):
        for found in super().trace(texts, **options):
            number, self.asked = self.asked, self.asked + 1
            self.alive.add(number)
            weakref.finalize(found.logp, self.alive.discard, number)
            self.most = max(self.most, len(self.alive))
            yield found
            del found


@pytest.fixture
def model(monkeypatch) -> Counting:
    found = Counting()
    monkeypatch.setattr(nll.models, "load", lambda *args, **options: found)
    return found


@pytest.fixture
def texts(tmp_path) -> str:
    path = tmp_path / "texts.jsonl"
    rows = [{"id": f"t{i}", "text": f"text number {i}"} for i in range(TEXTS)]
    rows[700]["text"] = ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scored(texts: str, out: Path | None = None):
    ticks: list[int] = []
    said: list[str] = []
    found = score_to([texts], out, SPECS, Columns(), ModelOptions(), say=said.append,
                     tick=ticks.append)  # fmt: skip
    return *found, said, sum(ticks)


def test_a_table_holds_the_scores_and_never_all_traces(model, texts, tmp_path) -> None:
    outcome, table, said, ticks = scored(texts)
    gc.collect()
    assert model.asked == TEXTS - 1
    assert model.most <= 3, "the first, the one being scored and the one on its way"
    assert (outcome.scored, outcome.rejected, ticks) == (TEXTS - 1, 1, TEXTS - 1)
    assert said == [f"{texts}:701: not scored: the text is empty"]
    scored(texts, tmp_path / "o.parquet")
    assert table.equals(pa.parquet.read_table(tmp_path / "o.parquet"))


def test_a_report_takes_what_it_draws_and_keeps_no_trace(model, texts, tmp_path) -> None:
    drawn: list[str | None] = []
    outcome, table = report_data(
        [texts], tmp_path / "r.html", SPECS, Columns(), ModelOptions(),
        draw=lambda trace: drawn.append(trace.id), say=lambda _: None, tick=lambda _: None,
    )  # fmt: skip
    gc.collect()
    assert model.most <= 3
    assert drawn == table["id"].to_pylist()
    assert (outcome.scored, outcome.rejected) == (TEXTS - 1, 1)
    assert outcome.rejects is not None
    assert json.loads(outcome.rejects.read_text())["id"] == "t700"


def test_answers_are_drawn_as_in_a_run_that_writes_a_file(tmp_path) -> None:
    texts = tmp_path / "q.jsonl"
    rows = [{"id": f"{i}", "text": "ab"} for i in range(SHARD_ROWS + 4)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = GatherOptions(2, max_new_tokens=2)
    options = ModelOptions("testing:bigram", device="cpu")
    out = tmp_path / "o.parquet"
    _, shown = score_to([str(texts)], None, ["predictive_entropy"], Columns(), options, more,
                        say=lambda _: None, tick=lambda _: None)  # fmt: skip
    score_to([str(texts)], out, ["predictive_entropy"], Columns(), options, more,
             say=lambda _: None, tick=lambda _: None)  # fmt: skip
    assert shown.equals(pa.parquet.read_table(out))
    assert len(set(shown["predictive_entropy"].to_pylist()[-8:])) > 1


def test_a_cluster_with_nothing_to_do_or_to_lose_is_refused(texts, tmp_path) -> None:
    from nll import write_traces

    stored = str(tmp_path / "t.parquet")
    write_traces(stored, [letters.Letters()._one(nll.Text("abc", id="a"), nll.Fields(top_k=1))])
    quiet = {"say": lambda _: None, "tick": lambda _: None}
    more = GatherOptions(0)
    for inputs, out, says in (
        ([texts], None, "name it with -o"),
        ([stored], tmp_path / "o.parquet", "leave out --engine ray"),
    ):
        with pytest.raises(BadInput, match=says):
            score_to(inputs, out, SPECS, Columns(), ModelOptions(), more, Cluster(), **quiet)
        with pytest.raises(BadInput, match=says):
            ask(QUESTIONS["ood"], inputs, out, Columns(), ModelOptions(), more, nll.runs.Ask(),
                Cluster(), **quiet)  # fmt: skip


def test_labels_are_noted_only_where_they_are_measured() -> None:
    from nll.runs._ask import _Told
    from nll.runs._read import Row

    row = Row(0, "a", "in", 1, nll.Text("words", id="a"), label="1")
    for wanted, held in ((False, {}), (True, {"a": "words"})):
        told = _Told(wanted)
        assert list(told.noting([row])) == [row]
        assert told.texts == held


def test_a_trace_that_is_not_there_cannot_be_shown(tmp_path) -> None:
    from nll._bundle import Bundle
    from nll.runs._jobs import _shown

    one = letters.Letters()._one(nll.Text("abc", id="a"), nll.Fields())
    assert isinstance(_shown(Bundle(trace=one)), Trace)
    with pytest.raises(BadInput, match="nothing to show"):
        _shown(Bundle())
