"""Traces computed from logits in float64, straight from the definitions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.trace import Array, Provenance, Trace

_ROUNDING = 16 * np.finfo(np.float64).eps


def trace_from_logits(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    text: str | None = None,
    spans: npt.ArrayLike | None = None,
    prompt_tokens: int = 0,
    top_k: int = 0,
    betas: Sequence[float] = (),
    boundary_ids: Iterable[int] | None = None,
    end_logits: npt.ArrayLike | None = None,
    reference_logits: npt.ArrayLike | None = None,
    vocab: Sequence[str] | None = None,
    provenance: Provenance | None = None,
    id: str | None = None,
) -> Trace:
    """The exact trace of `targets` (T,) under next-token `logits` (T, V); float64 throughout.

    A row of nan means that nothing was predicted there. Entries of -inf are tokens with probability
    0; they count in no entropy, and not in `kl_uniform`.

    text: what the tokens spell; by default each token is its own word, ` w3` for token 3 (or its
    string in `vocab`). spans: character offsets, needed with a text that is not that.
    boundary_ids: word-start tokens; the mass one past the end is taken from `end_logits` (V,), or
    is nan without. reference_logits: (T, V) of the second model of the cross statistics.
    Everything that needs no argument beyond the logits is always there.

    Raises BadInput when shapes do not fit.
    """
    z, x = np.asarray(logits, dtype=np.float64), np.asarray(targets, dtype=np.int64)
    if z.ndim != 2 or x.shape != z.shape[:1]:
        raise BadInput(f"logits (T, V) and targets (T,) expected, not {z.shape} and {x.shape}")
    betas = tuple(sorted({float(b) for b in betas}))
    size = z.shape[1]
    given = ~np.isnan(z).any(axis=1)
    logp = _log_softmax(z)
    p = np.exp(logp)
    entropy = -_expect(p, logp)
    chosen = z[np.arange(len(x)), x][:, None]
    rank = 1 + (z > chosen).sum(axis=1)
    ties = (z == chosen).sum(axis=1) - 1
    order = np.argsort(-logp, axis=1, kind="stable")[:, : min(top_k, size)]
    words = [f" w{token}" if vocab is None else vocab[token] for token in x]
    trace = Trace(
        logp=logp[np.arange(len(x)), x],
        entropy=entropy,
        varentropy=_variance(p, logp, -entropy),
        rank=np.where(given, rank, -1),
        ties=np.where(given, ties, -1),
        kl_uniform=_kl_uniform(logp),
        ids=x,
        spans=_word_by_word(words) if spans is None else np.asarray(spans),
        text="".join(words) if text is None else text,
        prompt_tokens=prompt_tokens,
        top_ids=order if top_k else None,
        top_logp=np.take_along_axis(logp, order, axis=1) if top_k else None,
        betas=betas,
        lse_at=np.stack([_lse(_tempered(logp, b)) for b in betas], axis=1) if betas else None,
        vocab=dict(zip(x.tolist(), words, strict=True)),
        provenance=provenance or Provenance(model="logits", backend="testing", vocab_size=size),
        id=id,
    )
    if boundary_ids is not None:
        end = np.full(size, np.nan) if end_logits is None else np.asarray(end_logits)
        trace = replace(trace, **_boundary(np.vstack([z, end[None]]), list(boundary_ids), betas))
    if reference_logits is not None:
        q = np.exp(_log_softmax(np.asarray(reference_logits, dtype=np.float64)))
        mu = _expect(q, logp)
        trace = replace(trace, cross_mean=mu, cross_var=_variance(q, logp, mu))
    return trace


def _word_by_word(words: Sequence[str]) -> Array:
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    ends = np.cumsum(lengths)
    return np.stack([ends - lengths, ends], axis=1)


def _log_softmax(z: Array) -> Array:
    return z - _lse(z)[:, None]


def _lse(z: Array) -> Array:
    """(T,) log-sum-exp of each row; -inf where a row has nothing else."""
    top = z.max(axis=1, keepdims=True)
    shift = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        return np.asarray((shift + np.log(np.exp(z - shift).sum(axis=1, keepdims=True)))[:, 0])


def _tempered(z: Array, beta: float) -> Array:
    """Logits at an inverse temperature; impossible tokens stay so, at 0 too."""
    impossible = np.isneginf(z)
    return np.where(impossible, z, beta * np.where(impossible, 0.0, z))


def _expect(p: Array, logp: Array) -> Array:
    """(T,) sum_v p_v ln p_v, where 0 ln 0 = 0 and mass on an impossible token is -inf."""
    with np.errstate(invalid="ignore"):
        terms = p * logp
    return np.asarray(np.where(p == 0, 0.0 * np.nan_to_num(logp), terms).sum(axis=1))


def _variance(p: Array, logp: Array, mean: Array) -> Array:
    """(T,) sum_v p_v (ln p_v - mean)^2; inf where there is mass on an impossible token.

    A difference within the rounding of the mean is none, so that equal log p have no variance.
    """
    with np.errstate(invalid="ignore"):
        d = logp - mean[:, None]
        d = np.where(np.abs(d) <= _ROUNDING * np.abs(mean)[:, None], 0.0, d)
        terms = np.where(p == 0, 0.0 * np.nan_to_num(logp), p * d**2)
    return np.asarray(np.where(np.isneginf(mean), np.inf, terms.sum(axis=1)))


def _kl_uniform(logp: Array) -> Array:
    finite = np.isfinite(logp)
    n = finite.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite, logp, 0.0).sum(axis=1) / n
        return np.asarray(np.where(n > 0, -mean - np.log(n), math.nan))


def _boundary(z: Array, ids: list[int], betas: Sequence[float]) -> dict[str, Any]:
    def mass(beta: float) -> Array:
        scaled = _tempered(z, beta)
        return _lse(scaled[:, ids]) - _lse(scaled)

    return {
        "boundary": mass(1.0),
        "boundary_at": np.stack([mass(b) for b in betas], axis=1) if betas else None,
    }
