"""The driver on a problem small enough to be known: what helps is selected and lowers J."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nll import BadInput
from nll.negatives import U2A, alignment_gain, mirror_ascent_step

GOAL = torch.tensor([1.0, -1], dtype=torch.float64)
G = torch.tensor([[1.0, 0], [0, -1], [1, 1], [-1, 0]], dtype=torch.float64)


def problem(pairs: int = 3, ways: torch.Tensor = G):
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def outer(indices):
        gap = 0.5 * (theta - GOAL).square().sum()
        return torch.stack([gap * (1 + 0.1 * i) for i in indices])

    def inner(indices):
        return ways[list(indices)] @ theta

    return theta, outer, inner, {"pairs": pairs, "negatives": len(ways)}


@pytest.mark.parametrize("curvature", ["identity", "diag", "cg"])
def test_what_helps_is_selected_and_lowers_j(curvature):
    theta, outer, inner, sizes = problem()
    driver = U2A(lr=0.01, epochs=5, batch=2, lam=0.1, curvature=curvature)
    found = driver.run([theta], outer, inner, **sizes)
    # grad J at 0 is -1.1 (1, -1)
    assert np.sign(found.gains[[0, 1, 3]]).tolist() == [-1, -1, 1]
    if curvature == "diag":  # (1.1, -1.1) is no longer at right angles to (1, 1)
        assert found.selected == [3, 2]
    else:
        assert found.gains[2] == pytest.approx(0, abs=1e-12)
        assert found.selected == [3]
    assert len(found.rounds) == 3
    values = [r.before for r in found.rounds] + [found.rounds[-1].after]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1.1)
    assert (theta[0] - theta[1]).item() > 0.05
    assert [r.steps for r in found.rounds] == [5, 5, 5]


def test_gains_and_weights_are_those_of_the_functions():
    ways = torch.tensor([[-1.0, 0.5], [-2, 0], [1, 0]], dtype=torch.float64)
    theta, outer, inner, sizes = problem(pairs=5, ways=ways)
    driver = U2A(lr=0.01, epochs=1, batch=2, rounds=2, eta=0.5)
    found = driver.run([theta], outer, inner, **sizes)
    slope = -1.2 * GOAL  # the average over five pairs, in batches of 2, 2 and 1
    np.testing.assert_allclose(found.gains, alignment_gain(slope, ways), rtol=1e-12)
    assert found.selected == [1, 0]
    first, second = found.rounds
    assert first.weights.tolist() == [1, 1]
    np.testing.assert_allclose(
        second.weights, mirror_ascent_step([1, 1], second.gains, 0.5, total=2), rtol=1e-12
    )
    assert second.weights[0] > 1 > second.weights[1]


def test_nothing_changes_when_all_would_hurt():
    theta, outer, _, sizes = problem()
    found = U2A().run(
        [theta], outer, lambda i: theta.sum() * 0 + (theta @ GOAL).repeat(len(i)), **sizes
    )
    assert found.selected == []
    assert "would hurt" in found.selected.reason
    assert found.rounds == []
    assert theta.tolist() == [0, 0]
    sizes["negatives"] = 0
    assert U2A().run([theta], outer, lambda i: theta, **sizes).selected.reason


def test_it_stops_when_j_gains_no_more_and_when_the_negatives_are_gone():
    theta, outer, inner, sizes = problem()
    found = U2A(lr=0.01, threshold=10).run([theta], outer, inner, **sizes)
    assert len(found.rounds) == 1
    theta, outer, inner, sizes = problem()
    found = U2A(lr=0.01, epochs=9, rounds=1, max_bad_loss=0.02).run(
        [theta], outer, inner, forget_nll=lambda i: -inner(i), **sizes
    )
    (only,) = found.rounds
    # theta moves 0.01 a step, so the third update brings 0.03; four readings above 0.02 end it
    assert only.steps == 6
    assert only.stopped == "the negatives' nll was above 0.02"


def test_the_penalty_holds_the_parameters_near_the_start():
    moved = []
    for lam in (0.1, 5.0):
        theta, outer, inner, sizes = problem()
        U2A(lr=0.01, epochs=100, rounds=1, lam=lam).run([theta], outer, inner, **sizes)
        moved.append(theta.detach().norm().item())
    assert moved[1] == pytest.approx(0.1, abs=0.02)  # -g / (2 lam)
    assert moved[0] > 5 * moved[1]


def test_refusals():
    theta, outer, inner, sizes = problem()
    with pytest.raises(BadInput, match="forget_nll"):
        U2A(max_bad_loss=1).run([theta], outer, inner, **sizes)
    with pytest.raises(BadInput, match="preference pair"):
        U2A().run([theta], outer, inner, pairs=0, negatives=2)
    with pytest.raises(BadInput, match="at least 1"):
        U2A(rounds=0)
    with pytest.raises(BadInput, match="no whole Hessian"):
        U2A(curvature="exact")
