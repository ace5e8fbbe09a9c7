"""The study of step length: its verdicts, its simulation, and a whole run on a toy model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nll.studies import Finding, Setting, run_study
from nll.studies import _step_length as inner
from nll.studies._step_length import CASL, DROP, M, _judge, _within, simulate


def findings(gap, plain, drop, less):
    names = (
        "log-probability of step heads minus others, nats",
        f"within-question correlation, {M}",
        f"within-question correlation, {DROP}",
        f"taken away by {DROP}",
    )
    return [
        Finding(n, v, v - 0.1, v + 0.1, 9)
        for n, v in zip(names, (gap, plain, drop, less), strict=True)
    ]


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((-2.0, 0.4, 0.0, 0.4), "supported"),
        ((-2.0, 0.4, 0.2, 0.2), "inconclusive"),
        ((-2.0, 0.05, 0.0, 0.05), "inconclusive"),
        ((-2.0, 0.4, 0.45, -0.05), "not supported"),
        ((-0.05, 0.4, 0.0, 0.4), "not supported"),
    ],
)
def test_the_verdict_follows_the_falsifier(numbers, verdict):
    assert _judge(findings(*numbers))[0] == verdict


def test_no_interval_gives_no_verdict():
    bare = [Finding(f.name, f.value) for f in findings(-2.0, 0.4, 0.0, 0.4)]
    assert _judge(bare)[0] == "inconclusive"


def test_where_truth_is_known_only_the_plain_mean_follows_step_length():
    """The sheet's own draw gave 0.434, -0.060, -0.059, R2 0.980: the same picture, other draws."""
    many = [simulate(seed) for seed in range(4)]
    middle = {k: float(np.mean([m[k] for m in many])) for k in many[0]}
    assert middle["M with step length"] > 0.3
    assert abs(middle["DROP with step length"]) < 0.12
    assert abs(middle["CASL with step length"]) < 0.15
    assert middle["gamma"] == pytest.approx(middle["mean gap"], abs=0.25)
    assert middle["R2"] > 0.9


def test_correlations_are_taken_inside_each_question():
    values, length = np.array([1, 2, 3, 9, 8, 7, 5]), np.array([1, 2, 3, 1, 2, 3, 0])
    np.testing.assert_allclose(_within(values, length, list("aaabbbc")), [1, -1, np.nan])


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    everything = inner.read_json_lines
    monkeypatch.setattr(inner, "read_json_lines", lambda path: everything(path)[:6])
    result = run_study("step-length", Setting(model_name="testing:bigram"), tmp_path)
    assert json.loads((tmp_path / "step-length" / "result.json").read_text()) == result
    picks = result["tables"][
        "Correlation with step length (Spearman) and the best pick of each question"
    ]
    assert [p["chosen by"] for p in picks][1:] == [
        M, "local log-probability", "minus top-5 entropy", DROP, CASL,
        "ASLEC-CASL, a fit per source",
    ]  # fmt: skip
    fit = result["tables"]["ASLEC-CASL's fit over the pool"][0]
    assert fit["documents"] == 30
    assert fit["R2"] > 0.9
    assert (tmp_path / "step-length" / "figure.svg").stat().st_size > 1000


def test_calculator_notes_are_taken_out():
    rows = inner._solutions(Setting(quick=False))
    assert len(rows) == 2000
    texts = [r["text"].text for r in rows]
    assert not any(inner.NOTE.search(t) for t in texts)
    assert sum("<<" in t for t in texts) <= 4  # never closed by the model that wrote them
    assert all(r["text"].prompt.startswith("Question: ") for r in rows)
