"""Ranking metrics: the sheets' numbers, brute force, scikit-learn, and laws."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from nll import BadInput, Undefined, metrics

AREAS = (metrics.auroc, metrics.aupr, metrics.average_precision)
RATES = (metrics.tpr_at_fpr, metrics.fpr_at_tpr, metrics.best_balanced_accuracy)
ALL = AREAS + RATES


@st.composite
def ranked(draw):
    """Labels with both classes and scores full of ties."""
    n = draw(st.integers(2, 30))
    y = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda v: 0 < sum(v) < n))
    s = draw(st.lists(st.integers(-4, 4).map(float), min_size=n, max_size=n))
    return np.array(y), np.array(s)


def test_oracle_min_k_prob() -> None:
    s = [0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.4, 0.3, 0.2, 0.1]
    y = [1, 1, 0, 1, 0, 1, 1, 0, 0, 0]
    assert metrics.auroc(y, s) == 0.8
    assert metrics.tpr_at_fpr(y, s, 0.05) == 0.2
    assert metrics.tpr_at_fpr(y, s, 0.2) == 0.6
    assert metrics.fpr_at_tpr(y, s, 0.95) == 0.4
    assert metrics.best_balanced_accuracy(y, s) == pytest.approx(0.8, abs=1e-15)


def test_oracle_llm_ood_ratio() -> None:
    s = np.array([2.1, 0.3, -0.5, 1.7, 0.3, 0.9, -1.2, 3.3])
    y = np.array([1, 0, 0, 1, 1, 0, 0, 1])
    assert metrics.auroc(y, s) == 0.90625
    assert metrics.aupr(y, s) == pytest.approx(0.927083333333, abs=1e-12)
    assert metrics.average_precision(y, s) == pytest.approx(0.916666666667, abs=1e-12)
    assert metrics.fpr_at_tpr(y, s, 0.95) == 0.5
    assert metrics.aupr(1 - y, -s) == pytest.approx(0.9125, abs=1e-12)


def test_oracle_g_nll() -> None:
    found = metrics.auroc([0, 0, 1, 1, 1, 0], [0.5, 1, 1, 2.5, 0.9, 0.2])
    assert found == pytest.approx(5 / 6, abs=1e-15)


@settings(deadline=None)
@given(ranked())
def test_equal_to_scikit_learn(case) -> None:
    y, s = case
    assert metrics.auroc(y, s) == pytest.approx(peer.roc_auc_score(y, s), abs=1e-12)
    ap = metrics.average_precision(y, s)
    assert ap == pytest.approx(peer.average_precision_score(y, s), abs=1e-12)
    precision, recall, _ = peer.precision_recall_curve(y, s)
    assert metrics.aupr(y, s) == pytest.approx(peer.auc(recall, precision), abs=1e-12)
    fpr, tpr, threshold = peer.roc_curve(y, s, drop_intermediate=False)
    ours = metrics.roc_curve(y, s)
    np.testing.assert_allclose(ours.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(ours.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(ours.threshold, threshold)
    best = max((t + 1 - f) / 2 for t, f in zip(tpr, fpr, strict=True))
    assert metrics.best_balanced_accuracy(y, s) == pytest.approx(best, abs=1e-12)


@settings(deadline=None)
@given(ranked())
def test_auroc_is_the_share_of_ordered_pairs(case) -> None:
    y, s = case
    pairs = list(itertools.product(s[y == 1], s[y == 0]))
    share = sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)
    assert metrics.auroc(y, s) == pytest.approx(share, abs=1e-12)


@settings(deadline=None)
@given(ranked(), st.sampled_from([0, 0.01, 0.05, 0.2, 0.5, 0.95, 1]))
def test_rates_by_trying_every_threshold(case, limit) -> None:
    y, s = case
    points = [(np.mean(s[y == 0] >= t), np.mean(s[y == 1] >= t)) for t in [*np.unique(s), np.inf]]
    assert metrics.tpr_at_fpr(y, s, limit) == max(t for f, t in points if f <= limit + 1e-12)
    assert metrics.fpr_at_tpr(y, s, limit) == min(f for f, t in points if t >= limit - 1e-12)


@settings(deadline=None)
@given(ranked(), st.randoms())
def test_laws(case, random) -> None:
    y, s = case
    order = list(range(len(y)))
    random.shuffle(order)
    for metric in ALL:
        value = metric(y, s)
        assert 0 <= value <= 1
        assert metric(y[order], s[order]) == pytest.approx(value, abs=1e-12), "order of items"
        assert metric(y, np.exp(s) * 3 - 7) == value, "growing map"
        assert metric(y, np.where(s == s.max(), np.inf, s)) == value, "infinity is ordered"
        assert metric(list(y), list(s)) == value
    assert metrics.auroc(1 - y, s) == pytest.approx(1 - metrics.auroc(y, s), abs=1e-12)
    assert metrics.auroc(y, -s) == pytest.approx(1 - metrics.auroc(y, s), abs=1e-12)


def test_constant_scores_are_exactly_chance() -> None:
    y = [1, 0, 0, 1, 0]
    assert metrics.auroc(y, [0.0] * 5) == 0.5
    assert metrics.best_balanced_accuracy(y, [3.0] * 5) == 0.5
    assert metrics.tpr_at_fpr(y, [0.0] * 5, 0.99) == 0


def test_a_share_is_not_lost_to_rounding() -> None:
    """0.29 * 100 is 28.999... in floats; 29 of 100 negatives are allowed."""
    y, s = [0] * 100 + [1], [*range(100), 70.5]
    assert metrics.tpr_at_fpr(y, s, 0.29) == 1


@pytest.mark.parametrize("metric", ALL)
def test_undefined_and_dropped(metric) -> None:
    for labels in ([1, 1], [0, 0], []):
        value = metric(labels, [0.5] * len(labels))
        assert math.isnan(value)
        assert isinstance(value, Undefined)
        assert value.reason
    s = [0.9, math.nan, 0.1, 0.4]
    value = metric([1, 0, 0, 1], s)
    assert (value.n, value.dropped) == (3, 1)
    assert value == metric([1, 0, 1], [0.9, 0.1, 0.4])
    assert "all 1 items" in metric([1, 0], [1.0, math.nan]).reason
    again = copy.deepcopy(value)
    assert (again, again.n, again.dropped) == (value, 3, 1)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("y", "s", "told"),
    [
        ([1, 0], [1.0], "lengths differ: labels 2, scores 1"),
        ([1, 2], [1.0, 2.0], "item 1 is 2"),
        ([1, math.nan], [1.0, 2.0], "item 1 is nan"),
        ([1, 0], ["a", "b"], "numbers"),
        ([[1, 0]], [[1.0, 2.0]], "one dimension"),
    ],
)
def test_bad_input(metric, y, s, told) -> None:
    with pytest.raises(BadInput, match=told):
        metric(y, s)


def test_a_rate_must_be_a_share() -> None:
    for metric in (metrics.tpr_at_fpr, metrics.fpr_at_tpr):
        with pytest.raises(BadInput, match=r"\[0, 1\]"):
            metric([1, 0], [1, 0], 5)
