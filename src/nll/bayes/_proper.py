"""Proper scores beside the likelihood: CRPS, energy, intervals, quantiles. Smaller is better.

One value for each target, in the unit of y.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.bayes._inputs import Floats, floats, predictions, share, together
from nll.bayes._likelihoods import mixture

_LEVELS = np.arange(1, 100) / 100


def crps_gaussian(y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike) -> Floats:
    """Of a normal: sd (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) with z = (y - mu) / sd."""
    t, m, s = predictions(y, mu, sd)
    return np.asarray(_absolute(t - m, s) - s / math.sqrt(math.pi))[()]


def crps_ensemble(y: npt.ArrayLike, members: npt.ArrayLike, *, fair: bool = False) -> Floats:
    """Of members x_1 .. x_m: mean |x_i - y| - sum_ij |x_i - x_j| / (2 m^2).

    y: (...).   members: (..., m).   fair: divide by 2 m (m - 1), which is unbiased for the
    distribution that the members were drawn from; nan for one member.
    """
    x = np.sort(floats(members, "members"), axis=-1) if np.ndim(members) else floats([], "members")
    m = x.shape[-1]
    if not m:
        raise BadInput("members (..., m) must hold at least one")
    t, x = together(y=floats(y, "y")[..., None], members=x)
    apart = np.abs(x - t).mean(-1)
    return np.asarray(apart - _pairs(((2 * np.arange(1, m + 1) - m - 1) * x).sum(-1), m, fair))[()]


def crps_mixture(
    y: npt.ArrayLike, weights: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike
) -> Floats:
    """Of a mixture of normals with components on the last axis; exact. See `mixture_nll`."""
    t, w, m, s = mixture(y, weights, mu, sd)
    first = (w * _absolute(t - m, s)).sum(-1)
    both = np.sqrt(s[..., :, None] ** 2 + s[..., None, :] ** 2)
    pairs = _absolute(m[..., :, None] - m[..., None, :], both)
    second = (w[..., :, None] * w[..., None, :] * pairs).sum((-1, -2))
    return np.asarray(first - 0.5 * second)[()]


def energy_score(y: npt.ArrayLike, members: npt.ArrayLike, *, fair: bool = False) -> Floats:
    """CRPS of vectors: mean |x_i - y| - sum_ij |x_i - x_j| / (2 m^2), Euclidean lengths.

    y: (..., d).   members: (..., m, d).   fair: as in `crps_ensemble`.
    """
    x, t = floats(members, "members"), floats(y, "y")
    if x.ndim < 2 or not x.shape[-2] or t.ndim < 1 or t.shape[-1] != x.shape[-1]:
        raise BadInput(f"y (..., d) and members (..., m, d) expected, not {t.shape} and {x.shape}")
    m = x.shape[-2]
    apart = np.linalg.norm(x - t[..., None, :], axis=-1).mean(-1)
    pairs = np.linalg.norm(x[..., :, None, :] - x[..., None, :, :], axis=-1).sum((-1, -2))
    return np.asarray(apart - _pairs(pairs / 2, m, fair))[()]


def interval_score(
    y: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike, level: float = 0.9
) -> Floats:
    """(u - l) + 2/a (l - y)_+ + 2/a (y - u)_+ of an interval that should hold y with 1 - a = level.

    Raises BadInput for a level outside (0, 1) or lower > upper.
    """
    a = 1 - share(level, "level")
    t, low, high = together(
        y=floats(y, "y"), lower=floats(lower, "lower"), upper=floats(upper, "upper")
    )
    if (low > high).any():
        raise BadInput("lower must not be above upper")
    missed = np.maximum(low - t, 0) + np.maximum(t - high, 0)
    return np.asarray(high - low + 2 / a * missed)[()]


def pinball_loss(y: npt.ArrayLike, quantile: npt.ArrayLike, tau: float) -> Floats:
    """max(tau (y - q), (tau - 1)(y - q)) of a predicted quantile q at share tau."""
    share(tau, "tau")
    t, q = together(y=floats(y, "y"), quantile=floats(quantile, "quantile"))
    return np.maximum(tau * (t - q), (tau - 1) * (t - q))[()]


def mean_interval_score(y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike) -> float:
    """`interval_score` of a normal's central intervals, over items and the levels .01 .. .99."""
    from scipy.stats import norm

    t, m, s = predictions(y, mu, sd)
    if not t.size:
        return Undefined("there are no items")
    found = []
    for level in _LEVELS:
        half = s * norm.ppf(0.5 + level / 2)
        found.append(interval_score(t, m - half, m + half, level).mean())
    return float(np.mean(found))


def mean_pinball_loss(y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike) -> float:
    """`pinball_loss` of a normal's quantiles, over items and the shares .01 .. .99."""
    from scipy.stats import norm

    t, m, s = predictions(y, mu, sd)
    if not t.size:
        return Undefined("there are no items")
    return float(np.mean([pinball_loss(t, m + s * norm.ppf(q), q).mean() for q in _LEVELS]))


def _pairs(half_sum: Floats, m: int, fair: bool) -> Floats | float:
    """Mean distance of two members, halved, from sum over i < j of their distances."""
    if not fair:
        return half_sum / m**2
    if m == 1:
        return Undefined("the fair form needs two members")
    return half_sum / (m * (m - 1))


def _absolute(mean: Floats, sd: Floats) -> Floats:
    """E |X| of a normal X."""
    from scipy.special import ndtr

    z = mean / sd
    return np.asarray(2 * sd * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
                      + mean * (2 * ndtr(z) - 1))  # fmt: skip
