"""The study of embers: published numbers inside it, its toy world, its verdicts, a whole run."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from nll.studies import Finding, Setting, run_study
from nll.studies import _embers as inner
from nll.studies._common import read_table
from nll.studies._embers_toy import LENGTH, pieces, toy_world

CORPUS = [
    "The farmer has twelve hens and seven ducks near the old river house.",
    "She sells every egg at the market for two dollars on a sunny morning.",
] * 8


@pytest.fixture(scope="module")
def rows():
    return read_table(Setting().file("embers", "items.tsv.gz"), delimiter="\t")


def test_with_the_published_probe_the_published_coefficients_come_back(rows):
    theirs = {
        s: inner._column(rows, t, inner.GPT4, "output_logprob") for t, s in inner.DECODE.items()
    }
    cells = inner._regressions(rows, theirs)
    assert len(cells) == 20
    for cell in cells:
        assert cell["ours"] == pytest.approx(cell["published"], abs=1e-9)
    rot = next(c for c in cells if (c["task"], c["model"]) == ("rot13dec", inner.GPT4))
    assert rot["published"] == pytest.approx(1.8524, abs=1e-4)
    assert rot["published z"] == pytest.approx(5.74, abs=0.02)
    assert (rot["right"], rot["counts"]) == (86, "yes")
    assert [c["counts"] for c in cells].count("no") == 2
    assert inner._judge(cells, [Finding("g", 0.5, 0.4, 0.6)])[0] == "supported"


def test_the_published_accuracies_stand_in_the_table(rows):
    table = {line["task"]: line for line in inner._accuracy(rows)}
    assert table["rot13dec"][inner.GPT4] == "51, 22, 13"
    assert table["swap_next_base"]["gpt-3.5-turbo-0613"] == "65, 43, 5"
    assert len(table) == 5


@pytest.mark.parametrize(
    ("coefficient", "z", "gap", "low", "verdict"),
    [
        (1.0, 5.0, 0.4, 0.3, "supported"),
        (1.0, 1.5, 0.4, 0.3, "inconclusive"),
        (1.0, 5.0, 0.1, -0.1, "inconclusive"),
        (-0.1, -0.5, 0.4, 0.3, "not supported"),
        (1.0, 5.0, 0.0, -0.1, "inconclusive"),
        (1.0, 5.0, -0.2, -0.3, "not supported"),
    ],
)
def test_the_verdict_follows_the_falsifier(coefficient, z, gap, low, verdict):
    floor = {"ours": -3.0, "z": -9.0, "counts": "no", "task": "t", "model": "at floor"}
    cell = {"ours": coefficient, "z": z, "counts": "yes", "task": "t", "model": "m"}
    assert inner._judge([floor, cell], [Finding("g", gap, low, gap + 0.1)])[0] == verdict


def test_pieces_begin_words_and_have_one_length():
    found = pieces(["Two, big  ducks: 12 eggs a day!"])
    assert found[0] == "two big duck"
    assert {len(p) for p in found} == {LENGTH}
    assert all(not p.startswith(" ") for p in found)
    assert pieces(["short"]) == []


def test_the_toy_world_is_the_same_for_a_seed_and_tests_the_same_pieces():
    texts = [*CORPUS, "An unseen story about seven kind whales who play chess by moonlight."]
    small = functools.partial(toy_world, texts, count=64, width=16)
    first, again = small(seed=1), small(seed=1)
    assert list(first) == ["rot13 common", "rot12 common", "rot13 shuffled", "rot12 shuffled"]
    for name, cell in first.items():
        np.testing.assert_array_equal(cell.right, again[name].right)
        assert cell.nll == again[name].nll
        assert 2 < cell.nll < 5  # hardly trained: near ln of the alphabet


@pytest.mark.slow
def test_the_toy_world_decodes_what_is_common():
    cells = toy_world(
        [r["question"] for r in inner.read_json_lines(
            Setting().file("step-length", "gsm8k_solutions.jsonl.gz"))],
        count=20_000, seed=0,
    )  # fmt: skip
    assert cells["rot13 common"].right.mean() > 0.9
    assert cells["rot13 common"].right.mean() > cells["rot12 common"].right.mean()
    assert cells["rot12 common"].nll < cells["rot12 shuffled"].nll


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = functools.partial(toy_world, width=16)
    monkeypatch.setattr(inner, "toy_world", lambda t, count, seed: small(t, count=64, seed=seed))
    monkeypatch.setattr(inner, "ANSWERS", 3)
    monkeypatch.setattr(inner, "CHOICES", 1)
    result = run_study("embers", Setting(model_name="testing:bigram"), tmp_path)
    assert result["verdict"] == "not supported"  # letters of a random table know no English
    names = [f["name"] for f in result["findings"]]
    assert "coefficient of output probability, GPT-4, rot13dec" in names
    assert "toy: common minus rare cipher" in names
    choice = result["tables"]["This model's choice among four candidates (chance 0.25)"]
    assert [c["condition"] for c in choice] == ["high", "medium", "low"] * 4
    assert (tmp_path / "embers" / "figure.svg").stat().st_size > 1000
