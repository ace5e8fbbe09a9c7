"""Which answer belongs to this source? InfoNCE between the vectors of sources and of targets.

A text's vector is the mean of its projected hidden states. The hard negative and the hard positive
that CLAPS adds are made in `nll.negatives`.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax, normalize, relu

from nll._errors import BadInput
from nll.objectives import _common as common
from nll.objectives._common import (
    Reduction,
    Values,
    as_mask,
    as_tensor,
    as_tokens,
    masked_mean,
    masked_sum,
    reduce,
    same_rows,
)
from nll.objectives._declare import objective

PAPER = "2012.07280"
ZEROS = 0.1  # share of vectors that are 0 above which the user is told


def pool_states(
    hidden: Values, mask: Any = None, *, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """(B, e) vectors of texts: the mean over real positions of `ReLU(W h + b)`.

    hidden: (B, T, d), masked entries may be nan.   mask: (B, T).   weight: (e, d), bias: (e,), as
    torch.nn.Linear holds them. A text without a real position gets 0. Warns when more than a tenth
    of the others are 0 (every unit dead), since such a vector is similar to nothing.
    Raises BadInput when shapes disagree. References: Lee et al. 2021, arXiv 2012.07280.
    """
    states = as_tensor(hidden, "hidden")
    if states.dim() != 3 or weight.dim() != 2 or states.shape[-1] != weight.shape[-1]:
        raise BadInput(
            f"hidden must be (sequences, tokens, d) and weight (e, d), not {tuple(states.shape)} "
            f"and {tuple(weight.shape)}"
        )
    keep = as_mask(mask, states[..., 0])
    bias = None if bias is None else bias.to(states)
    shown = relu(linear(torch.where(keep[..., None], states, 0.0), weight.to(states), bias))
    out = masked_mean_of_rows(shown, keep)
    real = keep.any(-1)
    dead = int((real & (out == 0).all(-1)).sum())
    if dead > ZEROS * int(real.sum()):
        warnings.warn(
            f"{dead} of {int(real.sum())} pooled vectors are 0: the projection's units are dead "
            "there, and their similarity to everything is 0",
            stacklevel=2,
        )
    return out


def masked_mean_of_rows(states: Tensor, keep: Tensor) -> Tensor:
    """(B, d) mean over the kept positions of (B, T, d); 0 where there is none."""
    return masked_sum(states, keep[..., None], 1) / keep.sum(-1, keepdim=True).clamp(min=1)


def repeated(labels: Any, like: Tensor, name: str = "labels") -> Tensor:
    """(B, B) boolean: another row holds the same labels (B, T) or (B,); the diagonal is False."""
    ids = torch.as_tensor(labels, device=like.device)
    if len(ids) != len(like):
        raise BadInput(f"source has {len(like)} sequences, {name} {len(ids)}")
    ids = ids.reshape(len(ids), -1)
    same = (ids[:, None] == ids[None]).all(-1)
    return same & ~torch.eye(len(ids), dtype=torch.bool, device=like.device)


@objective(
    descent="a source's own target nearer than other targets",
    unit="1",
    paper=PAPER,
    range=(0, math.inf),
)
def contrastive_sequence_loss(
    source: Values,
    target: Values,
    *,
    negative: Values | None = None,
    positive: Values | None = None,
    mask: Any = None,
    labels: Any = None,
    dedupe: bool = True,
    tau: float = 0.1,
    pos_tau: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE `-log(e^(S_ii/tau) / (sum_j e^(S_ij/tau) + e^(n_i/tau)))`, S = cosine; minimised.

    source, target: (B, d) vectors, row i of one belongs to row i of the other.   negative: (B, d) a
    hard negative of each row, which adds n_i = cos(source_i, negative_i); without it that term is
    missing.   positive: (B, d) a hard positive; the loss is then the mean of the above and of the
    same with S_ii replaced by cos(source_i, positive_i).   mask: (B,) pairs that exist; the others
    are no negatives either.   labels: (B, T) or (B,) ids of the targets: with dedupe, targets equal
    to a row's own are no negatives for it.   tau: temperature.   pos_tau: False leaves the second
    term undivided by tau, as the released code does.
    A vector of 0 has cosine 0. All-masked: 0, gradient 0.
    Raises BadInput when shapes disagree or tau is not above 0.
    References: Lee et al. 2021, arXiv 2012.07280.
    """
    common.positive(tau, "tau")
    own, keep = _vectors(source, "source", mask)
    others, _ = _vectors(target, "target", mask, like=own)
    cosine = own @ others.T
    left_out = ~keep[None, :]
    if labels is not None and dedupe:
        left_out = left_out | repeated(labels, own)
    columns = torch.where(left_out, -math.inf, cosine)
    diagonal = torch.eye(len(own), dtype=torch.bool, device=own.device)
    # a masked row keeps its own entry, or it would have nothing to divide by
    columns = torch.where(diagonal, cosine, columns)
    if negative is not None:
        hard = (own * _vectors(negative, "negative", mask, like=own)[0]).sum(-1)
        columns = torch.cat([columns, hard[:, None]], 1)
    losses = _cross_entropy(columns / tau)
    if positive is not None:
        far = (own * _vectors(positive, "positive", mask, like=own)[0]).sum(-1)
        wide = torch.nn.functional.pad(diagonal, (0, columns.shape[1] - len(own)))
        moved = torch.where(wide, far[:, None], columns)
        losses = 0.5 * (losses + _cross_entropy(moved / tau if pos_tau else moved))
    return reduce(losses, keep, reduction)


