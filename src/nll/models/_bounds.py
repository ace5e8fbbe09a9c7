"""What the likeliest tokens alone say of a whole distribution: bounds, never a guess."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nll._errors import BadInput
from nll.trace import Array, Trace


class Bounds(NamedTuple):
    """lower, upper: (T,) nats, nan where nothing was predicted."""

    lower: Array
    upper: Array


def entropy_bounds(trace: Trace, *, vocab_size: int | None = None) -> Bounds:
    """Bounds of the entropy of each next-token distribution, from its top k alone.

    With listed probabilities p_1 >= ... >= p_k and the mass m = 1 - sum p_i outside, the entropy is
    least when m lies on as few tokens as may hold it (none above p_k), and greatest when it is
    spread evenly over the V - k others.

    trace: with `top_logp` (T, k).   vocab_size: V, where the trace does not know it; without, the
    upper bound is infinite unless nothing lies outside.
    Raises MissingField without alternatives, BadInput for a vocabulary smaller than k.
    """
    top = np.asarray(trace.field("top_logp"), np.float64)
    size = trace.provenance.vocab_size if vocab_size is None else vocab_size
    k = top.shape[1]
    if k == 0:
        raise BadInput("no alternatives are kept in this trace; trace it with top_k=5 or more")
    if size is not None and size < k:
        raise BadInput(f"vocab_size is {size}, but {k} tokens are listed")
    told = ~np.isnan(top).all(axis=1)
    held = np.where(np.isnan(top), -np.inf, top)
    p = np.exp(held)
    listed = -(p * np.where(np.isneginf(held), 0.0, held)).sum(axis=1)
    outside = 1.0 - p.sum(axis=1)
    # The listed values are rounded; each bound takes the side on which it stays one.
    slack = k * float(np.finfo(trace.field("top_logp").dtype).eps)
    few, much = np.maximum(outside - slack, 0.0), np.maximum(outside + slack, 0.0)
    if size is None:
        much = np.where(outside <= slack, 0.0, much)
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(np.isnan(top), np.inf, p).min(axis=1)
        full = np.floor(few / least)
        packed = full * least * np.log(least) + _xlogx(np.maximum(few - full * least, 0.0))
        low = listed - np.where((few > 0) & (least > 0), packed, 0.0)
        others = np.inf if size is None else size - np.isfinite(top).sum(axis=1)
        spread = much * (np.log(others) - np.log(much))
        high = listed + np.where((much > 0) & (others > 0), spread, 0.0)
    return Bounds(np.where(told, low, np.nan), np.where(told, np.maximum(low, high), np.nan))


def _xlogx(x: Array) -> Array:
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0)
