"""Memorization accuracy where it is not defined; its numbers are in the oracles."""

from __future__ import annotations

import numpy as np

from nll.scores import gltr_fraction, memorization_accuracy
from nll.testing import trace_from_logits


def test_one_token_that_nothing_predicts_is_undefined():
    alone = trace_from_logits(np.full((1, 3), np.nan), [0])
    found = memorization_accuracy(alone)
    assert found != found
    assert found.reason


def test_it_is_the_share_of_first_ranks():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    trace = trace_from_logits(logits, [1] * 50)
    assert memorization_accuracy(trace) == np.mean(logits.argmax(1) == 1)
    assert memorization_accuracy(trace) == gltr_fraction(trace, cut=1)
