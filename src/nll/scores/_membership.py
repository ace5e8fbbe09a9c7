"""Was this text in the model's training data? Higher means more likely a member.

All of these depend on length: compare texts of equal length. None of them is evidence without a
blind baseline on the same texts (arXiv 2406.16201).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from nll._declare import Undefined, score
from nll._errors import BadInput
from nll.scores._common import (
    INF,
    NO_TOKENS,
    check_share,
    count,
    defined,
    known,
    lowest_mean,
    mean,
    mean_of,
)
from nll.trace import Array, Trace

MIN_SIGMA = 1e-6


@score(
    higher_means="member",
    reads=("logp",),
    unit="nats",
    range=(-INF, 0.0),
    paper="2310.16789",
    question="membership",
)
def min_k_prob(trace: Trace, *, k: float = 0.2) -> float:
    """Min-K% Prob: mean log-probability of the share k of tokens that were least likely.

    Of T tokens max(1, floor(k T)) count; k = 1 is the mean log-probability. Nats; -inf when a token
    had probability 0. Undefined when no token was scored or k = 0; BadInput when k is no share.
    """
    return lowest_mean(trace.values("logp"), k)


@score(
    higher_means="member",
    reads=("logp", "entropy", "varentropy"),
    unit="1",
    range=(-INF, INF),
    paper="2404.02936",
    question="membership",
)
def min_k_plus_plus(trace: Trace, *, k: float = 0.2) -> float:
    """Min-K%++: mean of the share k of smallest standardised log-probabilities.

    z_t = (log p(x_t) - mu_t) / sigma_t with mean mu_t = -entropy and variance sigma_t^2 of log p
    under the model's own distribution; sigma_t is at least 1e-6, so that a certain or a uniform
    distribution gives 0. Undefined when no token was scored or k = 0.
    """
    return lowest_mean(standardised(trace), k)


def standardised(trace: Trace) -> Array:
    """(N,) standard scores of log p at the scored tokens, dimensionless."""
    variance = np.maximum(trace.values("varentropy"), MIN_SIGMA**2)
    return (trace.values("logp") + trace.values("entropy")) / np.sqrt(variance)


@score(
    higher_means="member",
    reads=("logp",),
    unit="nats",
    range=(-INF, 0.0),
    paper="1709.01604",
    question="membership",
)
def loss_score(trace: Trace) -> float:
    """Mean log-probability of a token: minus the loss. Nats.

    Undefined when no token was scored.
    """
    return mean(trace.values("logp"))


@score(
    higher_means="member",
    reads=("logp",),
    unit="nats/byte",
    range=(-INF, 0.0),
    paper="2012.07805",
    question="membership",
)
def zlib_score(trace: Trace, *, text: str | None = None) -> float:
    """Mean log-probability over the compressed length of the text (zlib level 6, in bytes).

    The length is that of the text without its prompt; `text` replaces it. Builds of zlib differ by
    a byte or two. Undefined when no token was scored, or the trace does not hold its text.
    """
    scored = mean(trace.values("logp"))
    if isinstance(scored, Undefined):
        return scored
    if text is None:
        if trace.prompt_tokens and trace.spans is None:
            return Undefined("without spans the text cannot be told from its prompt; pass text=")
        text = trace.scored_text
        if not text:
            return Undefined("the trace does not hold its text; pass it as text=")
    return defined(scored / len(zlib.compress(text.encode("utf-8", "surrogatepass"))))


@score(
    higher_means="member",
    reads=("logp", "entropy"),
    unit="nats",
    range=(-INF, 0.0),
    paper="2407.21248",
    question="membership",
)
def surp(trace: Trace, *, k: float = 0.2, max_entropy: float = 2.0) -> float:
    """SURP: mean log-probability of the least likely tokens where the model was sure of itself.

    Those are tokens among the share k of least likely ones (as many as `min_k_prob` takes; of
    equally likely ones the first) whose distribution had an entropy below `max_entropy` nats. The
    defaults are ours. Undefined when there is no such token.
    """
    check_share(k)
    if max_entropy != max_entropy:
        raise BadInput("max_entropy must be a number of nats, not nan")
    logp, entropy = trace.values("logp"), trace.values("entropy")
    if not logp.size:
        return NO_TOKENS
    if k == 0:
        return Undefined("k = 0 selects no token")
    least = _least(logp, k)
    if np.isnan(entropy[least]).any():
        return defined(np.nan)
    surprising = logp[least & (entropy < max_entropy)]
    if not surprising.size:
        return Undefined(f"no unlikely token was met with an entropy below {max_entropy:g} nats")
    return mean(surprising)


def _least(logp: Array, k: float) -> Array:
    """(N,) bool: the share k of least likely tokens; of equally likely ones the first."""
    n = count(logp.size, k)
    worst = np.partition(logp, n - 1)[n - 1]
    least = np.asarray(logp < worst)
    least[np.flatnonzero(logp == worst)[: n - np.count_nonzero(least)]] = True
    return least


@score(
    higher_means="member",
    reads=("logp",),
    unit="1",
    range=(0.0, INF),
    paper="2012.07805",
    question="membership",
)
def lowercase_score(trace: Trace, lower: Trace) -> float:
    """Mean log-probability of the text in lower case over that of the text itself.

    Both are negative, so the ratio is above 1 when lower case hurts. Dimensionless. Undefined when
    no token was scored in one of them or the text is certain.
    """
    return _ratio(mean(lower.values("logp")), mean(trace.values("logp")))


@score(
    higher_means="member",
    reads=("logp",),
    unit="nats",
    range=(-INF, INF),
    paper="2012.07805",
    question="membership",
)
def reference_score(trace: Trace, reference: Trace) -> float:
    """Mean log-probability of a token minus that under a second, usually smaller, model.

    Each model counts by its own tokens, as the papers do. Nats. Undefined when no token was scored
    by one of them or the text is impossible to both.
    """
    return _difference(mean(trace.values("logp")), mean(reference.values("logp")))


@score(
    higher_means="member",
    reads=("logp",),
    unit="nats",
    range=(-INF, INF),
    paper="2305.18462",
    question="membership",
)
def neighbourhood_score(trace: Trace, neighbours: Sequence[Trace]) -> float:
    """Mean log-probability of a token minus its average over texts like this one. Nats.

    Neighbours without a scored token are left out. Undefined when no token of the text was scored,
    no neighbour is left, or text and neighbours are impossible.
    """
    around = mean_of([mean(n.values("logp")) for n in neighbours], "neighbour")
    return _difference(mean(trace.values("logp")), around)


@score(
    higher_means="member",
    reads=("logp", "ids"),
    unit="1",
    range=(0.0, INF),
    paper="2409.14781",
    question="membership",
)
def dc_pdd(trace: Trace, *, token_freq: Mapping[int, float] | Array, cap: float = 0.01) -> float:
    """DC-PDD: mean of min(p(x_t) ln(1 / f(x_t)), cap) over the first occurrence of each token.

    token_freq: how frequent each token is in a reference corpus, by token id; a share in (0, 1], so
    smoothed: (count + 1) / (total + V). cap: largest contribution of a token. Dimensionless.
    Undefined when no token was scored; BadInput when a token has no frequency or an impossible one.
    """
    if not cap > 0:
        raise BadInput(f"cap must be above 0, not {cap}")
    logp, ids = trace.values("logp"), trace.field("ids")[trace.scored]
    if not logp.size:
        return NO_TOKENS
    tokens, first = np.unique(ids, return_index=True)
    frequency = _frequencies(token_freq, tokens)
    return mean(np.minimum(np.exp(logp[first]) * -np.log(frequency), cap))


def _frequencies(token_freq: Mapping[int, float] | Array, tokens: Array) -> Array:
    try:
        found = np.array([token_freq[int(t)] for t in tokens], np.float64)
    except (LookupError, TypeError) as error:
        raise BadInput(f"token_freq has no frequency for token {error.args[0]}") from None
    if not ((found > 0) & (found <= 1)).all():
        raise BadInput("token frequencies must be above 0 and at most 1; smooth them")
    return found


def recall_score(mean_logp_conditional: float, mean_logp: float) -> float:
    """ReCaLL: mean log-probability after a prefix of non-members, over that without one.

    Higher means member, as in the paper (arXiv 2406.15968). Dimensionless; undefined when the text
    is certain. Both are of the same tokens: trace the text after the prefix as a prompt.
    """
    return _ratio(mean_logp_conditional, mean_logp)


def _ratio(above: float, below: float) -> float:
    for value in (above, below):
        if value != value:
            return defined(value) if not isinstance(value, Undefined) else value
    if below == 0:
        return Undefined("the text has probability 1, so the ratio does not exist")
    return known(above / below, "both texts are impossible to the model")


def _difference(of: float, to: float) -> float:
    for value in (of, to):
        if isinstance(value, Undefined):
            return value
    return known(of - to, "a token of probability 0 on both sides")
