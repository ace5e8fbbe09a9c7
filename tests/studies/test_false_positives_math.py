"""False positives in mathematics: the released labels exactly, the guessing world, the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import BadInput, metrics
from nll.metrics import EvalCounts
from nll.studies import Finding, Setting, run_study
from nll.studies import _false_positives_math as inner
from nll.studies._common import read_table
from nll.studies._guessing import expected, fitted_world, simulate


def table(name):
    return read_table(Setting().file(inner.SLUG, f"{name}.csv.gz"), delimiter=",")


@pytest.fixture(scope="module")
def told():
    return inner.accounts(table("counts"))


def found(told, model, benchmark, method):
    return [
        (a.counts.auto_correct, a.counts.false_positive)
        for a in told
        if (a["model"], a["benchmark"], a["method"]) == (model, benchmark, method)
    ]


# fmt: off
@pytest.mark.parametrize(
    ("model", "benchmark", "accepted", "fp", "automatic", "manual", "rate"),
    [
        ("Qwen72B", "AIME", 32, 6, .3556, .2889, .188),
        ("Qwen1.5B", "AIME", 25, 4, .2778, .2333, .160),
        ("LLaMA70B", "AIME", 28, 13, .3111, .1667, .464),
        ("LLaMA3B", "AIME", 22, 11, .2444, .1222, .500),
        ("Qwen72B", "MATH100", 90, 4, .90, .86, .044),
        ("Qwen72B", "OmniMATH100", 51, 15, .51, .36, .294),
        ("Oat1.5B", "AIME", 27, 7, .30, .2222, .259),
    ],
)
def test_the_published_table(told, model, benchmark, accepted, fp, automatic, manual, rate):
    (counts,) = [
        a.counts for a in told
        if (a["model"], a["benchmark"], a["method"], a["N"]) == (model, benchmark, "BoN", 256)
    ]
    assert (counts.auto_correct, counts.false_positive) == (accepted, fp)
    assert counts.automatic_accuracy == pytest.approx(automatic, abs=5e-5)
    assert counts.manual_accuracy == pytest.approx(manual, abs=5e-5)
    assert counts.false_positive_rate == pytest.approx(rate, abs=5.1e-4)


def test_the_published_curves(told):
    assert len(table("counts")) == 47
    assert len(told) == 40  # seven files repeat another's counts
    assert found(told, "Qwen72B", "AIME", "Pass at N") == [(21, 2), (37, 8), (48, 17)]
    assert found(told, "Qwen72B", "AIME", "BoN") == [(21, 3), (28, 2), (29, 4), (32, 6)]
    assert found(told, "Qwen72B", "AIME", "Weighted SC") == [(21, 3), (23, 1), (22, 1), (24, 1)]
    assert found(told, "LLaMA8B", "MATH100", "DVTS BoN") == [(70, 8), (74, 4), (77, 10), (80, 9)]
    assert found(told, "LLaMA8B", "MATH100", "MCTS BoN") == [(71, 9), (77, 8), (78, 10), (77, 8)]
    assert found(told, "Qwen7B", "MATH100", "DVTS Weighted SC") == [
        (85, 6), (92, 8), (93, 9), (93, 7)]
    assert found(told, "Qwen7B", "MATH100", "MCTS Weighted SC") == [
        (90, 7), (92, 8), (91, 6), (92, 6)]


@pytest.mark.parametrize(
    ("column", "tp", "fp", "fn", "f1"),
    [("gpt4o", 45, 59, 18, .539), ("qwen72b", 17, 4, 46, .405), ("llama70b", 11, 6, 52, .275)],
)
def test_the_published_judges(column, tp, fp, fn, f1):
    rows = table("labels")
    y, said = ([int(r[c]) for r in rows] for c in ("human_fp", f"{column}_says_fp"))
    report = metrics.detection_report(y, said)
    assert (len(rows), sum(y)) == (453, 63)
    assert (report.tp, report.fp, report.fn) == (tp, fp, fn)
    assert report.f1 == pytest.approx(f1, abs=5e-4)
# fmt: on


def test_the_gaps_of_the_sheet(told):
    whole, best = (inner._find(told, m, 64) for m in ("Pass at N", "BoN"))
    assert whole.automatic_accuracy - best.automatic_accuracy == pytest.approx(0.211, abs=5e-4)
    assert whole.manual_accuracy - best.manual_accuracy == pytest.approx(0.067, abs=5e-4)
    assert [f.n for f in inner._overstated(told)] == [90, 90]
    changes = [inner.falls(told, ends) for ends in inner.series(told)]
    assert len(changes) == 9
    assert all(c.low < c.value < c.high for c in changes)


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(0.05, 20)] * 4),
    st.integers(1, 100),
)
def test_pass_at_n_in_the_world_of_guesses(world, n):
    automatic, manual = expected(world, n)
    assert 0 <= manual <= automatic <= 1
    more = expected(world, n + 1)
    assert more[0] >= automatic - 1e-12
    assert more[1] >= manual - 1e-12
    if n == 1:
        a, b, c, d = world
        s, g = a / (a + b), c / (c + d)
        np.testing.assert_allclose((automatic, manual), (1 - (1 - s) * (1 - g), s), atol=1e-9)


def test_a_drawn_world_agrees_with_the_closed_form_and_is_found_again():
    world = (0.3, 1.5, 0.4, 20.0)
    rows = simulate(world, (1, 8, 64), seed=0, problems=20_000)
    for row in rows:
        assert row["automatic pass@N"] == pytest.approx(row["closed form"], abs=0.015)
        assert row["manual pass@N"] == pytest.approx(row["its closed form"], abs=0.015)
        assert row["best-of-N manual"] <= row["manual pass@N"]
    rates = [r["best-of-N false positive rate"] for r in rows]
    assert rates == sorted(rates)  # a verifier blind to reasons: more samples, more false positives
    points = {}
    for n in (4, 16, 64):
        automatic, manual = expected(world, n)
        right, sound = round(10_000 * automatic), round(10_000 * manual)
        points[n] = EvalCounts(10_000, right, right - sound)
    again = fitted_world(points)
    for n in (4, 16, 64):
        np.testing.assert_allclose(expected(again, n), expected(world, n), atol=2e-3)


def test_pairs_are_compared_inside_groups_only():
    y, s, group = np.array([1, 0, 1, 0], bool), np.array([2.0, 1.0, 12.0, 11.0]), [0, 0, 1, 1]
    assert inner.within_auroc(y, s, np.array(group)) == 1.0
    assert inner.within_auroc(y, np.array([1, 2, 12, 11]), np.array(group)) == 0.5
    assert np.isnan(inner.within_auroc(np.ones(4, bool), s, np.array(group)))


def test_length_is_taken_out():
    draw = np.random.default_rng(0)
    length, group = np.exp(draw.normal(size=60)), np.repeat([0, 1], 30)
    values = 3 * np.log(length) + 7 * group
    np.testing.assert_allclose(inner.controlled(values, length, group), 0, atol=1e-12)
    np.testing.assert_allclose(
        inner.controlled(values, np.ones(60), group)[:30].mean(), 0, atol=1e-12
    )


def seen(value, low, high):
    name = "false positive against correct, mean NLL, length controlled"
    return {name: (Finding(name, value, low, high), (low, high))}


def test_the_verdict_follows_the_falsifier():
    flat, fallen = Finding("x", 0.0, -0.1, 0.1), Finding("x", -0.2, -0.3, -0.1)
    assert inner._judge([flat], seen(0.55, 0.4, 0.7))[0] == "supported"
    assert inner._judge([flat], seen(0.75, 0.6, 0.9))[0] == "not supported"
    assert inner._judge([flat], seen(0.25, 0.1, 0.4))[0] == "not supported"
    assert inner._judge([fallen], seen(0.55, 0.4, 0.7))[0] == "not supported"


def solutions(n=36):
    """Texts of our own in the form of the released file."""
    draw = np.random.default_rng(0)
    out = []
    for i in range(n):
        label = ("false_positive", "correct", "incorrect")[i % 3]
        words = draw.choice(["we", "add", "two", "and", "so", "it", "is"], 10 + 5 * (i % 3))
        out.append(
            {
                "label": label, "problem": f"what is {i // 6}?", "solution": " ".join(words),
                "ground_truth": 7 if i % 2 else "7",
            }
        )  # fmt: skip
    return out


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inner, "RESAMPLES", 100)
    folder = tmp_path / "data" / inner.SLUG
    folder.mkdir(parents=True)
    (folder / "solutions_300.jsonl").write_text("\n".join(map(json.dumps, solutions())))
    setting = Setting(model_name="testing:bigram", data=tmp_path / "data")
    result = run_study(inner.SLUG, setting, tmp_path)
    names = {f["name"]: f for f in [*result["findings"], *result["baselines"]]}
    assert names["F1 of GPT-4o as judge"]["value"] == pytest.approx(0.5389, abs=1e-4)
    assert names["F1 of calling everything a false positive"]["value"] == pytest.approx(
        0.2442, abs=1e-4
    )
    assert names["false positive against correct, length"]["value"] < 0.1  # short by construction
    assert len(result["tables"]["Every released label file"]) == 40
    assert (tmp_path / inner.SLUG / "figure.svg").stat().st_size > 1000


def test_without_the_texts_it_says_where_they_come_from(tmp_path: Path):
    with pytest.raises(BadInput, match=r"Wloner0809.*--data"):
        run_study(inner.SLUG, Setting(model_name="testing:bigram"), tmp_path)
