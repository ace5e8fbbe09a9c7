"""Did a machine write this text? Likelihood, rank and curvature statistics.

Higher means machine unless a score says otherwise. What they find depends on generator, domain,
length and decoding; no value of any of them is proof about a person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nll._declare import Undefined, score
from nll._errors import BadInput
from nll.scores._common import INF, NO_TOKENS, defined, known, mean, mean_of, total
from nll.trace import Array, Trace


@score(
    higher_means="machine",
    reads=("logp",),
    unit="nats",
    range=(-INF, 0.0),
    paper="1908.09203",
    question="machine_text",
)
def log_likelihood(trace: Trace) -> float:
    """Mean log-probability of a token, in nats.

    Undefined when no token was scored.
    """
    return mean(trace.values("logp"))


@score(
    higher_means="machine",
    reads=("rank",),
    unit="1",
    range=(-INF, -1.0),
    paper="2306.05540",
    question="machine_text",
)
def rank_score(trace: Trace) -> float:
    """Minus the mean rank of the tokens; 1 is the likeliest, and equally likely tokens share it.

    Undefined when no token was scored or one has no rank.
    """
    return mean(-_ranks(trace))


@score(
    higher_means="machine",
    reads=("rank",),
    unit="1",
    range=(-INF, 0.0),
    paper="2306.05540",
    question="machine_text",
)
def log_rank_score(trace: Trace) -> float:
    """Minus the mean of ln(rank): the logarithm is taken token by token.

    Undefined when no token was scored or one has no rank.
    """
    return mean(-np.log(_ranks(trace)))


@score(
    higher_means="machine",
    reads=("entropy",),
    unit="nats",
    range=(0.0, INF),
    paper="2306.05540",
    question="machine_text",
)
def entropy_score(trace: Trace) -> float:
    """Mean entropy of the next-token distribution, in nats, in the paper's direction.

    The paper takes high entropy for machine text; the opposite holds for text by today's chat
    models, whose area under the curve is far below one half. Undefined when no token was scored.
    """
    return mean(trace.values("entropy"))


@score(
    higher_means="machine",
    reads=("logp", "rank"),
    unit="nats",
    range=(0.0, INF),
    paper="2306.05540",
    question="machine_text",
)
def lrr(trace: Trace) -> float:
    """LRR, log-likelihood log-rank ratio: - sum log p / sum ln rank.

    inf, the most machine-like value, when every token was the likeliest. Undefined when no token
    was scored or one has no rank.
    """
    log_ranks = total(np.log(_ranks(trace)))
    if isinstance(log_ranks, Undefined):
        return log_ranks
    return defined(total(-trace.values("logp")) / log_ranks) if log_ranks else INF


@score(
    higher_means="machine",
    reads=("logp", "entropy", "varentropy"),
    unit="1",
    range=(-INF, INF),
    paper="2310.05130",
    question="machine_text",
)
def fast_detect_gpt(trace: Trace, *, reference: bool = False) -> float:
    """Conditional probability curvature: (sum log p - sum mu) / sqrt(sum var).

    mu_t and var_t are the mean and variance of log p under the model itself, or, with `reference`,
    under the second model of the trace (one that was made with `reference=model`). Dimensionless.
    Undefined when no token was scored or the variance is 0.
    """
    logp = trace.values("logp")
    if reference:
        mu, variance = trace.values("cross_mean"), trace.values("cross_var")
    else:
        mu, variance = -trace.values("entropy"), trace.values("varentropy")
    if not logp.size:
        return NO_TOKENS
    spread = total(variance)
    if spread <= 0:
        return Undefined("the model's distributions have no variance")
    return defined((total(logp) - total(mu)) / math.sqrt(spread))


@score(
    higher_means="human",
    reads=("logp", "cross_mean"),
    unit="1",
    range=(0.0, INF),
    paper="2401.12070",
    question="machine_text",
)
def binoculars(trace: Trace) -> float:
    """Binoculars: mean nll over mean cross-entropy, of the traced model under its reference.

    The traced model is the performer (instruct), the reference the observer (base), with the same
    tokenizer. Lower means machine. The paper's thresholds hold for its own models only. Undefined
    when no token was scored or the cross-entropy is 0.
    """
    nll, cross = total(-trace.values("logp")), total(-trace.values("cross_mean"))
    if isinstance(nll, Undefined):
        return nll
    return defined(nll / cross) if cross else Undefined("the cross-entropy is 0")


@score(
    higher_means="machine",
    reads=("rank",),
    unit="1",
    range=(0.0, 1.0),
    paper="1906.04043",
    question="machine_text",
)
def gltr_fraction(trace: Trace, *, cut: int = 10) -> float:
    """Share of the tokens whose rank is at most `cut`.

    Undefined when no token was scored or one has no rank.
    """
    if not cut >= 1:
        raise BadInput(f"cut is a rank, 1 or more, not {cut}")
    ranks = _ranks(trace)
    known = mean(ranks)
    if isinstance(known, Undefined):
        return known
    return float(np.count_nonzero(ranks <= cut)) / ranks.size


def gltr_fractions(trace: Trace, cuts: Sequence[int] = (10, 100, 1000)) -> tuple[float, ...]:
    """GLTR: `gltr_fraction` at each of the cuts, in their order."""
    return tuple(gltr_fraction(trace, cut=cut) for cut in cuts)


@score(
    higher_means="machine",
    reads=("rank",),
    unit="1",
    range=(0.0, INF),
    paper="2306.05540",
    question="machine_text",
)
def npr(trace: Trace, perturbed: Sequence[Trace]) -> float:
    """NPR: mean ln rank of a token in the perturbed texts over that in the text itself.

    Perturbed texts without a scored token are left out. Dimensionless. Undefined when no token was
    scored, every token of the text was the likeliest, or no perturbed text is left.
    """
    own = mean(np.log(_ranks(trace)))
    return npr_from_log_ranks(own, [mean(np.log(_ranks(p))) for p in perturbed])


def npr_from_log_ranks(mean_log_rank: float, perturbed: Sequence[float]) -> float:
    """`npr` from the mean ln rank of the text and of each perturbed text; nan ones are left out."""
    if isinstance(mean_log_rank, Undefined):
        return mean_log_rank
    if mean_log_rank == 0:
        return Undefined("every token was the likeliest, so the log rank of the text is 0")
    around = mean_of(perturbed, "perturbed text")
    return around if isinstance(around, Undefined) else defined(around / mean_log_rank)


@score(
    higher_means="machine",
    reads=("logp",),
    unit="1",
    range=(-INF, INF),
    paper="2301.11305",
    question="machine_text",
)
def perturbation_discrepancy(
    trace: Trace, perturbed: Sequence[Trace], *, normalise: bool = True
) -> float:
    """DetectGPT: mean log-probability of a token minus its average over perturbed texts.

    normalise: in units of the standard deviation (ddof 0) over the perturbed texts, which counts as
    1 when only one is left; without, in nats. Perturbed texts without a scored token are left out.
    Undefined when no token was scored, no perturbed text is left, a text holds a token of
    probability 0, or (normalised) the perturbed texts are all equally likely.
    """
    own = mean(trace.values("logp"))
    if isinstance(own, Undefined):
        return own
    held = [x for p in perturbed if (x := mean(p.values("logp"))) == x]
    around = mean_of(held, "perturbed text")
    if isinstance(around, Undefined):
        return around
    d = known(own - around, "a token of probability 0 in the text and in a perturbed one")
    if not normalise or len(held) == 1 or isinstance(d, Undefined):
        return d
    if max(held) == min(held):
        return Undefined("the perturbed texts are all equally likely")
    if math.isinf(around):
        return Undefined("a perturbed text holds a token of probability 0")
    return d / float(np.std(held))


def _ranks(trace: Trace) -> Array:
    """(N,) ranks of the scored tokens as float64, nan where a token has none."""
    ranks = trace.values("rank")
    if ranks.size and np.minimum.reduce(ranks) < 1:
        return np.where(ranks < 1, np.nan, ranks)
    return ranks
