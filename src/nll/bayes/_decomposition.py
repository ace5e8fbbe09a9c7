"""What part of an uncertainty is the data's, and what part disagreement of the members?

Members (of an ensemble, samples of weights) lie on the first axis and count equally unless weights
are given. Entropies in nats, variances in the unit of y squared.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.bayes._inputs import Floats, floats, scale, together, weights_of


class UncertaintySplit(NamedTuple):
    """aleatoric: expected of each member.   epistemic: between members.   total: their sum."""

    aleatoric: Floats
    epistemic: Floats
    total: Floats


def uncertainty_split(
    mu: npt.ArrayLike, var: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> UncertaintySplit:
    """Of normals with means mu and variances var, (M, ...): mean var, variance of mu, their sum.

    The variance divides by M, so that one member has epistemic 0. Raises BadInput for var < 0.
    """
    m, v = together(mu=floats(mu, "mu"), var=floats(var, "var"))
    if m.ndim < 1:
        raise BadInput("members lie on the first axis")
    if (v < 0).any():
        raise BadInput("var must be 0 or more")
    w = weights_of(weights, len(m))
    aleatoric = np.tensordot(w, v, 1)
    epistemic = np.tensordot(w, (m - np.tensordot(w, m, 1)) ** 2, 1)
    return UncertaintySplit(aleatoric[()], epistemic[()], (aleatoric + epistemic)[()])


def entropy_split(p: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> UncertaintySplit:
    """Of class (or token) probabilities (M, ..., C): mean entropy, mutual information, total.

    total is the entropy of the mean distribution; 0 ln 0 = 0. Raises BadInput when a row does not
    sum to 1 within 1e-6.
    """
    q = floats(p, "probabilities")
    if q.ndim < 2:
        raise BadInput("probabilities (M, ..., C) expected: members first, classes last")
    if (q < 0).any() or (np.abs(q.sum(-1) - 1) > 1e-6).any():
        raise BadInput("probabilities must be 0 or more and sum to 1 over the last axis")
    w = weights_of(weights, len(q))
    total = _entropy(np.tensordot(w, q, 1))
    aleatoric = np.tensordot(w, _entropy(q), 1)
    epistemic = np.maximum(total - aleatoric, 0.0)
    return UncertaintySplit(aleatoric[()], epistemic[()], total[()])


def predictive_entropy(p: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """Entropy of the mean distribution: the total of `entropy_split`."""
    return entropy_split(p, weights).total


def mutual_information(p: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """BALD: how much a label would tell of the member, the epistemic part of `entropy_split`."""
    return entropy_split(p, weights).epistemic


def gaussian_bald(
    mu: npt.ArrayLike, var: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Floats:
    """Mutual information of normals, moment-matched: 1/2 ln(total var) - 1/2 mean ln var.

    An upper bound of the exact value, since of all distributions of a variance the normal has the
    largest entropy. mu, var: (M, ...), var > 0.
    """
    v = scale(var, "var")
    split = uncertainty_split(mu, v, weights)
    _, v = together(mu=floats(mu, "mu"), var=v)
    mean_log = np.tensordot(weights_of(weights, len(v)), np.log(v), 1)
    return np.asarray(0.5 * (np.log(split.total) - mean_log))[()]


def mvn_bald(mu: npt.ArrayLike, cov: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """`gaussian_bald` of vectors: 1/2 ln det(mean S + Cov mu) - 1/2 mean ln det S.

    mu: (M, ..., d).   cov: (M, ..., d, d), positive definite, else BadInput.
    """
    m, s = floats(mu, "mu"), floats(cov, "cov")
    if m.ndim < 2 or s.shape != (*m.shape, m.shape[-1]):
        raise BadInput(f"mu (M, ..., d) and cov (M, ..., d, d) expected, not {m.shape}, {s.shape}")
    w = weights_of(weights, len(m))
    r = m - np.tensordot(w, m, 1)
    whole = np.tensordot(w, s + r[..., :, None] * r[..., None, :], 1)
    signs, logs = np.linalg.slogdet(s)
    if not (signs > 0).all():
        raise BadInput("cov must be positive definite")
    return np.asarray(0.5 * (np.linalg.slogdet(whole)[1] - np.tensordot(w, logs, 1)))[()]


def gaussian_bald_exact(
    mu: npt.ArrayLike, var: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Mutual information of M normals on the line, by quadrature of the mixture's entropy.

    mu, var: (M,), var > 0. To about 1e-9 nats.
    """
    from scipy.integrate import quad
    from scipy.special import logsumexp

    v = scale(var, "var")
    m, v = together(mu=floats(mu, "mu"), var=v)
    if m.ndim != 1:
        raise BadInput(f"mu and var (M,) expected, not shape {m.shape}")
    w = weights_of(weights, len(m))
    sd = np.sqrt(v)

    def term(y: float) -> float:
        logs = -0.5 * np.log(2 * np.pi * v) - 0.5 * (y - m) ** 2 / v
        log_p = float(logsumexp(logs, b=w))
        return -np.exp(log_p) * log_p if log_p > -700 else 0.0

    # Piece by piece, so that narrow components are not stepped over.
    edges = np.unique(np.concatenate([m + k * sd for k in (-12, -4, -1, 0, 1, 4, 12)]))
    entropy = sum(quad(term, a, b, epsabs=1e-11, limit=200)[0] for a, b in pairwise(edges))
    own = 0.5 * np.log(2 * np.pi * np.e * v) @ w
    return max(0.0, float(entropy - own))


def _entropy(p: Floats) -> Floats:
    logs = np.log(np.where(p > 0, p, 1.0))
    return np.asarray(-(p * logs).sum(-1))
