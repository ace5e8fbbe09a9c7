"""Preference losses: the sheets' numbers, how they contain each other, edge cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import objectives as o
from nll._errors import BadInput
from tests.objectives.cases import logps

CHOSEN = ([[-0.4, -0.9]], [[-0.5, -1.0]])
REJECTED = ([[-1, -2.2, -0.3]], [[-0.9, -1.6, -0.35]])
SCORES = [[0.78511980, 0.00602129, 0.83095266]]
IDK = (torch.tensor([-6, -4], dtype=torch.float64), torch.tensor([-7, -5], dtype=torch.float64))
FORGET = (torch.tensor([-3, -9], dtype=torch.float64), torch.tensor([-2, -2], dtype=torch.float64))


def test_critical_tokens() -> None:
    assert o.cdpo_loss(*CHOSEN, *REJECTED, SCORES).item() == pytest.approx(0.3681888184, abs=1e-8)
    soft = o.cdpo_loss(*CHOSEN, *REJECTED, SCORES, gamma=0.1)
    assert soft.item() == pytest.approx(0.6534947698, abs=1e-9)
    zero = o.cdpo_loss(*CHOSEN, *REJECTED, [[0, 0, 0]])
    assert zero.item() == pytest.approx(0.3558650684, abs=1e-9)
    assert zero.item() == o.dpo_loss(*CHOSEN, *REJECTED, beta=1).item()


def test_critical_token_gradients() -> None:
    chosen, rejected = (
        torch.tensor(x[0], dtype=torch.float64).requires_grad_() for x in (CHOSEN, REJECTED)
    )
    o.cdpo_loss(chosen, CHOSEN[1], rejected, REJECTED[1], SCORES).backward()
    assert chosen.grad.tolist() == [pytest.approx([-0.3080134904] * 2, abs=1e-8)]
    expected = [0.0661860, 0.3061589, 0.0520689]
    assert rejected.grad.tolist() == [pytest.approx(expected, abs=1e-7)]


def test_scores_of_one_remove_the_rejected_side() -> None:
    one = o.cdpo_loss(*CHOSEN, *REJECTED, [[1, 1, 1]])
    assert one.item() == pytest.approx(math.log1p(math.exp(-0.2)))
    assert one.item() == pytest.approx(o.cdpo_loss(*CHOSEN, [[]], [[]], [[]]).item())


@pytest.mark.parametrize("beta", [0.1, 1, 7])
def test_at_the_reference_the_loss_is_log_2(beta: float) -> None:
    c, r = logps(1), logps(2)
    scores = logps(3).exp()
    for loss in (
        o.dpo_loss(c, c, r, r, beta=beta),
        o.cdpo_loss(c, c, r, r, scores, gamma=beta),
        o.rpo_loss(c, c, r, r, beta=beta, alpha=0),
    ):
        assert loss.item() == pytest.approx(math.log(2))


def test_unlearning_scale() -> None:
    forget = FORGET[0].clone().requires_grad_()
    loss = o.dpo_loss(*IDK, forget, FORGET[1], beta=0.1, scale=2 / 0.1)
    assert loss.item() == pytest.approx(9.692395353, abs=1e-8)
    loss.backward()
    assert (2 * forget.grad).tolist() == pytest.approx([0.900332005, 0.620051038], abs=1e-8)


def test_kto() -> None:
    loss = o.kto_loss(*FORGET, z=0.05, beta=0.1)
    assert loss.item() == pytest.approx(10.078280539, abs=1e-8)
    assert o.kto_loss(*FORGET).item() == o.npo_loss(*FORGET).item()
    z = o.kto_baseline(*IDK, beta=0.1)
    assert z.item() == pytest.approx(0.1)
    assert not o.kto_baseline(IDK[0].clone().requires_grad_(), IDK[1]).requires_grad


def test_kto_baseline_is_a_constant_of_the_loss() -> None:
    z = torch.tensor(0.05, requires_grad=True)
    loss = o.kto_loss(FORGET[0].clone().requires_grad_(), FORGET[1], z=z)
    loss.backward()
    assert z.grad is None


@given(r=st.floats(-30, 30), z=st.floats(0, 3), beta=st.floats(0.01, 3))
@settings(max_examples=100, deadline=None)
def test_kto_of_judged_answers(r: float, z: float, beta: float) -> None:
    """A good and a bad label of the same answer share 1; the sign of the slope is the label's."""
    s, ref = torch.tensor([r, r], dtype=torch.float64).requires_grad_(), torch.zeros(2).double()
    each = o.kto_unpaired_loss(s, ref, [True, False], z=z, beta=beta, reduction="none")
    assert each.sum().item() == pytest.approx(1)
    each.sum().backward()
    assert s.grad[0] <= 0 <= s.grad[1]


