"""Correlations against scipy; the regression against the sheet and a plain normal likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nll import BadInput, metrics

PEERS = (
    (metrics.pearson, stats.pearsonr),
    (metrics.spearman, stats.spearmanr),
    (metrics.kendall_tau, stats.kendalltau),
)
TABLE = {
    "rt": [310, 342, 295, 388, 330, 301, 365, 347, 318, 372],
    "length": [2, 5, 3, 9, 4, 3, 6, 7, 3, 8],
    "logfreq": [12, 10, 13, 7, 11.5, 12.4, 9.1, 8.7, 12.1, 7.9],
    "s": [2.1, 4.4, 1, 8.3, 3.2, 1.9, 6.5, 5.1, 2.7, 7.2],
}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=25),
    st.sampled_from([1e-200, 1.0, 1e200]),
)
def test_equal_to_scipy(pairs, scale) -> None:
    x, y = np.array(pairs, float).T
    for ours, peer in PEERS:
        value = ours(x * scale, y)
        if len(set(x)) == 1 or len(set(y)) == 1:
            assert "constant" in value.reason
            continue
        assert value == pytest.approx(peer(x, y).statistic, abs=1e-10)
        assert ours(y, x * scale) == pytest.approx(value, abs=1e-12)
        assert ours(-x, y) == pytest.approx(-value, abs=1e-12)


def test_nan_and_infinity() -> None:
    x, y = [1.0, 2.0, math.nan, math.inf], [2.0, 1.0, 5.0, 9.0]
    for ours in (metrics.spearman, metrics.kendall_tau):
        value = ours(x, y)
        assert (value.n, value.dropped) == (3, 1)
        assert value == pytest.approx(ours([1, 2, 3], [2, 1, 9]))
    assert "finite" in metrics.pearson(x, y).reason
    for ours, _ in PEERS:
        assert "fewer than two" in ours([1.0], [1.0]).reason
        with pytest.raises(BadInput, match="lengths differ"):
            ours([1.0, 2.0], [1.0])


def test_oracle_delta_log_likelihood() -> None:
    found = metrics.delta_log_likelihood(TABLE, ["s"], ["length*logfreq"], spillover=0)
    assert found == pytest.approx(0.894236431, abs=1e-9)
    assert found.baseline == pytest.approx(-33.518293423, abs=1e-9)
    assert found.full == pytest.approx(-24.575929113, abs=1e-9)
    assert (found.n, found.dropped, found.left_out) == (10, 0, ())
    scored = {k: stats.zscore(v) for k, v in TABLE.items() if k != "rt"} | {"rt": TABLE["rt"]}
    again = metrics.delta_log_likelihood(scored, "s", ["length*logfreq"], spillover=0)
    assert again == pytest.approx(found, abs=1e-9)


def test_against_a_plain_weighted_fit() -> None:
    rng = np.random.default_rng(0)
    n = 60
    story = np.repeat([1, 2], n // 2)
    s, length, w = rng.gamma(2, size=n), rng.normal(size=n), rng.integers(1, 9, n).astype(float)
    rt = 300 + 10 * s + 5 * length + rng.normal(size=n) * 20
    rt[7], s[40] = -1, math.nan
    table = {"rt": rt, "s": s, "length": length, "story": story, "w": w}
    keep = np.arange(n) != 20
    found = metrics.delta_log_likelihood(
        table, "s", ["length", "length@1"], 2, "w", group="story", keep=keep
    )
    start = np.isin(np.arange(n), [0, 1, 30, 31, 7, 20, 40, 41, 42])
    rows = np.flatnonzero(~start)

    def likelihood(columns) -> tuple[float, np.ndarray]:
        X = np.stack([np.ones(len(rows)), *columns], 1)
        v = w[rows] / w[rows].mean()
        root = np.sqrt(v)
        b = np.linalg.lstsq(X * root[:, None], rt[rows] * root, rcond=None)[0]
        rest = rt[rows] - X @ b
        sigma = math.sqrt(np.sum(v * rest**2) / len(rows))
        return float(stats.norm.logpdf(rest, scale=sigma / root).sum()), b

    base, _ = likelihood([length[rows], length[rows - 1]])
    full, b = likelihood([length[rows], length[rows - 1], s[rows], s[rows - 1], s[rows - 2]])
    assert found == pytest.approx((full - base) / len(rows), abs=1e-10)
    assert (found.n, found.dropped) == (len(rows), n - len(rows))
    np.testing.assert_allclose([found.slopes[k] for k in ("s", "s@1", "s@2")], b[3:], rtol=1e-8)


def test_a_column_that_others_determine_is_named() -> None:
    table = {**TABLE, "double": 2 * np.array(TABLE["length"]) + 1}
    found = metrics.delta_log_likelihood(table, "double", ["length"], spillover=0)
    assert found == pytest.approx(0, abs=1e-12)
    assert found.left_out == ("double",)


def test_undefined_and_refused() -> None:
    few = metrics.delta_log_likelihood({"rt": [1, 2], "s": [1, 2]}, "s")
    assert "too few" in few.reason
    exact = {"rt": np.arange(1.0, 9), "s": np.arange(8.0)}
    assert "exactly" in metrics.delta_log_likelihood(exact, "s", spillover=0).reason
    for options, told in (
        ({"predictors": "x"}, "no column 'x'"),
        ({"predictors": "s", "baseline": ["length*"]}, "cannot read"),
        ({"predictors": "s", "weights": [1.0]}, "lengths differ"),
        ({"predictors": "s", "weights": [-1.0] * 10}, "0 or more"),
        ({"predictors": "s", "keep": [True]}, "lengths differ"),
        ({"predictors": "s", "spillover": -1}, "spillover"),
    ):
        with pytest.raises(BadInput, match=told):
            metrics.delta_log_likelihood(TABLE, **options)
    ragged = {**TABLE, "s": [1.0]}
    with pytest.raises(BadInput, match="lengths differ"):
        metrics.delta_log_likelihood(ragged, "s")
