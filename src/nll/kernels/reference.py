"""The oracle: every statistic of nll.kernels by brute force, float64, one full log-softmax a row.

For tests and for readers who want the definitions; it holds (N, V) arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nll.trace import Array


def log_softmax(logits: Array) -> Array:
    """(N, V) float64 log-probabilities; -inf logits stay -inf."""
    z = np.asarray(logits, dtype=np.float64)
    shifted = z - z.max(axis=-1, keepdims=True)
    out: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return out


def head_logits(
    rows: Array,
    weight: Array,
    bias: Array | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Array:
    """(N, d) states to (N, V) float64 logits: W h + b, times scale, then cap tanh(z / cap)."""
    z = np.asarray(rows, np.float64) @ np.asarray(weight, np.float64).T
    z = (z if bias is None else z + np.asarray(bias, np.float64)) * scale
    return z if softcap is None else softcap * np.tanh(z / softcap)


@np.errstate(invalid="ignore")  # 0 * -inf, where the -inf is then left out
def stats(
    logits: Array,
    targets: Sequence[int] | Array,
    *,
    k: int = 0,
    betas: Sequence[float] = (),
    group: Sequence[int] | None = None,
    reference: Array | None = None,
) -> dict[str, Array]:
    """All statistics of (N, V) logits at (N,) targets (-1: no label), under the kernels' names."""
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(targets, dtype=np.int64)
    logp, at = log_softmax(z), np.arange(len(z))
    p, none = np.exp(logp), y < 0
    z_y = z[at, np.maximum(y, 0)][:, None]
    mean = _expected(p, logp)
    finite = np.isfinite(z)
    out: dict[str, Array] = {
        "logp": np.where(none, np.nan, logp[at, np.maximum(y, 0)]),
        "entropy": -mean,
        "varentropy": _expected(p, (logp - mean[:, None]) ** 2),
        "rank": np.where(none, -1, 1 + (z > z_y).sum(axis=1)),
        "ties": np.where(none, -1, (z == z_y).sum(axis=1) - 1),
        "lse": np.logaddexp.reduce(z, axis=1),
        "kl_uniform": -np.where(finite, logp, 0).sum(axis=1) / finite.sum(axis=1)
        - np.log(finite.sum(axis=1)),
    }
    if k:
        order = np.argsort(-z, axis=1, kind="stable")[:, :k]
        out |= {"top_ids": order, "top_logp": np.take_along_axis(logp, order, axis=1)}
    if betas:
        powers = [np.where(finite, b * logp, -np.inf) for b in betas]
        out["lse_at"] = np.stack([np.logaddexp.reduce(x, axis=1) for x in powers], axis=1)
    if group is not None:
        members = np.asarray(group)
        out["boundary"] = np.logaddexp.reduce(logp[:, members], axis=1)
        if betas:
            powers = [np.where(finite, b * logp, -np.inf)[:, members] for b in betas]
            mass = np.stack([np.logaddexp.reduce(x, axis=1) for x in powers], axis=1)
            out["boundary_at"] = mass - out["lse_at"]
    if reference is not None:
        V = min(z.shape[1], np.shape(reference)[1])
        q = np.exp(log_softmax(np.asarray(reference)[:, :V]))
        cross = _expected(q, logp[:, :V])
        out["cross_mean"] = cross
        out["cross_var"] = _expected(q, (logp[:, :V] - cross[:, None]) ** 2)
    return out


def _expected(p: Array, value: Array) -> Array:
    total: Array = np.where(p > 0, p * value, 0).sum(axis=1)
    return total
