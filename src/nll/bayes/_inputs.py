"""What every function of the room does with its arguments: shapes, scales, weights."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput

Floats: TypeAlias = npt.NDArray[np.float64]
NOTHING = Undefined("there are no items")


def floats(values: npt.ArrayLike, name: str) -> Floats:
    """Float64 of any shape, without nan. Raises BadInput for anything else."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{name} must be numbers") from None
    if np.isnan(array).any():
        raise BadInput(f"{name} must not hold nan")
    return array


def scale(values: npt.ArrayLike, name: str, floor: float | None = None) -> Floats:
    """Standard deviations or the like, above 0; smaller ones are raised to `floor` where given."""
    array = floats(values, name)
    if floor is not None:
        if not floor > 0:
            raise BadInput(f"floor must be above 0, not {floor}")
        array = np.maximum(array, floor)
    if not (array > 0).all():
        raise BadInput(f"{name} must be above 0 (floor=1e-12 raises those that are not)")
    return array


def together(**named: Any) -> tuple[Floats, ...]:
    """The arrays in one common shape; raises BadInput naming the shapes when there is none."""
    try:
        return tuple(np.broadcast_arrays(*named.values()))
    except ValueError:
        told = ", ".join(f"{name} {np.shape(a)}" for name, a in named.items())
        raise BadInput(f"these shapes do not fit together: {told}") from None


def predictions(
    y: npt.ArrayLike, mu: npt.ArrayLike, sd: npt.ArrayLike, floor: float | None = None
) -> tuple[Floats, Floats, Floats]:
    """Targets, means and standard deviations in one shape."""
    a, b, c = together(y=floats(y, "y"), mu=floats(mu, "mu"), sd=scale(sd, "sd", floor))
    return a, b, c


def weights_of(weights: npt.ArrayLike | None, n: int) -> Floats:
    """(n,) weights of sum 1, equal unless given."""
    if weights is None:
        if not n:
            raise BadInput("there are no members")
        return np.full(n, 1.0 / n)
    w = floats(weights, "weights")
    if w.shape != (n,):
        raise BadInput(f"{n} members need as many weights, not shape {w.shape}")
    if not ((w >= 0).all() and 0 < w.sum() < np.inf):
        raise BadInput("weights must be 0 or more, and not all 0")
    return np.asarray(w / w.sum())


def share(value: float, name: str) -> float:
    """A share strictly between 0 and 1; raises BadInput when it is none."""
    if not 0 < value < 1:
        raise BadInput(f"{name} must lie in (0, 1), not {value}")
    return float(value)
