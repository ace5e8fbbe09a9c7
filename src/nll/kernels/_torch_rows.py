"""Row statistics in plain torch: the twin of row_stats.c, and the path on GPUs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_CPU_SCRATCH = 2 << 20
_GPU_SCRATCH = 256 << 20


class RowStats(NamedTuple):
    """One value per row of logits; nan, -1 where the row holds nan, +inf or no finite logit at all.

    max, log_s: float64, with lse = max + log_s; log p_v = (z_v - max) - log_s keeps all its digits.
    logp, rank, ties: nan, -1, -1 also where there is no label.
    top_ids, top_logp: (R, k).   finite: how many logits are finite.
    """

    max: Tensor
    log_s: Tensor
    lse: Tensor
    logp: Tensor
    entropy: Tensor
    varentropy: Tensor
    kl_uniform: Tensor
    rank: Tensor
    ties: Tensor
    finite: Tensor
    top_ids: Tensor
    top_logp: Tensor


def row_stats(z: Tensor, targets: Tensor, k: int) -> RowStats:
    """Statistics of (R, V) float32 logits, (R,) int64 targets (-1: none) and the k <= V largest."""
    step = rows_at_once(z)
    parts = [
        _some_rows(z[i : i + step], targets[i : i + step], k)
        for i in range(0, max(len(z), 1), step)
    ]
    return RowStats(*(torch.cat(column) for column in zip(*parts, strict=True)))


def row_lse(z: Tensor, shift: Tensor, beta: float, add: Tensor | None) -> Tensor:
    """(R,) float64 ln sum_v exp(beta (z_v - shift) + add_v), beta >= 0."""
    out = torch.empty(len(z), dtype=_wide(z), device=z.device)
    step = rows_at_once(z)
    for i in range(0, len(z), step):
        x = (z[i : i + step] - shift[i : i + step, None].float()).mul_(beta)
        if beta == 0:
            x.masked_fill_(x.isnan(), -math.inf)
        if add is not None:
            x += add
        out[i : i + step] = torch.logsumexp(x, dim=-1)
    return out.masked_fill_(shift.isnan(), math.nan)


def rows_at_once(z: Tensor) -> int:
    """How many rows fit the scratch memory: the cache on a CPU, a fixed budget on a GPU."""
    budget = _CPU_SCRATCH if z.device.type == "cpu" else _GPU_SCRATCH
    return max(1, budget // (4 * z.shape[1]))


def _wide(z: Tensor) -> torch.dtype:
    return torch.float32 if z.device.type == "mps" else torch.float64


def _some_rows(z: Tensor, targets: Tensor, k: int) -> RowStats:
    wide = _wide(z)
    labelled = targets >= 0
    z_y = z.gather(1, targets.clamp(min=0)[:, None])
    rank = (z > z_y).sum(-1, dtype=torch.int32) + 1
    ties = (z == z_y).sum(-1, dtype=torch.int32) - 1

    m = z.amax(-1, keepdim=True)
    d = z - m
    at_max = d == 0
    n_max = at_max.sum(-1)
    e = d.exp().masked_fill_(at_max, 0)
    finite = (d > -math.inf).sum(-1, dtype=torch.int32)
    sum_d = d.masked_fill(d == -math.inf, 0).sum(-1, dtype=wide)
    d.clamp_(min=-200)
    s0 = e.sum(-1).to(wide)
    s1 = e.mul_(d).sum(-1).to(wide)
    s2 = e.mul_(d).sum(-1).to(wide)

    return finish(
        z, k, labelled=labelled, z_y=z_y[:, 0], rank=rank, ties=ties, m=m[:, 0].to(wide),
        n_max=n_max, s0=s0, s1=s1, s2=s2, sum_d=sum_d, finite=finite,
    )  # fmt: skip


def finish(
    z: Tensor, k: int, *, labelled: Tensor, z_y: Tensor, rank: Tensor, ties: Tensor, m: Tensor,
    n_max: Tensor, s0: Tensor, s1: Tensor, s2: Tensor, sum_d: Tensor, finite: Tensor,
) -> RowStats:  # fmt: skip
    """From one row's sums, each (R,), to its statistics; s0, s1, s2 leave the maxima out."""
    total = n_max + s0
    log_s = torch.where(n_max == 1, s0.log1p(), total.log())
    mean = s1 / total
    kl = log_s - sum_d / finite - finite.to(m.dtype).log()
    undefined = ~torch.isfinite(log_s)
    nan = torch.full_like(log_s, math.nan)
    none = torch.full_like(rank, -1)
    no_label = undefined | ~labelled
    ids = _top_ids(z, k)
    top = z.gather(1, ids).to(m.dtype) - m[:, None] - log_s[:, None]
    return RowStats(
        max=torch.where(undefined, nan, m),
        log_s=torch.where(undefined, nan, log_s),
        lse=torch.where(undefined, nan, m + log_s),
        logp=torch.where(no_label, nan, (z_y.to(m.dtype) - m - log_s).clamp(max=0)),
        entropy=torch.where(undefined, nan, (log_s - mean).clamp(0, math.log(z.shape[1]))),
        varentropy=torch.where(undefined, nan, (s2 / total - mean * mean).clamp(min=0)),
        kl_uniform=torch.where(undefined, nan, kl.clamp(min=0)),
        rank=torch.where(no_label, none, rank),
        ties=torch.where(no_label, none, ties),
        finite=torch.where(undefined, none, finite),
        top_ids=torch.where(undefined[:, None], -1, ids).int(),
        top_logp=torch.where(undefined[:, None], nan[:, None], top.clamp(max=0)).float(),
    )


def _top_ids(z: Tensor, k: int) -> Tensor:
    """(R, k) ids of the largest logits, largest first, the lowest id first among equals."""
    value, ids = torch.topk(z, k, dim=-1)
    if k == 0:
        return ids
    ids = ids.sort(dim=-1).values
    order = z.gather(1, ids).sort(dim=-1, descending=True, stable=True).indices
    ids = ids.gather(1, order)
    # topk picks any of the numbers that tie at the k-th place; only such rows need a full sort
    last = value[:, -1:]
    unsure = ((z == last).sum(-1) > (value == last).sum(-1)).nonzero()[:, 0]
    for row in unsure.tolist():
        ids[row] = z[row].sort(descending=True, stable=True).indices[:k]
    return ids
