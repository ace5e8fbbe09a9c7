"""How sure was the model of this text, or of the answer it gave? Higher mostly means less sure."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from nll._declare import Undefined, score
from nll._errors import BadInput, MissingField
from nll.scores._common import INF, NO_TOKENS, defined, exp, mean, total
from nll.trace import Array, Fields, Trace

MANY = 1e9


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2412.15176",
    question="uncertainty",
)
def sequence_nll(trace: Trace, *, normalize: bool = False) -> float:
    """Negative log-likelihood of the whole text: the sum over its tokens, or their mean.

    Nats; inf when a token had probability 0. The sum grows with length: compare texts of like
    length, or use `normalize=True` (nats per token). Undefined when no token was scored.
    """
    nll = -trace.values("logp")
    return mean(nll) if normalize else total(nll)


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2005.10608",
    question="uncertainty",
)
def mean_nll(trace: Trace) -> float:
    """Mean negative log-likelihood of a token, in nats; lm-polygraph calls this perplexity.

    Undefined when no token was scored.
    """
    return mean(-trace.values("logp"))


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="1",
    range=(1.0, INF),
    paper="10.1121/1.2016299",
    question="uncertainty",
)
def perplexity(trace: Trace) -> float:
    """exp(mean nll): among how many equally likely tokens the model seemed to choose.

    inf when a token had probability 0. Undefined when no token was scored.
    """
    value = mean(-trace.values("logp"))
    return value if isinstance(value, Undefined) else exp(value)


@score(
    higher_means="uncertain",
    reads=("entropy",),
    unit="nats",
    range=(0.0, INF),
    paper="2005.10608",
    question="uncertainty",
)
def mean_entropy(trace: Trace) -> float:
    """Mean entropy of the next-token distribution over the full vocabulary, in nats.

    It does not depend on which tokens the text has, only on what the model expected before each.
    Undefined when no token was scored.
    """
    return mean(trace.values("entropy"))


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2412.15176",
    question="uncertainty",
)
def g_nll(trace: Trace) -> float:
    """G-NLL: negative log-likelihood of the greedy answer, summed and not length-normalised.

    Counts the end-of-text token when the model wrote it; an answer cut off by its length limit
    (`provenance.finish_reason`) gives a lower bound. Undefined for text that was not decoded
    greedily, or where a token was not the likeliest one (some servers' temperature 0 is not
    greedy); `sequence_nll` serves those. Ties for the maximum count as greedy.
    """
    refusal = not_greedy(trace)
    return refusal if refusal is not None else total(-trace.values("logp"))


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2412.15176",
    question="uncertainty",
)
def zero_one_uncertainty(trace: Trace) -> float:
    """1 - exp(-G-NLL): the zero-one score's uncertainty of the greedy answer.

    An upper bound of the true one, since the likeliest answer may beat the greedy one. Orders
    answers as `g_nll` does, and is undefined where that is.
    """
    value = g_nll(trace)
    return value if isinstance(value, Undefined) else -math.expm1(-value)


def not_greedy(trace: Trace) -> Undefined | None:
    """Why a trace cannot count as a greedy answer; None when it can.

    Without ranks (a server gave none) the top candidates are looked at, and else the provenance
    is believed.
    """
    how = trace.provenance.decoding
    if how != "greedy":
        return Undefined(f"the text was not decoded greedily (decoding: {how})")
    if not trace.n_scored:
        return NO_TOKENS
    if trace.rank is not None:
        beaten = trace.values("rank") != 1  # a rank that is not known is no first one
    elif trace.top_logp is not None and trace.top_logp.shape[1]:
        beaten = trace.values("logp") < trace.values("top_logp")[:, 0]
    else:
        return None
    n = int(np.count_nonzero(beaten))
    if n:
        return Undefined(f"{n} of {beaten.size} tokens were not the likeliest, so not greedy")
    return None


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2303.08896",
    question="uncertainty",
)
def max_nll(trace: Trace) -> float:
    """Negative log-likelihood of the least likely token, in nats.

    inf when a token had probability 0. Undefined when no token was scored.
    """
    logp = trace.values("logp")
    return defined(-float(np.minimum.reduce(logp))) if logp.size else NO_TOKENS


@score(
    higher_means="certain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2303.08896",
    question="uncertainty",
)
def min_token_prob(trace: Trace) -> float:
    """Probability of the least likely token: exp(-max_nll).

    Undefined when no token was scored.
    """
    logp = trace.values("logp")
    return math.exp(float(np.minimum.reduce(logp))) if logp.size else NO_TOKENS


@score(
    higher_means="certain",
    reads=("kl_uniform",),
    unit="nats",
    range=(0.0, INF),
    paper="2502.18581",
    question="uncertainty",
    fields=lambda **_: Fields(kl_uniform=True),
)
def self_certainty(trace: Trace) -> float:
    """Mean over tokens of KL(uniform || p) = -mean_v ln p_v - ln V, in nats.

    Vocabulary entries with p = 0 are left out, of V too. 0 for the uniform distribution;
    lm-polygraph reports the negative of it. Undefined when no token was scored.
    """
    return mean(trace.values("kl_uniform"))


@score(
    higher_means="certain",
    reads=("top_logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2504.19254",
    question="uncertainty",
    fields=lambda **_: Fields(top_k=2),
)
def probability_margin(trace: Trace) -> float:
    """Mean difference between the two largest next-token probabilities.

    Undefined when no token was scored.
    """
    top = _candidates(trace, 2)
    if isinstance(top, Undefined):
        return top
    p = np.exp(top.astype(np.float64))
    return mean(p[:, 0] - p[:, 1])


@score(
    higher_means="certain",
    reads=("top_logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2504.19254",
    question="uncertainty",
    fields=lambda k, **_: Fields(top_k=int(k) if 2 <= k < MANY else 0),
)
def top_k_negentropy(
    trace: Trace, *, k: int = 15, reduce: Literal["mean", "min"] = "mean"
) -> float:
    """1 - H / ln k of the k likeliest tokens, renormalised; mean (or min) over tokens.

    0 when all k are equally likely, 1 when one has all the mass. Tokens with fewer than k
    candidates do not count. Undefined when none has k.
    """
    if not 2 <= k < MANY or k != int(k):
        raise BadInput(f"k is how many candidates to look at, 2 or more, not {k}")
    if reduce not in ("mean", "min"):
        raise BadInput(f"reduce must be 'mean' or 'min', not {reduce!r}")
    top = _candidates(trace, int(k))
    if isinstance(top, Undefined):
        return top
    if not math.isfinite(top.sum()):
        top = top[np.isfinite(top).all(axis=1)]
    if not top.size:
        return Undefined(f"no scored token has {k} candidates") if trace.n_scored else NO_TOKENS
    by_rank = top.T - top[:, 0]  # candidates may all be unlikely
    mass = np.exp(by_rank)
    whole = mass.sum(axis=0)
    entropy = np.log(whole) - np.multiply(mass, by_rank, out=by_rank).sum(axis=0) / whole
    value = np.clip(1.0 - entropy.astype(np.float64) / math.log(k), 0.0, 1.0)
    return mean(value) if reduce == "mean" else float(value.min())


def _candidates(trace: Trace, k: int) -> Array | Undefined:
    """(N, k) log-probabilities of the k likeliest tokens at the scored positions.

    In the precision of the trace: elementwise work on all candidates costs the most of all scores.
    """
    top = trace.field("top_logp")
    if top.shape[1] >= k:
        return top[:, :k][trace.scored_part]
    size = trace.provenance.vocab_size
    if size is not None and size < k:
        return Undefined(f"the vocabulary has only {size} tokens, {k} are needed")
    raise MissingField(
        f"this trace holds the {top.shape[1]} likeliest tokens, {k} are needed; "
        f"trace the text again with top_k={k}"
    )
