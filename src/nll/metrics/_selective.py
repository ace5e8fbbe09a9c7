"""What is gained by answering the certain items only?

uncertainty: (n,) higher = less sure; quality: (n,) higher = better, or 0/1 correctness. Items of
equal uncertainty are taken in a random order on average, so the order of the input never matters.
Items with a nan uncertainty are left out and counted; infinities are ordered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics._inputs import Floats, Measured, floats, same_length, share, unit_interval

_SLACK = 1e-9


class RiskCoverage(NamedTuple):
    """Answering the j most certain items: share answered, mean risk, uncertainty of the last."""

    coverage: Floats
    risk: Floats
    threshold: Floats


def prr(uncertainty: npt.ArrayLike, quality: npt.ArrayLike, max_rejection: float = 1.0) -> float:
    """Prediction rejection ratio: (A(u) - A_random) / (A(oracle) - A_random).

    A is the mean over j = n - r + 1 .. n of the mean quality (rescaled to [0, 1]) of the j most
    certain items, r = floor(max_rejection n); A_random is the mean quality, exactly. 1 = as good as
    knowing the quality, 0 = random, negative = worse. nan when all qualities are equal or r = 0.

    Raises BadInput on different lengths, infinite quality, max_rejection outside (0, 1].

    >>> round(prr([0.1, 0.4, 0.35, 0.8, 0.05, 0.6], [1, 0, 1, 0, 1, 1]), 6)
    0.829545
    """
    share(max_rejection, "max_rejection", zero=False)
    u, q, dropped = _ranked(uncertainty, quality)
    n = len(q)
    rejected = math.floor(max_rejection * n + _SLACK)
    if n and not rejected:
        return Undefined(f"max_rejection {max_rejection:g} of {n} items rejects none")
    q = _rescaled(q)
    if not len(q):
        return Undefined("all qualities are equal" if n else "no item has an uncertainty")
    random = float(q.mean())
    own = float(_running_means(u, q)[n - rejected :].mean())
    best = float(_running_means(-q, q)[n - rejected :].mean())
    if best - random < 1e-12:
        return Undefined("no order of these items is better than a random one")
    return Measured((own - random) / (best - random), n=n, dropped=dropped)


def rcc_auc(uncertainty: npt.ArrayLike, quality: npt.ArrayLike) -> float:
    """Area under risk-coverage: mean over j of the mean risk of the j most certain; lower = better.

    Risk is 1 - quality, rescaled to [0, 1] over the items; nan when all qualities are equal.
    Raises BadInput as `prr`.
    """
    u, q, dropped = _ranked(uncertainty, quality)
    n, q = len(q), _rescaled(q)
    if not len(q):
        return Undefined("all qualities are equal" if n else "no item has an uncertainty")
    return Measured(float(1 - _running_means(u, q).mean()), n=n, dropped=dropped)


def risk_coverage(uncertainty: npt.ArrayLike, quality: npt.ArrayLike) -> RiskCoverage:
    """The curve: risk 1 - quality, as it is, of the j most certain items, j = 1 .. n.

    quality: (n,) in [0, 1], else BadInput.
    """
    unit_interval(quality, "quality")
    u, q, _ = _ranked(uncertainty, quality)
    n = len(q)
    coverage = np.arange(1, n + 1) / max(n, 1)
    return RiskCoverage(coverage, 1 - _running_means(u, q), np.sort(u))


def rejection_accuracy(
    uncertainty: npt.ArrayLike, correct: npt.ArrayLike, fraction: float = 0.8
) -> float:
    """Mean correctness of the items whose uncertainty is at most the `fraction` quantile.

    fraction: share of items answered, as 0.8 or 0.95 (all ties at the quantile are answered too).
    nan without items.   Raises BadInput as `prr`.
    """
    share(fraction, "fraction")
    u, q, dropped = _ranked(uncertainty, correct)
    if not len(u):
        return Undefined("no item has an uncertainty")
    return Measured(_accuracy_at(u, q, fraction), n=len(u), dropped=dropped)


def aurac(uncertainty: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Area under rejection accuracy: sum over 20 quantiles 0.1 .. 1 of the accuracy, times 0.9/19.

    As in Farquhar et al. (Nature 2024), so its largest value is 20 * 0.9 / 19 = 0.947, not 1.
    nan without items.   Raises BadInput as `prr`.
    """
    u, q, dropped = _ranked(uncertainty, correct)
    if not len(u):
        return Undefined("no item has an uncertainty")
    area = sum(_accuracy_at(u, q, f) for f in np.linspace(0.1, 1, 20)) * 0.9 / 19
    return Measured(area, n=len(u), dropped=dropped)


def _ranked(uncertainty: npt.ArrayLike, quality: npt.ArrayLike) -> tuple[Floats, Floats, int]:
    u, q = floats(uncertainty, "uncertainties"), floats(quality, "quality")
    same_length(uncertainties=u, quality=q)
    if not np.isfinite(q).all():
        raise BadInput(f"quality must be finite; item {np.flatnonzero(~np.isfinite(q))[0]} is not")
    kept = ~np.isnan(u)
    return u[kept], q[kept], int(len(u) - np.count_nonzero(kept))


def _rescaled(q: Floats) -> Floats:
    """Quality between 0 and 1; empty when there is no spread."""
    if not len(q) or q.max() == q.min():
        return np.empty(0)
    out: Floats = (q - q.min()) / (q.max() - q.min())
    return out


def _running_means(u: Floats, q: Floats) -> Floats:
    """Mean q of the j smallest u, j = 1 .. n, expected over the orders of equal u."""
    values, place = np.unique(u, return_inverse=True)
    sizes = np.bincount(place, minlength=len(values))
    level = np.bincount(place, q, len(values)) / np.maximum(sizes, 1)
    out: Floats = np.cumsum(np.repeat(level, sizes)) / np.arange(1, len(q) + 1)
    return out


def _accuracy_at(u: Floats, q: Floats, fraction: float) -> float:
    """The linear quantile lies between two neighbours, so the lower one selects the same items."""
    cut = np.sort(u)[math.floor(fraction * (len(u) - 1) + _SLACK)]
    return float(q[u <= cut].mean())
