"""Logistic regression: the sheet's numbers, scikit-learn as a witness, and fits without an end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.tasks import coefficient, logistic_regression, wald_p

LOGP = [-20, -35, -28, -60, -45, -30, -75, -50, -25, -66, -40, -55]
TOKENS = [10, 12, 11, 14, 12, 13, 15, 11, 10, 14, 13, 12]
Y = [1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
X = np.column_stack([LOGP, TOKENS])


def test_the_numbers_of_the_sheet():
    fit = logistic_regression(X, Y, names=["logp", "tokens"])
    np.testing.assert_allclose(
        fit.coefficients, [-0.239438306, 2.373505525, -1.031086406], atol=1e-8
    )
    np.testing.assert_allclose(
        fit.standard_errors, [0.885641593, 1.605548439, 1.589856297], atol=1e-7
    )
    assert fit.deviance == pytest.approx(8.441881803, abs=1e-8)
    assert (fit.prior, fit.separated, fit.dropped) == (None, False, ())
    assert coefficient(fit, "logp") == fit.coefficients[1]
    assert wald_p(fit)[1] == pytest.approx(0.1393, abs=1e-4)
    with pytest.raises(nll.BadInput, match="no predictor 'x'"):
        coefficient(fit, "x")


def test_already_standardised_predictors_change_nothing():
    z = (X - X.mean(axis=0)) / X.std(axis=0, ddof=1)
    plain = logistic_regression(z, Y, standardize=False).coefficients
    np.testing.assert_allclose(logistic_regression(z, Y).coefficients, plain, atol=1e-9)
    np.testing.assert_allclose(logistic_regression(X, Y).coefficients, plain, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(1, 4))
def test_agrees_with_scikit_learn(seed, d):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(120, d))
    y = (rng.random(120) < 1 / (1 + np.exp(-x.sum(axis=1)))).astype(int)
    fit = logistic_regression(x, y, standardize=False)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(fit.coefficients[1:], peer.coef_[0], atol=2e-3)
    # the gradient of the log-likelihood vanishes at the fit
    design = np.column_stack([np.ones(120), x])
    p = 1 / (1 + np.exp(-design @ fit.coefficients))
    np.testing.assert_allclose(design.T @ (y - p), 0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_cauchy_mode_is_a_stationary_point(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 3))
    y = rng.integers(0, 2, 40)
    beta = logistic_regression(x, y, prior="cauchy", standardize=False).coefficients
    design = np.column_stack([np.ones(40), x])
    p = 1 / (1 + np.exp(-design @ beta))
    scale = np.array([10, 1.25, 1.25, 1.25])
    slope = design.T @ (y - p) - 2 * beta / (beta**2 + scale**2)
    np.testing.assert_allclose(slope, 0, atol=1e-8)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1]),
        ([1, 2, 3, 4], [1, 1, 1, 1]),
        ([0, 0, 0, 1, 1], [0, 1, 0, 1, 1]),  # only one value of x is all ones
    ],
)
def test_a_separated_fit_falls_back_to_the_prior_and_says_so(x, y):
    fit = logistic_regression(x, y)
    assert fit.separated
    assert fit.prior == "cauchy"
    assert np.isfinite(fit.coefficients).all()
    assert np.abs(fit.coefficients).max() < 10
    asked = logistic_regression(x, y, prior="cauchy")
    np.testing.assert_array_equal(asked.coefficients, fit.coefficients)
    assert not asked.separated


def test_predictors_that_do_not_vary_or_repeat():
    constant = logistic_regression(np.column_stack([LOGP, np.ones(12)]), Y)
    assert constant.dropped == ("x2",)
    assert np.isnan(constant.coefficients[2])
    assert isinstance(coefficient(constant, "x2"), nll.Undefined)
    np.testing.assert_allclose(constant.coefficients[:2], logistic_regression(LOGP, Y).coefficients)
    twice = logistic_regression(np.column_stack([LOGP, LOGP]), Y, prior="cauchy")
    assert np.isinf(twice.vif).all()
    np.testing.assert_allclose(twice.coefficients[1], twice.coefficients[2])
    plain = logistic_regression(np.column_stack([LOGP, LOGP]), Y)
    assert (plain.prior, plain.separated) == ("cauchy", False)
    np.testing.assert_array_equal(plain.coefficients, twice.coefficients)
    split = np.sort(LOGP)
    both = logistic_regression(np.column_stack([split, split]), [0] * 6 + [1] * 6)
    assert (both.prior, both.separated) == ("cauchy", True)


@pytest.mark.parametrize(
    ("x", "y", "options"),
    [
        ([1, 2], [0, 2], {}),
        ([1, np.nan], [0, 1], {}),
        ([1, 2, 3], [0, 1], {}),
        ([1], [1], {}),
        ([1, 2], [0, 1], {"prior": "gauss"}),
        ([1, 2], [0, 1], {"names": ["a", "b"]}),
    ],
)
def test_bad_input_is_refused(x, y, options):
    with pytest.raises(nll.BadInput):
        logistic_regression(x, y, **options)
