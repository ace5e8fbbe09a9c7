"""Do confidences say how often one is right? All of them need numbers in [0, 1].

Values outside raise instead of vanishing from every bin. Items with a nan confidence are left out
and counted.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics._inputs import (
    Bools,
    Floats,
    Measured,
    binary,
    floats,
    labelled,
    same_length,
    unit_interval,
)

Kind = Literal["negexp", "minmax", "isotonic", "platt"]


class ReliabilityBin(NamedTuple):
    """Items with low < confidence <= high (the first bin holds 0 too)."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10
) -> list[ReliabilityBin]:
    """Mean confidence and accuracy in `bins` equal, right-closed bins; nan in an empty one.

    confidence: (n,) in [0, 1].   correct: (n,) 0 or 1.   Raises BadInput otherwise.
    """
    c, y, _ = _confidences(confidence, correct)
    if bins < 1:
        raise BadInput(f"bins must be 1 or more, not {bins}")
    edges = np.arange(bins + 1) / bins
    place = np.searchsorted(edges[1:], c, side="left")
    n = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        conf = np.bincount(place, c, bins) / n
        acc = np.bincount(place, y, bins) / n
    return [
        ReliabilityBin(b / bins, (b + 1) / bins, int(n[b]), float(conf[b]), float(acc[b]))
        for b in range(bins)
    ]


def ece(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: sum_b (n_b / n) |accuracy_b - confidence_b|, in [0, 1].

    Bins are equally wide and right-closed. nan without items.   Raises BadInput for confidences
    outside [0, 1], labels other than 0 and 1, different lengths.
    """
    gaps, n, dropped = _gaps(confidence, correct, bins)
    if not n:
        return Undefined("no item has a confidence")
    return Measured(sum(g * m for g, m in gaps) / n, n=n, dropped=dropped)


def mce(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 10) -> float:
    """Maximum calibration error: the largest |accuracy_b - confidence_b| over bins with items.

    nan without items.   Raises BadInput as `ece`.
    """
    gaps, n, dropped = _gaps(confidence, correct, bins)
    if not n:
        return Undefined("no item has a confidence")
    return Measured(max(g for g, _ in gaps), n=n, dropped=dropped)


def brier(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Mean of (confidence - correct)^2, in [0, 1]; nan without items. Raises BadInput as `ece`."""
    c, y, dropped = _confidences(confidence, correct)
    if not len(c):
        return Undefined("no item has a confidence")
    return Measured(float(np.mean((c - y) ** 2)), n=len(c), dropped=dropped)


def log_loss(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Mean of -ln of the confidence in what came true, nats; inf when one was certain and wrong.

    nan without items.   Raises BadInput as `ece`.
    """
    c, y, dropped = _confidences(confidence, correct)
    if not len(c):
        return Undefined("no item has a confidence")
    with np.errstate(divide="ignore"):
        each = -np.where(y, np.log(c), np.log1p(-c))
    return Measured(float(np.mean(each)) + 0.0, n=len(c), dropped=dropped)


def to_confidence(
    score: npt.ArrayLike,
    kind: Kind = "negexp",
    *,
    calibration: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> Floats:
    """Confidences in [0, 1] from uncertainties (higher = less sure); nan stays nan.

    negexp: exp(-u) for u >= 0, the probability again when u is a summed nll.
    minmax: 1 - (u - min) / (max - min) over these items; depends on what else is in the list.
    isotonic, platt: the share of right answers at this uncertainty, learnt from `calibration` =
    (uncertainties, correct), which should be other items than those of `score`; isotonic is a
    falling step function, platt a logistic curve.

    Raises BadInput when the kind is unknown, u < 0 (negexp), no spread or infinite values (minmax),
    or the calibration items are missing or of one class.
    """
    u = floats(score, "scores")
    if kind in ("isotonic", "platt"):
        if calibration is None:
            raise BadInput(f"kind '{kind}' needs calibration=(uncertainties, correct)")
        return _learnt(u, kind, calibration)
    if kind == "negexp":
        if (u < 0).any():
            raise BadInput(f"kind 'negexp' needs uncertainties >= 0; the least is {np.nanmin(u):g}")
        out: Floats = np.exp(-u)
        return out
    if kind != "minmax":
        raise BadInput(f"unknown kind '{kind}'; it is negexp, minmax, isotonic or platt")
    held = u[~np.isnan(u)]
    if not len(held) or held.min() == held.max() or not np.isfinite(held).all():
        raise BadInput("kind 'minmax' needs finite uncertainties that are not all equal")
    spread: Floats = 1 - (u - held.min()) / (held.max() - held.min())
    return spread


def _learnt(u: Floats, kind: str, calibration: tuple[npt.ArrayLike, npt.ArrayLike]) -> Floats:
    y, known, _ = labelled(calibration[1], calibration[0])
    if y.all() or not y.any():
        raise BadInput("the calibration items must hold right and wrong answers")
    finite = u[~np.isnan(u)]
    if not (np.isfinite(known).all() and np.isfinite(finite).all()):
        raise BadInput(f"kind '{kind}' needs finite uncertainties")
    out = np.full(len(u), np.nan)
    if not len(finite):
        return out
    if kind == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        model = IsotonicRegression(y_min=0, y_max=1, increasing=False, out_of_bounds="clip")
        out[~np.isnan(u)] = model.fit(known, y.astype(float)).predict(finite)
        return out
    from scipy.optimize import minimize
    from scipy.special import expit

    # Platt's smoothed targets keep the curve finite when the classes do not overlap.
    p, n = np.count_nonzero(y), np.count_nonzero(~y)
    target = np.where(y, (p + 1) / (p + 2), 1 / (n + 2))
    middle, scale = known.mean(), known.std() or 1.0
    z = (known - middle) / scale

    def loss(ab: Floats) -> tuple[float, Floats]:
        t = ab[0] * z + ab[1]
        slope = expit(t) - target
        value = float(np.sum(np.logaddexp(0, t) - target * t))
        return value, np.array([slope @ z, slope.sum()])

    a, b = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    out[~np.isnan(u)] = expit(a * (finite - middle) / scale + b)
    return out


def _confidences(
    confidence: npt.ArrayLike, correct: npt.ArrayLike
) -> tuple[Floats, Bools, int]:  # fmt: skip
    c, y = unit_interval(confidence, "confidences"), binary(correct, "correct")
    same_length(confidences=c, correct=y)
    kept = ~np.isnan(c)
    return c[kept], y[kept], int(len(c) - np.count_nonzero(kept))


def _gaps(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int
) -> tuple[list[tuple[float, int]], int, int]:
    table = reliability(confidence, correct, bins)
    held = [b for b in table if b.n]
    n = sum(b.n for b in held)
    dropped = len(floats(confidence, "confidences")) - n
    return [(abs(b.accuracy - b.confidence), b.n) for b in held], n, dropped
