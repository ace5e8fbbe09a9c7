"""How likely is the target text? The plain loss that most others contain."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from nll.objectives._common import Reduction, TokenReduction, Values, as_tokens, reduce_tokens
from nll.objectives._declare import objective


@objective(
    descent="the targets more likely",
    unit="nats",
    paper="https://www.jmlr.org/papers/v3/bengio03a.html",
    range=(0, math.inf),
)
def nll_loss(
    logp: Values,
    mask: Any = None,
    *,
    token_reduction: TokenReduction = "token",  # noqa: S107
    reduction: Reduction = "mean",
) -> Tensor:
    """Negative log-likelihood, `-logp`; nats, minimised.

    logp: (B, T) with mask (B, T), or a list of 1-D tensors.   token_reduction: `token` (mean over
    all valid tokens of the batch, the loss of `transformers`), `sequence` (mean in each sequence)
    or `sum` (sum in each sequence); the last two are then reduced over the sequences.
    An all-masked batch gives 0 with a gradient of 0.

    >>> nll_loss([[-1.0, -3.0], [-2.0]]).item()
    2.0
    """
    tokens = as_tokens(logp, mask)
    return reduce_tokens(tokens._replace(values=-tokens.values), token_reduction, reduction)
