"""Where does a text come from? Training data, a machine, a foreign domain: with the evidence.

The tasks run each model once per text, score, and, where labels are given, say how well each score
tells them apart beside what the words and the length alone do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nll import metrics, scores
from nll._errors import BadInput
from nll.metrics import Interval
from nll.models import LanguageModel
from nll.scores._perturb import Filler
from nll.trace import Array, Fields, Trace


class Evidence(NamedTuple):
    """How well one score (or baseline) tells label 1 from label 0.

    name: of the score.   auroc: with its 95% interval.   tpr_at_fpr_5: share of label 1 found when
    at most 5 % of label 0 are.   balanced_accuracy: at the best threshold.   baseline: whether it
    never asked the model.   n: labelled texts with a defined score.   tpr_5, tpr_1: that share at
    5 % and at 1 %, with 95% intervals.   aupr: area under precision-recall by trapezoids, label 1
    positive.   aupr_other: the same with label 0 positive.   fpr_at_tpr_95: share of label 0
    flagged when 95 % of label 1 are found.
    """

    name: str
    auroc: Interval
    tpr_at_fpr_5: float
    balanced_accuracy: float
    baseline: bool
    n: int
    tpr_5: Interval
    tpr_1: Interval
    aupr: float
    aupr_other: float
    fpr_at_tpr_95: float


class Origin(NamedTuple):
    """What a task found.

    scores: name to (n,) values, nan where undefined.   evidence: best AUROC first, baselines last;
    empty without labels.   limits: what no value of these can show.   threshold: of the first
    score, where texts to fit it on were given.
    """

    scores: Mapping[str, Array]
    evidence: Sequence[Evidence]
    limits: str
    threshold: metrics.Threshold | None = None


MEMBERSHIP_LIMITS = (
    "Easy and common text is likely too: no value proves that a text was trained on, and on a "
    "benchmark whose words alone tell the labels apart a high AUROC proves nothing."
)
MACHINE_LIMITS = (
    "Formulaic, translated or well-known human text looks the same, and edited text may not: never "
    "proof that a person used a machine. It depends on generator, domain, length and decoding."
)
FOREIGN_LIMITS = (
    "Foreign to what the model was tuned on says nothing of right, wrong or harmful; sums grow "
    "with the length of a text, so look at the scores per token and at length alone too."
)
_LOWER = frozenset({"binoculars"})  # a lower value speaks for label 1


def membership(
    texts: Sequence[str],
    labels: npt.ArrayLike | None = None,
    *,
    model: LanguageModel | None = None,
    reference: LanguageModel | None = None,
    k: float = 0.2,
    seed: int = 0,
) -> Origin:
    """Was each text in the model's training data? Loss, zlib, Min-K%, Min-K%++, lowercase.

    labels: 1 for members, 0 for others, to measure the scores on.   model: default the embedded
    one.   reference: a second, usually smaller model, for `reference_score`; any tokenizer.
    k: share of the least likely tokens.   seed: of intervals and the blind baseline.
    All scores are higher for members. Raises BadInput without texts or with other labels.
    References: arXiv 2310.16789, 2404.02936, 2012.07805, 2406.16201.
    """
    y = _labels(texts, labels)
    model = _model(model)
    own = list(model.trace(texts, fields=Fields()))
    lower = list(model.trace([t.lower() for t in texts], fields=Fields()))
    found = {
        "min_k_plus_plus": _each(lambda t: scores.min_k_plus_plus(t, k=k), own),
        "min_k_prob": _each(lambda t: scores.min_k_prob(t, k=k), own),
        "loss_score": _each(scores.loss_score, own),
        "zlib_score": _each(scores.zlib_score, own),
        "lowercase_score": np.array(list(map(scores.lowercase_score, own, lower)), float),
    }
    if reference is not None:
        other = list(reference.trace(texts, fields=Fields()))
        found["reference_score"] = np.array(list(map(scores.reference_score, own, other)), float)
    return Origin(found, _evidence(found, y, texts, own, seed), MEMBERSHIP_LIMITS)


def detect_machine_text(
    texts: Sequence[str],
    labels: npt.ArrayLike | None = None,
    *,
    model: LanguageModel | None = None,
    reference: LanguageModel | None = None,
    filler: Filler | None = None,
    perturbations: int = 10,
    seed: int = 0,
) -> Origin:
    """Did a machine write each text? Likelihood, ranks, entropy, LRR, Fast-DetectGPT, GLTR.

    labels: 1 for machine text, 0 for human text.   model: the scorer, default the embedded one.
    reference: a second model of the same vocabulary, for Fast-DetectGPT with a reference and
    Binoculars (there the scorer is the performer, the reference the observer; lower means machine).
    filler: replaces masked spans, for NPR and DetectGPT with so many perturbations; see
    `perturb_spans`. Texts too short to perturb raise BadText, as that says.
    Raises BadInput without texts or with other labels.
    References: arXiv 2306.05540, 2310.05130, 2401.12070, 2301.11305, 1906.04043.
    """
    y = _labels(texts, labels)
    model = _model(model)
    own = list(model.trace(texts, fields=Fields(), reference=reference))
    found = {
        name: _each(score, own)
        for name, score in {
            "log_likelihood": scores.log_likelihood,
            "rank_score": scores.rank_score,
            "log_rank_score": scores.log_rank_score,
            "entropy_score": scores.entropy_score,
            "lrr": scores.lrr,
            "fast_detect_gpt": scores.fast_detect_gpt,
            "gltr_fraction": scores.gltr_fraction,
        }.items()
    }
    if reference is not None:
        found["fast_detect_gpt(reference=True)"] = _each(
            lambda t: scores.fast_detect_gpt(t, reference=True), own
        )
        found["binoculars"] = _each(scores.binoculars, own)
    if filler is not None:
        changed = [
            scores.perturb_spans(text, filler, n=perturbations, seed=seed + i)
            for i, text in enumerate(texts)
        ]
        flat = iter(model.trace([c for row in changed for c in row], fields=Fields()))
        around = [[next(flat) for _ in row] for row in changed]
        found["npr"] = np.array(list(map(scores.npr, own, around)), float)
        gaps = list(map(scores.perturbation_discrepancy, own, around))
        found["perturbation_discrepancy"] = np.array(gaps, float)
    return Origin(found, _evidence(found, y, texts, own, seed), MACHINE_LIMITS)


def ood_detect(
    texts: Sequence[str],
    labels: npt.ArrayLike | None = None,
    *,
    model: LanguageModel,
    reference: LanguageModel,
    familiar: Sequence[str] = (),
    fpr: float = 0.05,
    seed: int = 0,
) -> Origin:
    """Is each text foreign to what a model was fine-tuned on? LR, NLR, and what they must beat.

    labels: 1 for foreign texts, 0 for the tuned domain.   model: the fine-tuned model.   reference:
    the same model before tuning.   familiar: further texts of the domain, not trained on, whose
    LR gives a threshold that flags at most a share `fpr` of them.
    Scores: `likelihood_ratio` (LR) and the same per token, `negative_likelihood` (LH) and the same
    per token, and the mean nll before tuning. All are higher for foreign texts.
    Raises BadInput without texts or with other labels. References: arXiv 2404.08679.
    """
    y = _labels(texts, labels)
    own, before = _two(model, reference, texts)
    found = {
        "likelihood_ratio": _ratios(before, own, normalise=False),
        "likelihood_ratio(normalise=True)": _ratios(before, own, normalise=True),
        "negative_likelihood": _each(scores.negative_likelihood, own),
        "negative_likelihood(normalise=True)": _each(scores.mean_nll, own),
        "mean_nll before tuning": _each(scores.mean_nll, before),
    }
    cut = None
    if len(familiar):
        known, known_before = _two(model, reference, familiar)
        cut = metrics.fit_threshold(_ratios(known_before, known, normalise=False), fpr)
    return Origin(found, _evidence(found, y, texts, own, seed), FOREIGN_LIMITS, cut)


def _two(
    model: LanguageModel, reference: LanguageModel, texts: Sequence[str]
) -> tuple[list[Trace], list[Trace]]:
    own, other = (list(m.trace(texts, fields=Fields())) for m in (model, reference))
    return own, other


def _ratios(before: Sequence[Trace], after: Sequence[Trace], *, normalise: bool) -> Array:
    pairs = zip(before, after, strict=True)
    return np.array([scores.likelihood_ratio(*p, normalise=normalise) for p in pairs], float)


def _model(model: LanguageModel | None) -> LanguageModel:
    if model is not None:
        return model
    from nll.models import load

    return load()


def _labels(texts: Sequence[str], labels: npt.ArrayLike | None) -> Array | None:
    if isinstance(texts, str) or not len(texts):
        raise BadInput("give several texts, as a list of strings")
    if labels is None:
        return None
    y = np.asarray(labels)
    if y.shape != (len(texts),):
        raise BadInput(f"{len(texts)} texts need as many labels, not shape {y.shape}")
    if not np.isin(y, (0, 1)).all():
        raise BadInput("labels must be 0 or 1")
    return y.astype(int)


def _each(score: Callable[[Trace], float], traces: Sequence[Trace]) -> Array:
    return np.array([score(t) for t in traces], float)


def _evidence(
    found: Mapping[str, Array],
    y: Array | None,
    texts: Sequence[str],
    traces: Sequence[Trace],
    seed: int,
) -> list[Evidence]:
    if y is None:
        return []
    rows = [
        _measured(name, y, -s if name in _LOWER else s, seed, baseline=False)
        for name, s in found.items()
    ]
    rows.sort(key=lambda r: -r.auroc.value if r.auroc.value == r.auroc.value else 1.0)
    length = np.array([t.n_scored for t in traces], float)
    rows.append(_measured("length in tokens", y, length, seed, baseline=True))
    blind = metrics.blind_baseline(texts, y, seed=seed)
    words = blind.scores if len(blind.scores) else np.full(len(y), np.nan)
    bag = _measured("bag of words", y, words, seed, baseline=True)
    return [*rows, bag._replace(auroc=blind.auroc, n=len(y))]


def _measured(name: str, y: Array, s: Array, seed: int, *, baseline: bool) -> Evidence:
    known = ~np.isnan(s)
    y, s = y[known], s[known]

    def interval(metric: Callable[..., float]) -> Interval:
        if not len(y):
            lacking = metric(y, s)
            return Interval(lacking, lacking, lacking)
        return metrics.bootstrap(metric, y, s, n=1000, seed=seed, stratify=y)

    return Evidence(
        name,
        interval(metrics.auroc),
        metrics.tpr_at_fpr(y, s, 0.05),
        metrics.best_balanced_accuracy(y, s),
        baseline,
        len(y),
        tpr_5=interval(partial(metrics.tpr_at_fpr, fpr=0.05)),
        tpr_1=interval(partial(metrics.tpr_at_fpr, fpr=0.01)),
        aupr=metrics.aupr(y, s),
        aupr_other=metrics.aupr(1 - y, -s),
        fpr_at_tpr_95=metrics.fpr_at_tpr(y, s, 0.95),
    )