def test_conservative_dpo_has_its_minimum_at_the_smoothed_margin() -> None:
    eps = 0.2
    best = math.log((1 - eps) / eps)
    at = torch.tensor([best / 0.1], dtype=torch.float64).requires_grad_()
    zero = torch.zeros(1).double()
    o.dpo_loss(at, zero, zero, zero, beta=0.1, label_smoothing=eps).backward()
    assert at.grad.item() == pytest.approx(0, abs=1e-12)


def test_rpo_adds_the_nll_of_the_chosen_answer() -> None:
    chosen, ref = [[-1.0, -3.0], [-0.5]], [[-1.0, -3.0], [-0.5]]
    args = (chosen, ref, chosen, ref)
    per_sequence = o.rpo_loss(*args, alpha=2)
    assert per_sequence.item() == pytest.approx(math.log(2) + 2 * (2 + 0.5) / 2)
    over_tokens = o.rpo_loss(*args, alpha=2, token_reduction="token")
    assert over_tokens.item() == pytest.approx(math.log(2) + 2 * 4.5 / 3)
    with pytest.raises(BadInput, match="token_reduction must be"):
        o.rpo_loss(*args, token_reduction="sum")


def test_a_rejected_answer_may_be_longer() -> None:
    first = o.dpo_loss([[-1.0]], [[-1.5]], [[-1.0, -2.0, -1.0]], [[-1.0, -1.0, -1.0]], beta=1)
    assert first.item() == pytest.approx(math.log1p(math.exp(-1.5)))


def test_extreme_margins() -> None:
    zero = torch.zeros(2).double()
    far = torch.tensor([1e5, -1e5], dtype=torch.float64).requires_grad_()
    each = o.dpo_loss(far, zero, zero, zero, beta=1, reduction="none")
    assert each.tolist() == [0, 1e5]
    each.sum().backward()
    assert far.grad.tolist() == [0, -1]


def test_arguments() -> None:
    with pytest.raises(BadInput, match="logp_c has 2 sequences, logp_r 1"):
        o.dpo_loss(*IDK, FORGET[0][:1], FORGET[1][:1])
    with pytest.raises(BadInput, match="logp_c has 2 sequences, ref_c 1"):
        o.dpo_loss(IDK[0], IDK[1][:1], *FORGET)
    with pytest.raises(BadInput, match="label_smoothing must be"):
        o.dpo_loss(*IDK, *FORGET, label_smoothing=0.5)
    with pytest.raises(BadInput, match="scores_r and logp_r must have the same tokens"):
        o.cdpo_loss(*CHOSEN, *REJECTED, [[0.5, 0.5]])
    for function in (o.dpo_loss, o.rpo_loss):
        with pytest.raises(BadInput, match="beta must be positive"):
            function(*CHOSEN, *REJECTED, beta=0)


def test_a_token_without_weight_does_not_count_however_impossible() -> None:
    own = torch.tensor([[-math.inf, -1.0]], dtype=torch.float64, requires_grad=True)
    pair = ([[-1.0]], [[-2.0]])
    loss = o.cdpo_loss(*pair, own, [[-1.0, -0.5]], [[1.0, 0.0]])
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.5)))
    assert own.grad is not None
    assert own.grad.isfinite().all()
    assert own.grad[0, 0] == 0
    never = [[-math.inf, -1.0]]
    assert o.cdpo_loss(*pair, never, never, [[0.0, 0.0]]).item() == 0
