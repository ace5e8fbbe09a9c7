"""What the scores share: sums that stay undefined with a reason, checks of options."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nll._declare import Undefined
from nll._errors import BadInput
from nll.trace import Array

NO_TOKENS = Undefined("no token was scored")
INF = math.inf


def mean(values: Array) -> float:
    """Mean of (N,) float64 values; undefined when there are none or one of them is nan."""
    if not values.size:
        return NO_TOKENS
    return defined(float(np.add.reduce(values)) / values.size)


def total(values: Array) -> float:
    """Sum of (N,) float64 values; undefined when there are none or one of them is nan."""
    return defined(float(np.add.reduce(values))) if values.size else NO_TOKENS


def defined(value: float) -> float:
    """The value without a negative zero; undefined when it is nan."""
    if value != value:
        return Undefined("a scored token lacks a value that this score reads")
    return value + 0.0


def known(value: float, reason: str) -> float:
    """The value without a negative zero; undefined for this reason when it is nan."""
    return value + 0.0 if value == value else Undefined(reason)


def mean_of(values: Sequence[float], what: str) -> float:
    """Mean of the values that are defined; undefined when none is. `what` says of which texts."""
    held = [v for v in values if v == v]
    if not held:
        return Undefined(f"no {what} has a scored token")
    return known(math.fsum(held) / len(held), f"one {what} is at inf and another at -inf")


def lowest_mean(values: Array, k: float) -> float:
    """Mean of the max(1, floor(k N)) smallest of (N,) values; k is a share, 0 selects nothing."""
    check_share(k)
    if not values.size:
        return NO_TOKENS
    if k == 0:
        return Undefined("k = 0 selects no token")
    return defined(float(np.add.reduce(lowest(values, k))) / count(values.size, k))


def lowest(values: Array, k: float) -> Array:
    """The max(1, floor(k N)) smallest of (N,) values, in no order; nan counts as the largest."""
    n = count(values.size, k)
    return values if n == values.size else np.partition(values, n - 1)[:n]


def count(n: int, k: float) -> int:
    """How many tokens a share k of n is: at least one, safe against 100 * 0.29 = 28.999..."""
    return max(1, math.floor(k * n + 1e-9))


def check_share(k: float) -> None:
    """Raise BadInput unless k is a share of the tokens."""
    if not 0 <= k <= 1:
        raise BadInput(f"k is a share of the tokens, from 0 to 1, not {k}")


def exp(x: float) -> float:
    """e^x; inf where that leaves the floats."""
    try:
        return math.exp(x)
    except OverflowError:
        return INF


def base_unit(base: str) -> float:
    """How many nats one unit of `base` ("nats" or "bits") is."""
    if base not in ("nats", "bits"):
        raise BadInput(f"base must be 'nats' or 'bits', not {base!r}")
    return 1.0 if base == "nats" else math.log(2.0)
