"""How surprising is each token, each word? With temperature and word-boundary correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nll._declare import score
from nll._errors import BadInput, MissingField
from nll.scores._common import INF, base_unit
from nll.scores._words import align_words
from nll.trace import Array, Fields, Trace

Base = Literal["nats", "bits"]


def _betas(temperature: float) -> tuple[float, ...]:
    tempered = temperature > 0 and temperature not in (1.0, INF)
    return (1.0 / temperature,) if tempered else ()


@score(
    higher_means="surprising",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2311.09325",
    question="surprisal",
    shape="token",
    fields=lambda temperature, **_: Fields(betas=_betas(temperature)),
)
def surprisal(trace: Trace, *, temperature: float = 1.0, base: Base = "nats") -> Array:
    """Surprisal of every token: -ln softmax(z / T)[x_t], nats or bits.

    (T,) float64, nan at tokens that are not scored. From the trace alone, by the exact identity
    s_T = a s_1 + ln sum_v p_v^a with a = 1/T; temperature 1 is the plain surprisal bit for bit, and
    temperature inf is ln V. Raises BadInput for temperature <= 0, MissingField when the trace was
    not made with `betas=(1/temperature,)`.
    """
    _check_temperature(temperature)
    unit = base_unit(base)
    out = np.full(len(trace), np.nan)
    out[trace.scored] = _surprisals(trace, temperature)
    return out if unit == 1.0 else out / unit


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise BadInput(f"temperature must be above 0, not {temperature}")


def _surprisals(trace: Trace, temperature: float) -> Array:
    """(N,) at the scored tokens, nats."""
    nll = 0.0 - trace.values("logp")
    if temperature == 1.0:
        return nll
    if temperature == INF:
        return np.full(nll.shape, _log_vocabulary(trace))
    return np.maximum(nll / temperature + trace.lse(1.0 / temperature), 0.0)


def _log_vocabulary(trace: Trace) -> float:
    size = trace.provenance.vocab_size
    if size is None:
        raise MissingField("this trace does not say how large the vocabulary is (vocab_size)")
    return math.log(size)


def _renyi_fields(order: float) -> Fields:
    if order == INF:
        return Fields(top_k=1)
    return Fields(betas=(order,) if order > 0 and order != 1 else ())


@score(
    higher_means="uncertain",
    reads=(),
    unit="nats",
    range=(0.0, INF),
    paper="2311.09325",
    question="surprisal",
    shape="token",
    fields=lambda order, **_: _renyi_fields(order),
)
def renyi_entropy(trace: Trace, *, order: float = 2.0, base: Base = "nats") -> Array:
    """Rényi entropy of the next-token distribution: ln sum_v p_v^order / (1 - order).

    (T,) float64, nan at tokens that are not scored. Order 1 is Shannon's entropy, 0 is ln V (where
    the trace was made with `betas=(0,)`, of the possible tokens alone), inf is the surprisal of the
    likeliest token. Raises BadInput for a negative order, MissingField when
    the trace was not made with `betas=(order,)`.
    """
    if not order >= 0:
        raise BadInput(f"order must be 0 or more, not {order}")
    unit = base_unit(base)
    out = np.full(len(trace), np.nan)
    out[trace.scored] = _renyi(trace, order)
    return out if unit == 1.0 else out / unit


def _renyi(trace: Trace, order: float) -> Array:
    if order == 1:
        return trace.values("entropy")
    if order == 0 and 0.0 not in trace.betas:
        return np.full(trace.n_scored, _log_vocabulary(trace))
    if order != INF:
        return np.maximum(trace.lse(order) / (1.0 - order), 0.0)
    top = trace.values("top_logp")
    if not top.shape[1]:
        raise MissingField("this trace holds no likeliest token; trace the text with top_k=1")
    return 0.0 - top[:, 0]


def renyi_from_logits(logits: npt.ArrayLike, order: float) -> Array:
    """Rényi entropy in nats over the last axis of an array of logits; see `renyi_entropy`."""
    if not order >= 0:
        raise BadInput(f"order must be 0 or more, not {order}")
    z = np.asarray(logits, dtype=np.float64)
    logp = z - _logsumexp(z)
    if order == 1:
        return -_sum(np.exp(logp) * np.where(np.isfinite(logp), logp, 0.0))
    if order == INF:
        return np.asarray(-logp.max(axis=-1))
    if order == 0:
        return np.asarray(np.log(np.count_nonzero(np.isfinite(logp), axis=-1)))
    return np.asarray(_logsumexp(order * logp)[..., 0] / (1.0 - order))


def _sum(z: Array) -> Array:
    return np.asarray(z.sum(axis=-1))


def _logsumexp(z: Array) -> Array:
    top = z.max(axis=-1, keepdims=True)
    return np.asarray(top + np.log(np.exp(z - top).sum(axis=-1, keepdims=True)))


def _word_fields(temperature: float, boundary: str, **_: Any) -> Fields:
    corrected = boundary == "corrected"
    flat = (0.0,) if corrected and temperature == INF else ()
    return Fields(betas=_betas(temperature) + flat, boundary=corrected)


@score(
    higher_means="surprising",
    reads=("logp", "spans"),
    unit="nats",
    range=(-INF, INF),
    paper="2406.14561",
    question="surprisal",
    shape="word",
    fields=_word_fields,
)
def word_surprisal(
    trace: Trace,
    *,
    words: Sequence[str] | None = None,
    temperature: float = 1.0,
    boundary: Literal["sum", "corrected"] = "sum",
    base: Base = "nats",
) -> Array:
    """Surprisal of every word of the text (of the answer, after a prompt), nats or bits.

    (W,) float64: the sum over the word's tokens; nan for a word with a token that was not
    predicted, or with none. Words are what whitespace separates, or as given; punctuation on a word
    counts. "corrected" adds b(c) - b(c, w), where b is the log mass of word-start tokens before the
    word and after it (arXiv 2406.14561, 2406.10851), at the same temperature; the first word of a
    text has no white space before it, so its b(c) is left out. Corrected values may be negative.

    Raises BadInput for temperature <= 0, for words that do not align and for a token that spans
    two words; MissingField when the trace lacks the temperature or the word-start mass.
    """
    _check_temperature(temperature)
    unit = base_unit(base)
    if boundary not in ("sum", "corrected"):
        raise BadInput(f"boundary must be 'sum' or 'corrected', not {boundary!r}")
    answer = trace.completion
    tokens = surprisal(answer, temperature=temperature)
    starts = _word_start_mass(answer, temperature) if boundary == "corrected" else None
    if not len(answer):
        return np.full(0 if words is None else len(words), np.nan)
    spans, first, last = align_words(answer, words=words)
    out = np.array(
        [tokens[i:j].sum() if j > i else np.nan for i, j in zip(first, last, strict=True)]
    )
    if starts is not None:
        before = np.where(spans[:, 0] > 0, starts[first], 0.0)
        # Where no word can start, that of an impossible word is 0/0: nan, quietly.
        with np.errstate(invalid="ignore"):
            out = out + before - starts[last]
    return out / unit


def _word_start_mass(trace: Trace, temperature: float) -> Array:
    """(T + 1,) log mass of word-start tokens at a temperature, nats."""
    if temperature == 1.0:
        return trace.field("boundary").astype(np.float64)
    column = trace.beta_index(1.0 / temperature)  # 1 / inf is 0
    return trace.field("boundary_at")[:, column].astype(np.float64)


@score(
    higher_means="split into more tokens",
    reads=("logp", "spans"),
    unit="tokens",
    range=(0.0, INF),
    paper="2311.09325",
    question="surprisal",
    shape="word",
)
def word_pieces(trace: Trace, *, words: Sequence[str] | None = None) -> Array:
    """How many tokens each word has: the control that a temperature sweep needs.

    (W,) float64, aligned with `word_surprisal`. Raises as that does.
    """
    answer = trace.completion
    if not len(answer):
        return np.zeros(0 if words is None else len(words))
    aligned = align_words(answer, words=words)
    return (aligned.last - aligned.first).astype(np.float64)
