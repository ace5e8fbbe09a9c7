"""From logits and labels to the log-probs that every objective takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import Values, as_tokens, sequence_sums


class TokenLogps(NamedTuple):
    """logp: (B, T) nats, 0 where masked.   mask: (B, T) bool, the tokens that count."""

    logp: Tensor
    mask: Tensor


class SequenceLogps(NamedTuple):
    """seq_logp: (B,) nats, summed over the tokens that count.   length: (B,) how many did."""

    seq_logp: Tensor
    length: Tensor


def align_labels(
    labels: Tensor, mask: Tensor | None = None, *, shift: bool = True, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """The label that each position predicts, and which of them count.

    labels, mask: (B, T).   shift: labels stand at their own tokens, as in `transformers`, so that
    position t predicts labels[t + 1]; the results are then (B, T - 1).
    A label counts unless it is ignore_index or its mask is 0; others become 0.
    Raises BadInput when shapes disagree or labels are no integers.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise BadInput(f"labels must be token ids, not {labels.dtype}")
    keep = labels != ignore_index
    if mask is not None:
        if mask.shape != labels.shape:
            raise BadInput(f"mask has shape {tuple(mask.shape)}, labels {tuple(labels.shape)}")
        keep = keep & mask.bool()
    if shift:
        labels, keep = labels[..., 1:], keep[..., 1:]
    return torch.where(keep, labels, 0).long(), keep


def check_labels(labels: Tensor, vocab_size: int) -> None:
    """Raise BadInput when an id lies outside the vocabulary."""
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < vocab_size):
        raise BadInput(
            f"labels span {int(labels.min())} to {int(labels.max())}, the vocabulary has "
            f"{vocab_size} ids; mark what does not count with ignore_index or the mask"
        )


def token_logps(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    shift: bool = True,
    ignore_index: int = -100,
) -> TokenLogps:
    """log p of each label, `logits[label] - logsumexp(logits)`, in float32 at least.

    logits: (B, T, V).   labels: (B, T) ids.   mask: (B, T), nonzero where a label counts.
    shift: as `transformers` has it, labels stand at their own tokens and the logits at t predict
    the label at t + 1; the result is (B, T - 1). False: logits at t predict the label at t.
    Logits of positions that do not count may be nan. `linear_logps` gives the same without ever
    holding the logits.
    Raises BadInput when shapes disagree or an id is outside the vocabulary.
    """
    if logits.dim() != labels.dim() + 1 or logits.shape[:-1] != labels.shape:
        raise BadInput(
            f"logits have shape {tuple(logits.shape)}, labels {tuple(labels.shape)}; expected "
            "(B, T, V) and (B, T)"
        )
    target, keep = align_labels(labels, mask, shift=shift, ignore_index=ignore_index)
    check_labels(target, logits.shape[-1])
    rows = (logits[..., :-1, :] if shift else logits)[keep]
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    found = rows.gather(-1, target[keep].unsqueeze(-1)).squeeze(-1) - rows.logsumexp(-1)
    out = torch.zeros(keep.shape, dtype=found.dtype, device=found.device)
    return TokenLogps(out.masked_scatter(keep, found), keep)


def sequence_logps(logp: Values, mask: Tensor | None = None) -> SequenceLogps:
    """Sum of each sequence's log-probs over the tokens that count, and their number.

    logp: (B, T) nats with mask (B, T), or a list of 1-D tensors.
    """
    tokens = as_tokens(logp, mask)
    return SequenceLogps(sequence_sums(tokens.values, tokens.mask).values, tokens.length)
