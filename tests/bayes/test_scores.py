"""Likelihoods and proper scores against densities, integrals and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import nll
from nll import bayes

Y = np.array([1.0, 2, 3, 4, 5, 6])
MU = np.array([1.2, 1.7, 3.5, 3.9, 4, 6.3])
SD = np.array([0.3, 0.4, 0.5, 0.2, 0.8, 0.6])
WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [0.0, 1.0], np.array([0.25, 0.49])
ENSEMBLE = [0.8, 1.1, 1.9, 1.4]
CLOUD = [[0, 0], [1, 0.5], [0.4, -0.6], [-0.2, 0.9]]


def test_the_numbers_of_six_predictions():
    found = bayes.gaussian_nll(Y, MU, SD)
    np.testing.assert_allclose(
        found,
        [-0.0628120489, 0.2838978013, 0.7257913526, -0.5654993792, 1.4770449819, 0.5331129094],
        atol=1e-10,
    )
    assert found.mean() == pytest.approx(0.3985892695, abs=1e-10)
    crps = bayes.crps_gaussian(Y, MU, SD)
    assert crps[0] == pytest.approx(0.1214149132, abs=1e-10)
    assert crps.mean() == pytest.approx(0.2494339067, abs=1e-10)
    half = SD * stats.norm.ppf(0.95)
    assert bayes.interval_score(Y, MU - half, MU + half).mean() == pytest.approx(1.5351967185)
    q = MU + SD * stats.norm.ppf(0.9)
    assert bayes.pinball_loss(Y, q, 0.9).mean() == pytest.approx(0.0531390731, abs=1e-10)
    # The known figure seems to be of float32: it is off by 1e-7.
    assert bayes.beta_nll(Y, MU, SD).mean() == pytest.approx(-0.1211689081, abs=2e-7)
    assert bayes.mean_interval_score(Y, MU, SD) == pytest.approx(1.1370824760, abs=1e-9)
    assert bayes.mean_pinball_loss(Y, MU, SD) == pytest.approx(0.1259551406, abs=1e-9)


def test_the_numbers_of_other_distributions():
    assert bayes.crps_ensemble(1.3, ENSEMBLE) == pytest.approx(0.125)
    assert bayes.crps_ensemble(1.3, ENSEMBLE, fair=True) == pytest.approx(0.05)
    assert bayes.energy_score([0.3, 0.2], CLOUD) == pytest.approx(0.2662379596, abs=1e-10)
    fair = bayes.energy_score([0.3, 0.2], CLOUD, fair=True)
    assert fair == pytest.approx(0.1226013846, abs=1e-10)
    mixture = bayes.crps_mixture(0.4, WEIGHTS, MEANS, np.sqrt(VARIANCES))
    assert mixture == pytest.approx(0.2316723570, abs=1e-10)
    cov = [[0.5, 0.2], [0.2, 0.3]]
    assert bayes.mvn_nll([0.2, -0.2], [0, 0], cov) == pytest.approx(0.9524214280, abs=1e-10)
    assert bayes.student_t_nll(0.9, 4, 0.1, 0.5) == pytest.approx(1.5244226770, abs=1e-10)
    assert bayes.laplace_nll(0.9, 0.1, 0.5) == pytest.approx(1.6)


def test_likelihoods_are_those_of_scipy():
    rng = np.random.default_rng(0)
    y, mu, sd = rng.normal(size=20) * 30, rng.normal(size=20), rng.exponential(size=20) + 0.01
    np.testing.assert_allclose(bayes.gaussian_nll(y, mu, sd), -stats.norm.logpdf(y, mu, sd))
    np.testing.assert_allclose(bayes.student_t_nll(y, 3.5, mu, sd), -stats.t.logpdf(y, 3.5, mu, sd))
    np.testing.assert_allclose(bayes.laplace_nll(y, mu, sd), -stats.laplace.logpdf(y, mu, sd))
    root = rng.normal(size=(5, 3, 3))
    cov = root @ root.swapaxes(1, 2) + 0.1 * np.eye(3)
    r = rng.normal(size=(5, 3))
    want = [-stats.multivariate_normal.logpdf(a, cov=b) for a, b in zip(r, cov, strict=True)]
    np.testing.assert_allclose(bayes.mvn_nll(r, 0.0, cov), want)
    density = sum(
        w * stats.norm.pdf(y, m, math.sqrt(v))
        for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True)
    )
    near = density > 0
    found = bayes.mixture_nll(y, WEIGHTS, MEANS, np.sqrt(VARIANCES))
    np.testing.assert_allclose(found[near], -np.log(density[near]))
    assert np.isfinite(found).all(), "far from every component the log stays finite"


def test_the_constant_may_be_left_out():
    full, rest = (bayes.gaussian_nll(Y, MU, SD, full=f) for f in (True, False))
    np.testing.assert_allclose(full - rest, 0.5 * math.log(2 * math.pi))
    pair = [bayes.mvn_nll([1.0, 2.0], [0.0, 0.0], np.eye(2), full=f) for f in (True, False)]
    assert pair[0] - pair[1] == pytest.approx(math.log(2 * math.pi))


@pytest.mark.parametrize("y", [-1.3, 0.4, 2.0])
def test_crps_is_the_integral_of_its_definition(y):
    def integral(cdf):
        below = quad(lambda x: cdf(x) ** 2, -12, y, limit=200)[0]
        return below + quad(lambda x: (1 - cdf(x)) ** 2, y, 12, limit=200)[0]

    assert bayes.crps_gaussian(y, 0.3, 0.7) == pytest.approx(
        integral(lambda x: stats.norm.cdf(x, 0.3, 0.7)), abs=1e-7
    )
    sd = np.sqrt(VARIANCES)
    assert bayes.crps_mixture(y, WEIGHTS, MEANS, sd) == pytest.approx(
        integral(lambda x: float(np.dot(WEIGHTS, stats.norm.cdf(x, MEANS, sd)))), abs=1e-7
    )
    step = np.sort(ENSEMBLE)
    grid = np.linspace(-4, 6, 200_001)
    heaviside = (np.searchsorted(step, grid, side="right") / 4 - (grid >= y)) ** 2
    assert bayes.crps_ensemble(y, ENSEMBLE) == pytest.approx(
        np.trapezoid(heaviside, grid), abs=1e-4
    )


def test_ensembles_against_all_pairs():
    rng = np.random.default_rng(1)
    y, x = rng.normal(size=7), np.round(rng.normal(size=(7, 5)), 1)
    apart = np.abs(x - y[:, None]).mean(1)
    pairs = np.abs(x[:, :, None] - x[:, None]).sum((1, 2))
    np.testing.assert_allclose(bayes.crps_ensemble(y, x), apart - pairs / 50)
    np.testing.assert_allclose(bayes.crps_ensemble(y, x, fair=True), apart - pairs / 40)
    np.testing.assert_allclose(
        bayes.energy_score(y[:, None], x[..., None]), bayes.crps_ensemble(y, x)
    )
    assert bayes.crps_ensemble(1.0, [3.0]) == 2.0
    assert np.isnan(bayes.crps_ensemble(1.0, [3.0], fair=True))
    assert np.isnan(bayes.energy_score([1.0], [[3.0]], fair=True))


def test_a_mixture_of_one_is_its_component():
    one = bayes.crps_mixture(Y, [1.0], MU[:, None], SD[:, None])
    np.testing.assert_allclose(one, bayes.crps_gaussian(Y, MU, SD))
    doubled = bayes.crps_mixture(0.4, [3, 7], MEANS, np.sqrt(VARIANCES))
    assert doubled == bayes.crps_mixture(0.4, WEIGHTS, MEANS, np.sqrt(VARIANCES))


def test_misses_of_an_interval_cost_two_over_alpha():
    np.testing.assert_allclose(
        bayes.interval_score([0.0, 3.0, 1.0], 0.5, 2.0, level=0.8), [1.5 + 5, 1.5 + 10, 1.5]
    )
    assert bayes.pinball_loss(1.0, 3.0, 0.2) == pytest.approx(1.6)
    assert bayes.pinball_loss(3.0, 1.0, 0.2) == pytest.approx(0.4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_factor_of_beta_nll_passes_no_gradient(beta):
    sd = torch.tensor(SD, requires_grad=True)
    loss = bayes.beta_nll(torch.tensor(Y), torch.tensor(MU), sd, beta)
    np.testing.assert_allclose(loss.detach().numpy(), bayes.beta_nll(Y, MU, SD, beta))
    loss.sum().backward()
    want = SD ** (2 * beta) * (1 / SD - (Y - MU) ** 2 / SD**3)
    np.testing.assert_allclose(sd.grad.numpy(), want)


def test_scales_must_be_positive_or_have_a_floor():
    for sd in (0.0, -1.0, np.nan):
        for score in (bayes.gaussian_nll, bayes.crps_gaussian, bayes.laplace_nll, bayes.pit):
            with pytest.raises(nll.BadInput):
                score(1.0, 1.0, sd)
    assert bayes.gaussian_nll(1.0, 1.0, 0.0, floor=1e-12) == pytest.approx(
        0.5 * math.log(2 * math.pi) + math.log(1e-12)
    )
    with pytest.raises(nll.BadInput, match="floor"):
        bayes.gaussian_nll(1.0, 1.0, 1.0, floor=0.0)


def test_refusals():
    with pytest.raises(nll.BadInput, match="do not fit together"):
        bayes.gaussian_nll([1.0, 2.0], [1.0, 2.0, 3.0], 1.0)
    with pytest.raises(nll.BadInput, match="positive definite"):
        bayes.mvn_nll([0.0, 0.0], [0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(nll.BadInput, match="cov"):
        bayes.mvn_nll([0.0, 0.0], [0.0, 0.0], [[1.0]])
    with pytest.raises(nll.BadInput, match="weights"):
        bayes.mixture_nll(0.0, [0.0, 0.0], MEANS, VARIANCES)
    with pytest.raises(nll.BadInput, match="lower"):
        bayes.interval_score(1.0, 2.0, 0.0)
    with pytest.raises(nll.BadInput, match=r"\(0, 1\)"):
        bayes.pinball_loss(1.0, 2.0, 1.0)
    with pytest.raises(nll.BadInput, match="beta"):
        bayes.beta_nll(1.0, 1.0, 1.0, 2.0)
    with pytest.raises(nll.BadInput, match="at least one"):
        bayes.crps_ensemble(1.0, [])
    with pytest.raises(nll.BadInput, match="members"):
        bayes.energy_score([1.0], [[1.0, 2.0]])
    with pytest.raises(nll.BadInput, match="must be numbers"):
        bayes.gaussian_nll("a", 1.0, 1.0)
    assert "no items" in bayes.mean_interval_score([], [], []).reason
    assert "no items" in bayes.mean_pinball_loss([], [], []).reason
