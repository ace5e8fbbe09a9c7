"""Are predicted normals as wide as the errors? Calibration, sharpness, recalibration.

A calibrated prediction may still be useless: read `sharpness` and `dispersion` beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.bayes._inputs import NOTHING, Floats, floats, predictions, scale, together

Kind = Literal["interval", "quantile"]
Form = Literal["mace", "rmsce", "sum_of_squares", "mean_of_squares"]


class CalibrationCurve(NamedTuple):
    """expected, observed: (B,) shares of targets that should lie, and that do lie, inside."""

    expected: Floats
    observed: Floats


class Ence(float):
    """Expected normalised calibration error, and what it was taken over.

    rmv, rmse: (B,) root mean predicted variance and root mean squared error of each bin.
    bins: how many were asked for.   skipped: those whose predicted variance is 0, not counted.
    smallest: items in the smallest bin; with fewer than 20 the value is biased upward.
    """

    rmv: Floats
    rmse: Floats
    bins: int
    skipped: int
    smallest: int


def pit(y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike) -> Floats:
    """Probability integral transform, Phi((y - mu) / sd): uniform when the normals are right."""
    from scipy.special import ndtr

    t, m, s = predictions(y, mu, sd)
    return np.asarray(ndtr((t - m) / s))[()]


def calibration_curve(
    y: npt.ArrayLike,
    mu: npt.ArrayLike,
    sd: npt.ArrayLike,
    *,
    levels: int | npt.ArrayLike = 100,
    kind: Kind = "interval",
) -> CalibrationCurve:
    """Share of targets inside the central interval of each level, or below each quantile.

    levels: shares, or how many from 0 to 1, both ends included.   kind: `interval` counts
    |z| <= Phi^-1(1/2 + p/2), `quantile` counts z <= Phi^-1(p). Observed shares are nan without
    items. Raises BadInput for levels outside [0, 1] and another kind.
    """
    from scipy.special import ndtri

    if kind not in ("interval", "quantile"):
        raise BadInput(f"kind must be 'interval' or 'quantile', not {kind!r}")
    if isinstance(levels, int) and levels < 2:
        raise BadInput(f"levels must be 2 or more, not {levels}")
    p = np.linspace(0, 1, levels) if isinstance(levels, int) else floats(levels, "levels")
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise BadInput("levels must be a list of shares in [0, 1]")
    t, m, s = predictions(y, mu, sd)
    z = ((t - m) / s).ravel()
    if not z.size:
        return CalibrationCurve(p, np.full(p.shape, np.nan))
    z, edges = (np.abs(z), ndtri(0.5 + p / 2)) if kind == "interval" else (z, ndtri(p))
    return CalibrationCurve(p, np.searchsorted(np.sort(z), edges, side="right") / z.size)


def calibration_error(
    expected: npt.ArrayLike,
    observed: npt.ArrayLike,
    form: Form = "mace",
    *,
    weights: npt.ArrayLike | None = None,
) -> float:
    """How far a calibration curve is from the diagonal, on its own levels.

    form: `mace` mean |p - obs|, `rmsce` root mean square, `sum_of_squares` (Kuleshov et al. 2018,
    with `weights` of the levels if given) or `mean_of_squares`. nan without levels.
    """
    if form not in ("mace", "rmsce", "sum_of_squares", "mean_of_squares"):
        raise BadInput(f"unknown form {form!r}")
    p, obs = together(expected=floats(expected, "expected"), observed=np.asarray(observed, float))
    if not p.size:
        return Undefined("the curve has no levels")
    if np.isnan(obs).any():
        return NOTHING
    w = np.ones(p.shape)
    if weights is not None:
        if form != "sum_of_squares":
            raise BadInput("weights go with form='sum_of_squares'")
        w = together(weights=floats(weights, "weights"), expected=p)[0]
    gap = p - obs
    if form == "mace":
        return float(np.abs(gap).mean())
    squares = float((w * gap**2).sum())
    if form == "sum_of_squares":
        return squares
    return squares / p.size if form == "mean_of_squares" else float(np.sqrt(squares / p.size))


def miscalibration_area(expected: npt.ArrayLike, observed: npt.ArrayLike) -> float:
    """Area between the piecewise linear curve and the diagonal, exact where they cross.

    Raises BadInput when the levels do not rise. nan with fewer than two levels or without items.
    """
    p, obs = together(expected=floats(expected, "expected"), observed=np.asarray(observed, float))
    if p.ndim != 1 or len(p) < 2:
        return Undefined("an area needs two levels")
    if (np.diff(p) < 0).any():
        raise BadInput("expected levels must rise")
    if np.isnan(obs).any():
        return NOTHING
    left, right = (obs - p)[:-1], (obs - p)[1:]
    a, b = np.abs(left), np.abs(right)
    crossing = left * right < 0
    total = np.where(crossing, a + b, 1.0)
    mean = np.where(crossing, (a**2 + b**2) / (2 * total), (a + b) / 2)
    return float((np.diff(p) * mean).sum())


def ence(y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike, bins: int = 10) -> float:
    """Mean over bins of |RMV - RMSE| / RMV, the bins of equal count by rising sd; see `Ence`.

    Undefined without items. Raises BadInput for fewer items than bins, and for sd < 0; an sd of 0
    counts here, and a bin of such is skipped. Levi et al. 2022 (arXiv 1905.11659).
    """
    t, m, s = together(y=floats(y, "y"), mu=floats(mu, "mu"), sd=floats(sd, "sd"))
    t, m, s = t.ravel(), m.ravel(), s.ravel()
    if (s < 0).any():
        raise BadInput("sd must be 0 or more")
    if not t.size:
        return NOTHING
    if not 1 <= bins <= t.size:
        raise BadInput(f"{t.size} items cannot fill {bins} bins")
    parts = np.array_split(np.argsort(s, kind="stable"), bins)
    rmv = np.array([np.sqrt(np.mean(s[i] ** 2)) for i in parts])
    rmse = np.array([np.sqrt(np.mean((t[i] - m[i]) ** 2)) for i in parts])
    held = rmv > 0
    if not held.any():
        return Undefined("every predicted variance is 0")
    out = Ence(float(np.mean(np.abs(rmv[held] - rmse[held]) / rmv[held])))
    out.rmv, out.rmse, out.bins = rmv, rmse, bins
    out.skipped, out.smallest = int((~held).sum()), min(len(i) for i in parts)
    return out


def z_variance(y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike) -> float:
    """Mean of ((y - mu) / sd)^2: 1 when right on average, above when overconfident.

    With an interval: `nll.metrics.bootstrap(nll.bayes.z_variance, y, mu, sd)`. nan without items.
    """
    t, m, s = predictions(y, mu, sd)
    return float(np.mean(((t - m) / s) ** 2)) if t.size else NOTHING


def sharpness(sd: npt.ArrayLike) -> float:
    """Root of the mean predicted variance, in the unit of y. nan without items."""
    s = scale(sd, "sd")
    return float(np.sqrt(np.mean(s**2))) if s.size else NOTHING


def dispersion(sd: npt.ArrayLike) -> float:
    """Standard deviation (n - 1) of the sds over their mean: 0 when sd says nothing of any item.

    nan with fewer than two items.
    """
    s = scale(sd, "sd")
    if s.size < 2:
        return Undefined("a dispersion needs two items")
    return float(s.std(ddof=1) / s.mean())


def recalibrate_scale(y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike) -> float:
    """The factor for sd that makes the likelihood of these items largest: sqrt(mean z^2).

    Fit it on items that are not those it is judged on. nan without items.
    """
    value = z_variance(y, mu, sd)
    return value if isinstance(value, Undefined) else float(np.sqrt(value))


@dataclass(frozen=True, eq=False)
class IsotonicRecalibration:
    """A rising map of probabilities, R: p -> share of calibration targets whose PIT is <= p.

    levels, observed: its knots, from 0 to 1; straight lines between.
    """

    levels: Floats
    observed: Floats

    def __call__(self, p: npt.ArrayLike) -> Floats:
        """R(p): a distribution function's values, put right."""
        q = floats(p, "probabilities")
        if not ((q >= 0) & (q <= 1)).all():
            raise BadInput("probabilities must lie in [0, 1]")
        return np.asarray(np.interp(q, self.levels, self.observed))[()]

    def cdf(self, y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike) -> Floats:
        """R(Phi((y - mu) / sd)): the recalibrated distribution function."""
        return self(pit(y, mu, sd))


def recalibrate_isotonic(
    y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike
) -> IsotonicRecalibration:
    """Isotonic recalibration of normals (Kuleshov et al. 2018, arXiv 1807.00263).

    Fit it on items that are not those it is judged on. Raises BadInput without items.
    """
    u = np.sort(np.ravel(pit(y, mu, sd)))
    if not u.size:
        raise BadInput("there are no items to calibrate on")
    levels, last = np.unique(u, return_index=True)
    shares = np.append(last[1:], u.size) / u.size
    inside = (levels > 0) & (levels < 1)
    return IsotonicRecalibration(
        np.concatenate([[0.0], levels[inside], [1.0]]),
        np.concatenate([[0.0], shares[inside], [1.0]]),
    )