@objective(
    descent="targets more likely, and nearer to their source than other targets",
    unit="1",
    paper=PAPER,
    range=(0, math.inf),
)
def claps_loss(
    logp: Values,
    source: Values,
    target: Values,
    negative: Values | None = None,
    positive: Values | None = None,
    *,
    mask: Any = None,
    labels: Any = None,
    dedupe: bool = True,
    tau: float = 0.1,
    beta: float = 1.0,
    pos_tau: bool = True,
) -> Tensor:
    """CLAPS: `NLL + beta * 0.5 (L_neg + L_pos)`, NLL the mean over tokens; minimised.

    logp: (B, T) log-probs of the targets with mask (B, T), or a list of 1-D tensors; nats.
    source, target: (B, d) pooled vectors.   negative, positive: (B, d) vectors of the imposters and
    of the distant targets (`nll.negatives.adversarial_negative`, `adversarial_positive`), or None.
    Pairs with an empty target are left out. Other options as in `contrastive_sequence_loss`.
    The paper writes a further KL term, which its code does not have and neither does this.
    All-masked: 0, gradient 0. Raises BadInput when shapes disagree.
    References: Lee et al. 2021, arXiv 2012.07280.
    """
    common.positive(beta, "beta", zero=True)
    tokens = as_tokens(logp, mask)
    near = contrastive_sequence_loss(
        source, target, negative=negative, positive=positive, mask=tokens.mask.any(-1),
        labels=labels, dedupe=dedupe, tau=tau, pos_tau=pos_tau,
    )  # fmt: skip
    return -masked_mean(tokens.values, tokens.mask) + beta * near


def _vectors(
    values: Values, name: str, mask: Any, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(B, d) vectors of length 1, or 0 where masked or 0, and the (B,) mask."""
    found = as_tensor(values, name)
    if found.dim() != 2:
        raise BadInput(f"{name} must be (sequences, d), not {tuple(found.shape)}")
    if like is not None:
        same_rows(source=like, **{name: found})
        if found.shape[1] != like.shape[1]:
            raise BadInput(f"source has width {like.shape[1]}, {name} {found.shape[1]}")
        found = found.to(like)
    keep = as_mask(mask, found[:, 0])
    return normalize(torch.where(keep[:, None], found, 0.0), dim=-1, eps=1e-8), keep


def _cross_entropy(scores: Tensor) -> Tensor:
    """(B,) of rows whose own entry is on the diagonal."""
    return -log_softmax(scores, -1).diagonal()
