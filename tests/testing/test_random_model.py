"""A random model is a causal language model, the same for a seed, and can be trained."""

from __future__ import annotations

import numpy as np
import torch

from nll.testing import random_model
from nll.training import finetune_causal


def test_the_seed_decides_and_nothing_else_moves():
    before = torch.random.get_rng_state()
    a, b, c = (random_model(seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    traces = [next(iter(m.trace(["it is so"]))) for m in (a, b, c)]
    np.testing.assert_array_equal(traces[0].logp, traces[1].logp)
    assert not np.array_equal(traces[0].logp[1:], traces[2].logp[1:])
    assert np.exp(traces[0].field("top_logp")[3]).sum() <= 1 + 1e-6


def test_it_learns():
    texts = ["abababab"] * 64
    losses: list[float] = []
    finetune_causal(
        random_model(width=16), texts, lr=1e-2, epochs=8, after_epoch=lambda _, x: losses.append(x)
    )
    assert losses[-1] < losses[0] / 2
