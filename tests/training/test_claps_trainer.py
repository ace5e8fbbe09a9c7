"""CLAPS on a causal model: its loss by hand, what it trains, what it refuses."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.trainers import ANSWERS, PROMPTS, arguments, logged, model_and_tokenizer

from nll import negatives, objectives
from nll._errors import BadInput
from nll.training import ClapsTrainer

GIVEN = [*ANSWERS[:3], ANSWERS[0]]
ROWS = [{"prompt": p, "completion": a} for p, a in zip(PROMPTS[:4], GIVEN, strict=True)]


def trainer(folder: Path, **options: Any) -> ClapsTrainer:
    model, tokenizer = model_and_tokenizer()
    return ClapsTrainer(
        model, arguments(folder), train_dataset=ROWS, processing_class=tokenizer, **options
    )


def loss(made: ClapsTrainer) -> torch.Tensor:
    batch = made.collated(made.train_dataset)
    found: torch.Tensor = made.compute_loss(made.model, batch)
    return found


def test_the_loss_by_hand(tmp_path: Path) -> None:
    made = trainer(tmp_path, eps_neg=0.5, beta=0.7, relative=True)
    part = made.collated(made.train_dataset)["text"]
    net, ids = made.model, part["input_ids"]
    hidden = net.model(input_ids=ids, attention_mask=part["attention_mask"]).last_hidden_state
    answer = part["completion_mask"].bool()
    labels = torch.where(answer, ids, -100)[:, 1:]
    pool = partial(
        objectives.pool_states, weight=net.claps_projection.weight, bias=net.claps_projection.bias
    )
    head, real = net.lm_head.weight, labels != -100
    source = pool(hidden, part["attention_mask"].bool() & ~answer)
    near = negatives.adversarial_negative(hidden[:, :-1], labels, head, 0.5, relative=True)
    far = negatives.adversarial_positive(
        hidden[:, :-1], labels, head, 3.0, source=source, pool=pool, relative=True, dedupe=True
    )
    logp = torch.log_softmax(hidden[:, :-1] @ head.T, -1)
    logp = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected = objectives.claps_loss(
        logp, source, pool(hidden[:, :-1], real), pool(near, real), pool(far, real), mask=real,
        labels=labels, beta=0.7,
    )  # fmt: skip
    assert torch.allclose(loss(made), expected, rtol=1e-4)


def test_the_whole_model_and_the_projection_are_trained(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    before = copy.deepcopy(made.model.state_dict())
    first = loss(made).detach()
    made.train()
    after = made.model.state_dict()
    assert not torch.equal(before["claps_projection.weight"], after["claps_projection.weight"])
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert loss(made).detach() < first
    assert logged(made, "contrast")[0] > 0


def test_without_adversarial_pairs_and_contrast(tmp_path: Path) -> None:
    plain = trainer(tmp_path, adversarial=False)
    assert loss(plain) < loss(trainer(tmp_path))
    assert loss(trainer(tmp_path, beta=0.0)) < loss(plain)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="adapters"):
        trainer(tmp_path, peft_config=object())
    model, tokenizer = model_and_tokenizer()
    with pytest.raises(BadInput, match="no 'completion'"):
        ClapsTrainer(
            model, arguments(tmp_path), train_dataset=[{"prompt": "a"}], processing_class=tokenizer
        )
