"""Which token dooms a wrong answer? Two tuned copies of a model, or rollouts from every prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.objectives._common import as_mask, as_tensor, positive


def contrastive_estimation(
    pos_logits: Tensor, neg_logits: Tensor, tokens: Any, beta: float = 1.0
) -> Tensor:
    """(T,) probability s_t of each token under `softmax((1 + beta) z_pos - beta z_neg)`.

    pos_logits, neg_logits: (T, V), of the copy tuned on right and on wrong answers, at the
    positions that predict the tokens; log-probs serve as well.   tokens: (T,) ids. Leading batch
    dimensions are allowed. In [0, 1], low = critical; beta = 0 gives p_pos. The same formula is
    contrastive decoding. A token that pos_logits forbid (-inf) has s = 0, one that only neg_logits
    forbid takes all. nan where no token is allowed. No gradient.
    Raises BadInput when shapes (vocabularies) differ, an id is outside, or beta is negative.
    References: Lin et al. 2024, arXiv 2411.19943, eq. 1.

    >>> z = torch.tensor([[2.0, 1.0, 0.0]])
    >>> torch.equal(contrastive_estimation(z, z, [0]), torch.softmax(z, -1)[:, 0])
    True
    """
    positive(beta, "beta", zero=True)
    pos, neg = as_tensor(pos_logits, "pos_logits").detach(), as_tensor(neg_logits, "neg_logits")
    if pos.shape != neg.shape or pos.dim() < 2:
        raise BadInput(
            f"pos_logits have shape {tuple(pos.shape)}, neg_logits {tuple(neg.shape)}; expected "
            "(T, V) twice, over one vocabulary"
        )
    ids = torch.as_tensor(tokens, device=pos.device)
    if ids.shape != pos.shape[:-1] or ids.is_floating_point():
        raise BadInput(f"tokens must be {tuple(pos.shape[:-1])} ids, not {tuple(ids.shape)}")
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < pos.shape[-1]):
        raise BadInput(f"a token id is outside the vocabulary of {pos.shape[-1]}")
    pos, neg = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (pos, neg.detach()))
    # beta = 0 must not make 0 * -inf
    mixed = (1 + beta) * pos - beta * neg if beta else pos
    mixed = torch.where(pos == -torch.inf, -torch.inf, mixed)
    taken = (mixed == torch.inf).any(-1, keepdim=True)
    mixed = torch.where(taken, torch.where(mixed == torch.inf, pos, -torch.inf), mixed)
    return torch.softmax(mixed, -1).gather(-1, ids.long().unsqueeze(-1)).squeeze(-1)


def critical_token_scores(
    pos_logits: Tensor, neg_logits: Tensor, labels: Tensor, mask: Any = None, *, beta: float = 1.0
) -> Tensor:
    """(B, T) `contrastive_estimation` of a padded batch, 0 where masked: `scores_r` of cdpo_loss.

    pos_logits, neg_logits: (B, T, V) at the positions that predict `labels` (B, T) (no shift).
    mask: (B, T); masked labels may be any number and masked logits nan; a label of -100 is masked.
    """
    if labels.shape != pos_logits.shape[:-1]:
        raise BadInput(
            f"labels have shape {tuple(labels.shape)}, logits {tuple(pos_logits.shape)}; expected "
            "(B, T) and (B, T, V)"
        )
    keep = as_mask(mask, pos_logits[..., 0]) & (labels != -100)
    found = contrastive_estimation(pos_logits[keep], neg_logits[keep], labels[keep], beta)
    out = torch.zeros(keep.shape, dtype=found.dtype, device=found.device)
    return out.masked_scatter(keep, found)


def critical_token_by_rollout(
    successes: Sequence[int] | Tensor,
    n: int = 64,
    *,
    later_below: float = 0.05,
    strict: bool = True,
) -> int | None:
    """Index of the first token after which no rollout succeeds, and hardly any ever again.

    successes: (T,) right ones among n continuations from each prefix y_<=t. The first t with none,
    and a rate below `later_below` at every later t; None if there is none. strict=False then gives
    the last t with none, as the released code does.
    Raises BadInput when a count lies outside 0 .. n. References: arXiv 2411.19943, section 2.
    """
    counts = [int(c) for c in successes]
    if n < 1 or any(not 0 <= c <= n for c in counts):
        raise BadInput(f"successes must lie in 0 .. n = {n}, not {counts}")
    none = [t for t, c in enumerate(counts) if c == 0]
    for t in none:
        if all(c < later_below * n for c in counts[t + 1 :]):
            return t
    return none[-1] if none and not strict else None


def select_negatives_top_p(answers: Sequence[Any], p: float = 0.5) -> list[Any]:
    """The most frequent wrong answers that together cover a share p of all, commonest first.

    answers: the wrong final answer of every sampled solution; ties in order of appearance. One
    answer is always taken; further ones only if they were given more than once.
    Raises BadInput unless 0 < p <= 1. References: arXiv 2411.19943 (released code).
    """
    if not 0 < p <= 1:
        raise BadInput(f"p must be in (0, 1], not {p}")
    counts: dict[Any, int] = {}
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    chosen: list[Any] = []
    covered = 0
    for answer, count in sorted(counts.items(), key=lambda item: -item[1]):
        if chosen and (covered >= p * len(answers) or count == 1):
            break
        chosen.append(answer)
        covered += count
    return chosen
