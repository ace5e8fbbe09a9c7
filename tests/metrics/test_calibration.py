"""Calibration: the sheet's numbers, definitions by hand, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from nll import BadInput, metrics

C = [0.95, 0.9, 0.82, 0.61, 0.55, 0.3, 0.1, 0]
Y = [1, 1, 0, 1, 0, 1, 0, 0]
graded = st.lists(
    st.tuples(st.integers(0, 40).map(lambda i: i / 40), st.integers(0, 1)), min_size=1, max_size=30
)


def test_oracle() -> None:
    assert metrics.ece(C, Y) == pytest.approx(0.31375, abs=1e-14)
    assert metrics.mce(C, Y) == pytest.approx(0.7, abs=1e-14)
    assert metrics.ece(C, Y, 20) == pytest.approx(0.33875, abs=1e-14)
    assert metrics.brier(C, Y) == pytest.approx(0.2049375, abs=1e-14)


@settings(deadline=None)
@given(graded, st.integers(1, 20))
def test_by_hand(items, bins) -> None:
    c, y = np.array([i[0] for i in items]), np.array([i[1] for i in items])
    gaps, share = [], []
    for b in range(bins):
        inside = (c > b / bins) & (c <= (b + 1) / bins) | ((c == 0) & (b == 0))
        if inside.any():
            gaps.append(abs(y[inside].mean() - c[inside].mean()))
            share.append(inside.mean())
    assert metrics.ece(c, y, bins) == pytest.approx(float(np.dot(gaps, share)), abs=1e-12)
    assert metrics.mce(c, y, bins) == pytest.approx(max(gaps), abs=1e-12)
    assert metrics.brier(c, y) == pytest.approx(brier_score_loss(y, c, labels=[0, 1]), abs=1e-12)
    assert sum(b.n for b in metrics.reliability(c, y, bins)) == len(c)


def test_bins_are_closed_on_the_right() -> None:
    for tenth in range(11):
        table = metrics.reliability([tenth / 10], [1])
        assert [b.n for b in table].index(1) == max(tenth - 1, 0), tenth
    empty = metrics.reliability([0.5], [1])[0]
    assert math.isnan(empty.accuracy)
    assert (empty.low, empty.high) == (0.0, 0.1)


def test_a_perfectly_calibrated_forecast() -> None:
    assert metrics.ece([0.25] * 4, [1, 0, 0, 0]) == 0
    assert metrics.brier([1, 0], [1, 0]) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 39), st.integers(0, 1)), min_size=1, max_size=30))
def test_log_loss_by_hand(items) -> None:
    c, y = [i[0] / 40 for i in items], [i[1] for i in items]
    want = -sum(math.log(p if right else 1 - p) for p, right in zip(c, y, strict=True)) / len(c)
    assert metrics.log_loss(c, y) == pytest.approx(want, abs=1e-12)


def test_log_loss_of_the_certain() -> None:
    assert metrics.log_loss([1, 0], [1, 0]) == 0
    assert math.copysign(1, metrics.log_loss([1, 0], [1, 0])) == 1
    assert metrics.log_loss([1, 0.5], [0, 1]) == math.inf
    assert metrics.log_loss([math.nan, 0.5], [0, 1]).dropped == 1


@pytest.mark.parametrize("metric", [metrics.ece, metrics.mce, metrics.brier, metrics.log_loss])
def test_refusals(metric) -> None:
    for wrong in (1.2, -0.1, math.inf):
        with pytest.raises(BadInput, match="item 1"):
            metric([0.5, wrong], [1, 0])
    with pytest.raises(BadInput, match="lengths differ"):
        metric([0.5], [1, 0])
    assert math.isnan(metric([], []))
    assert "no item" in metric([math.nan], [1]).reason
    value = metric([0.2, math.nan], [1, 0])
    assert (value, value.n, value.dropped) == (metric([0.2], [1]), 1, 1)
    with pytest.raises(BadInput, match="bins"):
        metrics.ece([0.5], [1], 0)


def test_to_confidence() -> None:
    u = np.array([0.0, 1.0, math.nan, 3.0])
    np.testing.assert_allclose(metrics.to_confidence(u), np.exp(-u))
    np.testing.assert_allclose(metrics.to_confidence(u, "minmax"), [1, 2 / 3, math.nan, 0])
    assert metrics.to_confidence([math.inf])[0] == 0
    for kind, scores, told in (
        ("negexp", [-1.0], ">= 0"),
        ("minmax", [1.0, 1.0], "not all equal"),
        ("minmax", [1.0, math.inf], "finite"),
        ("isotonic", [1.0], "needs calibration"),
        ("softmax", [1.0], "unknown kind"),
    ):
        with pytest.raises(BadInput, match=told):
            metrics.to_confidence(scores, kind)


@pytest.mark.parametrize("kind", ["isotonic", "platt"])
def test_learnt_confidence_falls_with_uncertainty_and_is_calibrated(kind) -> None:
    rng = np.random.default_rng(0)
    u = rng.normal(size=4000)
    y = rng.random(4000) < 1 / (1 + np.exp(2 * u - 0.5))
    c = metrics.to_confidence(u, kind, calibration=(u, y))
    assert np.all(np.diff(c[np.argsort(u)]) <= 0)
    assert metrics.ece(c, y) < 0.02
    assert math.isnan(metrics.to_confidence([math.nan], kind, calibration=(u, y))[0])
    grid = np.array([-1.0, 0.0, 1.0])
    learnt = metrics.to_confidence(grid, kind, calibration=(u, y))
    np.testing.assert_allclose(learnt, 1 / (1 + np.exp(2 * grid - 0.5)), atol=0.08)
    with pytest.raises(BadInput, match="right and wrong"):
        metrics.to_confidence(grid, kind, calibration=(u, np.ones(4000)))
