"""Conformal intervals: known numbers, ranks by hand, coverage of exchangeable items."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nll
from nll import bayes

SCORES = [0.3, 0.1, 0.7, 0.2, 0.5, 0.9, 0.4, 0.6, 0.8]
LOW, HIGH = [0, 0.2, 0.1, 0.5, 0.3], [1, 1.1, 0.9, 1.6, 1.2]
TARGETS = [1.2, 0.1, 0.5, 1, 1.5]


def test_known_numbers():
    assert bayes.conformal_quantile(SCORES, 0.2) == 0.8
    assert bayes.conformal_quantile(SCORES, 0.05) == math.inf
    found = bayes.cqr(TARGETS, LOW, HIGH, [0.0], [1.0], 0.2)
    np.testing.assert_allclose(found.scores, [0.2, 0.1, -0.4, -0.5, 0.3])
    assert found.qhat == pytest.approx(0.3)
    np.testing.assert_allclose([found.lower[0], found.upper[0]], [-0.3, 1.3])


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3, 0.5, 0.9])
def test_the_rank_is_exact_where_floats_are_not(alpha):
    for n in range(1, 40):
        k = -(-(n + 1) * round(10 - 10 * alpha) // 10)
        want = float(k) if k <= n else math.inf
        assert bayes.conformal_quantile(np.arange(1, n + 1)[::-1], alpha) == want


def test_margins_are_around_the_new_predictions():
    y, mu, sd = np.arange(10.0), np.arange(10.0) + 0.1 * np.arange(10), np.arange(1.0, 11)
    plain = bayes.split_conformal(y, mu, [5.0, 7.0], 0.2)
    assert plain.qhat == pytest.approx(0.8)
    np.testing.assert_allclose(plain.upper - plain.lower, 1.6)
    scaled = bayes.normalized_conformal(y, mu, sd, [5.0, 7.0], [1.0, 2.0], 0.2)
    np.testing.assert_allclose(scaled.scores, 0.1 * np.arange(10) / np.arange(1, 11))
    np.testing.assert_allclose(scaled.upper - scaled.lower, [2 * scaled.qhat, 4 * scaled.qhat])
    nothing = bayes.split_conformal([], [], [1.0], 0.2)
    assert (nothing.lower[0], nothing.upper[0]) == (-math.inf, math.inf)


def test_intervals_that_are_too_wide_shrink():
    found = bayes.cqr(np.zeros(9), -np.ones(9), np.ones(9), [-1.0, -0.5], [1.0, 0.5], 0.5)
    assert found.qhat == -1.0
    assert found.lower[0] == found.upper[0] == 0.0
    assert found.lower[1] > found.upper[1], "shrunk past its middle: empty"


def test_jackknife_plus_by_hand():
    residuals = np.array([0.1, 0.4, 0.2, 0.3])
    left_out = np.array([[1.0, 5.0], [1.2, 5.1], [0.9, 4.8], [1.1, 5.3]])
    lower, upper = bayes.jackknife_plus(residuals, left_out, 0.4)  # ranks 2 and 3 of 4
    np.testing.assert_allclose(lower, [0.8, 4.7])
    np.testing.assert_allclose(upper, [1.4, 5.5])
    lower, upper = bayes.jackknife_plus(residuals, left_out, 0.1)
    assert (lower == -math.inf).all()
    assert (upper == math.inf).all()
    one, other = bayes.jackknife_plus(residuals, left_out[:, 0], 0.4)
    assert (one, other) == (pytest.approx(0.8), pytest.approx(1.4))


def test_coverage_of_exchangeable_items():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(3_000):
        y = rng.standard_exponential(20)
        found = bayes.split_conformal(y[:19], np.zeros(19), 0.0, 0.25)
        hits.append(found.lower <= y[19] <= found.upper)
    assert 0.75 - 0.025 < np.mean(hits) < 0.75 + 1 / 20 + 0.025


def test_groups_have_margins_of_their_own():
    found = bayes.mondrian([1.0, 5.0, 2.0, 6.0, 3.0], ["a", "b", "a", "b", "a"], 0.25)
    assert found == {"a": 3.0, "b": math.inf}


def test_scores_of_classes():
    p = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
    np.testing.assert_allclose(bayes.label_scores(p, [1, 2]), [0.7, 0.2])
    np.testing.assert_allclose(bayes.aps_scores(p, [1, 2]), [0.8, 0.8])
    np.testing.assert_allclose(bayes.aps_scores(p, [2, 0]), [1.0, 1.0])


def test_refusals():
    for wrong in (
        lambda: bayes.conformal_quantile(SCORES, 0.0),
        lambda: bayes.conformal_quantile([np.nan]),
        lambda: bayes.normalized_conformal([1.0], [1.0], [0.0], [1.0], [1.0]),
        lambda: bayes.jackknife_plus([1.0], [[1.0], [2.0]]),
        lambda: bayes.jackknife_plus([-1.0], [1.0]),
        lambda: bayes.mondrian([1.0], []),
        lambda: bayes.label_scores([[0.5, 0.5]], [2]),
        lambda: bayes.aps_scores([[0.5, 0.5]], [0.5]),
        lambda: bayes.label_scores([0.5, 0.5], [0]),
    ):
        with pytest.raises(nll.BadInput):
            wrong()
