"""Are the items with a large predicted uncertainty those with a large error?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.bayes._inputs import NOTHING, Floats, floats


class Sparsification(NamedTuple):
    """curve: (n,) mean error of the k least uncertain items, k = 1 .. n.   oracle: the same when
    sorted by the error itself.   aurc: mean of the curve.   ause: aurc above the oracle's."""

    curve: Floats
    oracle: Floats
    aurc: float
    ause: float


def sparsification(uncertainty: npt.ArrayLike, error: npt.ArrayLike) -> Sparsification:
    """Mean error when only the k least uncertain items are kept, against the best order.

    uncertainty, error: (n,), errors 0 or more (absolute or squared, as given). Items of equal
    uncertainty count with their mean error. nan without items.
    """
    u, e = floats(uncertainty, "uncertainty"), floats(error, "error")
    if u.ndim != 1 or u.shape != e.shape:
        raise BadInput(f"uncertainty and error (n,) expected, not {u.shape} and {e.shape}")
    if (e < 0).any():
        raise BadInput("errors must be 0 or more; take their absolute values")
    if not u.size:
        return Sparsification(np.empty(0), np.empty(0), NOTHING, NOTHING)
    curve, best = _kept(u, e), _kept(e, e)
    return Sparsification(curve, best, float(curve.mean()), float(curve.mean() - best.mean()))


def aurc(uncertainty: npt.ArrayLike, error: npt.ArrayLike) -> float:
    """Area under the sparsification curve: mean over k of the mean error of the k least uncertain.

    Smaller is better, in the unit of the error. nan without items.
    """
    return sparsification(uncertainty, error).aurc


def ause(uncertainty: npt.ArrayLike, error: npt.ArrayLike) -> float:
    """`aurc` minus that of the best order: 0 when uncertainty sorts items as their errors do."""
    return sparsification(uncertainty, error).ause


def _kept(u: Floats, e: Floats) -> Floats:
    values, place = np.unique(u, return_inverse=True)
    sizes = np.bincount(place, minlength=len(values))
    level = np.bincount(place, e, len(values)) / sizes
    return np.asarray(np.cumsum(np.repeat(level, sizes)) / np.arange(1, len(e) + 1))
