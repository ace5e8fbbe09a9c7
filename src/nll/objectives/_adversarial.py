"""Hidden states moved by gradients: away from the likelihood, or far without losing it (CLAPS).

All results are constants. The steps on the likelihood have a closed form, the residual of the
softmax times the unembedding, so no gradient ever reaches a parameter; positions go through the
unembedding in blocks, so memory does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear

from nll._errors import BadInput
from nll.objectives._common import as_mask, as_tensor, positive
from nll.objectives._contrastive import contrastive_sequence_loss

Pool: TypeAlias = Callable[[Tensor, Tensor], Tensor]
TINY = 1e-12
BLOCK = 1024


def adversarial_negative(
    hidden: Tensor, labels: Any, lm_head: Any, eps: float = 1.0, *, relative: bool = False
) -> Tensor:
    """(B, T, d) imposters: each state one step of length eps up its target's nll; a constant.

    hidden: (B, T, d) states as they enter the unembedding, at the positions that predict `labels`
    (B, T), whose -100 mark what is no target; there the state stays as it is.   lm_head: (V, d), or
    a module with `weight` and perhaps `bias`.   eps: length of the step at each position (1 for
    summaries and questions, 3 for translation in the paper), or with relative=True a multiple of
    the median length of the real states. float32 at least.
    Raises BadInput when shapes disagree, a label is outside the vocabulary, or eps is negative.
    References: Lee et al. 2021, arXiv 2012.07280.
    """
    states, ids, keep, head = _checked(hidden, labels, lm_head)
    slope = torch.zeros_like(states)
    for part, logits in _logits(states, keep, head):
        residual = torch.softmax(logits, -1)
        residual[torch.arange(len(residual)), ids[part]] -= 1
        slope[part] = residual @ head[0] / keep.sum()
    return states + _step(slope, states, keep, eps, relative)


def adversarial_positive(
    hidden: Tensor,
    labels: Any,
    lm_head: Any,
    eps: float = 3.0,
    *,
    source: Tensor,
    pool: Pool,
    tau: float = 0.1,
    relative: bool = False,
    dedupe: bool = False,
) -> Tensor:
    """(B, T, d) distant targets: a step away from the source, one back to the likelihood; constant.

    `distant_states`, then `restore_likelihood`, each with steps of length eps. Arguments as there;
    hidden, labels, lm_head, relative as in `adversarial_negative`. In a batch of one there is
    nothing to be told apart from, and the states stay where they are.
    References: Lee et al. 2021, arXiv 2012.07280.
    """
    far = distant_states(
        hidden, labels, eps, source=source, pool=pool, tau=tau, relative=relative, dedupe=dedupe
    )
    return restore_likelihood(hidden, far, labels, lm_head, eps, relative=relative)


def distant_states(
    hidden: Tensor,
    labels: Any,
    eps: float = 3.0,
    *,
    source: Tensor,
    pool: Pool,
    tau: float = 0.1,
    relative: bool = False,
    dedupe: bool = False,
) -> Tensor:
    """(B, T, d) states, each one step of length eps up the InfoNCE of sources and targets.

    source: (B, e) vectors of the sources, constants.   pool: from states (B, T, d) and mask (B, T)
    to vectors (B, e), see `nll.objectives.pool_states`.   tau: temperature of the InfoNCE.
    dedupe: equal targets are no negatives of each other.
    """
    states, ids, keep, _ = _checked(hidden, labels, None)
    with torch.enable_grad():
        leaf = torch.where(keep[..., None], states, 0.0).requires_grad_()
        loss = contrastive_sequence_loss(
            source.detach().to(states), pool(leaf, keep), mask=keep.any(-1), tau=tau,
            labels=ids, dedupe=dedupe,
        )  # fmt: skip
        (slope,) = torch.autograd.grad(loss, leaf)
    return states + _step(slope, states, keep, eps, relative)


def restore_likelihood(
    hidden: Tensor,
    far: Tensor,
    labels: Any,
    lm_head: Any,
    eps: float = 3.0,
    *,
    relative: bool = False,
) -> Tensor:
    """(B, T, d) states `far`, each one step of length eps down KL(p(.|hidden) || p(.|far))."""
    states, _, keep, head = _checked(hidden, labels, lm_head)
    if far.shape != states.shape:
        raise BadInput(f"far has shape {tuple(far.shape)}, hidden {tuple(states.shape)}")
    moved = far.detach().to(states)
    slope = torch.zeros_like(states)
    for (part, before), (_, after) in zip(
        _logits(states, keep, head), _logits(moved, keep, head), strict=True
    ):
        residual = torch.softmax(after, -1) - torch.softmax(before, -1)
        slope[part] = residual @ head[0] / keep.sum()
    return moved - _step(slope, states, keep, eps, relative)


def head_nll(hidden: Tensor, labels: Any, lm_head: Any) -> Tensor:
    """(B, T) nll of each label under the unembedding, nats; nan without one. No gradient."""
    states, ids, keep, head = _checked(hidden, labels, lm_head)
    out = states.new_full(keep.shape, torch.nan)
    for part, logits in _logits(states, keep, head):
        out[part] = -torch.log_softmax(logits, -1).gather(-1, ids[part][:, None])[:, 0]
    return out


def head_kl(hidden: Tensor, other: Tensor, labels: Any, lm_head: Any) -> Tensor:
    """(B, T) KL(p(.|hidden) || p(.|other)), nats; nan where there is no label. No gradient."""
    states, _, keep, head = _checked(hidden, labels, lm_head)
    out = states.new_full(keep.shape, torch.nan)
    for (part, before), (_, after) in zip(
        _logits(states, keep, head), _logits(other.detach().to(states), keep, head), strict=True
    ):
        p = torch.softmax(before, -1)
        # xlogy, since p = 0 would make 0 * -inf
        inner = torch.xlogy(p, p) - torch.where(p > 0, p * torch.log_softmax(after, -1), 0.0)
        out[part] = inner.sum(-1)
    return out


Part: TypeAlias = tuple[Tensor, Tensor]


def _logits(
    states: Tensor, keep: Tensor, head: tuple[Tensor, Any]
) -> Iterator[tuple[Part, Tensor]]:
    """Real positions in blocks, and their logits."""
    rows, columns = keep.nonzero(as_tuple=True)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK], columns[start : start + BLOCK]
        yield part, linear(states[part], *head)


def _step(slope: Tensor, states: Tensor, keep: Tensor, eps: float, relative: bool) -> Tensor:
    positive(eps, "eps", zero=True)
    if relative and keep.any():
        eps = eps * float(states[keep].norm(dim=-1).median())
    out: Tensor = eps * slope / (slope.norm(dim=-1, keepdim=True) + TINY)
    return out


def _checked(
    hidden: Tensor, labels: Any, lm_head: Any
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Any]]:
    """States and head in float32 at least, labels, the mask of the real ones."""
    states = as_tensor(hidden, "hidden").detach()
    if states.dim() != 3:
        raise BadInput(f"hidden must be (sequences, tokens, d), not {tuple(states.shape)}")
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    ids = torch.as_tensor(labels, device=states.device)
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise BadInput("labels must be token ids, -100 where there is none")
    if ids.shape != states.shape[:2]:
        raise BadInput(f"labels have shape {tuple(ids.shape)}, hidden {tuple(states.shape)}")
    keep = as_mask(ids != -100, states[..., 0], "labels")
    weight = torch.empty(0, device=states.device)
    bias = None
    if lm_head is not None:
        weight = getattr(lm_head, "weight", lm_head).detach().to(states)
        bias = getattr(lm_head, "bias", None)
        bias = None if bias is None else bias.detach().to(states)
        if weight.dim() != 2 or weight.shape[1] != states.shape[-1]:
            raise BadInput(
                f"lm_head must be (V, {states.shape[-1]}) for these states, not "
                f"{tuple(weight.shape)}"
            )
        if keep.any() and not (int(ids[keep].min()) >= 0 and int(ids[keep].max()) < len(weight)):
            raise BadInput(f"a label is outside the vocabulary of {len(weight)}")
    return states, ids, keep, (weight, bias)
