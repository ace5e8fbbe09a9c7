"""Row statistics on a GPU in one read of the logits: the Triton twin of `_torch_rows`.

One program a row walks the vocabulary in blocks and keeps running sums relative to the largest
logit so far (Milakov & Gimelshein 2018, arXiv 1805.02867, extended to the first two moments).
Experimental: proved against the twin in Triton's interpreter and, at first use, on the device.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nll._errors import NllError
from nll.kernels import _torch_rows as twin
from nll.kernels._torch_rows import RowStats

_BLOCK = 4096


def row_stats(z: Tensor, targets: Tensor, k: int) -> RowStats:
    """As the torch twin (`_torch_rows.row_stats`), for contiguous (R, V) float32 logits."""
    R, V = z.shape
    targets = targets.to(z.device).contiguous()
    real = torch.empty(6, R, dtype=torch.float64, device=z.device)
    count = torch.empty(4, R, dtype=torch.int32, device=z.device)
    if R:
        block = min(_BLOCK, 1 << (V - 1).bit_length())
        _kernel()[(R,)](z, targets, real, count, R, V, BLOCK=block, num_warps=8)
    m, s0, s1, s2, sum_d, z_y = real
    n_max, finite, above, equal = count
    return twin.finish(
        z, k, labelled=targets >= 0, z_y=z_y.float(), rank=above + 1, ties=equal - 1, m=m,
        n_max=n_max, s0=s0, s1=s1, s2=s2, sum_d=sum_d, finite=finite,
    )  # fmt: skip


def serves(z: Tensor) -> bool:
    """Whether the kernel can run on this tensor at all: a CUDA tensor, or any when interpreted."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return (z.is_cuda or interpreted) and z.is_contiguous() and z.shape[1] > 0


@cache
def trouble(device: torch.device) -> str | None:
    """Why the kernel may not be used on this device, or None when its numbers are right there."""
    if find_spec("triton") is None:
        return "triton is not installed"
    z = torch.arange(3 * 5003, device=device).remainder(601).mul(0.03).view(3, -1).contiguous()
    z[0, 5] = -torch.inf
    z[2, 4999] = 40.0
    targets = torch.tensor([7, 4900, -1], device=device)
    wanted = twin.row_stats(z, targets, 9)
    try:
        found = row_stats(z, targets, 9)
    except Exception as error:  # noqa: BLE001  a compiler for an unknown device may fail anyhow
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for name, a, b in zip(RowStats._fields, found, wanted, strict=True):
        if not torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-5, equal_nan=True):
            return f"its {name} differs from the torch twin's"
    return None


def need(device: torch.device) -> None:
    """Raise NllError when the kernel was asked for by name and cannot be used."""
    why = trouble(device)
    if why is not None:
        raise NllError(f"NLL_ROW_KERNEL=triton, but that kernel cannot be used: {why}")


tl: Any = None  # triton.language; Triton looks it up among this module's globals


@cache
def _kernel() -> Any:
    global tl
    triton: Any = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
    return triton.jit(_row)


def _row(Z, Y, REAL, COUNT, R, V, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    start = Z + row.to(tl.int64) * V
    y = tl.load(Y + row)
    z_y = tl.load(start + tl.maximum(y, 0))
    m = tl.full((), float("-inf"), tl.float32)
    s0 = tl.full((), 0.0, tl.float64)
    s1 = tl.full((), 0.0, tl.float64)
    s2 = tl.full((), 0.0, tl.float64)
    sum_d = tl.full((), 0.0, tl.float64)
    n_max = tl.full((), 0, tl.int32)
    finite = tl.full((), 0, tl.int32)
    above = tl.full((), 0, tl.int32)
    equal = tl.full((), 0, tl.int32)
    bad = tl.full((), 0, tl.int32)
    for at in range(0, V, BLOCK):
        where = at + tl.arange(0, BLOCK)
        inside = where < V
        z = tl.load(start + where, mask=inside, other=float("-inf"))
        above += tl.sum((inside & (z > z_y)).to(tl.int32), axis=0)
        equal += tl.sum((inside & (z == z_y)).to(tl.int32), axis=0)
        wrong = (z != z) | (z == float("inf"))
        bad += tl.sum(wrong.to(tl.int32), axis=0)
        z = tl.where(wrong, float("-inf"), z)
        largest = tl.maximum(m, tl.max(z, axis=0))
        if largest > float("-inf"):
            # what was summed relative to the old maximum is moved to the new one
            step = tl.where(m > float("-inf"), m - largest, 0.0).to(tl.float64)
            if step < 0:
                shrink = tl.exp(step)
                near = tl.maximum(step, -200.0)
                held = s0 + n_max
                s2 = shrink * (s2 + 2 * near * s1 + near * near * held)
                s1 = shrink * (s1 + near * held)
                s0 = shrink * held
                sum_d += step * finite
                n_max = n_max * 0
            m = largest
            d = z - m
            real = z > float("-inf")
            top = d == 0
            e = tl.where(top, 0.0, tl.exp(d))
            sum_d += tl.sum(tl.where(real, d, 0.0).to(tl.float64), axis=0)
            d = tl.maximum(d, -200.0)
            ed = e * d
            s0 += tl.sum(e, axis=0).to(tl.float64)
            s1 += tl.sum(ed, axis=0).to(tl.float64)
            s2 += tl.sum(ed * d, axis=0).to(tl.float64)
            n_max += tl.sum(top.to(tl.int32), axis=0)
            finite += tl.sum(real.to(tl.int32), axis=0)
    shown = tl.where(bad > 0, float("nan"), m)  # one nan or +inf spoils the row
    tl.store(REAL + row, shown.to(tl.float64))
    tl.store(REAL + R + row, tl.where(bad > 0, float("nan"), s0))
    tl.store(REAL + 2 * R + row, s1)
    tl.store(REAL + 3 * R + row, s2)
    tl.store(REAL + 4 * R + row, sum_d)
    tl.store(REAL + 5 * R + row, z_y.to(tl.float64))
    tl.store(COUNT + row, n_max)
    tl.store(COUNT + R + row, finite)
    tl.store(COUNT + 2 * R + row, above)
    tl.store(COUNT + 3 * R + row, equal)
