"""How much of a text does a model know by heart, from one forward pass?"""

from __future__ import annotations

import numpy as np

from nll._declare import Undefined, score
from nll.scores._common import mean
from nll.trace import Trace


@score(
    higher_means="memorised",
    reads=("rank",),
    unit="1",
    range=(0.0, 1.0),
    paper="2205.10770",
    question="membership",
)
def memorization_accuracy(trace: Trace) -> float:
    """MA, exact memorisation: share of the tokens that were the likeliest ones, of rank 1.

    In [0, 1]; a tie with others at the top counts as the likeliest. One forward pass, where MEMO
    and extraction likelihood (`nll.negatives`) generate from every beginning of the text.
    Undefined when no token was scored (one token without a BOS or a prompt) or one has no rank.
    References: Tirumala et al. 2022, arXiv 2205.10770; used in MEOW, arXiv 2409.11844.
    """
    rank = trace.values("rank")
    if (rank < 1).any():
        return Undefined("a scored token has no rank")
    return mean((rank == 1).astype(np.float64))
