"""Two sources of uncertainty: known numbers, laws of total variance and entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nll
from nll import bayes

P = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
MU, VAR = [1.0, 1.2, 0.9], [0.04, 0.09, 0.05]


def test_known_numbers():
    split = bayes.entropy_split(P)
    assert split.total == bayes.predictive_entropy(P) == pytest.approx(0.9502705392, abs=1e-10)
    assert split.aleatoric == pytest.approx(0.9098057638, abs=1e-10)
    assert split.epistemic == bayes.mutual_information(P) == pytest.approx(0.0404647754, abs=1e-10)
    parts = bayes.uncertainty_split(MU, VAR)
    assert parts.aleatoric == pytest.approx(0.06)
    assert parts.epistemic == pytest.approx(0.0155555556)
    assert parts.total == pytest.approx(0.0755555556)
    assert bayes.gaussian_bald(MU, VAR) == pytest.approx(0.1456487554, abs=1e-10)
    assert bayes.gaussian_bald_exact(MU, VAR) == pytest.approx(0.1334117146, abs=1e-9)


def test_weights_count_as_repetition():
    weights = [1, 2, 1]
    repeated = [0, 1, 1, 2]
    for split in (
        lambda i, w: bayes.entropy_split(P[i], w),
        lambda i, w: bayes.uncertainty_split(np.array(MU)[i], np.array(VAR)[i], w),
    ):
        np.testing.assert_allclose(split(slice(None), weights), split(repeated, None))
    for bald in (bayes.gaussian_bald, bayes.gaussian_bald_exact):
        np.testing.assert_allclose(
            bald(MU, VAR, weights), bald(np.array(MU)[repeated], np.array(VAR)[repeated])
        )


def test_members_that_agree_or_stand_alone_have_no_epistemic_part():
    same = np.repeat(P[:1], 4, axis=0)
    assert bayes.mutual_information(same) == pytest.approx(0, abs=1e-15)
    assert bayes.uncertainty_split([2.0], [0.3]).epistemic == 0
    assert bayes.gaussian_bald([2.0], [0.3]) == pytest.approx(0, abs=1e-15)
    assert bayes.gaussian_bald_exact([2.0], [0.3]) == pytest.approx(0, abs=1e-8)


def test_certain_members_that_disagree_have_nothing_else():
    split = bayes.entropy_split([[1.0, 0.0], [0.0, 1.0]])
    assert (split.aleatoric, split.epistemic) == (0.0, pytest.approx(math.log(2)))
    far = bayes.gaussian_bald_exact([0.0, 1000.0], [1.0, 1e-4])
    assert far == pytest.approx(math.log(2), abs=1e-7), "two components that never meet"


def test_vectors_and_many_items_at_once():
    rng = np.random.default_rng(0)
    mu, var = rng.normal(size=(3, 5)), rng.exponential(size=(3, 5))
    each = [bayes.gaussian_bald(mu[:, i], var[:, i]) for i in range(5)]
    np.testing.assert_allclose(bayes.gaussian_bald(mu, var), each)
    np.testing.assert_allclose(bayes.mvn_bald(mu[..., None], var[..., None, None]), each)
    independent = bayes.mvn_bald([[0.0, 1.0]] * 2, [np.diag([1.0, 4.0])] * 2)
    assert independent == pytest.approx(0, abs=1e-15)
    assert bayes.entropy_split(rng.dirichlet(np.ones(4), size=(3, 5))).total.shape == (5,)
    for i in range(5):
        exact = bayes.gaussian_bald_exact(mu[:, i], var[:, i])
        assert -1e-9 <= exact <= each[i] + 1e-8, "moment matching is an upper bound"


def test_refusals():
    for wrong in (
        lambda: bayes.entropy_split([0.5, 0.5]),
        lambda: bayes.entropy_split([[0.5, 0.6]]),
        lambda: bayes.entropy_split([[1.5, -0.5]]),
        lambda: bayes.entropy_split(np.empty((0, 3))),
        lambda: bayes.entropy_split(P, [1, 2]),
        lambda: bayes.entropy_split(P, [0, 0, 0]),
        lambda: bayes.uncertainty_split(1.0, 1.0),
        lambda: bayes.uncertainty_split(MU, [-1.0, 1.0, 1.0]),
        lambda: bayes.gaussian_bald(MU, [0.0, 1.0, 1.0]),
        lambda: bayes.gaussian_bald_exact([MU], [VAR]),
        lambda: bayes.mvn_bald([[0.0]], [[[-1.0]]]),
        lambda: bayes.mvn_bald([[0.0, 1.0]], [[[1.0]]]),
    ):
        with pytest.raises(nll.BadInput):
            wrong()
