"""What can be minimised: pure functions from log-probs and masks to a loss, in nats."""

from nll.objectives._declare import Objective, objectives
from nll.objectives._likelihood import nll_loss
from nll.objectives._linear import linear_logps
from nll.objectives._logps import (
    SequenceLogps,
    TokenLogps,
    sequence_logps,
    token_logps,
)

__all__ = [
    "Objective",
    "SequenceLogps",
    "TokenLogps",
    "linear_logps",
    "nll_loss",
    "objectives",
    "sequence_logps",
    "token_logps",
]
