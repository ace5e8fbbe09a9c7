"""Bootstrap, McNemar, Holm, Wilson, thresholds: by hand, by scipy, by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nll import BadInput, metrics


def plain_auroc(y, s) -> float:
    """The same statistic under another name, so that the general path is taken."""
    return metrics.auroc(y, s)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.0, 1.0, 2.0, math.inf, math.nan])),
        min_size=4, max_size=20,
    ),
    st.booleans(),
)  # fmt: skip
def test_counting_gives_what_resampling_gives(case, stratified) -> None:
    y, s = np.array([c[0] for c in case]), np.array([c[1] for c in case])
    options = {"n": 25, "seed": 3, "stratify": y if stratified else None}
    fast = metrics.bootstrap(metrics.auroc, y, s, **options)
    slow = metrics.bootstrap(plain_auroc, y, s, **options)
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_bootstrap_covers_and_is_reproducible() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    y = np.repeat([0, 1], 60)
    inside = 0
    for trial in range(60):
        s = rng.normal(size=120) + y
        low, high = metrics.bootstrap(metrics.auroc, y, s, n=300, seed=trial, stratify=y)[1:]
        inside += low <= truth <= high
    assert inside >= 51  # 57 expected; fewer than 51 has probability 0.001
    assert metrics.bootstrap(metrics.auroc, y, s, seed=5) == metrics.bootstrap(
        metrics.auroc, y, s, seed=5
    )
    assert metrics.bootstrap(metrics.auroc, y, s, seed=5) != metrics.bootstrap(
        metrics.auroc, y, s, seed=6
    )


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    x = np.random.default_rng(1).normal(size=400)
    value, low, high = metrics.bootstrap(np.mean, x, n=2000, level=0.9)
    half = 1.645 * x.std() / 20
    assert value == x.mean()
    assert low == pytest.approx(value - half, abs=0.02)
    assert high == pytest.approx(value + half, abs=0.02)
    apart = metrics.bootstrap(lambda a, b: a.mean() - b.mean(), x, x[:100], paired=False, n=200)
    assert apart.low < apart.value < apart.high
    together = metrics.bootstrap(lambda a, b: (a - b).mean(), x, x + 1, n=50)
    assert (together.low, together.high) == pytest.approx((-1, -1))


def test_strata_keep_their_counts() -> None:
    y = np.array([1, 0, 0, 0])
    assert metrics.bootstrap(np.mean, y, n=50, stratify=y) == (0.25, 0.25, 0.25)


def test_bootstrap_undefined_and_refused() -> None:
    value = metrics.bootstrap(metrics.auroc, [1, 1], [1.0, 2.0])
    assert "two classes" in value.value.reason
    picky = lambda x: x.mean() if len(set(x)) == len(x) else math.nan  # noqa: E731
    rare = metrics.bootstrap(picky, [1.0, 2.0, 3.0, 4.0])
    assert rare.value == 2.5
    assert "of 1000 resamples leave it undefined" in rare.low.reason
    for arrays, options, told in (
        (([1, 0], [1.0]), {}, "lengths differ"),
        (([], []), {}, "empty"),
        (([1, 0], [1.0, 2.0]), {"n": 0}, "1 or more"),
        (([1, 0], [1.0, 2.0]), {"level": 1.0}, "level"),
        (([1, 0], [1.0, 2.0]), {"stratify": [1]}, "lengths differ"),
        (([1, 0], [1.0, 2.0]), {"stratify": [1, 0], "paired": False}, "paired"),
    ):
        with pytest.raises(BadInput, match=told):
            metrics.bootstrap(plain_auroc, *arrays, **options)


def test_mcnemar() -> None:
    a, b = np.array([1] * 12 + [0] * 5 + [1] * 9), np.array([0] * 9 + [1] * 8 + [1] * 9)
    found = metrics.mcnemar_exact(a, b)
    assert (found.only_first, found.only_second) == (9, 5)
    assert found.p == pytest.approx(stats.binomtest(5, 14).pvalue, abs=1e-12)
    assert metrics.mcnemar_exact(b, a).p == found.p
    assert metrics.mcnemar_exact([1, 0], [1, 0]).p == 1
    assert metrics.mcnemar_exact([1, 0], [0, 1]).p == 1
    with pytest.raises(BadInput, match="lengths"):
        metrics.mcnemar_exact([1], [1, 0])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_the_stepwise_rule_rejects(p, alpha) -> None:
    adjusted = metrics.holm(p)
    order = np.argsort(p, kind="stable")
    rejected: set[int] = set()
    for step, i in enumerate(order):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected.add(int(i))
    assert set(np.flatnonzero(adjusted <= alpha).tolist()) == rejected
    with pytest.raises(BadInput):
        metrics.holm([*p, 1.5])


@pytest.mark.parametrize(("k", "n"), [(13, 28), (0, 10), (10, 10), (1, 3)])
def test_wilson(k, n) -> None:
    value, low, high = metrics.wilson(k, n)
    known = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    assert value == k / n
    assert (low, high) == pytest.approx((known.low, known.high), abs=1e-12)
    assert 0 <= low <= value <= high <= 1
    assert "no trials" in metrics.wilson(0, 0).value.reason
    with pytest.raises(BadInput):
        metrics.wilson(3, 2)


@pytest.mark.parametrize("direction", ["higher", "lower"])
@pytest.mark.parametrize("fpr", [0, 0.01, 0.05, 0.29])
def test_threshold_keeps_its_promise(direction, fpr) -> None:
    rng = np.random.default_rng(2)
    s = rng.normal(size=100)
    found = metrics.fit_threshold(s, fpr, direction)
    assert found.flags(s).sum() == round(fpr * 100)
    assert found.fpr.value == pytest.approx(fpr)
    assert found.value.low <= found.value.value <= found.value.high
    assert not found.flags([math.nan])[0]
    assert found.flags([math.inf])[0] == (direction == "higher")
    ties = metrics.fit_threshold([1.0] * 50 + [2.0] * 50, 0.3, "higher")
    assert ties.fpr.value == 0, "all ties fall on the same side, and never above the rate"


def test_the_interval_of_the_rate_covers() -> None:
    rng = np.random.default_rng(3)
    inside = covered = 0
    for _ in range(200):
        found = metrics.fit_threshold(rng.normal(size=200), 0.05)
        true = stats.norm.sf(found.value.value)
        inside += found.fpr.low <= true <= found.fpr.high
        covered += found.value.low <= stats.norm.isf(0.05) <= found.value.high
    assert inside >= 180  # 190 expected
    assert covered >= 180


def test_drift() -> None:
    rng = np.random.default_rng(4)
    known = rng.normal(size=400)
    found = metrics.fit_threshold(known)
    new = rng.normal(size=300)
    same = found.drift(new)
    assert same.warning == ""
    assert same.distance == pytest.approx(stats.ks_2samp(known, new).statistic)
    moved = found.drift([*(new + 0.8), math.nan])
    assert moved.p < 1e-6
    assert "300 scores do not look like the 400" in moved.warning
    for call, told in (
        (lambda: found.drift([math.nan]), "no new score"),
        (lambda: metrics.fit_threshold([]), "no scores"),
        (lambda: metrics.fit_threshold([1.0], 1.0), "fpr"),
        (lambda: metrics.fit_threshold([1.0], 0.1, "up"), "direction"),
    ):
        with pytest.raises(BadInput, match=told):
            call()


def test_exact_mcnemar_by_enumeration() -> None:
    flips = list(itertools.product([0, 1], repeat=6))
    extreme = sum(abs(sum(f) - 3) >= 2 for f in flips) / len(flips)
    assert metrics.mcnemar_exact([1] * 5 + [0], [0] * 5 + [1]).p == pytest.approx(extreme)
