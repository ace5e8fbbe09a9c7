"""Unlearning losses: the sheets' numbers, the laws that tie NPO to gradient ascent, edge cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nll import objectives as o
from nll._errors import BadInput
from tests.objectives.cases import logps, normal, ragged_mask

S = torch.tensor([-4, -12.5, -0.75], dtype=torch.float64)
REF = torch.tensor([-5, -3, -0.75], dtype=torch.float64)
TOKENS = [[-0.2, -1.5, -0.3], [-2, -0.1]]
REF_TOKENS = [[-0.1, -1, -0.2], [-0.5, -0.4]]
ratios = st.floats(-60, 60)


def slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.clone().requires_grad_()
    function(at).backward()
    assert at.grad is not None
    return at.grad


@pytest.mark.parametrize(
    ("beta", "loss", "weights"),
    [
        (0.1, 11.763334983, [1.049958375, 0.557769644, 1]),
        (1, 1.337655811, [1.462117157, 1.49692455e-4, 1]),
    ],
)
def test_npo(beta: float, loss: float, weights: list[float]) -> None:
    assert o.npo_loss(S, REF, beta=beta).item() == pytest.approx(loss, abs=1e-8)
    assert o.npo_weight(S, REF, beta=beta).tolist() == pytest.approx(weights, abs=1e-9)
    found = slope(lambda s: o.npo_loss(s, REF, beta=beta), S)
    assert torch.allclose(found, o.npo_weight(S, REF, beta=beta) / 3)


def test_npo_of_tokens() -> None:
    assert o.npo_loss(TOKENS, REF_TOKENS).item() == pytest.approx(12.937056571, abs=1e-8)
    weights = o.npo_weight(TOKENS, REF_TOKENS).tolist()
    assert weights == pytest.approx([0.965014285, 0.940071896], abs=1e-9)
    sums = o.npo_loss([-2.0, -2.1], torch.tensor([-1.3, -0.9]))
    assert sums.item() == pytest.approx(12.937056571, abs=1e-5)
    half = o.npo_loss(TOKENS, torch.tensor([-1.3, -0.9], dtype=torch.float64))
    assert half.item() == pytest.approx(12.937056571, abs=1e-6)


def test_npo_tends_to_the_sum_form_of_gradient_ascent() -> None:
    value = o.npo_loss(S, REF, beta=1e-6).item() - 2e6 * math.log(2)
    assert value == pytest.approx(-2.8333257, abs=1e-6)
    tokens, ref, mask = logps(1), logps(2), ragged_mask()
    ascent = slope(lambda x: o.ga_loss(x, mask, token_reduction="sum"), tokens)
    gaps = [
        (slope(lambda x, b=beta: o.npo_loss(x, ref, beta=b, mask=mask), tokens) - ascent)
        .abs()
        .max()
        .item()
        for beta in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    assert all(a / b == pytest.approx(10, rel=0.1) for a, b in itertools.pairwise(gaps))
    assert gaps[-1] < 1e-3


@given(r=ratios, beta=st.floats(1e-3, 20))
@settings(max_examples=200, deadline=None)
def test_npo_is_bounded(r: float, beta: float) -> None:
    s, ref = torch.tensor([r], dtype=torch.float64), torch.zeros(1).double()
    loss, weight = o.npo_loss(s, ref, beta=beta).item(), o.npo_weight(s, ref, beta=beta).item()
    assert loss >= 0
    assert 0 <= weight <= 2
    assert (weight <= 1) == (r <= 0) or abs(beta * r) < 1e-12
    # convex in s: never below its tangent at the reference, which is gradient ascent's line
    assert loss >= 2 / beta * math.log(2) + r - 1e-9 * max(1, abs(loss))


def test_npo_at_the_reference_is_the_first_step_of_gradient_ascent() -> None:
    for beta in (0.01, 0.1, 1, 10):
        assert o.npo_weight(REF, REF, beta=beta).tolist() == [1, 1, 1]


def test_npo_far_away() -> None:
    far, ref = torch.tensor([-math.inf, -1e4, 1e4], dtype=torch.float64), torch.zeros(3).double()
    each = o.npo_loss(far, ref, beta=1, reduction="none")
    assert each.tolist() == [0, 0, 2e4]
    assert slope(lambda s: o.npo_loss(s, ref, beta=1, reduction="sum"), far).tolist() == [0, 0, 2]
    near, zero = torch.tensor([-20.0], dtype=torch.float64), torch.zeros(1).double()
    assert o.npo_weight(near, zero, beta=1).item() == pytest.approx(2 * math.exp(-20), rel=1e-6)


@pytest.mark.parametrize(("beta", "message"), [(0, "ga_loss"), (-1, "beta must be positive")])
def test_npo_beta(beta: float, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        o.npo_loss(S, REF, beta=beta)


def test_npo_sizes() -> None:
    with pytest.raises(BadInput, match="seq_logp has 3 sequences, ref_seq_logp 2"):
        o.npo_loss(S, REF[:2])
    with pytest.raises(BadInput, match="sums"):
        o.npo_loss(torch.zeros(()), REF)


def test_gradient_ascent() -> None:
    assert o.ga_loss(TOKENS).item() == pytest.approx(-0.82)
    assert o.ga_loss(TOKENS, token_reduction="sum").item() == pytest.approx(-2.05)
    assert o.ga_loss(TOKENS, token_reduction="sequence").item() == pytest.approx(-0.8583333333)
    with pytest.raises(BadInput, match="token_reduction must be"):
        o.ga_loss(TOKENS, token_reduction="median")


@pytest.mark.parametrize(
    ("beta", "gamma", "loss"), [(4.5, 0, 0.0127597671), (2.5, 0.1, 0.1066373527)]
)
def test_simnpo(beta: float, gamma: float, loss: float) -> None:
    found = o.simnpo_loss(TOKENS, beta=beta, gamma=gamma)
    assert found.item() == pytest.approx(loss, abs=1e-9)
    s, length = torch.tensor([-2, -2.1], dtype=torch.float64), torch.tensor([3, 2])
    assert o.simnpo_loss(s, length, beta=beta, gamma=gamma).item() == pytest.approx(loss, abs=1e-9)
    expected = 2 / length * torch.sigmoid(beta * s / length + gamma) / 2
    found = slope(lambda x: o.simnpo_loss(x, length, beta=beta, gamma=gamma), s)
    assert torch.allclose(found, expected)


def test_simnpo_empty_answers_and_missing_lengths() -> None:
    s = torch.tensor([-2, -2.1, 0], dtype=torch.float64)
    three = o.simnpo_loss(s, torch.tensor([3, 2, 0]))
    assert three.item() == pytest.approx(0.0127597671, abs=1e-9)
    with pytest.raises(BadInput, match="needs length"):
        o.simnpo_loss(s)
    with pytest.raises(BadInput, match="length has shape"):
        o.simnpo_loss(s, torch.tensor([3, 2]))


def test_weighted_ascent() -> None:
    assert o.wga_loss(TOKENS).item() == pytest.approx(-0.2163682331, abs=1e-9)
    assert o.wga_loss(TOKENS, beta=0).item() == pytest.approx(-0.82)
    with pytest.raises(BadInput, match="beta must be 0 or positive"):
        o.wga_loss(TOKENS, beta=-0.5)
    impossible = torch.tensor([[-math.inf, -1.0]], dtype=torch.float64)
    assert o.wga_loss(impossible).item() == pytest.approx(-math.exp(-1) / 2)
    assert slope(o.wga_loss, impossible).tolist() == [[0, pytest.approx(math.exp(-1) / 2)]]


def test_terms_add_up() -> None:
    forget, retain = [[-1.0, -2.0]], [[-0.5], [-0.1, -0.3]]
    assert o.retain_nll(retain).item() == pytest.approx(0.3)
    assert o.grad_diff_loss(forget, retain).item() == pytest.approx(-1.5 + 0.3)
    weighted = o.grad_diff_loss(forget, retain, gamma=2, alpha=5, token_reduction="sum")
    assert weighted.item() == pytest.approx(2 * -3 + 5 * 0.45)
    assert o.grad_diff_loss(forget, []).item() == pytest.approx(-1.5)
    assert o.idk_loss(forget, retain).item() == pytest.approx(1.5 + 0.3)
    assert o.idk_loss(forget, retain, joint=True).item() == pytest.approx(3.9 / 5)
    assert o.idk_loss(forget).item() == pytest.approx(1.5)
    assert o.meow_loss(retain).item() == o.nll_loss(retain).item() == pytest.approx(0.3)


def test_retain_kl() -> None:
    ref = torch.tensor([[[1, 2, 0.5], [0, 0, 3]]], dtype=torch.float64)
    own = torch.tensor([[[0.5, 1.5, 1], [1, 0, 2]]], dtype=torch.float64)
    forward = o.retain_kl(own, ref, reduction="none")
    assert forward[0].tolist() == pytest.approx([0.0756565, 0.17684751], abs=1e-7)
    reverse = o.retain_kl(own, ref, direction="reverse", reduction="none")
    assert reverse[0].tolist() == pytest.approx([0.091295, 0.2668045], abs=1e-7)
    assert o.retain_kl(own, ref).item() == pytest.approx((0.0756565 + 0.17684751) / 2, abs=1e-7)
    assert o.retain_kl(own, ref, torch.tensor([[0, 1]])).item() == pytest.approx(0.17684751)


def test_retain_kl_of_impossible_tokens() -> None:
    ref = torch.tensor([[[0, 0, -math.inf]]], dtype=torch.float64)
    own = torch.tensor([[[1, 0, 2.0]]], dtype=torch.float64)
    q, p = torch.softmax(ref[0, 0], 0), torch.softmax(own[0, 0], 0)
    expected = (q[:2] * (q[:2] / p[:2]).log()).sum().item()
    assert o.retain_kl(own, ref).item() == pytest.approx(expected)
    assert torch.isfinite(slope(lambda x: o.retain_kl(x, ref), own)).all()
    assert o.retain_kl(own, ref, direction="reverse").item() == math.inf
    back = slope(lambda x: o.retain_kl(x, own, direction="reverse"), ref)
    assert torch.isfinite(back).all()


@given(seed=st.integers(0, 10**6), direction=st.sampled_from(["forward", "reverse"]))
@settings(max_examples=50, deadline=None)
def test_retain_kl_laws(seed: int, direction: str) -> None:
    own, ref = normal(seed, 2, 3, 5), normal(seed + 1, 2, 3, 5)
    found = o.retain_kl(own, ref, direction=direction, reduction="none")
    assert (found >= -1e-12).all()
    assert o.retain_kl(own, own + 3, direction=direction).item() == pytest.approx(0, abs=1e-12)
    other = {"forward": "reverse", "reverse": "forward"}[direction]
    assert torch.allclose(found, o.retain_kl(ref, own, direction=other, reduction="none"))


def test_retain_kl_arguments() -> None:
    with pytest.raises(BadInput, match="expected"):
        o.retain_kl(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(BadInput, match="direction must be"):
        o.retain_kl(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), direction="both")


def test_inner_objective_of_a_bilevel_problem() -> None:
    """Minimum of sum_i w_i g_i . theta + ||theta||^2, in closed form at (-.375, 0)."""
    G = torch.tensor([[1, 0], [0, -1], [1, 1]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    theta = torch.tensor([-0.375, 0], dtype=torch.float64).requires_grad_()
    start = torch.zeros(2).double()
    loss = o.weighted_unlearning_loss(G @ theta, 3 * weights, params=theta, params0=start, lam=1)
    assert loss.item() == pytest.approx(-0.140625)
    loss.backward()
    assert torch.allclose(theta.grad, torch.zeros(2).double(), atol=1e-12)
    assert o.weighted_unlearning_loss(torch.zeros(0), torch.zeros(0)).item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": torch.tensor([1.0, -1.0])}, "weights must be 0 or positive, not -1"),
        ({"weights": torch.ones(3)}, "loss_i has 2 sequences, weights 3"),
        ({"lam": 1.0}, "needs params and params0"),
        ({"lam": -1.0}, "lam must be"),
        ({"lam": 1.0, "params": torch.ones(2), "params0": [torch.ones(3)]}, "same shapes"),
    ],
)
def test_inner_objective_arguments(options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        o.weighted_unlearning_loss(torch.ones(2), **{"weights": torch.ones(2), **options})


def published_npo(nll: Tensor, ref_nll: Tensor, beta: float) -> Tensor:
    """As open-unlearning states it: of summed nll of answers, mean over the batch."""
    return -torch.nn.functional.logsigmoid(beta * (nll - ref_nll)).mean() * 2 / beta


def published_simnpo(nll: Tensor, length: Tensor, beta: float, delta: float) -> Tensor:
    return -torch.nn.functional.logsigmoid(beta * (nll / length - delta)).mean() * 2 / beta


@given(seed=st.integers(0, 10**6), beta=st.floats(0.01, 5), delta=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_same_loss_and_gradient_as_the_published_formulas(
    seed: int, beta: float, delta: float
) -> None:
    logits, ref_logits = normal(seed, 3, 6, 9), normal(seed + 1, 3, 6, 9)
    labels = torch.randint(9, (3, 6), generator=torch.Generator().manual_seed(seed))
    labels[:, :2] = -100
    labels[0, 4:] = -100

    def summed(z: Tensor) -> Tensor:
        flat = z[:, :-1].transpose(1, 2)
        return torch.nn.functional.cross_entropy(flat, labels[:, 1:], reduction="none").sum(-1)

    def ours(z: Tensor) -> o.SequenceLogps:
        return o.sequence_logps(*o.token_logps(z, labels))

    length = (labels[:, 1:] != -100).sum(-1)
    ref = ours(ref_logits).seq_logp
    pairs = [
        (
            lambda z: o.npo_loss(ours(z).seq_logp, ref, beta=beta),
            lambda z: published_npo(summed(z), summed(ref_logits), beta),
        ),
        (
            lambda z: o.simnpo_loss(*ours(z), beta=beta, gamma=beta * delta),
            lambda z: published_simnpo(summed(z), length, beta, delta),
        ),
    ]
    for own, published in pairs:
        assert own(logits).item() == pytest.approx(published(logits).item(), abs=1e-6, rel=1e-9)
        assert torch.allclose(slope(own, logits), slope(published, logits), atol=1e-9)


def test_an_answer_impossible_before_and_after_is_forgotten() -> None:
    s = torch.tensor([-math.inf, -1.0], dtype=torch.float64)
    assert o.npo_loss(s, s, beta=1, reduction="none")[0] == 0
    assert slope(lambda x: o.npo_loss(x, s, beta=1), s).tolist() == [0, 0.5]
    assert o.kto_loss(s, s, reduction="none")[0] == 0
    one = torch.zeros(2, dtype=torch.float64)
    assert o.dpo_loss(one, one, s, s, reduction="none")[0] == 0


def test_weights_of_zero_meet_losses_without_end() -> None:
    loss = torch.tensor([2.0, -math.inf, math.nan], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0, 0], dtype=torch.float64, requires_grad=True)
    total = o.weighted_unlearning_loss(loss, weights)
    total.backward()
    assert total.item() == pytest.approx(2 / 3)
    assert loss.grad is not None
    assert loss.grad.tolist() == pytest.approx([1 / 3, 0, 0])
    other = torch.tensor([2.0, 5.0], dtype=torch.float64)
    found = slope(lambda w: o.weighted_unlearning_loss(other, w), torch.zeros(2).double())
    assert found.tolist() == [1, 2.5]


def test_sums_of_long_answers_in_half_precision_are_exact() -> None:
    own, ref = (torch.full((1, 3000), value, dtype=torch.bfloat16) for value in (-1.3, -1.5))
    exact = o.npo_loss(own.double(), ref.double())
    assert o.npo_loss(own, ref).item() == pytest.approx(exact.item(), rel=1e-4)
