"""Are the model's next-token probabilities right as often as they say? At any temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput, MissingField
from nll.scores._common import NO_TOKENS, known
from nll.trace import Array, Trace


def expected_calibration_error(
    traces: Trace | Sequence[Trace], bins: int = 15, *, temperature: float = 1.0
) -> float:
    """ECE of next-token prediction: sum_b (n_b / n) |accuracy_b - confidence_b| over all tokens.

    Confidence is the probability of the likeliest token at the temperature, accuracy whether that
    was the one. Bins over [0, 1] are equally wide and right-closed, the first holds 0. In [0, 1],
    0 is calibrated; over texts, pass their traces together, since few tokens fill few bins.

    Undefined when no token was scored, or one lacks its rank. Raises MissingField when a trace
    holds no `top_k=1`, or not the temperature (`betas=(1/temperature,)`); BadInput for fewer than
    one bin or a temperature <= 0. References: Liu et al., arXiv 2311.09325.
    """
    _check(bins, temperature)
    held = [traces] if isinstance(traces, Trace) else list(traces)
    if not any(t.n_scored for t in held):
        return NO_TOKENS
    confidence = np.concatenate([_confidence(t, 1.0 / temperature) for t in held])
    rank = np.concatenate([t.values("rank") for t in held])
    hit = np.where(rank < 1, np.nan, rank == 1)
    value = float(_error(confidence[:, None], hit[:, None], bins)[0])
    return known(value, "a scored token has no rank or no probability of the likeliest token")


def classwise_calibration_error(
    logits: npt.ArrayLike, ids: npt.ArrayLike, bins: int = 15, *, temperature: float = 1.0
) -> float:
    """CECE: the calibration error of each vocabulary entry's probability, averaged over entries.

    logits: (T, V), row t predicts ids[t].   Of an entry v: sum_b (n_b / T) |share of x_t = v -
    mean p_t(v)|, over bins of p_t(v) as in `expected_calibration_error`. In [0, 1]. Undefined
    without tokens. Raises BadInput when shapes do not fit, for fewer than one bin or a temperature
    <= 0. References: Liu et al., arXiv 2311.09325.
    """
    _check(bins, temperature)
    z, x = np.asarray(logits, np.float64), np.asarray(ids, np.int64)
    if z.ndim != 2 or x.shape != z.shape[:1] or not z.shape[1]:
        raise BadInput(f"logits (T, V) and ids (T,) expected, not {z.shape} and {x.shape}")
    if not x.size:
        return NO_TOKENS
    if not (x.min() >= 0 and x.max() < z.shape[1]):
        raise BadInput(f"token ids must be from 0 to {z.shape[1] - 1}")
    # Subtracted first, so that no logit overflows at a low temperature.
    p = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    p /= p.sum(axis=1, keepdims=True)
    hit = x[:, None] == np.arange(z.shape[1])
    return float(_error(p, hit.astype(np.float64), bins).mean())


def _check(bins: int, temperature: float) -> None:
    if bins < 1 or bins != int(bins):
        raise BadInput(f"bins must be 1 or more, not {bins}")
    if not temperature > 0:
        raise BadInput(f"temperature must be above 0, not {temperature}")


def _confidence(trace: Trace, beta: float) -> Array:
    """(N,) probability of the likeliest token at an inverse temperature."""
    top = trace.values("top_logp")
    if not top.shape[1]:
        raise MissingField("this trace holds no likeliest token; trace the text with top_k=1")
    return np.exp(beta * top[:, 0] - trace.lse(beta))


def _error(confidence: Array, hit: Array, bins: int) -> Array:
    """(V,) sum_b (n_b / n) |mean hit - mean confidence| in each column of (N, V) arrays."""
    n, width = confidence.shape
    if np.isnan(confidence).any() or np.isnan(hit).any():
        return np.full(width, math.nan)
    edges = np.arange(1, bins) / bins
    place = np.searchsorted(edges, confidence, side="left") * width + np.arange(width)
    gaps = np.bincount(place.ravel(), (hit - confidence).ravel(), minlength=bins * width)
    return np.asarray(np.abs(gaps).reshape(bins, width).sum(axis=0) / n)
