"""How sure was the model of its answer, seen from further answers that it might have given?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from nll._bundle import Samples, answer_text
from nll._declare import Undefined, score
from nll._errors import BadInput, MissingField
from nll.scores._common import INF, NO_TOKENS, known, mean, mean_of, total
from nll.scores._distance import Distance, named_distance
from nll.scores._semantic import no_answers
from nll.scores._uncertainty import g_nll
from nll.trace import Trace


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2302.09664",
    question="uncertainty",
)
def predictive_entropy(samples: Samples, *, normalize: bool = False) -> float:
    """Mean negative log-likelihood of the sampled answers: an estimate of the answers' entropy.

    Nats; with `normalize`, of the mean token of each answer (length-normalised). Needs answers
    drawn at temperature 1. Answers without a scored token are left out; undefined when all are.
    """
    reduce = mean if normalize else total
    return mean_of([reduce(-t.values("logp")) for t in samples.drawn], "drawn answer")


@score(
    higher_means="certain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2504.19254",
    question="uncertainty",
)
def monte_carlo_probability(samples: Samples, *, normalize: bool = True) -> float:
    """Mean probability of the answers, the judged one among them when it is held (UQLM).

    A probability is exp of the mean log p of the answer's tokens, or of their sum without
    `normalize`. Answers without a scored token are left out; undefined when all are.
    """
    answers = [*([] if samples.greedy is None else [samples.greedy]), *samples.drawn]
    return mean_of([_probability(t, normalize) for t in answers], "answer")


@score(
    higher_means="certain",
    reads=("logp",),
    unit="nats",
    range=(-INF, INF),
    paper="10.3115/981623.981633",
    question="uncertainty",
)
def pointwise_mutual_information(trace: Trace, alone: Trace, *, normalize: bool = False) -> float:
    """ln p(answer | prompt) - ln p(answer), summed over tokens, or their mean with `normalize`.

    trace: the answer after its prompt.   alone: the same answer without one, under the same model;
    where its first token was not predicted (no BOS), that token is left out of both.
    lm-polygraph reports the negative of the mean. Undefined when the two do not have the same
    tokens, or a token is impossible under both.
    """
    with_prompt, without = trace.values("logp"), alone.values("logp")
    n = min(len(with_prompt), len(without))
    if not n:
        return NO_TOKENS
    if len(without) > len(with_prompt) or len(with_prompt) - len(without) > 1:
        return Undefined(
            f"the answer has {len(with_prompt)} tokens after its prompt, {len(without)} without"
        )
    if trace.ids is not None and alone.ids is not None:
        mine, other = (t.ids[t.scored][-n:] for t in (trace, alone))  # type: ignore[index]
        if not np.array_equal(mine, other):
            return Undefined("the answer has other tokens after its prompt than without it")
    with np.errstate(invalid="ignore"):
        gain = float((with_prompt[-n:] - without[-n:]).sum())
    value = gain / n if normalize else gain
    return known(value, "a token has probability 0 with and without the prompt")


@score(
    higher_means="certain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2305.19187",
    question="uncertainty",
)
def lexical_similarity(samples: Samples, *, distance: str | Distance = "rouge_l") -> float:
    """Mean similarity of two different sampled answers: 1 - their variation ratio.

    distance: `rouge_l`, `rouge1`, `bleu`, `token_f1`, `codebleu`, `exact`, or a function of two
    texts.
    Undefined for fewer than 2 drawn answers.
    """
    value = sample_variation_ratio(samples, distance=distance)
    return value if isinstance(value, Undefined) else 1.0 - value


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2307.10236",
    question="uncertainty",
)
def sample_variation_ratio(samples: Samples, *, distance: str | Distance = "token_f1") -> float:
    """Sample VR: mean distance between two different sampled answers (see `variation_ratio`).

    Undefined for fewer than 2 drawn answers.
    """
    if not any(t.n_scored for t in samples.drawn):
        return no_answers(samples)
    return variation_ratio(samples.answers, named_distance(distance))


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2307.10236",
    question="uncertainty",
)
def sample_variation_ratio_original(
    samples: Samples, *, distance: str | Distance = "token_f1"
) -> float:
    """Sample VRO: mean distance of the sampled answers from the greedy one.

    Undefined when no answer was drawn. Raises MissingField when the greedy answer is not held.
    """
    greedy = _greedy(samples)
    if not any(t.n_scored for t in samples.drawn):
        return no_answers(samples)
    return variation_ratio_original(samples.answers, answer_text(greedy), named_distance(distance))


@score(
    higher_means="certain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2504.19254",
    question="uncertainty",
)
def exact_match_consistency(samples: Samples) -> float:
    """Share of the sampled answers that are the greedy one, up to case and outer punctuation.

    Undefined when no answer was drawn. Raises MissingField when the greedy answer is not held.
    """
    value = sample_variation_ratio_original(samples, distance="exact")
    return value if isinstance(value, Undefined) else 1.0 - value


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2502.04964",
    question="uncertainty",
)
def cocoa(
    samples: Samples,
    *,
    base: Literal["nll", "mean_nll", "entropy"] = "nll",
    distance: str | Distance = "token_f1",
) -> float:
    """CoCoA: uncertainty of the greedy answer times the sampled answers' mean distance from it.

    base: `nll` of the whole answer (CocoaMSP), `mean_nll` (CocoaPPL) or mean token `entropy`
    (CocoaMTE). The paper's similarity is a cross-encoder's: give it as a function, 1 - similarity.
    Undefined without a scored token in the greedy answer, or without drawn answers.
    Raises MissingField when the greedy answer is not held.
    """
    if base not in ("nll", "mean_nll", "entropy"):
        raise BadInput(f"base must be 'nll', 'mean_nll' or 'entropy', not {base!r}")
    greedy = _greedy(samples)
    spread = sample_variation_ratio_original(samples, distance=distance)
    if isinstance(spread, Undefined):
        return spread
    tokens = greedy.values("entropy") if base == "entropy" else -greedy.values("logp")
    unsure = total(tokens) if base == "nll" else mean(tokens)
    if isinstance(unsure, Undefined):
        return unsure
    return unsure * spread if spread else 0.0


@score(
    higher_means="certain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2504.19254",
    question="uncertainty",
)
def consistency_and_confidence(
    samples: Samples, *, normalize: bool = True, distance: str | Distance = "token_f1"
) -> float:
    """UQLM's CoCoA: probability of the greedy answer times its mean similarity to the drawn ones.

    normalize: take exp of the mean log p of its tokens, not of their sum. Undefined and raising as
    `cocoa`.
    """
    spread = sample_variation_ratio_original(samples, distance=distance)
    if isinstance(spread, Undefined):
        return spread
    p = _probability(_greedy(samples), normalize)
    return p if isinstance(p, Undefined) else p * (1.0 - spread)


@score(
    higher_means="greedy misses the mode",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2412.15176",
    question="uncertainty",
)
def mode_gap(samples: Samples) -> float:
    """G-NLL minus the nll of the likeliest answer seen: how far greedy is from the mode, at least.

    0 when no drawn answer is likelier than the greedy one. Drawn answers that their length limit
    cut off do not count, since their nll is that of a beginning. Undefined where `g_nll` is, when
    the greedy answer was cut off, or no answer was drawn. Raises MissingField when the greedy
    answer is not held.
    """
    greedy = _greedy(samples)
    own = g_nll(greedy)
    if isinstance(own, Undefined):
        return own
    if greedy.provenance.finish_reason == "length":
        return Undefined("the greedy answer was cut off by its length limit")
    if not any(t.n_scored for t in samples.drawn):
        return no_answers(samples)
    whole = [t for t in samples.drawn if t.provenance.finish_reason != "length"]
    found = [v for t in whole if (v := total(-t.values("logp"))) == v]
    if not found:
        return Undefined("every drawn answer was cut off by its length limit")
    return known(max(0.0, own - min(found)), "every answer has probability 0")


def variation_ratio(outputs: Sequence[str], distance: str | Distance = "token_f1") -> float:
    """VR: mean distance over ordered pairs of different outputs, in [0, 1]; higher is less sure.

    distance: a function of two texts with values in [0, 1], or the name of one. Undefined for
    fewer than 2 outputs. Huang et al., arXiv 2307.10236.
    """
    if len(outputs) < 2:
        return Undefined("a variation ratio needs two outputs or more")
    apart = named_distance(distance)
    found = [apart(a, b) for i, a in enumerate(outputs) for j, b in enumerate(outputs) if i != j]
    return _mean_distance(found)


def variation_ratio_original(
    outputs: Sequence[str], reference: str, distance: str | Distance = "token_f1"
) -> float:
    """VRO: mean distance of the outputs from the original (greedy) one, in [0, 1].

    Undefined without outputs. Huang et al., arXiv 2307.10236.
    """
    if not len(outputs):
        return Undefined("a variation ratio to the original needs an output")
    apart = named_distance(distance)
    return _mean_distance([apart(a, reference) for a in outputs])


def _mean_distance(found: Sequence[float]) -> float:
    if not all(-1e-9 <= d <= 1 + 1e-9 for d in found):
        raise BadInput("a distance between outputs must lie in [0, 1]")
    return min(1.0, max(0.0, math.fsum(found) / len(found)))


def _greedy(samples: Samples) -> Trace:
    if samples.greedy is None:
        raise MissingField("these samples hold no greedy answer; give Samples(..., greedy=trace)")
    return samples.greedy


def _probability(trace: Trace, normalize: bool) -> float:
    logp = trace.values("logp")
    value = mean(logp) if normalize else total(logp)
    return value if isinstance(value, Undefined) else math.exp(value)
