"""The study of reasoning utility: its data, its statistics, its verdicts, a whole toy run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nll import metrics
from nll.studies import Finding, Setting, run_study
from nll.studies import _reasoning_utility as inner
from nll.studies._common import by_name
from nll.studies._gsm8k import _chain, one_right_one_wrong, paired_auroc, read_problems


@pytest.fixture(scope="module")
def problems():
    return read_problems(Setting())


def test_the_carried_solutions_are_those_of_the_sheet(problems):
    chains = [c for p in problems for c in p.chains]
    assert len(problems) == 200
    assert len(chains) == 800
    assert sum(c.right for c in chains) == 396
    assert all(p.answer.lstrip("-").isdigit() for p in problems)
    assert sum(not c.answer for c in chains) == 1
    assert not any("<<" in s or s.startswith("A:") for c in chains for s in c.steps)


def test_right_chains_end_in_the_reference_answer(problems):
    for p in problems:
        for c in p.chains:
            assert (c.answer == p.answer) is c.right


def test_a_chain_is_its_steps_and_one_spelling_of_its_answer():
    told = "Half of 6 is 6/2=<<6/2=3>>3\n\nSo $1,000 less\nA: $1,003.0"
    assert _chain(told, False) == (("Half of 6 is 6/2=3", "So $1,000 less"), "1003", False)
    assert _chain("no answer here", True) == (("no answer here",), "", True)
    assert _chain("A: 0.50", True).answer == "0.50"
    assert _chain("", True) == ((), "", True)


def test_each_problem_gives_one_right_and_one_wrong_chain(problems):
    draw = np.random.default_rng(0)
    for p in problems:
        right, wrong = one_right_one_wrong(p, draw)
        assert (right.right, wrong.right) == (True, False)
        assert right.answer
        assert wrong.answer


def test_paired_areas_resample_problems():
    draw = np.random.default_rng(0)
    level = draw.normal(size=80) * 5
    right, wrong = level + 1, level
    found = paired_auroc("x", right, wrong)
    assert found.value == metrics.auroc([1] * 80 + [0] * 80, np.concatenate([right, wrong]))
    assert found.low < found.value < found.high
    assert found.n == 160
    # what both chains of a problem share cancels, so the interval is narrower than for strangers
    strangers = metrics.bootstrap(metrics.auroc, [1] * 80 + [0] * 80, np.append(right, wrong))
    assert found.high - found.low < (strangers.high - strangers.low) / 2


def at(total, slope, own=0.5):
    names = {"gold answer, H: U": total, "gold answer, H: -slope": slope,
             "gold answer, N: U": 0.8, "chain's own answer, H: U": own}  # fmt: skip
    return {n: Finding(n, v, v - 0.1, v + 0.1, 9) for n, v in names.items()}


BASE = by_name([Finding("the gold answer stands in the steps", 0.8), Finding("fewer steps", 0.5)])


@pytest.mark.parametrize(
    ("total", "slope", "verdict"),
    [
        (0.7, 0.7, "supported"),
        (0.7, 0.55, "inconclusive"),
        (0.55, 0.7, "inconclusive"),
        (0.55, 0.55, "not supported"),
        (0.3, 0.3, "not supported"),
    ],
)
def test_the_verdict_follows_the_falsifier(total, slope, verdict):
    assert inner._judge(at(total, slope), BASE)[0] == verdict


def test_the_verdict_says_when_the_label_is_needed():
    assert "knows the answer" in inner._judge(at(0.7, 0.7), BASE)[1]
    assert "knows the answer" not in inner._judge(at(0.7, 0.7, own=0.7), BASE)[1]


def rows(right, wrong, steps):
    measured = [
        ({"x": r, "steps": s}, {"x": w, "steps": s + 1})
        for r, w, s in zip(right, wrong, steps, strict=True)
    ]
    return [inner.Row((None, None), m, ({}, {})) for m in measured]


def test_what_the_number_of_steps_explains_is_taken_out():
    steps = np.arange(2.0, 22.0)
    assert np.isnan(inner.partial_correlation(rows(steps, steps + 1, steps), "x"))
    noise = np.random.default_rng(0).normal(size=20)
    held = inner.partial_correlation(rows(steps + 3, steps + 1 + noise, steps), "x")
    assert held > 0.8


def test_curves_are_read_by_share_of_the_chain():
    mean = inner._mean_curve([np.array([4.0, 0.0]), np.array([4.0, 2.0, 0.0]), np.array([4.0] * 6)])
    np.testing.assert_allclose(mean, [4, 10 / 3, 8 / 3, 2, 4 / 3])


def test_a_whole_run_on_a_model_that_reads_one_character(tmp_path: Path, monkeypatch):
    """A bigram reader cannot know the steps, so no chain can change its entropy."""
    monkeypatch.setattr(inner, "read_problems", lambda s: read_problems(s)[:8])
    result = run_study("reasoning-utility", Setting(model_name="testing:bigram"), tmp_path)
    found = {f["name"]: f for f in result["findings"]}
    for curve in ("H", "N"):
        assert found[f"gold answer, {curve}: U"]["value"] == 0.5
    assert result["verdict"] == "not supported"
    assert result["findings"][0]["name"] == "gold answer, H: U"
    assert {b["name"] for b in result["baselines"]} >= {"fewer steps", "fewer characters"}
    assert len(result["tables"]["Mean curves, nats, by share of the chain read"]) == 8
    assert (tmp_path / "reasoning-utility" / "figure.svg").stat().st_size > 1000
