"""Distillation: the sheet's numbers, its two ends, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.objectives import distill_loss, retain_kl

STUDENT = torch.tensor([1, 1.5, -0.5], dtype=torch.float64)
TEACHER = torch.tensor([2, 1, 0], dtype=torch.float64)


def test_the_numbers_of_the_sheet():
    label = torch.tensor(0)
    soft = distill_loss(STUDENT, TEACHER, 2, 1.0)
    assert soft.item() == pytest.approx(0.226700205, abs=1e-9)
    hard = distill_loss(STUDENT, TEACHER, 2, 0.0, labels=label)
    assert hard.item() == pytest.approx(1.054956920, abs=1e-9)
    mix = distill_loss(STUDENT, TEACHER, labels=label)
    assert mix.item() == pytest.approx(0.640828562, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), T=st.floats(0.3, 5), alpha=st.floats(0, 1))
def test_between_its_two_ends_and_zero_at_the_teacher(seed, T, alpha):
    draw = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, 4, 7, dtype=torch.float64, generator=draw)
    labels = torch.randint(0, 7, (4,), generator=draw)
    soft, hard = distill_loss(s, t, T, 1.0), distill_loss(s, t, T, 0.0, labels=labels)
    mix = distill_loss(s, t, T, alpha, labels=labels)
    torch.testing.assert_close(mix, alpha * soft + (1 - alpha) * hard)
    assert distill_loss(t, t, T, 1.0).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(distill_loss(s, t, 1.0, 1.0), retain_kl(s, t))
    torch.testing.assert_close(hard, torch.nn.functional.cross_entropy(s, labels))
    torch.testing.assert_close(distill_loss(s + 3, t - 1, T, 1.0), soft)


def test_a_top_k_teacher_pulls_its_own_tokens_alone():
    teacher = torch.tensor([[2.0, 1.0, -torch.inf]], dtype=torch.float64)
    student = STUDENT[None].clone().requires_grad_()
    loss = distill_loss(student, teacher, 2, 1.0)
    loss.backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 2] > 0


def test_labels_under_the_mask_may_be_anything():
    s, t = STUDENT.expand(2, 3), TEACHER.expand(2, 3)
    found = distill_loss(s, t, labels=torch.tensor([0, -100]), mask=torch.tensor([1, 0]))
    assert found.item() == pytest.approx(0.640828562, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "without labels"),
        ({"labels": torch.tensor(3)}, "ids below 3"),
        ({"labels": torch.tensor(0.0)}, "integers"),
        ({"labels": torch.tensor([0])}, "integers of shape"),
        ({"labels": torch.tensor(0), "T": 0.0}, "T must be"),
        ({"labels": torch.tensor(0), "alpha": 1.5}, "alpha must be"),
    ],
)
def test_refused(options, told):
    with pytest.raises(nll.BadInput, match=told):
        distill_loss(STUDENT, TEACHER, **options)
    with pytest.raises(nll.BadInput, match="twice"):
        distill_loss(STUDENT, TEACHER[:2], alpha=1.0)
