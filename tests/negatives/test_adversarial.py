"""CLAPS's imposters and distant targets: oracle states, lengths of steps, padding, precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nll import negatives
from nll._errors import BadInput
from nll.objectives._adversarial import head_kl, head_nll
from tests.objectives.claps import LABELS, E, H, M, pool


def mean(values: Tensor) -> float:
    return float(values.nanmean())


def close(found: Tensor, expected: list[object]) -> bool:
    return torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-8, rtol=0)


def test_oracle_imposters() -> None:
    assert mean(head_nll(H, LABELS, E)) == pytest.approx(0.83344640, abs=1e-8)
    found = negatives.adversarial_negative(H, LABELS, E, 1.0)
    assert close(
        found,
        [
            [[-0.58197508, 0.27129603], [1.35702050, -0.43049875]],
            [[-0.07044291, -0.08536755], [0.5, 0.5]],
        ],
    )
    assert mean(head_nll(found, LABELS, E)) == pytest.approx(1.69255744, abs=1e-8)
    longer = negatives.adversarial_negative(H, LABELS, E, 3.0)
    assert mean(head_nll(longer, LABELS, E)) == pytest.approx(4.12730803, abs=1e-8)


def test_oracle_distant_targets() -> None:
    far = negatives.distant_states(H, LABELS, 3.0, source=pool(M), pool=pool)
    assert close(far[0], [[2.98328157, 1.14164079], [2.50762994, -2.06657658]])
    assert mean(head_kl(H, far, LABELS, E)) == pytest.approx(1.41663375, abs=1e-8)
    back = negatives.restore_likelihood(H, far, LABELS, E, 3.0)
    assert close(
        back,
        [
            [[0.23229007, 2.33832192], [0.02687599, -0.37960892]],
            [[0.47891882, 2.10973239], [0.5, 0.5]],
        ],
    )
    assert mean(head_kl(H, back, LABELS, E)) == pytest.approx(0.26476841, abs=1e-8)
    whole = negatives.adversarial_positive(H, LABELS, E, 3.0, source=pool(M), pool=pool)
    assert torch.equal(whole, back)


def test_the_closed_forms_are_the_gradients() -> None:
    leaf = H.clone().requires_grad_()
    keep = LABELS != -100
    logp = torch.log_softmax(leaf @ E.T, -1)
    nll = -logp.gather(-1, LABELS.clamp(min=0)[..., None])[..., 0][keep].mean()
    (slope,) = torch.autograd.grad(nll, leaf)
    step = slope / (slope.norm(dim=-1, keepdim=True) + 1e-12)
    assert torch.allclose(negatives.adversarial_negative(H, LABELS, E, 2.0), H + 2 * step)
    far = H.flip(0).clone().requires_grad_()
    p = torch.softmax(H @ E.T, -1)
    kl = (p * (p.log() - torch.log_softmax(far @ E.T, -1))).sum(-1)[keep].mean()
    (slope,) = torch.autograd.grad(kl, far)
    step = slope / (slope.norm(dim=-1, keepdim=True) + 1e-12)
    found = negatives.restore_likelihood(H, far, LABELS, E, 0.5)
    assert torch.allclose(found, far.detach() - 0.5 * step)


@given(seed=st.integers(0, 10_000), eps=st.floats(0.01, 0.05), rows=st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_laws(seed: int, eps: float, rows: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    h, head, labels = normal(rows, 3, 4), normal(6, 4), torch.randint(0, 6, (rows, 3))
    labels[0, 2] = -100
    keep = labels != -100
    near = negatives.adversarial_negative(h, labels, head, eps)
    assert torch.allclose((near - h).norm(dim=-1)[keep], torch.tensor(eps).double(), rtol=1e-6)
    assert torch.equal(near[~keep], h[~keep])
    assert mean(head_nll(near, labels, head)) >= mean(head_nll(h, labels, head))
    far = negatives.distant_states(h, labels, eps, source=normal(rows, 4), pool=flat)
    back = negatives.restore_likelihood(h, far, labels, head, 0.01 * eps)
    assert mean(head_kl(h, back, labels, head)) <= mean(head_kl(h, far, labels, head))


def flat(states: Tensor, keep: Tensor) -> Tensor:
    return (states * keep[..., None]).sum(1)


def test_padding_may_hold_nan_and_keeps_its_place() -> None:
    spoiled = torch.where((LABELS != -100)[..., None], H, torch.nan)
    found = negatives.adversarial_negative(spoiled, LABELS, E)
    assert torch.equal(found[0], negatives.adversarial_negative(H, LABELS, E)[0])
    assert found[1, 1].isnan().all()
    far = negatives.adversarial_positive(spoiled, LABELS, E, source=pool(M), pool=pool)
    expected = negatives.adversarial_positive(H, LABELS, E, source=pool(M), pool=pool)
    assert torch.equal(far[LABELS != -100], expected[LABELS != -100])


def test_a_batch_of_one_has_no_distant_target() -> None:
    found = negatives.adversarial_positive(H[:1], LABELS[:1], E, source=pool(M[:1]), pool=pool)
    assert torch.allclose(found, H[:1], atol=1e-9)


def test_half_precision_is_raised_and_relative_steps_are_measured() -> None:
    found = negatives.adversarial_negative(H.half(), LABELS, E.half())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), negatives.adversarial_negative(H, LABELS, E), atol=1e-2)
    moved = negatives.adversarial_negative(H, LABELS, E, 2.0, relative=True) - H
    typical = float(H[LABELS != -100].norm(dim=-1).median())
    assert float(moved[0, 0].norm()) == pytest.approx(2 * typical)


def test_a_module_with_a_bias_serves_as_head() -> None:
    head = torch.nn.Linear(2, 3).double()
    with torch.no_grad():
        head.weight.copy_(E)
        head.bias.zero_()
    plain = negatives.adversarial_negative(H, LABELS, E)
    assert torch.equal(negatives.adversarial_negative(H, LABELS, head), plain)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([3.0, 0, -3]))
    assert not torch.allclose(negatives.adversarial_negative(H, LABELS, head), plain)


def test_a_distribution_without_mass_somewhere_has_a_finite_kl() -> None:
    h = torch.tensor([[[2000.0, 0.0]]], dtype=torch.float64)
    assert mean(head_kl(h, h, [[0]], E)) == 0


@pytest.mark.parametrize(
    ("labels", "head", "eps", "message"),
    [
        ([[0, 1]], E, 1, "labels have shape"),
        ([[0, 3], [1, 1]], E, 1, "outside the vocabulary of 3"),
        ([[0.5, 1], [1, 1]], E, 1, "token ids"),
        (LABELS, E[:, :1], 1, "lm_head must be"),
        (LABELS, E, -1, "eps must be"),
    ],
)
def test_bad_arguments(labels: object, head: Tensor, eps: float, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        negatives.adversarial_negative(H, labels, head, eps)


def test_states_of_another_shape_are_refused() -> None:
    with pytest.raises(BadInput, match="hidden must be"):
        negatives.adversarial_negative(H[0], LABELS, E)
    with pytest.raises(BadInput, match="far has shape"):
        negatives.restore_likelihood(H, H[:1], LABELS, E)
