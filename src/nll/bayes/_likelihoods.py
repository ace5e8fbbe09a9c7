"""How unlikely was the truth under a predicted distribution? Nats, smaller is better.

One value for each target; y, mu and scales may have any shapes that fit together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.bayes._inputs import Floats, floats, predictions, scale, together

_LOG_2PI = math.log(2 * math.pi)


def gaussian_nll(
    y: npt.ArrayLike,
    mu: npt.ArrayLike,
    sd: npt.ArrayLike,
    *,
    full: bool = True,
    floor: float | None = None,
) -> Floats:
    """Of a normal: 1/2 ln(2 pi sd^2) + (y - mu)^2 / (2 sd^2).

    full: with the constant 1/2 ln(2 pi), which other libraries often drop.   floor: least sd.
    Raises BadInput for sd <= 0 or nan.

    >>> gaussian_nll(1.0, 1.2, 0.3).round(6)
    np.float64(-0.062812)
    """
    t, m, s = predictions(y, mu, sd, floor)
    constant = 0.5 * _LOG_2PI if full else 0.0
    return np.asarray(constant + np.log(s) + 0.5 * ((t - m) / s) ** 2)[()]


def mvn_nll(
    y: npt.ArrayLike, mu: npt.ArrayLike, cov: npt.ArrayLike, *, full: bool = True
) -> Floats:
    """Of a multivariate normal: 1/2 (d ln 2 pi + ln det S + r' S^-1 r) with r = y - mu.

    y, mu: (..., d).   cov: (..., d, d) S.   full: with the constant. Raises BadInput when a matrix
    is not positive definite or shapes do not fit.
    """
    r = np.subtract(*together(y=floats(y, "y"), mu=floats(mu, "mu")))
    s = floats(cov, "cov")
    if r.ndim < 1 or s.ndim < 2 or s.shape[-2:] != (r.shape[-1],) * 2:
        raise BadInput(f"y (..., d) and cov (..., d, d) expected, not {r.shape} and {s.shape}")
    try:
        root = np.linalg.cholesky(s)
    except np.linalg.LinAlgError:
        raise BadInput("cov must be positive definite") from None
    white = np.linalg.solve(root, r[..., None])[..., 0]
    log_det = 2 * np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
    constant = r.shape[-1] * _LOG_2PI if full else 0.0
    return np.asarray(0.5 * (constant + log_det + (white**2).sum(-1)))[()]


def student_t_nll(
    y: npt.ArrayLike, df: npt.ArrayLike, mu: npt.ArrayLike, scale_: npt.ArrayLike
) -> Floats:
    """Of a Student t with df degrees of freedom, location mu and scale (not sd)."""
    from scipy.special import gammaln

    t, v, m, s = together(
        y=floats(y, "y"), df=scale(df, "df"), mu=floats(mu, "mu"), scale=scale(scale_, "scale")
    )
    constant = gammaln(v / 2) - gammaln((v + 1) / 2) + 0.5 * np.log(v * math.pi) + np.log(s)
    return np.asarray(constant + (v + 1) / 2 * np.log1p(((t - m) / s) ** 2 / v))[()]


def laplace_nll(y: npt.ArrayLike, mu: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Of a Laplace distribution of scale b: ln 2b + |y - mu| / b."""
    t, m, s = together(y=floats(y, "y"), mu=floats(mu, "mu"), b=scale(b, "b"))
    return np.asarray(np.log(2 * s) + np.abs(t - m) / s)[()]


def mixture_nll(
    y: npt.ArrayLike, weights: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike
) -> Floats:
    """Of a mixture of normals, whose components lie on the last axis: -ln sum_j w_j N(y; j).

    y: (...).   weights, mu, sd: (..., K); weights are made to sum to 1.
    """
    from scipy.special import logsumexp

    t, w, m, s = mixture(y, weights, mu, sd)
    return np.asarray(-logsumexp(-gaussian_nll(t, m, s), b=w, axis=-1))[()]


def mixture(
    y: npt.ArrayLike, weights: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    """Targets, weights of sum 1, means and standard deviations, each (..., K)."""
    w = floats(weights, "weights")
    if w.ndim < 1 or not ((w >= 0).all() and (w.sum(-1) > 0).all()):
        raise BadInput("weights (..., K) must be 0 or more, and not all 0")
    t, w, m, s = together(
        y=floats(y, "y")[..., None], weights=w / w.sum(-1, keepdims=True),
        mu=floats(mu, "mu"), sd=scale(sd, "sd"),
    )  # fmt: skip
    return t, w, m, s


def beta_nll(y: Any, mu: Any, sd: Any, beta: float = 0.5) -> Any:
    """sd^(2 beta) (ln sd + (y - mu)^2 / (2 sd^2)): a loss that does not neglect what is hard.

    Without the constant. With torch tensors the factor passes no gradient. beta 0 is the plain nll,
    1 weighs errors as the squared error does. Seitzer et al., ICLR 2022 (arXiv 2203.09168).
    """
    if not 0 <= beta <= 1:
        raise BadInput(f"beta must lie in [0, 1], not {beta}")
    if hasattr(sd, "detach"):
        return sd.detach() ** (2 * beta) * (sd.log() + 0.5 * ((y - mu) / sd) ** 2)
    t, m, s = predictions(y, mu, sd)
    return np.asarray(s ** (2 * beta) * gaussian_nll(t, m, s, full=False))[()]
