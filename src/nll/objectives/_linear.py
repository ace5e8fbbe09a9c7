"""Log-probs of given tokens straight from hidden states: the logits exist one tile at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nll._errors import BadInput
from nll.objectives._logps import TokenLogps, align_labels, check_labels

# Rows and columns of a tile. On a CPU 4 MiB of it stay in the cache between product, exp and sum;
# a GPU needs larger products to be busy.
_CPU_TILE = (1024, 1024)
_GPU_TILE = (4096, 16384)
# Computing all logits anew costs a third of the products; what fits here is kept instead.
_CPU_KEPT = 384 << 20
_LOW = (torch.float16, torch.bfloat16)


class _Head(NamedTuple):
    """z = W h + b, then z * scale, then cap tanh(z / cap)."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    def logits(self, rows: Tensor, columns: slice, room: Tensor) -> Tensor:
        """(R, C) logits of a slice of the vocabulary, in float32 at least; may lie in `room`."""
        weight = self.weight[columns]
        if rows.dtype in _LOW:
            z = (rows @ weight.T).float()
        else:
            # fresh memory for every tile costs as much as the sums do
            z = room[: len(rows) * len(weight)].view(len(rows), len(weight))
            torch.mm(rows, weight.T, out=z)
        if self.bias is not None:
            z += self.bias[columns]
        if self.scale != 1:
            z *= self.scale
        if self.softcap is not None:
            z.div_(self.softcap).tanh_().mul_(self.softcap)
        return z

    def slope(self, z: Tensor) -> Tensor | None:
        """d z / d (scale (W h + b)); None stands for 1."""
        if self.softcap is None:
            return None
        return (z / self.softcap).square_().neg_().add_(1)

    def room(self, rows: Tensor, columns: int, n: int) -> Tensor:
        """Memory for a tile of n rows."""
        size = 0 if rows.dtype in _LOW else min(n, len(rows)) * min(columns, len(self.weight))
        return torch.empty(size, dtype=rows.dtype, device=rows.device)


def linear_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    shift: bool = True,
    ignore_index: int = -100,
    tile: tuple[int, int] | None = None,
    kept_bytes: int | None = None,
) -> TokenLogps:
    """`token_logps(hidden @ weight.T + bias, labels, mask)` without ever holding the logits.

    hidden: (B, T, d), as it enters the unembedding.   weight: (V, d), bias: (V,) or None, all of
    one dtype.   labels, mask, shift, ignore_index: as in `token_logps`; rows that do not count are
    neither computed nor able to spoil anything.   scale, softcap: z * scale, then
    cap tanh(z / cap).   tile: (rows, columns) of logits that exist at one time.
    kept_bytes: how much of the softmax one block may keep for the backward pass (default: 384 MiB
    on a CPU, else 0).
    Gradients reach hidden, weight and bias; the logits beyond that block are computed once more
    for them, except where the weight is frozen (adapters): then the hidden states' gradient is
    taken with the values and nothing is kept. Half precision multiplies in that precision and
    sums in float32. There is no second derivative.
    Raises BadInput when shapes or dtypes disagree or an id is outside the vocabulary.
    """
    _check(hidden, weight, labels, bias, softcap, tile)
    target, keep = align_labels(labels, mask, shift=shift, ignore_index=ignore_index)
    check_labels(target, len(weight))
    rows = (hidden[..., :-1, :] if shift else hidden)[keep]
    kind = hidden.device.type
    # autocast would change the dtype of some products of the function and not of others
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        rows, weight = rows.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with torch.autocast(kind, enabled=False):
        found: Tensor = _LinearLogps.apply(  # type: ignore[no-untyped-call]
            rows, weight, bias, target[keep], scale, softcap, tile, kept_bytes
        )
    out = torch.zeros(keep.shape, dtype=found.dtype, device=found.device)
    return TokenLogps(out.masked_scatter(keep, found), keep)


