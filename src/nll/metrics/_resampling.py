"""How sure is a number? Bootstrap, exact paired test, several tests at once, shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics._inputs import Floats, binary, floats, labelled, same_length, share
from nll.metrics._ranking import auroc

# Resampled indices held at once: 16 MB.
_AT_ONCE = 2_000_000


class Interval(NamedTuple):
    """A value and the ends of its interval; nan with a reason where there is none."""

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Items that only one of two methods gets right, and the two-sided exact p-value."""

    only_first: int
    only_second: int
    p: float


def bootstrap(
    statistic: Callable[..., float],
    *arrays: npt.ArrayLike,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    stratify: npt.ArrayLike | None = None,
    paired: bool = True,
) -> Interval:
    """`statistic(*arrays)` with its percentile bootstrap interval.

    n: resamples.   stratify: one label per item; each label keeps its count in every resample.
    paired: item i of all arrays is drawn together; False draws each array (which may differ in
    length) on its own. Resamples on which the statistic is nan are left out; without a majority
    of defined ones the ends are nan. Same seed, same interval.

    AUROC is computed for all resamples at once by counting.

    Raises BadInput on different lengths (paired), empty arrays, n < 1, level outside (0, 1),
    stratify without paired.

    >>> bootstrap(auroc, [1, 1, 0, 0], [4, 3, 2, 1], n=100, stratify=[1, 1, 0, 0])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    held = [np.asarray(a) for a in arrays]
    share(level, "level", zero=False, one=False)
    if n < 1:
        raise BadInput(f"the number of resamples must be 1 or more, not {n}")
    if not held or any(a.ndim == 0 or len(a) == 0 for a in held):
        raise BadInput("nothing to resample: an array is empty")
    value = statistic(*held)
    if value != value:
        return Interval(value, value, value)
    rng = np.random.default_rng(seed)
    if paired:
        same_length(**{f"array {i + 1}": a for i, a in enumerate(held)})
        strata = _strata(len(held[0]), stratify)
        values = _paired(statistic, held, strata, n, rng)
    elif stratify is not None:
        raise BadInput("stratify is for paired resampling")
    else:
        values = np.array(
            [statistic(*(a[rng.integers(len(a), size=len(a))] for a in held)) for _ in range(n)]
        )
    values = values[~np.isnan(values)]
    if 2 * len(values) <= n:
        lacking = Undefined(f"{n - len(values)} of {n} resamples leave it undefined")
        return Interval(value, lacking, lacking)
    tails = ((1 - level) / 2, (1 + level) / 2)
    # Between two infinities nothing can be interpolated.
    method: Any = "linear" if np.isfinite(values).all() else "inverted_cdf"
    low, high = np.quantile(values, tails, method=method)
    return Interval(value, float(low), float(high))


def _strata(n: int, stratify: npt.ArrayLike | None) -> list[npt.NDArray[np.intp]]:
    if stratify is None:
        return [np.arange(n)]
    labels = np.asarray(stratify)
    same_length(arrays=np.empty(n), stratify=labels)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _paired(
    statistic: Callable[..., float],
    arrays: list[npt.NDArray[Any]],
    strata: list[npt.NDArray[np.intp]],
    n: int,
    rng: np.random.Generator,
) -> Floats:
    out, step = [], max(1, _AT_ONCE // len(arrays[0]))
    for start in range(0, n, step):
        rows = min(step, n - start)
        drawn = np.concatenate([s[rng.integers(len(s), size=(rows, len(s)))] for s in strata], 1)
        if statistic is auroc and len(arrays) == 2:
            out.append(_auroc_of_resamples(arrays[0], arrays[1], drawn))
        else:
            out.append(np.array([statistic(*(a[i] for a in arrays)) for i in drawn], np.float64))
    return np.concatenate(out)


def _auroc_of_resamples(y: npt.ArrayLike, score: npt.ArrayLike, drawn: npt.NDArray[Any]) -> Floats:
    """(B,) AUROC of each row of drawn items, by the pairs at every distinct score."""
    s = floats(score, "scores")
    kept = ~np.isnan(s)
    positive, s_kept, _ = labelled(np.asarray(y)[kept], s[kept])
    order = np.argsort(s_kept, kind="stable")
    source = np.flatnonzero(kept)[order]
    positive, ordered = positive[order], s_kept[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    rows, width = drawn.shape
    flat = (drawn + np.arange(rows)[:, None] * width).ravel()
    times = np.bincount(flat, minlength=rows * width).reshape(rows, width)[:, source]
    p = np.add.reduceat(times * positive, first, axis=1)
    q = np.add.reduceat(times * ~positive, first, axis=1)
    below = np.cumsum(q, axis=1) - q
    pairs = p.sum(1) * q.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = (2 * (p * below).sum(1) + (p * q).sum(1)) / (2 * pairs)
    return np.where(pairs > 0, out, np.nan)


def mcnemar_exact(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Do two methods differ on the same items? Exact binomial test of the items they differ on.

    first, second: (n,) 0 or 1, right or wrong on each item.   p = 1 when they never differ.
    Raises BadInput on different lengths or other values.
    """
    a, b = binary(first, "first"), binary(second, "second")
    same_length(first=a, second=b)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    trials, fewer = only_a + only_b, min(only_a, only_b)
    if only_a == only_b:
        return McNemar(only_a, only_b, 1.0)
    from scipy.special import bdtr

    return McNemar(only_a, only_b, min(1.0, 2 * float(bdtr(fewer, trials, 0.5))))


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's adjusted p-values, in the order given: reject those <= alpha, and the chance of any
    false rejection stays below alpha.

    Raises BadInput for values outside [0, 1] or nan.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = floats(p_values, "p-values")
    if not ((p >= 0) & (p <= 1)).all():
        raise BadInput("p-values must lie in [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1.0)
    return out


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Share successes / n with its Wilson score interval; nan for n = 0.

    Raises BadInput unless 0 <= successes <= n and level lies in (0, 1).
    """
    share(level, "level", zero=False, one=False)
    if not 0 <= successes <= n:
        raise BadInput(f"{successes} of {n} is no share")
    if n == 0:
        lacking = Undefined("no trials")
        return Interval(lacking, lacking, lacking)
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Exact ends where the formula leaves a rounding error.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Interval(p, low, high)
