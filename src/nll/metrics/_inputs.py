"""What every metric does with its arguments: lengths, labels, undefined values, the count."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]


class Measured(float):
    """A number and what it was taken over: `n` items used, `dropped` set aside because of a nan.

    >>> x = Measured(0.8, n=9, dropped=1)
    >>> x, x.n, x.dropped
    (0.8, 9, 1)
    """

    n: int
    dropped: int

    def __new__(cls, value: float, *, n: int, dropped: int = 0) -> Measured:
        self = super().__new__(cls, value)
        self.n, self.dropped = n, dropped
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, int]]:
        return (float(self),), {"n": self.n, "dropped": self.dropped}


def floats(values: npt.ArrayLike, name: str) -> Floats:
    """(n,) float64, nan and infinities kept. Raises BadInput for anything else."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{name} must be a list of numbers") from None
    if array.ndim != 1:
        raise BadInput(f"{name} must have one dimension, not shape {array.shape}")
    return array


def binary(values: npt.ArrayLike, name: str) -> Bools:
    """(n,) bool of labels 0 and 1. Raises BadInput naming the first that is neither."""
    array = floats(values, name)
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise BadInput(f"{name} must be 0 or 1; item {wrong[0]} is {array[wrong[0]]:g}")
    out: Bools = array == 1
    return out


def same_length(**arrays: Any) -> int:
    """The common length; raises BadInput when two differ."""
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise BadInput(f"lengths differ: {told}; give one value per item in each")
    return next(iter(lengths.values()))


def labelled(y_true: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Bools, Floats, int]:
    """Labels and scores without the items whose score is nan, and how many those were."""
    y, s = binary(y_true, "labels"), floats(score, "scores")
    same_length(labels=y, scores=s)
    kept = ~np.isnan(s)
    dropped = int(len(s) - np.count_nonzero(kept))
    return (y[kept], s[kept], dropped) if dropped else (y, s, 0)


def unit_interval(values: npt.ArrayLike, name: str) -> Floats:
    """(n,) float64 in [0, 1] or nan. Raises BadInput when one lies outside."""
    array = floats(values, name)
    wrong = np.flatnonzero((array < 0) | (array > 1))
    if len(wrong):
        raise BadInput(
            f"{name} must lie in [0, 1]; item {wrong[0]} is {array[wrong[0]]:g} "
            "(nll.metrics.to_confidence maps uncertainties to confidences)"
        )
    return array


def share(value: float, name: str, *, zero: bool = True, one: bool = True) -> float:
    """A share between 0 and 1; raises BadInput when it is none."""
    fine = 0 <= value <= 1 and (zero or value > 0) and (one or value < 1)
    if not fine:
        left, right = "[" if zero else "(", "]" if one else ")"
        raise BadInput(f"{name} must lie in {left}0, 1{right}, not {value}")
    return float(value)
