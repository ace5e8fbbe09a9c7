"""Continued training makes its texts likelier, leaves the model before alone, and repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tests.models.tiny import tiny

from nll import BadInput
from nll.testing import table_model
from nll.training import finetune_causal

TEXTS = ["the cat sat on the mat", "a dog, a cat", "on the mat sat a dog"]


def mean(model, texts):
    return np.mean([t.values("logp").mean() for t in model.trace(texts)])


def test_texts_trained_on_become_likelier_and_the_base_stays() -> None:
    base = tiny("llama")
    before = mean(base, TEXTS)
    losses = []
    tuned = finetune_causal(
        base,
        TEXTS,
        epochs=8,
        lr=5e-3,
        batch_size=2,
        after_epoch=lambda _, loss: losses.append(loss),
    )
    assert mean(base, TEXTS) == before
    assert mean(tuned, TEXTS) > before + 0.5
    assert losses[-1] < losses[0]
    assert tuned.provenance.weights != base.provenance.weights


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two, other = (
        finetune_causal(tiny("llama"), TEXTS, lr=1e-3, batch_size=1, seed=s) for s in (1, 1, 2)
    )
    assert one.provenance.weights == two.provenance.weights != other.provenance.weights


def test_adapters_train_the_named_projections_alone() -> None:
    base = tiny("llama")
    before = mean(base, TEXTS)
    options = {"epochs": 8, "lr": 2e-2, "batch_size": 2}
    tuned, again = (finetune_causal(base, TEXTS, lora=4, **options) for _ in range(2))
    assert mean(base, TEXTS) == before
    assert mean(tuned, TEXTS) > before + 0.05
    assert tuned.provenance.weights == again.provenance.weights
    old, new = (dict(m.network.hf.named_parameters()) for m in (base, tuned))
    assert old.keys() == new.keys()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    assert all("q_proj" in name or "v_proj" in name for name in moved)


def test_adapters_as_peft_describes_them() -> None:
    config = LoraConfig(r=2, target_modules=["down_proj"], task_type="CAUSAL_LM")
    base = tiny("llama")
    tuned = finetune_causal(base, TEXTS, lora=config, lr=1e-2)
    old, new = (dict(m.network.hf.named_parameters()) for m in (base, tuned))
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    assert all("down_proj" in name for name in moved)


def test_adapters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="1 or more"):
        finetune_causal(tiny("llama"), TEXTS, lora=0)
    with pytest.raises(BadInput, match="cannot take the adapters"):
        finetune_causal(table_model(), TEXTS, lora=2)


def test_the_loss_is_the_mean_nll_of_the_traced_tokens() -> None:
    """One batch, learning rate 0: what it reports is what a trace says, padding left out."""
    base = tiny("llama")
    heard = []
    finetune_causal(
        base, TEXTS, lr=0.0, weight_decay=0.0, after_epoch=lambda _, loss: heard.append(loss)
    )
    nll = np.concatenate([-t.values("logp") for t in base.trace(TEXTS)])
    assert heard[0] == pytest.approx(nll.mean(), abs=1e-4)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(BadInput, match="no text has two tokens"):
        finetune_causal(table_model(), ["a"])
    assert torch.is_grad_enabled()
