"""The value head of A-LoL."""

from __future__ import annotations

import pytest
import torch

from nll._errors import BadInput
from nll.objectives import SequenceValueHead, fit_value_head


def prompts(n: int = 120) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States whose first feature says the reward, of ragged lengths."""
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(n, 6, 16, generator=draw)
    reward = torch.rand(n, generator=draw)
    states[..., 0] = 4 * (reward[:, None] - 0.5)
    mask = torch.arange(6)[None] < torch.randint(1, 7, (n, 1), generator=draw)
    return states, reward, mask


def test_it_learns_what_the_states_say() -> None:
    states, reward, mask = prompts()
    head = fit_value_head(states, reward, mask=mask, lr=1e-2, epochs=30, heads=4)
    error = (head(states, mask) - reward).square().mean()
    assert error < 0.3 * reward.var()
    assert not head.training
    assert not any(p.requires_grad for p in head.parameters())


def test_the_same_seed_gives_the_same_head_and_leaves_the_generator_alone() -> None:
    states, reward, mask = prompts(20)
    before = torch.get_rng_state()
    a, b = (fit_value_head(states, reward, mask=mask, heads=4, seed=3) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a(states, mask), b(states, mask))


def test_padding_is_not_looked_at_and_values_stay_on_the_scale() -> None:
    states, _, mask = prompts(8)
    head = SequenceValueHead(16, max_value=5.0, heads=4).eval()
    value = head(states, mask)
    assert ((value > 0) & (value < 5)).all()
    other = torch.where(mask[..., None], states, torch.nan)
    torch.testing.assert_close(head(other, mask), value)


def test_several_answers_give_their_mean() -> None:
    states, reward, mask = prompts(20)
    both = torch.stack([reward, 1 - reward], 1)
    one = fit_value_head(states, torch.full((20,), 0.5), mask=mask, heads=4)
    two = fit_value_head(states, both, mask=mask, heads=4)
    torch.testing.assert_close(one(states, mask), two(states, mask))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SequenceValueHead(10, heads=4), "no multiple"),
        (lambda: fit_value_head(torch.ones(2, 3, 8), [0.5, 1.5]), r"rewards must lie in \[0"),
        (lambda: fit_value_head(torch.ones(2, 3, 8), [0.5]), "one for each of 1"),
        (
            lambda: SequenceValueHead(8)(torch.ones(1, 2, 8), torch.zeros(1, 2)),
            "without tokens has no value",
        ),
    ],
)
def test_what_cannot_be_is_told(call, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call()


def test_prompts_without_a_reward_are_left_out() -> None:
    states, reward, mask = prompts(20)
    unknown = torch.where(torch.arange(20) < 5, torch.nan, reward)
    with pytest.warns(UserWarning, match="5 of 20 prompts have no reward"):
        found = fit_value_head(states, unknown, mask=mask, heads=4)
    alone = fit_value_head(states[5:], reward[5:], mask=mask[5:], heads=4)
    assert torch.equal(found(states, mask), alone(states, mask))
    several = torch.stack([reward, torch.full((20,), torch.nan)], -1)
    same = fit_value_head(states, reward, mask=mask, heads=4)
    assert torch.equal(fit_value_head(states, several, mask=mask, heads=4)(states), same(states))
    with (
        pytest.warns(UserWarning, match="no reward"),
        pytest.raises(BadInput, match="no prompt has a reward"),
    ):
        fit_value_head(states[:1], [float("nan")], heads=4)


def test_states_in_half_precision_are_read_in_float32() -> None:
    states, reward, mask = prompts(20)
    head = fit_value_head(states.bfloat16(), reward, mask=mask, heads=4)
    assert head.query.dtype == torch.float32
    torch.testing.assert_close(head(states.bfloat16(), mask), head(states.bfloat16().float(), mask))
