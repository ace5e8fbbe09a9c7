"""Advantages within groups, the clipped loss, ResRL's residual weights (arXiv 2605.00380)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nll._errors import BadInput
from nll.objectives import (
    clipped_policy_loss,
    grpo_advantages,
    head_gradient_inner,
    length_scaled_reward,
    likelihood_displacement,
    nsr_advantages,
    positive_subspace,
    projection_residual,
    residual_token_weights,
    resrl_advantages,
)

POS = [[1, 0, 0, 0], [2, 0, 0.1, 0], [3, 0.1, 0, 0], [1.5, 0, 0, 0.2], [2.5, -0.1, 0.1, 0]]
NEG = [[2, 0, 0, 0], [0, 2, 0, 0], [1, 1, 0, 0], [0, 0, -1, 1], [2, 0.3, 0, -0.1]]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_oracle_advantages() -> None:
    assert grpo_advantages([1, 1, 0, 0]).tolist() == pytest.approx(
        [0.8660239, 0.8660239, -0.8660239, -0.8660239], abs=1e-7
    )
    one = grpo_advantages([1.0, 0, 0, 0]).tolist()
    assert one == pytest.approx([1.499997, -0.499999, -0.499999, -0.499999], abs=1e-6)
    assert nsr_advantages([1, 1, 0, 0]).tolist() == [0, 0, -1, -1]
    assert nsr_advantages([1, 1, 0, 0], mode="psr").tolist() == [1, 1, 0, 0]
    weighted = nsr_advantages([1, 1, 0, 0], mode="w_reinforce").tolist()
    assert weighted == pytest.approx([0.1, 0.1, -1, -1])
    assert nsr_advantages([1, -1]).tolist() == nsr_advantages([1, 0]).tolist()


def test_groups_are_normalised_apart() -> None:
    reward = torch.tensor([1.0, 0, 5, 7, 2])
    group = torch.tensor([3, 3, 1, 1, 8])
    found = grpo_advantages(reward, group)
    assert found[:2].tolist() == grpo_advantages(reward[:2]).tolist()
    assert found[2:4].tolist() == grpo_advantages(reward[2:4]).tolist()
    assert found[4].item() == pytest.approx(2.0, abs=1e-5)  # a group of one


def test_equal_rewards_teach_nothing_and_unscored_answers_do_not_count() -> None:
    assert grpo_advantages([0.5, 0.5]).tolist() == [0, 0]
    found = grpo_advantages([1.0, float("nan"), 0.0])
    assert found[1] == 0
    assert found[[0, 2]].tolist() == grpo_advantages([1.0, 0.0]).tolist()


@pytest.mark.parametrize(
    ("tokens", "factor"), [(10, 1), (3500, 1), (3798, 0.85), (4096, 0.7), (9999, 0.7)]
)
def test_length_factor(tokens: int, factor: float) -> None:
    found = length_scaled_reward([2.0, -2.0, 0.0], [tokens] * 3).tolist()
    assert found == pytest.approx([2 * factor, -2, 0])


PPO = {
    "logp": torch.tensor([-1, -0.5, -3, -0.1], dtype=torch.float64),
    "old_logp": torch.tensor([-1.2, -1, -1, -2], dtype=torch.float64),
    "adv": torch.tensor([1.0, -1, 1, -1], dtype=torch.float64),
}
TERMS = [-1.2, 1.64872127, -0.13533528, 3.0]


def test_oracle_clipped_terms() -> None:
    found = clipped_policy_loss(**PPO, dual_clip=3.0, reduction="none")
    assert found.tolist() == pytest.approx(TERMS, abs=1e-8)
    column = {k: v[:, None] for k, v in PPO.items()}
    found = clipped_policy_loss(**column, dual_clip=3.0, token_reduction="token", reduction="none")
    assert found[:, 0].tolist() == pytest.approx(TERMS, abs=1e-8)
    mean = clipped_policy_loss(**PPO, dual_clip=3.0).item()
    assert mean == pytest.approx(np.mean(TERMS), abs=1e-8)


def test_without_dual_clip_a_wrong_answer_grown_likely_is_unbounded() -> None:
    found = clipped_policy_loss(**PPO, reduction="none")[3].item()
    assert found == pytest.approx(math.exp(1.9))


def test_sequence_and_token_means_weigh_lengths_differently() -> None:
    logp = torch.tensor([[-1.0, -1, -1], [-1, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    adv = torch.tensor([1.0, -2.0])
    args = (logp, logp.clone(), adv, mask)
    assert clipped_policy_loss(*args).item() == pytest.approx(0.5)
    assert clipped_policy_loss(*args, token_reduction="token").item() == pytest.approx(-0.25)


@given(st.floats(-3, -0.01), st.floats(-3, -0.01), st.floats(-2, 2))
@settings(max_examples=100, deadline=None)
def test_the_clipped_loss_is_never_below_the_plain_one(own, old, adv) -> None:
    loss = clipped_policy_loss([[own]], [[old]], [adv]).item()
    assert loss >= -adv * math.exp(own - old) - 1e-12


@pytest.mark.parametrize("gap", [2000.0, -2000.0])
@pytest.mark.parametrize("dual", [None, 3.0])
def test_a_ratio_without_bounds_that_is_cut_off_has_no_gradient(gap: float, dual) -> None:
    own = torch.tensor([[gap, -1.0]], dtype=torch.float64, requires_grad=True)
    for sign in (1.0, -1.0, 0.0):
        loss = clipped_policy_loss(
            own, torch.tensor([[0.0, -1.0]]), torch.tensor([[sign, 1.0]]), dual_clip=dual
        )
        (slope,) = torch.autograd.grad(loss, own)
        if sign < 0 and gap > 0 and dual is None:
            assert loss == math.inf
            continue
        expected = {1.0: -min(math.exp(min(gap, 1)), 1.2), 0.0: 0.0, -1.0: 0.8 if gap < 0 else 3.0}
        assert loss.item() == pytest.approx((expected[sign] - 1) / 2)
        assert slope.tolist() == [[0, -0.5]]


def test_on_the_old_policy_the_gradient_is_the_policy_gradient() -> None:
    logp = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]], requires_grad=True)
    clipped_policy_loss(logp, logp.detach(), [1.0, -0.5]).backward()
    assert logp.grad.flatten().tolist() == pytest.approx([-0.25, -0.25, 0.125, 0.125])


def test_oracle_residual_weights() -> None:
    singular = positive_subspace(
        torch.nn.functional.layer_norm(torch.tensor(POS, dtype=torch.float64), (4,)), rank=4
    ).singular
    assert singular[:3].tolist() == pytest.approx([0.25765187, 0.14308072, 0.00294341], abs=1e-8)
    pos, neg = (
        torch.nn.functional.layer_norm(torch.tensor(x, dtype=torch.float64), (4,))
        for x in (POS, NEG)
    )
    residual = projection_residual(neg, positive_subspace(pos, rank=1))
    wanted = [0.00035533, 2.63240371, 0.80780976, 1.02888411, 0.02682651]
    assert residual.tolist() == pytest.approx(wanted, abs=1e-8)
    assert residual_token_weights(POS, NEG, rank=1).tolist() == pytest.approx(
        [0.1, 1, 0.63284641, 0.78266460, 0.10358781], abs=1e-8
    )
    assert residual_token_weights(POS, NEG, rank=2).tolist() == pytest.approx(
        [0.1, 1, 0.26724972, 0.84469128, 0.10008117], abs=1e-8
    )
    assert residual_token_weights(POS, NEG, rank=1, layer_norm=False).tolist() == pytest.approx(
        [0.1, 1, 0.49848380, 0.79990356, 0.10898149], abs=1e-8
    )
    assert residual_token_weights(POS, [NEG[0]] * 4, rank=1).tolist() == pytest.approx([0.55] * 4)
    assert residual_token_weights(POS[:3], NEG).tolist() == [1] * 5


def test_a_subspace_that_holds_everything_leaves_flat_weights() -> None:
    weights = residual_token_weights(normal(1, 20, 4), normal(2, 9, 4), rank=4, layer_norm=False)
    assert weights.tolist() == pytest.approx([0.55] * 9)


@given(st.integers(0, 99), st.integers(4, 30), st.integers(1, 12), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_weights_are_shares_and_do_not_depend_on_rotation(seed, m, n, rank) -> None:
    pos, neg = normal(seed, m, 6), normal(seed + 1, n, 6)
    turn, _ = torch.linalg.qr(normal(seed + 2, 6, 6))
    found = residual_token_weights(pos, neg, rank=rank, layer_norm=False)
    turned = residual_token_weights(pos @ turn, neg @ turn, rank=rank, layer_norm=False)
    assert ((found >= 0.1 - 1e-12) & (found <= 1 + 1e-12)).all()
    torch.testing.assert_close(found, turned, atol=1e-6, rtol=0)


@given(st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_bound_on_the_inner_product(seed: int) -> None:
    space = positive_subspace(normal(seed, 12, 6), rank=3)
    a, b = normal(seed + 1, 2, 6)
    e_a, e_b = (projection_residual((x + space.mean)[None], space).item() for x in (a, b))
    inside = (space.basis.T @ b).norm().item()
    near = math.sqrt(max(a.square().sum().item() - 6 * e_a, 0))
    bound = inside * near + a.norm().item() * math.sqrt(6 * e_b)
    assert abs((a @ b).item()) <= bound + 1e-9


def test_a_random_subset_is_drawn_from_many_positives() -> None:
    pos, neg = normal(1, 50, 4), normal(2, 9, 4)
    drawn = [
        residual_token_weights(
            pos, neg, rank=2, max_pos=10, generator=torch.Generator().manual_seed(s)
        )
        for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def groups() -> dict[str, torch.Tensor]:
    return {
        "reward": torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64),
        "group": torch.tensor([0, 0, 0, 1, 1]),
        "hidden": normal(1, 5, 6, 8),
        "mask": torch.arange(6)[None] < torch.tensor([5, 4, 6, 3, 3])[:, None],
    }


def test_token_advantages() -> None:
    given = groups()
    adv = grpo_advantages(given["reward"], given["group"])
    found = resrl_advantages(**given, rank=3)
    mask, hidden = given["mask"], given["hidden"]
    assert (found[~mask] == 0).all()
    assert found[0][mask[0]].tolist() == pytest.approx([0.1 * adv[0].item()] * 5)
    wrong = torch.cat([hidden[1][mask[1]], hidden[2][mask[2]]])
    weight = residual_token_weights(hidden[0][mask[0]], wrong, rank=3)
    shown = torch.cat([found[1][mask[1]], found[2][mask[2]]])
    torch.testing.assert_close(shown, weight * torch.tensor([adv[1]] * 4 + [adv[2]] * 6))
    assert (found[3:] == 0).all()  # all wrong: no advantage


def test_what_lies_under_the_mask_does_not_matter() -> None:
    given = groups()
    before = resrl_advantages(**given, rank=3)
    given["hidden"][~given["mask"]] = float("nan")
    torch.testing.assert_close(resrl_advantages(**given, rank=3), before)


def test_positive_by_score_or_by_advantage() -> None:
    given = groups()
    given["reward"] = torch.tensor([1.0, 0.1, 0, 0, 0], dtype=torch.float64)
    adv = grpo_advantages(given["reward"], given["group"])
    assert adv[1] < 0
    score = resrl_advantages(**given, rank=3)
    paper = resrl_advantages(**given, rank=3, positive="advantage")
    assert score[1][given["mask"][1]].tolist() == pytest.approx([0.1 * adv[1].item()] * 4)
    assert not torch.allclose(score[1], paper[1])


def test_oracle_gradient_of_the_unembedding() -> None:
    W = torch.tensor([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.2]], dtype=torch.float64)
    x1, x2 = torch.tensor([[1, 0.5], [0.8, -1]], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    d1 = torch.softmax(W @ x1, 0) - eye[0]
    d2 = torch.softmax(W @ x2, 0) - eye[2]
    assert (d1 @ d2).item() == pytest.approx(-0.4066379108, abs=1e-10)
    inner = head_gradient_inner(d1, d2, x1, x2)
    assert inner.item() == pytest.approx(-0.1219913733, abs=1e-10)
    assert inner.item() == pytest.approx((torch.outer(d1, x1) * torch.outer(d2, x2)).sum().item())

    first_order = likelihood_displacement(
        -d1[None], x1[None], -d2[None], x2[None], [-1.0], lr=1e-4
    ).item()
    assert first_order == pytest.approx(1.2199137e-5, abs=1e-12)
    moved = W - 1e-4 * torch.outer(-d2, x2)  # one step of descent on A * nll with A = -1
    exact = torch.log_softmax(moved @ x1, 0)[0] - torch.log_softmax(W @ x1, 0)[0]
    assert exact.item() == pytest.approx(1.2199014e-5, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: nsr_advantages([1], mode="ppo"), "mode must be"),
        (lambda: grpo_advantages([[1.0]]), "reward must be"),
        (lambda: grpo_advantages([1.0], [1, 2]), "group 2"),
        (lambda: length_scaled_reward([1.0], [1], start=9, end=9), "below end"),
        (lambda: clipped_policy_loss([[-1.0]], [[-1.0]], [1.0], dual_clip=1.0), "dual_clip"),
        (lambda: clipped_policy_loss([[-1.0]], [[-1.0]], [[1.0, 2.0]]), "adv has shape"),
        (lambda: positive_subspace([[1.0, 2.0]]), "two states"),
        (lambda: positive_subspace(POS, rank=0), "rank must be"),
        (lambda: residual_token_weights(POS, [[1.0]]), "width"),
        (lambda: residual_token_weights(POS, NEG, q=(0.8, 0.2)), "q must rise"),
        (lambda: resrl_advantages(**groups(), positive="both"), "score or advantage"),
        (lambda: resrl_advantages(**{**groups(), "hidden": normal(1, 5, 6)}), "hidden must be"),
    ],
)
def test_what_cannot_be_is_told(call, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call()


def test_equal_rewards_are_equal_in_every_precision() -> None:
    for reward in (torch.full((3,), 0.7), torch.full((3,), 0.1, dtype=torch.float64)):
        assert grpo_advantages(reward).tolist() == [0, 0, 0]


def test_weights_are_those_given_to_the_last_digit() -> None:
    right = torch.tensor([1.0, 0, math.nan], dtype=torch.float64)
    assert nsr_advantages(right, mode="w_reinforce").tolist() == [0.1, -1, 0]
    assert nsr_advantages(right, mode="nsr").tolist() == [0, -1, 0]


def test_an_answer_that_cannot_be_judged_is_no_negative() -> None:
    hidden, mask = normal(4, 5, 3, 6), torch.ones(5, 3)
    reward = torch.tensor([1.0, 1, 0, 0, math.nan])
    found = resrl_advantages(reward, torch.zeros(5, dtype=torch.long), hidden, mask, rank=2)
    alone = resrl_advantages(
        reward[:4], torch.zeros(4, dtype=torch.long), hidden[:4], mask[:4], rank=2
    )
    assert torch.equal(found[:4], alone)
    assert (found[4] == 0).all()
