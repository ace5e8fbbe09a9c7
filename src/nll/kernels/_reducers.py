"""What can be kept of a block of logits: each reducer returns (R,) or (R, small) tensors.

Floats are float32, nats. A row without a label has nan logp and rank, ties -1; what does not need
the label is given for it too. -inf logits have probability 0 and contribute nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.kernels._row_kernel import row_lse
from nll.kernels._torch_rows import rows_at_once
from nll.kernels._visit import Block, Reducer
from nll.trace import Fields


def moments(block: Block) -> dict[str, Tensor]:
    """logp, entropy, varentropy, lse (float32), rank, ties (int32), each (R,).

    rank = 1 + number of strictly larger logits; ties = others equal to the label's.
    """
    s = block.stats
    V = block.logits.shape[1]
    return {
        "logp": s.logp.float(),
        "entropy": s.entropy.float().clamp(max=_at_most(math.log(V))),
        "varentropy": s.varentropy.float(),
        "rank": s.rank,
        "ties": s.ties,
        "lse": s.lse.float(),
    }


def kl_uniform(block: Block) -> dict[str, Tensor]:
    """kl_uniform (R,): KL(uniform || p) = -mean_v ln p_v - ln V, over the V finite logits."""
    return {"kl_uniform": block.stats.kl_uniform.float()}


def hidden(block: Block) -> dict[str, Tensor]:
    """hidden (R, d): the states as they entered the unembedding, float32.

    Raises BadInput when the visit was given logits instead of states.
    """
    if block.rows is None:
        raise BadInput("hidden states were asked for, but only logits are there")
    return {"hidden": block.rows.float()}


@dataclass(frozen=True)
class TopK:
    """top_ids (R, k) int32, top_logp (R, k): most likely first, the lowest id among equals."""

    k: int

    def __call__(self, block: Block) -> dict[str, Tensor]:
        s = block.stats
        return {"top_ids": s.top_ids[:, : self.k], "top_logp": s.top_logp[:, : self.k]}


def top_k(k: int) -> TopK:
    """Keep the k most likely tokens; fewer when the vocabulary is smaller."""
    if k < 1:
        raise BadInput(f"top_k must be at least 1, not {k}")
    return TopK(k)


@dataclass(frozen=True)
class LseGrid:
    """lse_at (R, G): ln sum_v p_v^b = lse(b z) - b lse(z); b = 0 counts the finite logits."""

    betas: tuple[float, ...]

    def __call__(self, block: Block) -> dict[str, Tensor]:
        s = block.stats
        columns = [block.log_power(beta) - beta * s.log_s for beta in self.betas]
        return {"lse_at": torch.stack(columns, dim=1).float()}


def lse_grid(betas: Sequence[float]) -> LseGrid:
    """Keep ln sum_v p_v^b at each inverse temperature b >= 0, in the order given."""
    if not betas:
        raise BadInput("a grid of inverse temperatures needs at least one")
    return LseGrid(_betas(betas))


@dataclass(frozen=True, eq=False)
class GroupMass:
    """key (R,): ln sum of p over some ids; -inf when none of them is possible.

    With betas also `<key>_at` (R, G): the same under p^b / sum p^b.
    """

    ids: Tensor
    key: str
    betas: tuple[float, ...] = ()
    _masks: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict)

    def __call__(self, block: Block) -> dict[str, Tensor]:
        out = {self.key: self._mass(block, 1.0, block.stats.log_s)}
        if self.betas:
            columns = [self._mass(block, beta, block.log_power(beta)) for beta in self.betas]
            out[f"{self.key}_at"] = torch.stack(columns, dim=1)
        return out

    def _mass(self, block: Block, beta: float, normaliser: Tensor) -> Tensor:
        mass = row_lse(block.logits, block.stats.max, beta, self._mask(block.logits))
        return (mass - normaliser).clamp(max=0).float()

    def _mask(self, logits: Tensor) -> Tensor:
        V, device = logits.shape[1], logits.device
        if (V, device) not in self._masks:
            _check_ids(self.ids, V)
            mask = torch.full((V,), -math.inf, device=device)
            mask[self.ids.to(device)] = 0
            self._masks[V, device] = mask
        return self._masks[V, device]


def group_mass(
    ids: Sequence[int] | Tensor, *, betas: Sequence[float] = (), key: str = "boundary"
) -> GroupMass:
    """Keep the log mass of a subset of the vocabulary, such as the word-start tokens."""
    return GroupMass(_ids(ids), key, _betas(betas))


@dataclass(frozen=True, eq=False)
class Candidates:
    """key (R, n): log p of a fixed list of ids, in its order."""

    ids: Tensor
    key: str

    def __call__(self, block: Block) -> dict[str, Tensor]:
        s = block.stats
        _check_ids(self.ids, block.logits.shape[1])
        z = block.logits[:, self.ids.to(block.logits.device)].to(s.max.dtype)
        return {self.key: (z - s.max[:, None] - s.log_s[:, None]).clamp(max=0).float()}


def candidates(ids: Sequence[int] | Tensor, *, key: str = "candidates") -> Candidates:
    """Keep the log-probabilities of a fixed list of ids (option letters, yes and no)."""
    return Candidates(_ids(ids), key)


def cross(block: Block) -> dict[str, Tensor]:
    """cross_mean = sum_v q_v ln p_v, cross_var = sum_v q_v (ln p_v - cross_mean)^2, each (R,).

    p is this model, q the reference model. When one vocabulary is longer (padding), q is cut to the
    shared ids and renormalised; p keeps its own normaliser. Where q_v = 0 a term is 0; where only
    p_v = 0 the mean is -inf and the variance +inf.
    Raises BadInput when the visit has no reference.
    """
    if block.reference is None:
        raise BadInput("cross statistics need the reference model's states or logits")
    s = block.stats
    V = min(block.logits.shape[1], block.reference.shape[1])
    mean, var = torch.empty_like(s.max), torch.empty_like(s.max)
    step = rows_at_once(block.logits)
    for i in range(0, len(mean), step):
        part = slice(i, i + step)
        q = block.reference[part, :V].softmax(dim=-1)
        d = block.logits[part, :V] - s.max[part, None].float()
        d.masked_fill_(q == 0, 0)
        centre = (q * d).sum(-1)
        mean[part] = centre - s.log_s[part]
        spread = (d - centre[:, None]).square_().mul_(q).sum(-1)
        var[part] = spread.masked_fill(centre == -math.inf, math.inf)
    return {"cross_mean": mean.clamp(max=0).float(), "cross_var": var.float()}


def reducers_for(
    fields: Fields,
    *,
    boundary_ids: Sequence[int] | Tensor | None = None,
    with_reference: bool = False,
) -> list[Reducer]:
    """The reducers that fill a trace with `fields`, but for the hidden states: add `hidden`.

    Raises BadInput when the word-boundary mass is asked for without `boundary_ids`.
    """
    out: list[Reducer] = [moments]
    if fields.top_k:
        out.append(top_k(fields.top_k))
    if fields.betas:
        out.append(lse_grid(fields.betas))
    if fields.boundary:
        if boundary_ids is None:
            raise BadInput("the word-boundary mass needs the ids of the word-start tokens")
        out.append(group_mass(boundary_ids, betas=fields.betas))
    if fields.kl_uniform:
        out.append(kl_uniform)
    if with_reference:
        out.append(cross)
    return out


def _betas(betas: Sequence[float]) -> tuple[float, ...]:
    if not all(math.isfinite(b) and b >= 0 for b in betas):
        raise BadInput(f"inverse temperatures must be finite and >= 0, not {tuple(betas)}")
    return tuple(float(b) for b in betas)


def _ids(ids: Sequence[int] | Tensor) -> Tensor:
    out = torch.as_tensor(ids, dtype=torch.int64)
    if out.dim() != 1 or not len(out):
        raise BadInput("token ids must be a non-empty list")
    return out


def _check_ids(ids: Tensor, V: int) -> None:
    if int(ids.min()) < 0 or int(ids.max()) >= V:
        raise BadInput(f"token ids must lie in 0..{V - 1}, not {int(ids.min())}..{int(ids.max())}")


def _at_most(x: float) -> float:
    """The largest float32 that is not above x."""
    near = torch.tensor(x, dtype=torch.float32)
    if float(near) > x:
        near = torch.nextafter(near, torch.tensor(-math.inf))
    return float(near)
