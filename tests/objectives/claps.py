"""The worked example of CLAPS, in float64: two pairs, the second target of one token."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from nll.negatives import adversarial_negative, adversarial_positive
from nll.objectives import pool_states

M = torch.tensor([[[1, 0.5], [0.2, 0.8]], [[-0.4, 1], [0.6, 0.1]]], dtype=torch.float64)
H = torch.tensor([[[0.3, -0.2], [0.8, 0.4]], [[0.1, 0.9], [0.5, 0.5]]], dtype=torch.float64)
E = torch.tensor([[1, 0], [0, 1], [-1, 0.5]], dtype=torch.float64)
W = torch.tensor([[1, 0.5], [-0.5, 1]], dtype=torch.float64)
BIAS = torch.tensor([0.1, 0.2], dtype=torch.float64)
LABELS = torch.tensor([[0, 1], [1, -100]])
TARGETS = torch.tensor([[1, 1], [1, 0]])

pool = partial(pool_states, weight=W, bias=BIAS)


def vectors(*, eps_neg: float = 1.0, eps_pos: float = 3.0) -> dict[str, Tensor]:
    """Pooled vectors of sources, targets, imposters and distant targets."""
    source = pool(M)
    far = adversarial_positive(H, LABELS, E, eps_pos, source=source, pool=pool)
    return {
        "source": source,
        "target": pool(H, TARGETS),
        "negative": pool(adversarial_negative(H, LABELS, E, eps_neg), TARGETS),
        "positive": pool(far, TARGETS),
    }
