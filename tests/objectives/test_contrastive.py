"""CLAPS's losses: oracle numbers, duplicates, dead projections, empty targets."""

from __future__ import annotations

import math

import pytest
import torch

from nll import objectives as o
from nll._errors import BadInput
from nll.negatives import adversarial_negative, adversarial_positive
from nll.objectives._adversarial import head_nll
from tests.objectives.claps import BIAS, LABELS, TARGETS, E, H, M, W, vectors


def terms(**options: object) -> tuple[float, float]:
    """L_neg and L_pos of the oracle."""
    z = vectors(**options)
    both = o.contrastive_sequence_loss(**z)
    z.pop("positive")
    near = float(o.contrastive_sequence_loss(**z))
    return near, 2 * float(both) - near


def test_oracle_losses() -> None:
    assert terms() == pytest.approx((0.69356369, 0.97453303), abs=1e-8)
    logp = -head_nll(H, LABELS, E)
    assert float(o.claps_loss(logp, **vectors(), mask=TARGETS)) == pytest.approx(
        1.66749476, abs=1e-8
    )
    quirk = o.claps_loss(logp, **vectors(), mask=TARGETS, pos_tau=False)
    assert float(quirk) == pytest.approx(1.70200911, abs=1e-8)


def test_oracle_with_longer_steps_and_a_dead_vector() -> None:
    with pytest.warns(UserWarning, match="1 of 2 pooled vectors are 0"):
        z = vectors(eps_neg=3.0)
    assert (z["negative"][1] == 0).all()
    logp = -head_nll(H, LABELS, E)
    assert float(o.claps_loss(logp, **z, mask=TARGETS)) == pytest.approx(1.27961063, abs=1e-8)
    near = o.contrastive_sequence_loss(z["source"], z["target"], negative=z["negative"])
    assert float(near) == pytest.approx(0.34250727, abs=1e-8)


def test_oracle_similarities() -> None:
    z = {k: torch.nn.functional.normalize(v, dim=-1) for k, v in vectors().items()}
    expected = [[0.93917068, 0.86582319], [0.67288079, 0.99912267]]
    assert (z["source"] @ z["target"].T).tolist() == [pytest.approx(r, abs=1e-8) for r in expected]
    for name, numbers in {
        "negative": [0.99831450, 0.82747577],
        "positive": [0.86612283, 0.99741634],
    }.items():
        assert (z["source"] * z[name]).sum(-1).tolist() == pytest.approx(numbers, abs=1e-8)


def test_plain_infonce_by_hand() -> None:
    a, b = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = o.contrastive_sequence_loss(a, b, tau=0.5, reduction="none")
    cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1) / 0.5
    for i in range(4):
        assert found[i] == pytest.approx(float(cosine[i].logsumexp(0) - cosine[i, i]))
    assert float(o.contrastive_sequence_loss(a[:1], b[:1])) == 0
    hard = o.contrastive_sequence_loss(a[:1], b[:1], negative=b[:1])
    assert float(hard) == pytest.approx(math.log(2))


def test_equal_targets_are_no_negatives() -> None:
    a, b = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    b[2] = b[0]
    labels = torch.tensor([[5, 6, -100], [7, -100, -100], [5, 6, -100]])
    kept = o.contrastive_sequence_loss(a, b, labels=labels, reduction="none")
    apart = o.contrastive_sequence_loss(a[:2], b[:2], reduction="none")
    assert kept[0] == pytest.approx(float(apart[0]))
    plain = o.contrastive_sequence_loss(a, b, labels=labels, dedupe=False, reduction="none")
    assert plain[0] > kept[0]
    assert torch.equal(plain, o.contrastive_sequence_loss(a, b, reduction="none"))
    ids = o.contrastive_sequence_loss(a, b, labels=[0, 1, 0], reduction="none")
    assert torch.equal(ids, kept)


def test_pairs_with_an_empty_target_are_left_out() -> None:
    z = {k: torch.cat([v, v[:1] + 1]) for k, v in vectors().items()}
    logp = torch.cat([-head_nll(H, LABELS, E), torch.full((1, 2), torch.nan, dtype=torch.float64)])
    mask = torch.cat([TARGETS, torch.zeros(1, 2)])
    assert float(o.claps_loss(logp, **z, mask=mask)) == pytest.approx(1.66749476, abs=1e-8)


def test_pool_states() -> None:
    spoiled = torch.where(TARGETS.bool()[..., None], H, torch.nan).requires_grad_()
    z = o.pool_states(spoiled, TARGETS, weight=W, bias=BIAS)
    by_hand = torch.relu(H[1, 0] @ W.T + BIAS)
    assert z[1].tolist() == pytest.approx(by_hand.tolist())
    z.sum().backward()
    assert spoiled.grad is not None
    assert (spoiled.grad[1, 1] == 0).all()
    assert (o.pool_states(M, torch.zeros(2, 2), weight=W) == 0).all()
    with pytest.raises(BadInput, match="hidden must be"):
        o.pool_states(M, weight=W[:, :1])


def test_no_gradient_comes_back_through_the_pairs() -> None:
    h, w = H.clone().requires_grad_(), E.clone().requires_grad_()
    near = adversarial_negative(h, LABELS, w)
    far = adversarial_positive(
        h, LABELS, w, source=vectors()["source"],
        pool=lambda s, m: o.pool_states(s, m, weight=W, bias=BIAS),
    )  # fmt: skip
    assert not near.requires_grad
    assert not far.requires_grad
    assert h.grad is None
    assert w.grad is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tau": 0}, "tau must be"),
        ({"target": torch.zeros(3, 2)}, "has 2 sequences, target 3"),
        ({"negative": torch.zeros(2, 3)}, "width 2, negative 3"),
        ({"positive": torch.zeros(2)}, "positive must be"),
        ({"labels": [1]}, "source has 2 sequences, labels 1"),
    ],
)
def test_bad_arguments(changed: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        o.contrastive_sequence_loss(**{**vectors(), **changed})
    if "tau" in changed:
        with pytest.raises(BadInput, match="beta must be"):
            o.claps_loss(H[..., 0], **vectors(), beta=-1)


def test_vectors_of_half_precision_states_are_float32() -> None:
    exact = o.pool_states(H.half().double(), TARGETS, weight=W.half().double(), bias=BIAS)
    found = o.pool_states(H.half(), TARGETS, weight=W.half(), bias=BIAS.half())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=0)
