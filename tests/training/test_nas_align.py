"""Tuning heads away from "no": what is changed, what is left, and when it is undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.tiny import tiny

import nll
from nll.tasks import rank_negative_heads
from nll.testing import random_model, table_model
from nll.training import nas_align

WORDS = {"yes": "yes", "no": "no"}
ITEMS = [
    (f"is {name} here? yes or no?", i % 2 == 0) for i, name in enumerate(["ann", "bob", "cy", "di"])
]


def changed(model, tuned):
    before, after = model.network.hf.state_dict(), tuned.network.hf.state_dict()
    return {
        name: torch.nonzero((before[name] != after[name]).any(dim=-1)).flatten().tolist()
        for name in before
        if not torch.equal(before[name], after[name])
    }


@pytest.fixture(scope="module")
def model():
    return random_model(seed=5, width=32)


def test_only_the_slices_of_the_chosen_heads_move(model):
    found = nas_align(model, ITEMS, ITEMS, top_k=1, lr=1e-2, max_steps=3, **WORDS)
    (head,) = found.heads
    first = rank_negative_heads(model, [p for p, _ in ITEMS], **WORDS)[0]
    assert (head.layer, head.head) == (first.layer, first.head)
    assert head.before == pytest.approx(first.score, abs=1e-9)
    assert head.kept
    assert head.loss_after <= head.loss_before
    rows = set(range(8 * head.head, 8 * head.head + 8))
    moved = changed(model, found.model)
    prefix = f"model.layers.{head.layer}.self_attn"
    assert set(moved) == {f"{prefix}.q_proj.weight", f"{prefix}.k_proj.weight"}
    assert all(set(m) <= rows for m in moved.values())


def test_it_stops_once_the_score_is_no_longer_positive(model):
    found = nas_align(model, ITEMS, ITEMS, top_k=2, lr=0.1, max_steps=60, **WORDS)
    for head in found.heads:
        assert head.steps <= 60
        assert head.steps == 60 or head.after <= 0
    assert min(h.steps for h in found.heads) >= 1


def test_a_head_that_makes_validation_worse_goes_back():
    model = tiny("llama")
    kept, undone = (
        nas_align(model, ITEMS, [held], top_k=1, lr=0.5, max_steps=5, **WORDS)
        for held in (ITEMS[1], ITEMS[0])
    )
    assert kept.heads[0].kept
    assert kept.heads[0].loss_after < kept.heads[0].loss_before
    assert changed(model, kept.model)
    assert not undone.heads[0].kept
    assert undone.heads[0].loss_after > undone.heads[0].loss_before
    assert changed(model, undone.model) == {}


def test_the_same_seed_gives_the_same_weights_and_the_model_is_left_alone(model):
    kept = {k: v.clone() for k, v in model.network.hf.state_dict().items()}
    runs = [
        nas_align(model, ITEMS, ITEMS, top_k=1, max_steps=2, batch_size=2, seed=4, **WORDS)
        for _ in range(2)
    ]
    assert changed(runs[0].model, runs[1].model) == {}
    assert all(torch.equal(v, kept[k]) for k, v in model.network.hf.state_dict().items())
    (trace,) = runs[0].model.trace(["is it so?"])
    assert np.isfinite(trace.values("logp")).all()


def test_grouped_keys_belong_to_the_group(model):
    grouped = tiny("llama")  # four heads, two key groups of 8 rows
    found = nas_align(grouped, ITEMS, ITEMS, top_k=1, lr=1e-3, max_steps=1, **WORDS)
    (head,) = found.heads
    moved = changed(grouped, found.model)
    key = moved.get(f"model.layers.{head.layer}.self_attn.k_proj.weight", [])
    group = head.head // 2
    assert set(key) <= set(range(8 * group, 8 * group + 8))


def test_refusals(model):
    for call in (
        lambda: nas_align(model, ITEMS[:3], ITEMS, **WORDS),
        lambda: nas_align(model, [], ITEMS, **WORDS),
        lambda: nas_align(model, ITEMS, [], **WORDS),
        lambda: nas_align(model, ITEMS, ITEMS, top_k=0, **WORDS),
        lambda: nas_align(object(), ITEMS, ITEMS, **WORDS),
        lambda: nas_align(model, [("is it?", True), ("is he?", False)], ITEMS, **WORDS),
    ):
        with pytest.raises(nll.BadInput):
            call()
    with pytest.raises(nll.BadModel):
        nas_align(tiny("gpt2"), ITEMS, ITEMS, max_steps=1, **WORDS)
    with pytest.raises(nll.BadModel):
        nas_align(table_model(), ITEMS, ITEMS, **WORDS)
