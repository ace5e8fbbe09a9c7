"""What the common suite needs to know of an objective; one row of CASES in test_common.py each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

B, T = 5, 4


@dataclass(frozen=True)
class Case:
    """A batch for one objective, all tensors with rows first and of unequal lengths where masked.

    inputs: float64, differentiated.   constants: passed as they are, without gradient (references,
    rewards); given one that asks for a gradient, the objective must leave it without.
    masks: argument name to mask.   covers: argument name of a mask to the arguments that it masks,
    into whose masked places nan and infinities are written.
    stopped: from the inputs to the same objective with its stopped quantities held at the values
    of this case; for objectives that hold part of their own input constant, whose gradient is then
    compared with this one's.
    units: what `mean` is taken over.   all_masked: 0 with gradient 0, a clear error, or the
    term of the noise, which no mask covers.
    no_reduction: the objective has no `reduction` argument.
    rows: False where the order of rows matters.
    """

    function: Callable[..., Tensor]
    inputs: Mapping[str, Tensor]
    constants: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    covers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    stopped: Callable[..., Tensor] | None = None
    units: Literal["rows", "tokens"] = "rows"
    all_masked: Literal["zero", "error", "noise"] = "zero"
    no_reduction: bool = False
    rows: bool = True

    def __call__(self, **changed: Any) -> Tensor:
        """The loss, with some arguments replaced."""
        given = {**self.inputs, **self.constants, **self.masks, **self.options}
        return self.function(**{**given, **changed})


def normal(seed: int, *shape: int) -> Tensor:
    """Float64 normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def logps(seed: int, *shape: int) -> Tensor:
    """Float64 log-probs, all below 0."""
    return -normal(seed, *(shape or (B, T))).abs() - 0.05


def ragged_mask(*lengths: int, width: int = T) -> Tensor:
    """(rows, width) boolean: the first tokens of each row, none of a row of length 0."""
    return torch.arange(width)[None] < torch.tensor(lengths or (4, 2, 3, 1, 4))[:, None]
