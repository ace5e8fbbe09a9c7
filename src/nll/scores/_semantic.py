"""Do a question's sampled answers mean the same? Clusters of equal meaning and their entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from nll._bundle import Samples
from nll._declare import Undefined, score
from nll._errors import BadInput
from nll.scores._common import INF, known
from nll.scores._distance import normalized
from nll.trace import Array

Equivalent: TypeAlias = Callable[[str, str], bool]
ESTIMATORS = ("rao", "mean", "direct", "cluster_mean")


def cluster_answers(
    answers: Sequence[str], equivalent: Equivalent | None = None, *, overwrite: bool = False
) -> list[int]:
    """A cluster number for each answer: 0, 1, ... in the order in which clusters are opened.

    Each answer without a cluster opens one, and takes every later answer that is `equivalent` to
    it, the first member. By default answers are equivalent that are the same text up to case,
    spaces and punctuation at the ends; `entailment_equivalence` makes the rule of semantic entropy.
    overwrite: let a later cluster take answers away from an earlier one, as the code of
    Farquhar et al. (Nature 2024) does; a cluster may lose all members then.
    """
    same = equivalent or (lambda a, b: normalized(a) == normalized(b))
    labels = [-1] * len(answers)
    opened = 0
    for i, first in enumerate(answers):
        if labels[i] >= 0:
            continue
        labels[i] = opened
        for j in range(i + 1, len(answers)):
            if (overwrite or labels[j] < 0) and same(first, answers[j]):
                labels[j] = opened
        opened += 1
    return labels


def entailment_equivalence(
    classify: Callable[[str, str], str], *, strict: bool = False, question: str = ""
) -> Equivalent:
    """Equivalence of two answers from a classifier (premise, hypothesis) -> what follows.

    classify returns `entailment`, `neutral` or `contradiction`. Equivalent, unless `strict`: no
    direction says contradiction and not both say neutral; `strict`: both say entailment.
    question: is put in front of both answers.
    """
    known_labels = {"entailment", "neutral", "contradiction"}
    front = question + " " if question else ""

    def equivalent(a: str, b: str) -> bool:
        found = [classify(front + a, front + b), classify(front + b, front + a)]
        if not set(found) <= known_labels:
            raise BadInput(f"the classifier said {found}, not one of {sorted(known_labels)}")
        if strict:
            return found == ["entailment"] * 2
        return "contradiction" not in found and found != ["neutral"] * 2

    return equivalent


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(-INF, INF),
    paper="2302.09664",
    question="uncertainty",
)
def semantic_entropy(
    samples: Samples,
    *,
    clusters: Sequence[int] | None = None,
    estimator: Literal["rao", "mean", "direct", "cluster_mean"] = "rao",
    normalize: bool = False,
    class_probability: Literal["sum", "frequency"] = "sum",
    unique: bool = False,
) -> float:
    """Entropy over the meanings of N sampled answers, in nats.

    An answer weighs l = ln p of the whole of it, or of its mean token with `normalize`. A cluster
    has L = ln(sum of e^l over its answers), or ln(its share of answers) by `frequency`. Estimators:
    `rao`: -sum P ln P over clusters, P proportional to e^L (Nature code; it normalizes).
    `mean`: -(1/N) sum of L over answers (lm-polygraph; negative when a cluster's sum exceeds 1).
    `direct`: -sum of e^L L over answers (lm-polygraph).
    `cluster_mean`: -(1/|C|) sum of L over clusters (the code of 2023, which adds a constant 5).

    clusters: (N,) labels; by default those of the samples, else answers of equal text (MissingField
    when the traces hold none).
    unique: let an answer that was drawn several times count once in its cluster's sum.
    Answers without a scored token are left out. Undefined when none is left.
    """
    if estimator not in ESTIMATORS:
        raise BadInput(f"estimator must be one of {', '.join(ESTIMATORS)}, not {estimator!r}")
    if class_probability not in ("sum", "frequency"):
        raise BadInput(f"class_probability is 'sum' or 'frequency', not {class_probability!r}")
    held = answers_of(samples, clusters)
    if isinstance(held, Undefined):
        return held
    labels, totals, means, kept = held
    weight = means if normalize else totals
    if unique:
        texts = samples.answers
        drawn = list(zip(labels, (texts[i] for i in kept), strict=True))
        once = np.array([drawn.index(x) == i for i, x in enumerate(drawn)])
    else:
        once = np.ones(len(labels), dtype=bool)
    if class_probability == "frequency":
        weight = np.full(len(labels), -math.log(np.count_nonzero(once)))
    names, at = np.unique(labels, return_inverse=True)
    mass = np.array([_lse(weight[once & (at == c)]) for c in range(len(names))])
    return known(_entropy(mass, at, estimator), "every answer has probability 0")


def _entropy(mass: Array, at: Array, estimator: str) -> float:
    if estimator == "rao":
        whole = _lse(mass)
        return math.nan if whole == -INF else max(0.0, _plogp(mass - whole))
    if estimator == "mean":
        return -math.fsum(mass[at]) / len(at)
    if estimator == "direct":
        return _plogp(mass[at])
    return -math.fsum(mass) / len(mass)


def _plogp(logs: Array) -> float:
    """-sum of e^x x, where 0 ln 0 = 0."""
    return -math.fsum(0.0 if x == -INF else math.exp(x) * x for x in logs.tolist())


def _lse(logs: Array) -> float:
    top = float(logs.max())
    if top == -INF:
        return -INF
    return top + math.log(math.fsum(np.exp(logs - top)))


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="10.1038/s41586-024-07421-0",
    question="uncertainty",
)
def discrete_semantic_entropy(
    samples: Samples | Sequence[int], *, clusters: Sequence[int] | None = None
) -> float:
    """Entropy of how many of the sampled answers mean the same, in nats; at most ln N.

    samples: drawn answers, or only their (N,) cluster labels; clusters as in `semantic_entropy`.
    Undefined when no answer was drawn.
    """
    if isinstance(samples, Samples):
        held = labels_of(samples, clusters)
        if isinstance(held, Undefined):
            return held
        labels: Sequence[int] = held
    else:
        labels = samples
    if not len(labels):
        return Undefined("no answer was drawn")
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return _plogp(np.log(counts / counts.sum())) + 0.0


@score(
    higher_means="certain",
    reads=("logp",),
    unit="1",
    range=(0.0, 1.0),
    paper="2504.19254",
    question="uncertainty",
)
def semantic_negentropy(
    samples: Samples,
    *,
    clusters: Sequence[int] | None = None,
    class_probability: Literal["sum", "frequency"] = "frequency",
    normalize: bool = True,
) -> float:
    """1 - semantic entropy / ln N of the N drawn answers: UQLM's confidence.

    UQLM counts the judged answer among the N. class_probability, normalize: see `semantic_entropy`
    (by frequency, the answers' probabilities do not matter). Undefined for fewer than 2 answers.
    """
    value = semantic_entropy(
        samples, clusters=clusters, normalize=normalize, class_probability=class_probability
    )
    if isinstance(value, Undefined):
        return value
    n = sum(t.n_scored > 0 for t in samples.drawn)
    return min(1.0, max(0.0, 1.0 - value / math.log(n))) if n > 1 else Undefined("one answer only")


@score(
    higher_means="uncertain",
    reads=("logp",),
    unit="1",
    range=(1.0, INF),
    paper="2305.19187",
    question="uncertainty",
)
def num_semantic_sets(samples: Samples, *, clusters: Sequence[int] | None = None) -> float:
    """How many different meanings the sampled answers have; clusters as in `semantic_entropy`.

    Undefined when no answer was drawn.
    """
    held = labels_of(samples, clusters)
    return held if isinstance(held, Undefined) else float(len(set(held)))


def labels_of(samples: Samples, clusters: Sequence[int] | None = None) -> list[int] | Undefined:
    """(N,) cluster labels: those given, the samples' own, or by equal text."""
    if clusters is not None and len(clusters) != len(samples.drawn):
        raise BadInput(f"{len(clusters)} clusters for {len(samples.drawn)} drawn answers")
    if not any(t.n_scored for t in samples.drawn):
        return no_answers(samples)
    if clusters is not None:
        return list(clusters)
    return list(samples.clusters) or cluster_answers(samples.answers)


def answers_of(
    samples: Samples, clusters: Sequence[int] | None = None
) -> tuple[list[int], Array, Array, list[int]] | Undefined:
    """Of answers with tokens: labels, (N,) ln p of the whole and of the mean token, places."""
    labels = labels_of(samples, clusters)
    if isinstance(labels, Undefined):
        return labels
    kept = [i for i, t in enumerate(samples.drawn) if t.n_scored]
    totals = np.array([float(samples.drawn[i].values("logp").sum()) for i in kept])
    sizes = np.array([samples.drawn[i].n_scored for i in kept])
    return [labels[i] for i in kept], totals, totals / sizes, kept


def no_answers(samples: Samples) -> Undefined:
    """Why there is nothing to compare."""
    return Undefined(
        "no drawn answer has a scored token" if samples.drawn else "no answer was drawn"
    )
