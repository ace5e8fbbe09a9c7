"""Selective prediction: the sheet's numbers, all orders of ties by brute force, laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import BadInput, metrics

U = [0.1, 0.4, 0.35, 0.8, 0.05, 0.6]
Y = [1, 0, 1, 0, 1, 1]
ALL = (metrics.prr, metrics.rcc_auc, metrics.aurac, metrics.rejection_accuracy)


def test_oracle() -> None:
    assert metrics.prr(U, Y) == pytest.approx(0.829545454545, abs=1e-12)
    assert metrics.prr(U, Y, 0.5) == pytest.approx(0.464285714286, abs=1e-12)
    assert metrics.aurac(U, Y) == pytest.approx(0.846315789474, abs=1e-12)
    assert metrics.rcc_auc(U, Y) == pytest.approx(0.130555555556, abs=1e-12)


def items(low: int):
    pair = st.tuples(st.integers(0, 3).map(float), st.integers(low, 3).map(float))
    return st.lists(pair, min_size=2, max_size=6)


@settings(deadline=None)
@given(items(-2), st.sampled_from([0.5, 1.0]))
def test_prr_by_all_orders(case, most) -> None:
    u, q = np.array([c[0] for c in case]), np.array([c[1] for c in case])
    n, r = len(u), math.floor(most * len(u))
    value = metrics.prr(u, q, most)
    if q.max() == q.min() or r == 0:
        assert math.isnan(value)
        assert value.reason
        return
    scaled = (q - q.min()) / (q.max() - q.min())

    def area(order) -> float:
        means = np.cumsum(scaled[list(order)]) / np.arange(1, n + 1)
        return float(means[n - r :].mean())

    orders = list(itertools.permutations(range(n)))
    own = np.mean([area(o) for o in orders if np.all(np.diff(u[list(o)]) >= 0)])
    best, random = max(map(area, orders)), float(np.mean([area(o) for o in orders]))
    assert random == pytest.approx(scaled.mean(), abs=1e-12), "chance is the mean, exactly"
    if best - random < 1e-12:
        assert math.isnan(value)
    else:
        assert value == pytest.approx((own - random) / (best - random), abs=1e-9)
    if most == 1:
        assert metrics.rcc_auc(u, q) == pytest.approx(1 - own, abs=1e-12)


@settings(deadline=None)
@given(items(0), st.randoms())
def test_laws(case, random) -> None:
    u, q = np.array([c[0] for c in case]), np.array([c[1] for c in case])
    order = list(range(len(u)))
    random.shuffle(order)
    for metric in ALL:
        value = metric(u, q)
        moved = metric(u[order], q[order])
        grown = metric(np.exp(u), q)
        np.testing.assert_allclose([moved, grown], [value, value], atol=1e-12)
        far = metric(np.where(u == u.max(), np.inf, u), q)
        np.testing.assert_allclose(far, value, atol=1e-12)
    if q.max() > q.min():
        assert metrics.prr(-q, q) == pytest.approx(1, abs=1e-12)
        assert metrics.prr(np.zeros(len(q)), q) == pytest.approx(0, abs=1e-9)
        assert metrics.prr(u, 5 * q - 3) == pytest.approx(metrics.prr(u, q), abs=1e-9)


@settings(deadline=None)
@given(items(0), st.sampled_from([0.1, 0.5, 0.8, 0.95, 1.0]))
def test_rejection_accuracy_is_that_of_the_linear_quantile(case, fraction) -> None:
    u, q = np.array([c[0] for c in case]), np.array([c[1] for c in case])
    kept = u <= np.quantile(u, fraction) + 1e-9
    assert metrics.rejection_accuracy(u, q, fraction) == pytest.approx(q[kept].mean())


def test_aurac_is_at_most_its_documented_maximum() -> None:
    assert metrics.aurac(U, [1] * 6) == pytest.approx(20 * 0.9 / 19)


def test_risk_coverage() -> None:
    curve = metrics.risk_coverage([0.2, 0.1, 0.3], [1, 0.5, 0])
    np.testing.assert_allclose(curve.coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.risk, [0.5, 0.25, 0.5])
    np.testing.assert_allclose(curve.threshold, [0.1, 0.2, 0.3])
    with pytest.raises(BadInput, match=r"\[0, 1\]"):
        metrics.risk_coverage([0.1], [2])


@pytest.mark.parametrize("metric", ALL)
def test_undefined_dropped_refused(metric) -> None:
    assert "no item" in metric([], []).reason
    value = metric([0.1, math.nan, 0.4, 0.2], [1, 1, 0, 0])
    assert (value.n, value.dropped) == (3, 1)
    assert value == metric([0.1, 0.4, 0.2], [1, 0, 0])
    with pytest.raises(BadInput, match="lengths differ"):
        metric([0.1], [1, 0])
    with pytest.raises(BadInput, match="item 0"):
        metric([0.1, 0.2], [math.nan, 1])
    for wrong in (-0.1, 1.1):
        if metric in (metrics.prr, metrics.rejection_accuracy):
            with pytest.raises(BadInput, match="1]"):
                metric(U, Y, wrong)
