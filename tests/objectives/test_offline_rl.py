"""A-LoL and its relatives (arXiv 2305.14718)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import objectives
from nll._errors import BadInput
from nll.objectives import (
    a_lol_loss,
    advantage,
    advantage_priority_weights,
    importance_ratio,
    nll_loss,
    r_lol_loss,
    reward_gold_loss,
    weighted_bc_loss,
)

LOGP = [[-0.5, -1.0, -0.2], [-2.0, -0.3], [-0.1]]
REF = [[-0.7, -1.5, -0.2], [-0.5, -0.3], [-3.0]]
R, V = [0.9, 0.4, 0.7], [0.5, 0.6, 0.3]


def tensors(rows: list[list[float]]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in rows]


def test_oracle_ratios() -> None:
    assert advantage(R, V).tolist() == pytest.approx([0.4, 0, 0.4])
    rho = importance_ratio(LOGP, REF)
    assert rho.tolist() == pytest.approx([2.0137527075, 0.2231301601, 18.1741453694], abs=1e-9)
    clipped = importance_ratio(LOGP, REF, clip=0.9)
    assert clipped.tolist() == pytest.approx([1.9, 0.2231301601, 1.9], abs=1e-9)


LOSSES = {
    "nll": (lambda y: nll_loss(y, token_reduction="sum"), 1.366666667),
    "wbc": (lambda y: weighted_bc_loss(y, R), 0.84),
    "r_gold": (lambda y: reward_gold_loss(y, R), 0.337302287),
    "r_lol": (lambda y: r_lol_loss(y, REF, R), 1.081759916),
    "a_lol": (lambda y: a_lol_loss(y, REF, R, V), 0.456),
    "ref_free": (lambda y: a_lol_loss(y, REF, R, V, variant="ref_free"), 0.24),
    "seq": (lambda y: a_lol_loss(y, REF, R, V, variant="seq"), 0.353256353),
    "kl": (lambda y: a_lol_loss(y, REF, R, V, variant="kl", kl_beta=0.1), 0.31),
}


@pytest.mark.parametrize("name", LOSSES)
def test_oracle_losses(name: str) -> None:
    loss, wanted = LOSSES[name]
    assert loss(LOGP).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("r_lol", [1.71, 0.0892520641, 1.33]),
        ("a_lol", [0.76, 0, 0.76]),
        ("kl", [0.3, -0.1, 0.3]),
    ],
)
def test_oracle_gradients(name: str, weights: list[float]) -> None:
    rows = tensors(LOGP)
    LOSSES[name][0](rows).backward()
    for row, c in zip(rows, weights, strict=True):
        assert row.grad.tolist() == pytest.approx([-c / 3] * len(row), abs=1e-9)


def test_oracle_priority() -> None:
    given = [0.4, -0.2, 0.1, 0, 0.5]
    assert advantage_priority_weights(given).tolist() == pytest.approx([0.4, 0, 0.1, 0, 0.5])


@pytest.mark.parametrize("gains", [[0.0, -1.0], [], [float("nan"), 1.0]])
def test_priority_needs_a_positive_advantage(gains: list[float]) -> None:
    with pytest.raises(BadInput, match=r"nothing to train on|nan"):
        advantage_priority_weights(gains)


numbers = st.floats(-5, -0.01)
batches = st.lists(st.lists(numbers, min_size=1, max_size=5), min_size=1, max_size=4)


@given(batches, st.floats(0.0, 2.0))
@settings(max_examples=50, deadline=None)
def test_on_the_reference_every_clipped_variant_is_ref_free(rows, clip: float) -> None:
    reward, value = [0.9] * len(rows), [0.2] * len(rows)
    seen = []
    for options in ({"variant": "ref_free"}, {"clip": clip}, {"variant": "seq", "clip": clip}):
        leaves = tensors(rows)
        loss = a_lol_loss(leaves, rows, reward, value, **options)
        loss.backward()
        seen.append([loss.item(), *(g for leaf in leaves for g in leaf.grad.tolist())])
    assert seen[1] == pytest.approx(seen[0])
    assert seen[2] == pytest.approx(seen[0])


@given(batches)
@settings(max_examples=50, deadline=None)
def test_constant_rewards_scale_the_nll(rows) -> None:
    plain = nll_loss(rows, token_reduction="sum").item()
    assert weighted_bc_loss(rows, [0.3] * len(rows)).item() == pytest.approx(0.3 * plain)
    sums = [sum(row) for row in rows]
    assert weighted_bc_loss(sums, [0.3] * len(rows)).item() == pytest.approx(0.3 * plain)


@given(st.floats(-5, -0.01), st.floats(-5, -0.01))
@settings(max_examples=50, deadline=None)
def test_one_token_without_clip_is_seq(own: float, ref: float) -> None:
    args = ([[own]], [[ref]], [0.8], [0.1])
    one = a_lol_loss(*args, clip=None).item()
    assert one == pytest.approx(a_lol_loss(*args, clip=None, variant="seq").item())


def test_not_better_than_the_reference_is_dropped() -> None:
    rows = tensors(LOGP)
    a_lol_loss(rows, REF, [0.1, 0.2, 0.9], [0.5, 0.2, 0.4]).backward()
    assert rows[0].grad.abs().sum() == rows[1].grad.abs().sum() == 0
    assert rows[2].grad.abs().sum() > 0


def test_a_huge_ratio_is_clipped_before_exp() -> None:
    far = importance_ratio([[-1.0]], [[-2000.0]], clip=0.9)
    assert far.item() == pytest.approx(1.9)
    assert importance_ratio([[-2000.0]], [[-1.0]], clip=0.9).item() == pytest.approx(0.1)
    assert importance_ratio([[-2000.0]], [[-1.0]], clip=1.5).item() == 0


def test_masked_tokens_do_not_count_in_seq() -> None:
    logp = torch.tensor([[-0.5, -1.0, float("nan")]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0]])
    ref = torch.tensor([[-0.6, -1.5, 3.0]], dtype=torch.float64)
    alone = a_lol_loss([[-0.5, -1.0]], [[-0.6, -1.5]], [0.9], [0.1], variant="seq")
    masked = a_lol_loss(logp, ref, [0.9], [0.1], mask=mask, variant="seq")
    assert masked.item() == pytest.approx(alone.item())
    token = importance_ratio(logp, ref, mask=mask, level="token")
    assert token[0, 2] == 1


def test_rows_without_a_reward_are_left_out_and_told() -> None:
    with pytest.warns(UserWarning, match="1 of 3 rows have no reward"):
        loss = weighted_bc_loss(LOGP, [0.9, float("nan"), 0.7])
    assert loss.item() == pytest.approx((0.9 * 1.7 + 0.7 * 0.1) / 2)


def test_an_impossible_answer_of_no_weight_adds_nothing() -> None:
    loss = a_lol_loss([[-float("inf")], [-1.0]], [[-1.0], [-1.0]], [0.1, 0.9], [0.5, 0.5])
    assert loss.item() == pytest.approx(0.2)


def test_an_impossible_answer_is_pushed_as_its_advantage_says() -> None:
    never, ref = [[-float("inf")]], [[-1.0]]
    for reward, infinite in ((0.9, float("inf")), (0.55, -float("inf"))):
        loss = a_lol_loss(never, ref, [reward], [0.5], variant="kl", kl_beta=0.1)
        assert loss.item() == infinite


def test_an_empty_answer_adds_nothing() -> None:
    both = weighted_bc_loss([torch.tensor([-1.0, -1.0]), torch.tensor([])], [0.5, 0.9])
    assert both.item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: a_lol_loss(LOGP, REF, R, V, variant="ppo"), "variant must be"),
        (lambda: a_lol_loss(LOGP, REF, R, V, kl_beta=0.1), "goes with variant='kl'"),
        (lambda: a_lol_loss(LOGP, REF, R[:2], V), "sequences"),
        (lambda: a_lol_loss(LOGP, REF[:2], R, V), "logp has 3 sequences, ref_logp 2"),
        (lambda: a_lol_loss([-1.0, -2.0], REF, R, V), "must hold tokens"),
        (lambda: r_lol_loss(LOGP, REF, [R]), "reward must be"),
        (lambda: r_lol_loss(LOGP, REF, R, clip=-1.0), "clip must be"),
        (lambda: reward_gold_loss(LOGP, R, floor=2.0), "floor is a probability"),
        (lambda: importance_ratio(LOGP, REF, level="text"), "level must be"),
    ],
)
def test_what_cannot_be_is_told(call, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call()


def test_all_are_declared() -> None:
    for name in ("weighted_bc_loss", "reward_gold_loss", "r_lol_loss", "a_lol_loss"):
        assert objectives.objectives()[name].paper == "2305.14718"
