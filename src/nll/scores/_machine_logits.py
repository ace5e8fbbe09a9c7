"""Machine-text scores of two models from their logits, for those who have no traces."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.scores._common import NO_TOKENS, defined
from nll.trace import Array

_ROUNDING = 16 * np.finfo(np.float64).eps


def fast_detect_gpt_from_logits(
    logits: npt.ArrayLike, ids: npt.ArrayLike, reference_logits: npt.ArrayLike | None = None
) -> float:
    """`fast_detect_gpt` of a scoring model's logits (T, V) for tokens ids (T,). Dimensionless.

    Row t predicts ids[t]. reference_logits: (T, V') of the sampling model, by default the scoring
    model itself; where vocabularies differ by padding rows both are cut to the smaller. Float64.
    Undefined when there is no token or no variance. Raises BadInput when shapes do not fit.
    """
    score, q, x = _prepared(logits, logits if reference_logits is None else reference_logits, ids)
    if not x.size:
        return NO_TOKENS
    mu = _expect(q, score)
    if not np.isfinite(mu).all():
        return Undefined("the sampling model allows a token that is impossible to the scoring one")
    gap = score - mu[:, None]
    # Equal log p differ from their mean by its rounding, which is no variance.
    gap[np.abs(gap) <= _ROUNDING * np.abs(mu)[:, None]] = 0.0
    spread = float(_expect(q, gap**2).sum())
    if not spread > 0:
        return Undefined("the model's distributions have no variance")
    return defined((float(score[np.arange(x.size), x].sum()) - float(mu.sum())) / math.sqrt(spread))


def binoculars_from_logits(
    performer: npt.ArrayLike,
    observer: npt.ArrayLike,
    ids: npt.ArrayLike,
    *,
    compat: bool = False,
) -> float:
    """`binoculars` of the logits (T, V) of performer and observer for tokens ids (T,).

    Row t predicts ids[t]; of different vocabularies both are cut to the smaller. Lower means
    machine. Float64.
    compat: the official code's average: logits are (T + 1, V), one row past the last token, and the
    cross-entropy is averaged over all of them, the nll over T.
    Undefined when there is no token or the cross-entropy is 0. Raises BadInput on wrong shapes.
    """
    score, q, x = _prepared(performer, observer, ids, extra=int(compat))
    if not x.size:
        return NO_TOKENS
    nll = -float(score[np.arange(x.size), x].sum()) / x.size
    cross = -float(_expect(q, score).sum()) / len(score)
    return defined(nll / cross) if cross else Undefined("the cross-entropy is 0")


def _prepared(
    scoring: npt.ArrayLike, sampling: npt.ArrayLike, ids: npt.ArrayLike, *, extra: int = 0
) -> tuple[Array, Array, Array]:
    """Log-probabilities of the scoring model, probabilities of the other, ids."""
    s, q = np.asarray(scoring, np.float64), np.asarray(sampling, np.float64)
    x = np.asarray(ids, np.int64)
    fits = s.ndim == q.ndim == 2 and x.ndim == 1 and len(s) == len(q) == len(x) + extra
    if not fits:
        more = " + 1" if extra else ""
        raise BadInput(
            f"logits (T{more}, V) of both models and ids (T,) expected, not {s.shape}, {q.shape} "
            f"and {x.shape}"
        )
    size = min(s.shape[1], q.shape[1])
    if x.size and not (x.min() >= 0 and x.max() < size):
        raise BadInput(f"token ids must be from 0 to {size - 1}, the vocabulary that both share")
    return _log_softmax(s[:, :size]), np.exp(_log_softmax(q[:, :size])), x


def _log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _expect(q: Array, values: Array) -> Array:
    """(T,) sum_v q_v values_v, where 0 times anything is 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(q == 0, 0.0, q * values).sum(axis=1))