def _check(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    tile: tuple[int, int] | None,
) -> None:
    if weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise BadInput(
            f"hidden states have shape {tuple(hidden.shape)}, the weight {tuple(weight.shape)}; "
            "expected (B, T, d) and (V, d)"
        )
    if hidden.shape[:-1] != labels.shape:
        raise BadInput(f"hidden states have shape {tuple(hidden.shape)}, labels "
                       f"{tuple(labels.shape)}; expected (B, T, d) and (B, T)")  # fmt: skip
    if bias is not None and bias.shape != weight.shape[:1]:
        raise BadInput(f"the bias has shape {tuple(bias.shape)}, the vocabulary {len(weight)}")
    dtypes = {t.dtype for t in (hidden, weight, bias) if t is not None}
    if len(dtypes) > 1 and not torch.is_autocast_enabled(hidden.device.type):
        raise BadInput(f"hidden states, weight and bias must share a dtype, not {dtypes}")
    if softcap is not None and not softcap > 0:
        raise BadInput(f"softcap must be positive, not {softcap}")
    if tile is not None and min(tile) < 1:
        raise BadInput(f"tile must be (rows, columns) of 1 or more, not {tile}")


def _cuts(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


class _LinearLogps(torch.autograd.Function):
    """(N, d), (V, d), (V,), (N,) to (N,) log-probs."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor,
        scale: float, softcap: float | None, tile: tuple[int, int] | None, kept: int | None,
    ) -> Tensor:  # fmt: skip
        head = _Head(weight, bias, scale, softcap)
        tile = tile or (_CPU_TILE if rows.device.type == "cpu" else _GPU_TILE)
        needs = ctx.needs_input_grad
        ctx.head_options, ctx.tile = (scale, softcap), tile
        ctx.frozen = needs[0] and not needs[1] and not needs[2]
        if ctx.frozen:
            logp, slope = _with_slope(rows, head, target, tile)
            ctx.save_for_backward(slope)
        else:
            # a soft cap's slope needs the logits themselves
            n = 0 if softcap is not None or not any(needs) else _kept_rows(rows, head, kept)
            first, probs = _kept(rows[:n], head, target[:n], tile)
            rest, lse = _forward(rows[n:], head, target[n:], tile)
            ctx.save_for_backward(rows, weight, bias, target, lse, probs)
            logp = torch.cat([first, rest])
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.frozen:
            (slope,) = ctx.saved_tensors
            return (slope * upstream[:, None]).to(slope.dtype), *(None,) * 7
        rows, weight, bias, target, lse, probs = ctx.saved_tensors
        head = _Head(weight, bias, *ctx.head_options)
        found = _backward(
            rows, head, target, lse, probs, upstream, ctx.tile, ctx.needs_input_grad[:3]
        )
        return *found, *(None,) * 5


def _forward(
    rows: Tensor, head: _Head, target: Tensor, tile: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(N,) log-probs and logsumexps, the latter gathered over slices of the vocabulary."""
    dtype = torch.float32 if rows.dtype in _LOW else rows.dtype
    lse, hit = (torch.zeros(len(rows), dtype=dtype, device=rows.device) for _ in range(2))
    room = head.room(rows, tile[1], tile[0])
    for part in _cuts(len(rows), tile[0]):
        # finite, so that a slice that is -inf throughout does not make -inf - -inf
        top = torch.full_like(lse[part], torch.finfo(dtype).min)
        total = torch.zeros_like(top)
        for columns in _cuts(len(head.weight), tile[1]):
            z = head.logits(rows[part], columns, room)
            here, at = _labels_in(target[part], columns)
            hit[part][here] = z[here, at]
            higher = torch.maximum(top, z.amax(-1))
            total.mul_(torch.exp(top - higher)).add_(z.sub_(higher[:, None]).exp_().sum(-1))
            top = higher
        lse[part] = top + total.log()
    return hit - lse, lse


def _kept_rows(rows: Tensor, head: _Head, kept: int | None) -> int:
    if kept is None:
        kept = _CPU_KEPT if rows.device.type == "cpu" else 0
    return min(len(rows), kept // (max(4, rows.element_size()) * len(head.weight)))


def _kept(
    rows: Tensor, head: _Head, target: Tensor, tile: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(n,) log-probs and (n, V) the whole softmax."""
    dtype = torch.float32 if rows.dtype in _LOW else rows.dtype
    probs = torch.empty(len(rows), len(head.weight), dtype=dtype, device=rows.device)
    logp = torch.empty(len(rows), dtype=dtype, device=rows.device)
    for part in _cuts(len(rows), tile[0]):
        own = probs[part]
        z = head.logits(rows[part], slice(0, len(head.weight)), own.view(-1))
        top = z.amax(-1)
        hit = z.gather(1, target[part, None]).squeeze(1) - top
        total = torch.exp(z.sub_(top[:, None]), out=own).sum(-1)
        own.div_(total[:, None])
        logp[part] = hit - total.log()
    return logp, probs


def _backward(
    rows: Tensor, head: _Head, target: Tensor, lse: Tensor, probs: Tensor, upstream: Tensor,
    tile: tuple[int, int], needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of rows, weight and bias; d logp / d z = onehot - softmax(z).

    The upstream gradient multiplies the narrow factors of the products, not the wide tile.
    """
    factor = (-head.scale * upstream)[:, None].to(lse.dtype)
    scaled = (rows * factor).to(rows.dtype)
    d_rows = torch.zeros_like(rows, dtype=lse.dtype) if needs[0] else None
    d_weight = torch.zeros_like(head.weight, dtype=lse.dtype) if needs[1] else None
    d_bias = torch.zeros_like(head.weight[:, 0], dtype=lse.dtype) if needs[2] else None
    n = len(probs)
    low = probs.to(rows.dtype)
    if d_rows is not None:
        d_rows[:n] = low @ head.weight - head.weight[target[:n]]
    if d_weight is not None:
        _add_product(d_weight, low.T, scaled[:n])
        d_weight.index_add_(0, target[:n], scaled[:n].to(lse.dtype), alpha=-1)
    if d_bias is not None:
        d_bias += (probs.T @ factor[:n]).squeeze(-1)
        d_bias.index_add_(0, target[:n], factor[:n, 0], alpha=-1)
    room = head.room(rows, tile[1], tile[0])
    for at_rest in _cuts(len(rows) - n, tile[0]):
        part = slice(n + at_rest.start, n + at_rest.stop)
        for columns in _cuts(len(head.weight), tile[1]):
            z = head.logits(rows[part], columns, room)
            slope = head.slope(z)
            here, at = _labels_in(target[part], columns)
            z.sub_(lse[at_rest, None]).exp_()
            z[here, at] -= 1
            if slope is not None:
                z.mul_(slope)
            if d_bias is not None:
                d_bias[columns] += (z.T @ factor[part]).squeeze(-1)
            low = z.to(rows.dtype)
            if d_rows is not None:
                _add_product(d_rows[part], low, head.weight[columns])
            if d_weight is not None:
                _add_product(d_weight[columns], low.T, scaled[part])
    if d_rows is not None:
        d_rows *= factor
    back = [None if d is None else d.to(rows.dtype) for d in (d_rows, d_weight, d_bias)]
    return back[0], back[1], back[2]


def _with_slope(
    rows: Tensor, head: _Head, target: Tensor, tile: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(N,) log-probs and (N, d) their gradients, from whole rows of at most a tile's size."""
    V = len(head.weight)
    dtype = torch.float32 if rows.dtype in _LOW else rows.dtype
    logp = torch.zeros(len(rows), dtype=dtype, device=rows.device)
    slopes = torch.zeros_like(rows)
    # wider than a tile: the sum over the vocabulary comes before the gradient
    most = max(1, min(tile[0], 16 * tile[0] * tile[1] // V))
    room = head.room(rows, V, most)
    for part in _cuts(len(rows), most):
        z = head.logits(rows[part], slice(0, V), room)
        slope = head.slope(z)
        each = torch.arange(len(z), device=z.device)
        top = z.amax(-1)
        hit = z[each, target[part]] - top
        total = z.sub_(top[:, None]).exp_().sum(-1)
        logp[part] = hit - total.log()
        z.div_(total[:, None])
        z[each, target[part]] -= 1
        if slope is not None:
            z.mul_(slope)
        slopes[part] = z.to(rows.dtype) @ head.weight
    return logp, slopes.mul_(-head.scale)


def _labels_in(target: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Rows whose label lies in this slice of the vocabulary, and where in it."""
    here = ((target >= columns.start) & (target < columns.stop)).nonzero().squeeze(-1)
    return here, target[here] - columns.start


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
