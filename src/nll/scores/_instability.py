"""Did the model lose its footing while it wrote, and when? Shifts of the next-token distribution.

On fluent text the distributions of neighbouring positions hardly overlap, so the shift is near
ln 2 almost everywhere and the signal is nearly the entropy plus a constant: look at `lam=0` (shift
alone) beside it, and at the length, since a maximum over more steps is larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined, score
from nll._errors import BadInput, MissingField
from nll.scores._common import INF, NO_TOKENS, defined
from nll.trace import Array, Fields, Trace

LN2 = math.log(2.0)
FEW = 64  # candidates up to which comparing all pairs is faster than sorting
Stability: TypeAlias = Literal["stable", "corrective", "intermediate", "destructive", "undefined"]


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Jensen-Shannon divergence of two distributions over the same entries, in [0, ln 2] nats.

    H((p + q) / 2) - (H(p) + H(q)) / 2. p, q: (V,) probabilities; entries of 0 contribute nothing.
    Raises BadInput for other shapes, or when one does not sum to 1.
    """
    x, y = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not x.size:
        raise BadInput(f"two distributions (V,) are needed, not {x.shape} and {y.shape}")
    for name, values in (("p", x), ("q", y)):
        if not (values >= 0).all() or not math.isclose(values.sum(), 1.0, abs_tol=1e-6):
            raise BadInput(f"{name} is no distribution: its entries must be >= 0 and sum to 1")
    value = float(_plogp(x).sum() + _plogp(y).sum()) / 2 - float(_plogp((x + y) / 2).sum())
    return min(LN2, max(0.0, value))


@score(
    higher_means="unstable",
    reads=("top_ids", "top_logp"),
    unit="nats",
    range=(0.0, INF),
    paper="2602.02863",
    question="reasoning",
    shape="token",
    fields=lambda k, **_: Fields(top_k=int(k or 0)),
)
def instability_signal(trace: Trace, *, k: int | None = 50, lam: float = 1.0) -> Array:
    """(T,) shift of the next-token distribution since the step before, plus lam times its entropy.

    I_t = JSD(p_{t-1}, p_t) + lam H(p_t), nats, of the k likeliest tokens renormalised (all that the
    trace holds when those are fewer; ids tell which are the same). The first scored step has no
    shift. k=None: the full vocabulary, which the trace must hold. nan where nothing was predicted.
    On text that the model did not write itself, it speaks of the reader, not of the writer.
    """
    out = np.full(len(trace), np.nan)
    out[trace.scored] = _signal(trace, k, lam)
    return out


@score(
    higher_means="unstable",
    reads=("top_ids", "top_logp"),
    unit="nats",
    range=(0.0, INF),
    paper="2602.02863",
    question="reasoning",
    fields=lambda k, **_: Fields(top_k=int(k or 0)),
    experimental=True,
)
def instability_strength(
    trace: Trace, *, k: int | None = 50, lam: float = 1.0, window: int | None = None
) -> float:
    """Largest value of `instability_signal`, in nats; within the first `window` steps, if given.

    Grows with the number of steps: compare answers of like length, or set `window`.
    Undefined when no token was scored.
    """
    signal = _signal(trace, k, lam)
    if window is not None:
        signal = signal[: _checked(window)]
    return defined(float(signal.max())) if signal.size else NO_TOKENS


def candidates_used(trace: Trace, *, k: int | None = 50) -> Array:
    """(T,) how many candidates the signal rests on at each step: k, or fewer where fewer are held.

    0 where nothing was predicted. Steps that differ in it differ in how high their entropy can be.
    """
    used = np.zeros(len(trace), dtype=np.int64)
    ids, logp = trace.values("top_ids"), trace.values("top_logp")
    held = np.count_nonzero((ids >= 0) & (logp > -np.inf), axis=1)
    used[trace.scored] = held if k is None else np.minimum(held, _checked_k(k))
    return used


class Peak(NamedTuple):
    """step: 1-based step of the first largest value; None without steps.

    position: step / number of steps, in (0, 1]; undefined for fewer than 3 steps.
    """

    step: int | None
    position: float


def instability_peak(trace: Trace, *, k: int | None = 50, lam: float = 1.0) -> Peak:
    """When the signal peaks: its step t* among the scored tokens, and rho = t*/T."""
    signal = _signal(trace, k, lam)
    if not signal.size or np.isnan(signal).any():
        return Peak(None, defined(math.nan) if signal.size else NO_TOKENS)
    step = int(signal.argmax()) + 1
    if signal.size < 3:
        return Peak(step, Undefined("a relative position needs 3 steps"))
    return Peak(step, step / signal.size)


def prefix_instability(
    trace: Trace, windows: Sequence[int], *, k: int | None = 50, lam: float = 1.0
) -> Array:
    """(W,) strength within the first w steps for each window w; of all steps where w is more.

    nan when no token was scored. Raises BadInput for a window below 1.
    """
    sizes = [_checked(w) for w in windows]
    signal = _signal(trace, k, lam)
    if not signal.size:
        return np.full(len(sizes), np.nan)
    so_far = np.maximum.accumulate(signal)
    held: Array = so_far[np.minimum(np.array(sizes, dtype=np.int64), signal.size) - 1]
    return held


