"""Intervals and sets with a coverage that holds for any model, from exchangeable items.

alpha: the share that may be missed. Runs, time series and the like must be split by run, or their
items are not exchangeable. The marginal coverage lies in [1 - alpha, 1 - alpha + 1 / (n + 1)].
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.bayes._inputs import Floats, floats, scale, share, together

_SLACK = 1e-9  # 10 * (1 - 0.2) is 8.000000000000002 in floats


class Conformal(NamedTuple):
    """lower, upper: of each new item.   qhat: the margin.   scores: (n,) of calibration items."""

    lower: Floats
    upper: Floats
    qhat: float
    scores: Floats


def conformal_quantile(scores: npt.ArrayLike, alpha: float = 0.1) -> float:
    """The k-th smallest calibration score, k = ceil((n + 1)(1 - alpha)); inf when k > n.

    Raises BadInput for alpha outside (0, 1).
    """
    share(alpha, "alpha")
    s = np.sort(floats(scores, "scores").ravel())
    k = math.ceil((s.size + 1) * (1 - alpha) - _SLACK)
    return float(s[k - 1]) if k <= s.size else math.inf


def split_conformal(
    y: npt.ArrayLike, mu: npt.ArrayLike, new_mu: npt.ArrayLike, alpha: float = 0.1
) -> Conformal:
    """new_mu -+ qhat, with scores |y - mu| of calibration items: intervals of one width."""
    t, m = together(y=floats(y, "y"), mu=floats(mu, "mu"))
    s = np.abs(t - m).ravel()
    q, new = conformal_quantile(s, alpha), floats(new_mu, "new_mu")
    return Conformal((new - q)[()], (new + q)[()], q, s)


def normalized_conformal(
    y: npt.ArrayLike,
    mu: npt.ArrayLike,
    sd: npt.ArrayLike,
    new_mu: npt.ArrayLike,
    new_sd: npt.ArrayLike,
    alpha: float = 0.1,
) -> Conformal:
    """new_mu -+ qhat new_sd, with scores |y - mu| / sd: wide where the model is unsure."""
    t, m, s = together(y=floats(y, "y"), mu=floats(mu, "mu"), sd=scale(sd, "sd"))
    scores = (np.abs(t - m) / s).ravel()
    q = conformal_quantile(scores, alpha)
    new, width = together(new_mu=floats(new_mu, "new_mu"), new_sd=scale(new_sd, "new_sd"))
    return Conformal((new - q * width)[()], (new + q * width)[()], q, scores)


def cqr(
    y: npt.ArrayLike,
    lower: npt.ArrayLike,
    upper: npt.ArrayLike,
    new_lower: npt.ArrayLike,
    new_upper: npt.ArrayLike,
    alpha: float = 0.1,
) -> Conformal:
    """Quantile predictions made to cover: [lower - qhat, upper + qhat], scores max(lo - y, y - hi).

    qhat may be negative, which shrinks the intervals; one that shrinks past its middle is empty,
    with lower above upper. Romano et al. 2019 (arXiv 1905.03222).
    """
    t, low, high = together(
        y=floats(y, "y"), lower=floats(lower, "lower"), upper=floats(upper, "upper")
    )
    scores = np.maximum(low - t, t - high).ravel()
    q = conformal_quantile(scores, alpha)
    a, b = together(
        new_lower=floats(new_lower, "new_lower"), new_upper=floats(new_upper, "new_upper")
    )
    return Conformal((a - q)[()], (b + q)[()], q, scores)


def jackknife_plus(
    residuals: npt.ArrayLike, left_out: npt.ArrayLike, alpha: float = 0.1
) -> tuple[Floats, Floats]:
    """Lower and upper ends from n models, each fitted without one item; coverage >= 1 - 2 alpha.

    residuals: (n,) |y_i - mu_-i(x_i)|.   left_out: (n, ...) predictions mu_-i of new items.
    Lower: the floor(alpha (n + 1))-th smallest of mu_-i - R_i, upper: the
    ceil((1 - alpha)(n + 1))-th smallest of mu_-i + R_i; infinite where there is no such item.
    Barber et al. 2021 (arXiv 1905.02928).
    """
    share(alpha, "alpha")
    r, m = floats(residuals, "residuals"), floats(left_out, "left_out")
    if r.ndim != 1 or m.ndim < 1 or len(m) != len(r):
        raise BadInput(f"residuals (n,) and left_out (n, ...) expected, not {r.shape}, {m.shape}")
    if (r < 0).any():
        raise BadInput("residuals must be 0 or more")
    n = len(r)
    r = r.reshape(n, *[1] * (m.ndim - 1))
    k = math.floor(alpha * (n + 1) + _SLACK)
    j = math.ceil((1 - alpha) * (n + 1) - _SLACK)
    lower, upper = np.sort(m - r, axis=0), np.sort(m + r, axis=0)
    nowhere = np.full(m.shape[1:], math.inf)
    return (lower[k - 1] if k else -nowhere)[()], (upper[j - 1] if j <= n else nowhere)[()]


def mondrian(
    scores: npt.ArrayLike, groups: Sequence[Hashable], alpha: float = 0.1
) -> dict[Hashable, float]:
    """`conformal_quantile` within each group: coverage for every group, not on average only."""
    s = floats(scores, "scores")
    if s.shape != (len(groups),):
        raise BadInput(f"{len(groups)} groups for scores of shape {s.shape}")
    places: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(group, []).append(i)
    return {group: conformal_quantile(s[at], alpha) for group, at in places.items()}


def label_scores(p: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """1 - p_y of calibration items. p: (n, C) probabilities.   y: (n,) classes."""
    q, classes = _classes(p, y)
    return np.asarray(1 - q[np.arange(len(q)), classes])


def aps_scores(p: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """Total probability of the classes at least as likely as the true one (APS, unrandomised).

    p: (n, C).   y: (n,). Romano et al. 2020 (arXiv 2006.02544).
    """
    q, classes = _classes(p, y)
    own = q[np.arange(len(q)), classes][:, None]
    return np.asarray(np.where(q >= own, q, 0.0).sum(1))


def _classes(p: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    q, given = floats(p, "probabilities"), floats(y, "classes")
    if q.ndim != 2 or given.shape != q.shape[:1]:
        raise BadInput(f"p (n, C) and y (n,) expected, not {q.shape} and {given.shape}")
    classes = given.astype(np.int64)
    if not ((classes == given) & (classes >= 0) & (classes < q.shape[1])).all():
        raise BadInput(f"classes must be whole numbers from 0 to {q.shape[1] - 1}")
    return q, classes
