"""Log-probs of given tokens from logits."""

from __future__ import annotations

import math

import pytest
import torch

from nll._errors import BadInput
from nll.objectives import sequence_logps, token_logps
from nll.objectives._common import as_tokens, masked_mean, sequence_sums
from tests.objectives.cases import normal


def test_labels_stand_at_their_own_tokens() -> None:
    """With shift the logits at t predict the label at t + 1; one late is off by more than a nat."""
    table = torch.log(torch.tensor([[0.1, 0.9], [0.8, 0.2]], dtype=torch.float64))
    ids = torch.tensor([[0, 1, 0, 1]])
    found = token_logps(table[ids], ids)
    assert found.logp.tolist() == [pytest.approx([math.log(0.9), math.log(0.8), math.log(0.9)])]
    assert found.mask.all()
    late = token_logps(table[ids], ids, shift=False)
    assert (late.logp[0, 1:] - found.logp[0]).abs().min() > 1


def test_what_does_not_count_is_zero() -> None:
    logits = normal(1, 2, 4, 7)
    labels = torch.tensor([[3, -100, 2, 6], [1, 1, 5, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    found = token_logps(logits, labels, mask)
    assert found.mask.tolist() == [[False, True, False], [True, True, True]]
    expected = torch.log_softmax(logits, -1)
    assert found.logp[0].tolist() == [0, pytest.approx(expected[0, 1, 2].item()), 0]
    sums = sequence_logps(*found)
    assert sums.length.tolist() == [1, 3]
    assert torch.allclose(sums.seq_logp, found.logp.sum(-1))


def test_unused_logits_may_be_nan() -> None:
    logits = normal(2, 1, 3, 5).requires_grad_()
    labels = torch.tensor([[0, 1, -100]])
    dirty = logits.detach().clone()
    dirty[0, 1:] = math.nan
    dirty.requires_grad_()
    for given in (logits, dirty):
        token_logps(given, labels).logp.sum().backward()
    assert torch.equal(logits.grad, dirty.grad)
    assert (dirty.grad[0, 1:] == 0).all()


def test_half_precision_is_summed_in_float32() -> None:
    found = token_logps(normal(3, 1, 3, 5).bfloat16(), torch.tensor([[0, 1, 2]])).logp
    assert found.dtype == torch.float32


def test_gradient() -> None:
    labels, mask = torch.tensor([[0, 2, 1], [4, 3, -100]]), torch.ones(2, 3)
    assert torch.autograd.gradcheck(
        lambda z: token_logps(z, labels, mask).logp, normal(4, 2, 3, 5).requires_grad_()
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[0, 5, 1]]), "span 1 to 5, the vocabulary has 5"),
        (torch.tensor([[0, -1, 1]]), "span -1 to 1"),
        (torch.tensor([[0, 1]]), "labels \\(1, 2\\)"),
        (torch.tensor([[0.0, 1.0, 1.0]]), "must be token ids"),
    ],
)
def test_bad_labels(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        token_logps(torch.zeros(1, 3, 5), labels)


def test_bad_mask() -> None:
    with pytest.raises(BadInput, match="mask has shape"):
        token_logps(torch.zeros(1, 3, 5), torch.zeros(1, 3).long(), torch.ones(1, 2))


def test_ragged_lists_are_padded() -> None:
    rows = [torch.tensor([-1.0, -2.0]), torch.tensor([-0.5])]
    tokens = as_tokens(rows)
    assert tokens.values.tolist() == [[-1, -2], [-0.5, 0]]
    assert tokens.mask.tolist() == [[True, True], [True, False]]
    masked = as_tokens(rows, [[True, False], [True]])
    assert masked.values.tolist() == [[-1, 0], [-0.5, 0]]
    assert sequence_sums([[-1, -2], [-0.5]]).values.tolist() == [-3, -0.5]
    assert sequence_sums(torch.tensor([-3.0, -0.5]), [True, False]).values.tolist() == [-3, 0]
    assert as_tokens([]).values.shape == (0, 0)


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (torch.zeros(2), None, "must be \\(sequences, tokens\\)"),
        (torch.zeros(2, 3, 4), None, "must be \\(sequences, tokens\\)"),
        ([[0.0], [0.0]], [[True]], "2 sequences, its mask 1"),
        ([torch.zeros(1), torch.zeros(1, 1)], None, "1-D sequences"),
        (["a", "b"], None, "numbers only"),
    ],
)
def test_bad_tokens(values: object, mask: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        as_tokens(values, mask)


def test_mean_of_nothing() -> None:
    values = torch.full((2, 2), math.nan, requires_grad=True)
    mean = masked_mean(values, torch.tensor([[False, False], [False, False]]), -1)
    mean.sum().backward()
    assert mean.tolist() == [0, 0]
    assert values.grad.tolist() == [[0, 0], [0, 0]]