def classify_instability(
    trace: Trace,
    threshold: float,
    *,
    early: float = 1 / 3,
    late: float = 2 / 3,
    k: int | None = 50,
    lam: float = 1.0,
) -> Stability:
    """Name the trace by the strength and the time of its peak.

    `stable` below the threshold; else `corrective` (peak at or before `early` of its steps),
    `intermediate` (at or before `late`) or `destructive`. `undefined` without a scored token, or
    for an unstable trace of fewer than 3 steps. A stable trace need not be a correct one.
    """
    if not 0 <= early <= late <= 1:
        raise BadInput(f"cuts must be 0 <= early <= late <= 1, not {early} and {late}")
    strength = instability_strength(trace, k=k, lam=lam)
    if strength < threshold:
        return "stable"
    position = instability_peak(trace, k=k, lam=lam).position
    if strength != strength or position != position:
        return "undefined"
    return (
        "corrective" if position <= early else "intermediate" if position <= late else "destructive"
    )


def _signal(trace: Trace, k: int | None, lam: float) -> Array:
    """(N,) of the scored steps."""
    k = None if k is None else _checked_k(k)
    if not (math.isfinite(lam) and lam >= 0):
        raise BadInput(f"lam must be finite and 0 or more, not {lam}")
    ids, logp = trace.values("top_ids").astype(np.int32), trace.values("top_logp")
    if not len(ids):
        return np.zeros(0)
    if not ids.shape[1]:
        raise MissingField("this trace keeps no candidates; trace the text again with top_k=50")
    ids, p = _distributions(ids, logp, k)
    whole = _plogp(p)
    entropy = -whole.sum(axis=1)
    shift = np.zeros(len(p))
    if len(p) > 1:
        both, gain = _shared(ids, p)
        # sum over the union of m ln m, m = (p + q) / 2: as if nothing was shared, then what is
        apart = (whole[1:].sum(axis=1) + whole[:-1].sum(axis=1)) / 2 - LN2
        mixed = apart + np.bincount(both, weights=gain, minlength=len(p) - 1)
        shift[1:] = np.clip(-mixed - (entropy[1:] + entropy[:-1]) / 2, 0.0, LN2)
    signal: Array = shift + lam * entropy
    return signal


def _shared(ids: Array, p: Array) -> tuple[Array, Array]:
    """For each token that two neighbouring steps share: the first one's row, and its correction.

    The correction is m ln m - (p / 2) ln(p / 2) - (q / 2) ln(q / 2).
    """
    k = ids.shape[1]
    if k <= FEW:
        same = np.flatnonzero(ids[1:, :, None] == ids[:-1, None, :])
        row, later, before = same // (k * k), same // k % k, same % k
        x, y = p[1:][row, later] / 2, p[:-1][row, before] / 2
        return row, _plogp(x + y) - _plogp(x) - _plogp(y)
    order, ids = np.argsort(ids, axis=1), ids.astype(np.int64)
    ids, p = np.take_along_axis(ids, order, 1), np.take_along_axis(p, order, 1)
    base = np.arange(len(ids) - 1)[:, None] * (int(ids.max()) + 2) + 1
    keys, wanted = (ids[:-1] + base).ravel(), (ids[1:] + base).ravel()
    at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    hit = np.flatnonzero(keys[at] == wanted)
    x, y = p[1:].ravel()[hit] / 2, p[:-1].ravel()[at[hit]] / 2
    return hit // k, _plogp(x + y) - _plogp(x) - _plogp(y)


def _distributions(ids: Array, logp: Array, k: int | None) -> tuple[Array, Array]:
    """(N, k) ids and renormalised probabilities; absent candidates have probability 0."""
    logp = np.where((ids < 0) | np.isnan(logp), -np.inf, logp)
    if k is None:
        whole = np.exp(logp).sum(axis=1)
        if not (np.abs(whole - 1) < 1e-3).all():
            raise MissingField(
                f"k=None needs the full vocabulary; this trace holds {ids.shape[1]} candidates "
                f"with as little as {whole.min():.3f} of the mass"
            )
    elif k < ids.shape[1]:
        order = np.lexsort((ids, -logp), axis=1)[:, :k]
        ids, logp = np.take_along_axis(ids, order, 1), np.take_along_axis(logp, order, 1)
    with np.errstate(invalid="ignore"):
        p = np.exp(logp - logp.max(axis=1, keepdims=True))
    return ids, p / p.sum(axis=1, keepdims=True)


def _plogp(p: Array) -> Array:
    """p ln p, where 0 ln 0 = 0."""
    out: Array = p * np.log(p, out=np.zeros_like(p), where=p > 0)
    return out


def _checked_k(k: float) -> int:
    if k < 1 or k != int(k):
        raise BadInput(f"k is how many candidates to look at, 1 or more, not {k}")
    return int(k)


def _checked(window: int) -> int:
    if window < 1:
        raise BadInput(f"a window is a number of steps, 1 or more, not {window}")
    return int(window)
