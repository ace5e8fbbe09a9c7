"""Calibration, recalibration and ranking: known numbers, definitions by hand, edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import nll
from nll import bayes, metrics
from tests.bayes.test_scores import MU, SD, Y


def test_the_numbers_of_six_predictions():
    assert bayes.sharpness(SD) == pytest.approx(0.5066228051)
    assert bayes.z_variance(Y, MU, SD) == pytest.approx(0.6782407407)
    assert bayes.recalibrate_scale(Y, MU, SD) == pytest.approx(0.8235537267)
    assert bayes.dispersion(SD) == pytest.approx(0.4629100499)
    assert metrics.spearman(SD, np.abs(Y - MU)) == pytest.approx(0.8285714286)
    found = bayes.sparsification(SD, np.abs(Y - MU))
    assert found.aurc == bayes.aurc(SD, np.abs(Y - MU)) == pytest.approx(0.2341666667)
    assert found.oracle.mean() == pytest.approx(0.2258333333)
    assert found.ause == bayes.ause(SD, np.abs(Y - MU)) == pytest.approx(0.0083333333)
    np.testing.assert_allclose(
        bayes.pit(Y, MU, SD),
        [0.2524925375, 0.7733726476, 0.1586552539, 0.6914624613, 0.8943502263, 0.3085375387],
        atol=1e-10,
    )
    value = bayes.ence(Y, MU, SD, bins=3)
    assert value == pytest.approx(0.1710717617)
    np.testing.assert_allclose(value.rmv, [0.2549509757, 0.4527692569, 0.7071067812])
    np.testing.assert_allclose(value.rmse, [0.1581138830, 0.4123105626, 0.7382411530])
    assert (value.bins, value.skipped, value.smallest) == (3, 0, 2)


def test_the_numbers_of_the_curves():
    curve = bayes.calibration_curve(Y, MU, SD, levels=11)
    np.testing.assert_allclose(curve.observed, [0, 0, 0, 0, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1, 1, 1])
    assert bayes.calibration_error(*curve) == pytest.approx(0.1060606061)
    assert bayes.calibration_error(*curve, "rmsce") == pytest.approx(0.1403458931)
    squares = bayes.calibration_error(*curve, "sum_of_squares")
    assert squares == pytest.approx(0.2166666667)
    assert bayes.calibration_error(*curve, "mean_of_squares") == pytest.approx(squares / 11)
    assert bayes.miscalibration_area(*curve) == pytest.approx(0.1166666667)
    quantile = bayes.calibration_curve(Y, MU, SD, levels=11, kind="quantile")
    np.testing.assert_allclose(
        quantile.observed, [0, 0, 1 / 6, 1 / 3, 1 / 2, 1 / 2, 1 / 2, 2 / 3, 5 / 6, 1, 1]
    )
    assert bayes.calibration_error(*quantile) == pytest.approx(0.0484848485)
    fine = bayes.calibration_curve(Y, MU, SD)
    assert len(fine.expected) == 100
    assert bayes.miscalibration_area(*fine) == pytest.approx(0.1243618986)
    assert bayes.calibration_error(*fine) == pytest.approx(0.1235353535)
    assert bayes.calibration_error(*fine, "rmsce") == pytest.approx(0.1550496825)


def test_a_curve_counts_its_edges():
    z = norm.ppf(0.75)
    exact = bayes.calibration_curve([z, 0.0], 0.0, 1.0, levels=[0.0, 0.5, 1.0])
    np.testing.assert_array_equal(exact.observed, [0.5, 1.0, 1.0])
    below = bayes.calibration_curve([z, 0.0], 0.0, 1.0, levels=[0.0, 0.5, 1.0], kind="quantile")
    np.testing.assert_array_equal(below.observed, [0.0, 0.5, 1.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=9))
def test_the_area_is_that_of_the_piecewise_line(observed):
    expected = np.linspace(0, 1, len(observed))
    grid = np.unique(np.concatenate([np.linspace(0, 1, 40_001), expected]))
    gap = np.abs(np.interp(grid, expected, observed) - grid)
    want = np.trapezoid(gap, grid)
    assert bayes.miscalibration_area(expected, observed) == pytest.approx(want, abs=1e-6)


def test_weights_of_levels():
    assert bayes.calibration_error(
        [0.0, 0.5, 1.0], [0.0, 0.7, 0.9], "sum_of_squares", weights=[1, 2, 3]
    ) == pytest.approx(2 * 0.04 + 3 * 0.01)
    with pytest.raises(nll.BadInput, match="weights go with"):
        bayes.calibration_error([0.5], [0.5], weights=[1])


def test_a_scale_and_a_map_put_a_wrong_width_right():
    rng = np.random.default_rng(0)
    y = rng.normal(size=4_000)
    wide = np.full(y.shape, 3.0)
    s = bayes.recalibrate_scale(y, 0.0, wide)
    assert s == pytest.approx(1 / 3, rel=0.05)
    assert bayes.z_variance(y, 0.0, s * wide) == pytest.approx(1)
    for other in (0.9 * s, 1.1 * s):
        better, worse = (bayes.gaussian_nll(y, 0.0, f * wide).mean() for f in (s, other))
        assert better < worse
    fit = bayes.recalibrate_isotonic(y[:2_000], 0.0, wide[:2_000])
    p = fit.cdf(y[2_000:], 0.0, wide[2_000:])
    share = [np.mean(p <= q) for q in np.linspace(0.05, 0.95, 10)]
    np.testing.assert_allclose(share, np.linspace(0.05, 0.95, 10), atol=0.04)
    assert (fit(0.0), fit(1.0)) == (0.0, 1.0)
    assert (np.diff(fit(np.linspace(0, 1, 50))) >= 0).all()


def test_the_map_counts_equal_values_up_to_and_with_them():
    fit = bayes.recalibrate_isotonic([0.0, 0.0, 1.0, -1.0], 0.0, 1.0)
    assert fit(0.5) == 0.75
    assert fit(norm.cdf(-1.0)) == 0.25


def test_bins_without_predicted_variance_are_skipped_and_told():
    value = bayes.ence([1.0, 1.0, 2.0, 4.0], 1.0, [0.0, 0.0, 1.0, 1.0], bins=2)
    assert value == pytest.approx(abs(1 - np.sqrt(5)))
    assert value.skipped == 1
    assert "every predicted variance" in bayes.ence([1.0], [1.0], [0.0], bins=1).reason
    with pytest.raises(nll.BadInput, match="cannot fill"):
        bayes.ence(Y, MU, SD)


def test_equal_uncertainties_are_in_no_order():
    error = np.array([3.0, 1.0, 2.0])
    np.testing.assert_allclose(bayes.sparsification([1.0, 1.0, 1.0], error).curve, 2.0)
    np.testing.assert_allclose(bayes.sparsification([2.0, 1.0, 2.0], error).curve, [1.0, 1.75, 2.0])
    assert bayes.ause(error, error) == 0.0


def test_nothing_is_undefined():
    for value in (
        bayes.z_variance([], [], []), bayes.sharpness([]), bayes.ence([], [], []),
        bayes.recalibrate_scale([], [], []), bayes.aurc([], []), bayes.dispersion([1.0]),
        bayes.calibration_error([], []), bayes.miscalibration_area([0.5], [0.5]),
        bayes.calibration_error(*bayes.calibration_curve([], [], [])),
        bayes.miscalibration_area(*bayes.calibration_curve([], [], [])),
    ):  # fmt: skip
        assert value != value
        assert value.reason


def test_refusals():
    for wrong in (
        lambda: bayes.calibration_curve(Y, MU, SD, levels=1),
        lambda: bayes.calibration_curve(Y, MU, SD, levels=[2.0]),
        lambda: bayes.calibration_curve(Y, MU, SD, kind="both"),
        lambda: bayes.calibration_error([0.5], [0.5], "area"),
        lambda: bayes.miscalibration_area([1.0, 0.0], [0.5, 0.5]),
        lambda: bayes.ence([1.0], [1.0], [-1.0], bins=1),
        lambda: bayes.recalibrate_isotonic([], [], []),
        lambda: bayes.recalibrate_isotonic(Y, MU, SD)(1.5),
        lambda: bayes.sparsification([1.0], [-1.0]),
        lambda: bayes.sparsification([1.0], [1.0, 2.0]),
    ):
        with pytest.raises(nll.BadInput):
            wrong()


def test_an_interval_of_the_z_variance_is_one_call():
    value, low, high = metrics.bootstrap(bayes.z_variance, Y, MU, SD, n=200)
    assert low < value < high
