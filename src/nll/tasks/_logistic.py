"""Logistic regression by maximum likelihood, or with the weak Cauchy prior of R's bayesglm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput

Array = npt.NDArray[Any]

SLOPE_SCALE = 1.25  # bayesglm's 2.5, divided by two standard deviations of a z-scored predictor
INTERCEPT_SCALE = 10.0


class LogisticFit(NamedTuple):
    """Coefficients with the intercept first, of z-scored predictors (unless asked otherwise).

    standard_errors: from the curvature at the fit.   deviance: -2 log-likelihood.   prior: the one
    used, which is `cauchy` though None was asked where maximum likelihood has no end or no single
    one.   separated: the former, a line splits the classes; the latter shows in `vif`.
    dropped: predictors that do not vary, whose coefficients are nan.   vif: variance inflation of
    each predictor; above 10 its coefficient is unstable, inf where others determine it.
    """

    coefficients: Array
    standard_errors: Array
    deviance: float
    n: int
    names: tuple[str, ...]
    prior: str | None
    separated: bool
    dropped: tuple[str, ...]
    vif: Array

    @property
    def z(self) -> Array:
        """Coefficients in standard errors."""
        scores: Array = self.coefficients / self.standard_errors
        return scores


def logistic_regression(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    prior: Literal["cauchy"] | None = None,
    *,
    standardize: bool = True,
    names: Sequence[str] | None = None,
) -> LogisticFit:
    """Regress 0/1 outcomes on predictors, with an intercept.

    X: (n, d) or (n,).   y: (n,) 0 or 1.   prior: `cauchy` takes the mode under Cauchy(0, 1.25) on
    the slopes and Cauchy(0, 10) on the intercept.   standardize: z-score with n - 1 first.
    Raises BadInput for shapes, other outcomes or numbers that are not finite.
    """
    x, t = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or t.shape != (len(x),) or len(x) < 2:
        raise BadInput(f"predictors (n, d) and outcomes (n,) expected, not {x.shape} and {t.shape}")
    if not np.isin(t, (0, 1)).all() or not np.isfinite(x).all():
        raise BadInput("outcomes must be 0 or 1, and predictors finite")
    if prior not in (None, "cauchy"):
        raise BadInput(f"prior must be None or 'cauchy', not {prior!r}")
    d = x.shape[1]
    labels = tuple(names) if names is not None else tuple(f"x{i + 1}" for i in range(d))
    if len(labels) != d:
        raise BadInput(f"{len(labels)} names for {d} predictors")
    varies = np.ptp(x, axis=0) > 1e-12 * np.maximum(np.abs(x).max(axis=0), 1e-300)
    used = x[:, varies]
    if standardize:
        used = (used - used.mean(axis=0)) / used.std(axis=0, ddof=1)
    design = np.column_stack([np.ones(len(used)), used])
    found = None if prior == "cauchy" else _maximum(design, t)
    chosen = prior if found is not None else "cauchy"
    beta, covariance = found if found is not None else _cauchy_mode(design, t)
    eta = design @ beta
    keep = np.append(0, np.flatnonzero(varies) + 1)
    coefficients, errors = np.full(d + 1, np.nan), np.full(d + 1, np.nan)
    coefficients[keep], errors[keep] = beta, np.sqrt(np.diag(covariance))
    inflation = np.full(d, np.nan)
    inflation[varies] = _vif(used)
    return LogisticFit(
        coefficients=coefficients, standard_errors=errors,
        deviance=float(2 * np.sum(np.logaddexp(0, eta) - t * eta)),
        n=len(t), names=labels, prior=chosen,
        separated=prior is None and found is None and _separated(design, t),
        dropped=tuple(n for n, v in zip(labels, varies, strict=True) if not v), vif=inflation,
    )  # fmt: skip


def _step(x: Array, t: Array, beta: Array, precision: Array) -> tuple[Array, Array]:
    """A Newton step under a Gaussian prior, and the inverse curvature."""
    p = 0.5 * (1 + np.tanh(x @ beta / 2))
    weight = np.maximum(p * (1 - p), 1e-300)
    curvature = (x.T * weight) @ x + np.diag(precision)
    covariance = np.linalg.pinv(curvature, hermitian=True)
    return beta + covariance @ (x.T @ (t - p) - precision * beta), covariance


def _loss(x: Array, t: Array, beta: Array) -> float:
    eta = x @ beta
    return float(np.sum(np.logaddexp(0, eta) - t * eta))


def _maximum(x: Array, t: Array) -> tuple[Array, Array] | None:
    """Maximum likelihood, or None where it lies at infinity or is not unique."""
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    beta, none = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for _ in range(100):
        after, covariance = _step(x, t, beta, none)
        while _loss(x, t, after) > _loss(x, t, beta) + 1e-12:
            after = (after + beta) / 2
        moved = float(np.abs(x @ (after - beta)).max())
        beta = after
        if moved < 1e-10:
            p = 0.5 * (1 + np.tanh(x @ beta / 2))
            flat = _least_curvature(x, p * (1 - p)) < 1e-7 * _least_curvature(x, np.ones(len(x)))
            return None if flat else (beta, covariance)
    return None


def _separated(x: Array, t: Array) -> bool:
    """Whether maximum likelihood lies at infinity, looked at without what others determine."""
    basis: list[int] = []
    for column in range(x.shape[1]):
        if np.linalg.matrix_rank(x[:, [*basis, column]]) > len(basis):
            basis.append(column)
    return _maximum(x[:, basis], t) is None


def _least_curvature(x: Array, weight: Array) -> float:
    """Smallest eigenvalue of X^T W X with columns of X at unit length: 0 along a separation."""
    x = x / np.linalg.norm(x, axis=0)
    return float(np.linalg.eigvalsh((x.T * weight) @ x)[0])


def _cauchy_mode(x: Array, t: Array) -> tuple[Array, Array]:
    """Posterior mode: a Cauchy is a Gaussian of unknown variance, re-estimated in each round."""
    scale = np.full(x.shape[1], SLOPE_SCALE)
    scale[0] = INTERCEPT_SCALE
    beta = np.zeros(x.shape[1])
    covariance = np.eye(len(beta))
    for _ in range(20_000):
        precision = 2 / (beta**2 + scale**2)
        after, covariance = _step(x, t, beta, precision)
        moved = float(np.abs(after - beta).max())
        beta = after
        if moved < 1e-12 * (1 + np.abs(beta).max()):
            break
    else:
        raise ArithmeticError("the posterior mode was not reached in 20,000 rounds")
    return beta, covariance


def _vif(x: Array) -> Array:
    """1 / (1 - R^2) of each column on the others; inf for a combination of them."""
    out = np.empty(x.shape[1])
    centred = x - x.mean(axis=0)
    for j in range(x.shape[1]):
        others = np.delete(centred, j, axis=1)
        left = centred[:, j] - others @ np.linalg.lstsq(others, centred[:, j], rcond=None)[0]
        spread, rest = float((centred[:, j] ** 2).sum()), float((left**2).sum())
        out[j] = spread / rest if rest > 1e-20 * spread else np.inf
    return out


def wald_p(fit: LogisticFit) -> Array:
    """(d + 1,) two-sided p-values of the coefficients, nan for dropped predictors."""
    from scipy.stats import norm

    p: Array = 2 * norm.sf(np.abs(fit.z))
    return p


def coefficient(fit: LogisticFit, name: str) -> float:
    """The named predictor's coefficient; nan where it was dropped. BadInput for another name."""
    if name not in fit.names:
        raise BadInput(f"no predictor '{name}'; there are {', '.join(fit.names)}")
    value = float(fit.coefficients[1 + fit.names.index(name)])
    return Undefined(f"'{name}' does not vary") if value != value else value
