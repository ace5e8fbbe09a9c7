"""Critical tokens: the sheet's numbers, limits, forbidden tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import objectives as o
from nll._errors import BadInput
from tests.objectives.cases import normal

POS = torch.tensor([[2, 1, 0, -1], [0.5, 0.5, 2, 0], [1, -1, 0, 3]], dtype=torch.float64)
NEG = torch.tensor([[1.5, 1.2, 0.3, -1], [0, 2.5, 0.5, 0], [1, -1, 0, 3]], dtype=torch.float64)
IDS = [0, 1, 3]


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (1, [0.78511980, 0.00602129, 0.83095266]),
        (0.5, [0.72008112, 0.03131909, 0.83095266]),
        (0, [0.64391426, 0.14107915, 0.83095266]),
    ],
)
def test_contrastive_estimation(beta: float, expected: list[float]) -> None:
    found = o.contrastive_estimation(POS, NEG, IDS, beta)
    assert found.tolist() == pytest.approx(expected, abs=1e-8)
    logs = o.contrastive_estimation(POS.log_softmax(-1), NEG.log_softmax(-1) + 3, IDS, beta)
    assert torch.allclose(found, logs)


@given(seed=st.integers(0, 10**6), beta=st.floats(0, 5))
@settings(max_examples=50, deadline=None)
def test_contrastive_estimation_is_a_distribution(seed: int, beta: float) -> None:
    pos, neg = normal(seed, 1, 6), normal(seed + 1, 1, 6)
    each = o.contrastive_estimation(pos.expand(6, 6), neg.expand(6, 6), torch.arange(6), beta)
    assert each.sum().item() == pytest.approx(1)
    same = o.contrastive_estimation(pos, pos, [2], beta)
    assert same.item() == pytest.approx(torch.softmax(pos, -1)[0, 2].item())


def test_forbidden_tokens() -> None:
    off = -math.inf
    pos = torch.tensor([[0, 1, off], [0, 1, 2]], dtype=torch.float64)
    neg = torch.tensor([[0, 1, off], [0, 1, off]], dtype=torch.float64)
    by_token = torch.stack([o.contrastive_estimation(pos, neg, [i, i]) for i in range(3)], 1)
    p = math.e / (1 + math.e)
    assert by_token[0].tolist() == pytest.approx([1 - p, p, 0])
    assert by_token[1].tolist() == [0, 0, 1]
    zero = o.contrastive_estimation(pos, torch.full_like(pos, off), [0, 0], 0)
    assert torch.isfinite(zero).all()


def test_batches_are_masked() -> None:
    pos = torch.stack([POS, POS])
    pos[1, 1:] = math.nan
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    labels = torch.tensor([IDS, [0, -100, -100]])
    found = o.critical_token_scores(pos, torch.stack([NEG, NEG]), labels, mask)
    assert found[0].tolist() == pytest.approx([0.78511980, 0.00602129, 0.83095266], abs=1e-8)
    assert found[1].tolist() == [found[0, 0].item(), 0, 0]
    with pytest.raises(BadInput, match="labels have shape"):
        o.critical_token_scores(pos, pos, labels[:, :2])


@pytest.mark.parametrize(
    ("pos", "neg", "ids", "beta", "message"),
    [
        (POS, NEG[:, :3], IDS, 1, "one vocabulary"),
        (POS, NEG, [0, 1], 1, "tokens must be"),
        (POS, NEG, [0, 1, 4], 1, "outside the vocabulary of 4"),
        (POS, NEG, IDS, -1, "beta must be"),
    ],
)
def test_bad_arguments(pos, neg, ids, beta, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=message):
        o.contrastive_estimation(pos, neg, ids, beta)


@pytest.mark.parametrize(
    ("successes", "expected"),
    [([30, 12, 0, 4, 0, 2, 0], 4), ([30, 0, 3, 0, 1], 1), ([5, 4, 3], None), ([], None)],
)
def test_critical_token_by_rollout(successes: list[int], expected: int | None) -> None:
    assert o.critical_token_by_rollout(successes) == expected


def test_rollouts_that_recover() -> None:
    assert o.critical_token_by_rollout([10, 0, 9, 0, 9]) is None
    assert o.critical_token_by_rollout([10, 0, 9, 0, 9], strict=False) == 3
    assert o.critical_token_by_rollout([10, 9], strict=False) is None
    with pytest.raises(BadInput, match="must lie in 0"):
        o.critical_token_by_rollout([65])


def test_negatives_that_cover_half() -> None:
    assert o.select_negatives_top_p(list("aaabbcdefg")) == ["a", "b"]
    assert o.select_negatives_top_p(list("abc")) == ["a"]
    assert o.select_negatives_top_p(list("bbbbaa")) == ["b"]
    assert o.select_negatives_top_p([]) == []
    with pytest.raises(BadInput, match="p must be"):
        o.select_negatives_top_p(["a"], 0)


def test_a_label_that_is_ignored_has_no_score() -> None:
    labels = torch.tensor([[-100, 1, 3]])
    found = o.critical_token_scores(POS[None], NEG[None], labels)
    assert found[0, 0] == 0
    assert torch.equal(found[0, 1:], o.contrastive_estimation(POS[1:], NEG[1:], [1, 3]))
