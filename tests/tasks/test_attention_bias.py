"""Negative attention of a real network: the same as from its weights, and ranked."""

from __future__ import annotations

import numpy as np
import pytest

import nll
from nll import scores
from nll.models import attention
from nll.tasks import negative_attention, rank_negative_heads
from nll.testing import random_model

PROMPTS = ["is it so? yes or no?", "no or yes: do we go?", "are you here, yes, no?"]
WORDS = {"yes": "yes", "no": "no"}


@pytest.fixture(scope="module")
def model():
    return random_model(seed=5, layers=2)


def test_scores_are_those_of_the_weights(model):
    found = negative_attention(model, PROMPTS, **WORDS)
    assert found.shape == (3, 2, 4)
    seen = attention(model, PROMPTS[1])
    no, yes = PROMPTS[1].index("no"), PROMPTS[1].index("yes")
    for layer in range(2):
        for head in range(4):
            rows = seen.weights[layer, head, max(yes, no) + 1 :].astype(float)
            by_hand = sum(
                (r[yes] + r[no]) * np.log((r[no] + 1e-12) / (r[yes] + 1e-12)) for r in rows
            )
            assert found[1, layer, head] == pytest.approx(by_hand, abs=1e-9)


def test_swapping_the_roles_swaps_the_sign(model):
    found = negative_attention(model, PROMPTS, **WORDS)
    swapped = negative_attention(model, PROMPTS, yes="no", no="yes")
    np.testing.assert_allclose(found, -swapped, atol=1e-9)


def test_heads_are_ranked_by_their_mean(model):
    ranked = rank_negative_heads(model, PROMPTS, **WORDS)
    assert len(ranked) == 8
    values = [h.score for h in ranked]
    assert values == sorted(values, reverse=True)
    assert ranked == scores.rank_negative_heads(negative_attention(model, PROMPTS, **WORDS))


def test_refusals(model):
    with pytest.raises(nll.BadInput, match="at least one prompt"):
        negative_attention(model, [])
    with pytest.raises(nll.BadInput, match="lists no candidates"):
        negative_attention(model, ["is it so?"], **WORDS)
