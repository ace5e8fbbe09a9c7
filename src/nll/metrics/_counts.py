"""Sampled solutions: how many are right, which one to pick, what automatic grading overstates."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics._inputs import Floats, binary, floats, same_length
from nll.metrics._resampling import Interval, wilson

A = TypeVar("A", bound=Hashable)


@dataclass(frozen=True, slots=True)
class EvalCounts:
    """n problems, auto_correct accepted by their final answer, false_positive of those flawed.

    Raises BadInput unless 0 <= false_positive <= auto_correct <= n.
    """

    n: int
    auto_correct: int
    false_positive: int

    def __post_init__(self) -> None:
        if not 0 <= self.false_positive <= self.auto_correct <= self.n:
            raise BadInput(
                f"{self.false_positive} false positives among {self.auto_correct} accepted of "
                f"{self.n}: each must be at most the next"
            )

    @property
    def automatic_accuracy(self) -> float:
        """Share with the right final answer; nan without problems."""
        return self.auto_correct / self.n if self.n else Undefined("no problems")

    @property
    def manual_accuracy(self) -> float:
        """Share with the right answer and sound reasoning; nan without problems."""
        sound = self.auto_correct - self.false_positive
        return sound / self.n if self.n else Undefined("no problems")

    @property
    def false_positive_rate(self) -> float:
        """Share of the accepted solutions that are flawed; nan when none was accepted."""
        if not self.auto_correct:
            return Undefined("no solution was accepted")
        return self.false_positive / self.auto_correct

    @property
    def false_positive_interval(self) -> Interval:
        """`false_positive_rate` with its 95 % Wilson interval."""
        return wilson(self.false_positive, self.auto_correct)


class DetectionReport(NamedTuple):
    """Counts and shares of a yes/no detector; a share whose denominator is 0 is nan."""

    tp: int
    fp: int
    fn: int
    tn: int
    precision: float
    recall: float
    f1: float


def detection_report(y_fp: npt.ArrayLike, y_pred: npt.ArrayLike) -> DetectionReport:
    """Precision, recall and F1 of the predictions for class 1.

    y_fp, y_pred: (n,) 0 or 1, else BadInput.
    """
    y, p = binary(y_fp, "labels"), binary(y_pred, "predictions")
    same_length(labels=y, predictions=p)
    tp, fp = int(np.sum(y & p)), int(np.sum(~y & p))
    fn, tn = int(np.sum(y & ~p)), int(np.sum(~y & ~p))
    return DetectionReport(
        tp, fp, fn, tn,
        tp / (tp + fp) if tp + fp else Undefined("nothing was predicted positive"),
        tp / (tp + fn) if tp + fn else Undefined("there are no positives"),
        2 * tp / (2 * tp + fp + fn) if tp + fp + fn else Undefined("no positives on either side"),
    )  # fmt: skip


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that k of n samples hold a right one: 1 - C(n - c, k) / C(n, k).

    n: samples drawn, c: right ones among them.   Raises BadInput unless 0 <= c <= n, 1 <= k <= n.

    >>> round(pass_at_k(10, 3, 5), 6)
    0.916667
    """
    if not 0 <= c <= n:
        raise BadInput(f"{c} right ones of {n} samples cannot be")
    if not 1 <= k <= n:
        raise BadInput(f"pass@{k} needs at least {k} samples and k >= 1; there are {n}")
    everything = math.comb(n, k)
    return (everything - math.comb(n - c, k)) / everything


def pass_at_n(labels: Sequence[npt.ArrayLike]) -> float:
    """Share of problems with any right sample.

    labels: one list of 0/1 per problem (lengths may differ).   nan without problems.
    """
    if not len(labels):
        return Undefined("no problems")
    return sum(bool(binary(row, "labels").any()) for row in labels) / len(labels)


def pass_at_n_true(
    labels: Sequence[npt.ArrayLike], false_positive: Sequence[npt.ArrayLike] | None = None
) -> float:
    """Share of problems with any sample that is right for sound reasons.

    labels: one list of 0/1 per problem. false_positive: the same shape, 1 where a right answer is
    reached by flawed reasoning; without it `labels` already says which samples are sound.
    """
    if false_positive is None:
        return pass_at_n(labels)
    same_length(labels=labels, false_positive=false_positive)
    sound = []
    for row, flawed in zip(labels, false_positive, strict=True):
        right, wrong = binary(row, "labels"), binary(flawed, "false_positive")
        same_length(labels=right, false_positive=wrong)
        sound.append(right & ~wrong)
    return pass_at_n(sound)


def best_of_n(scores: npt.ArrayLike) -> int:
    """Index of the highest score, the first among equals; nan never wins over a number.

    Raises BadInput without scores, or when all are nan.
    """
    s = floats(scores, "scores")
    if not len(s) or np.isnan(s).all():
        raise BadInput("best of none: there is no sample with a score")
    return int(np.nanargmax(s))


def process_reward(step_scores: npt.ArrayLike, reduction: Literal["mean", "min"] = "mean") -> float:
    """One reward from a process model's (S,) scores of a solution's steps: their mean or least.

    -inf without steps, so that such a solution is picked last. An outcome model's single score is
    a reward as it is. Raises BadInput for another reduction. Source: arXiv 2502.06217.
    """
    if reduction not in ("mean", "min"):
        raise BadInput(f"reduction must be 'mean' or 'min', not {reduction!r}")
    s = floats(step_scores, "step scores")
    if not len(s):
        return -math.inf
    return float(s.mean() if reduction == "mean" else s.min())


def self_consistency(answers: Sequence[A], *, drop_missing: bool = False) -> A:
    """The most frequent answer, the first seen among equals.

    A missing answer (None) is an answer of its own unless `drop_missing`.   Raises BadInput when
    nothing is left to vote.
    """
    return _vote(answers, np.ones(len(answers)), drop_missing)


def weighted_self_consistency(
    answers: Sequence[A], weights: npt.ArrayLike, *, drop_missing: bool = False
) -> A:
    """The answer with the largest sum of weights, the first seen among equals.

    When all weights are 0 the plain count decides.   Raises BadInput on different lengths or a nan.
    """
    w = floats(weights, "weights")
    same_length(answers=answers, weights=w)
    if np.isnan(w).any():
        raise BadInput(f"weight {np.flatnonzero(np.isnan(w))[0]} is nan")
    return _vote(answers, w if w.any() else np.ones(len(w)), drop_missing)


def voted_sample(
    answers: Sequence[Hashable],
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    drop_missing: bool = False,
) -> int:
    """Index of the solution that a vote hands in: the best scored one with the winning answer.

    weights: of the vote, such as `minmax_weights(scores)`, see `weighted_self_consistency`; without
    them each sample counts alike.   Ties as in `best_of_n`. Raises BadInput as the two do.
    """
    s = floats(scores, "scores")
    same_length(answers=answers, scores=s)
    counts = np.ones(len(s)) if weights is None else weights
    won = weighted_self_consistency(answers, counts, drop_missing=drop_missing)
    members = [i for i, answer in enumerate(answers) if answer == won]
    return members[best_of_n(s[members])]


def minmax_weights(scores: npt.ArrayLike) -> Floats:
    """(r - min r) / (max r - min r) within a problem; r itself when all are equal.

    >>> minmax_weights([0.1, 0.3, 2.0, -0.5, 1.0]).round(2).tolist()
    [0.24, 0.32, 1.0, 0.0, 0.6]
    """
    r = floats(scores, "scores")
    if not len(r):
        return r
    if not np.isfinite(r).all():
        raise BadInput("minmax weights need finite scores")
    low, high = r.min(), r.max()
    return r.copy() if low == high else (r - low) / (high - low)


def scaling_curve(
    samples: Sequence[Sequence[Any]],
    selector: Callable[[Sequence[Any]], int],
    ns: Sequence[int],
    *,
    correct: Callable[[Any], bool] | None = None,
) -> list[float]:
    """Accuracy of the selected sample when only the first N of each problem are there.

    selector: samples -> index of the chosen one.   ns: values of N.   correct: whether a sample is
    right; without it a sample is itself 0 or 1.   Raises BadInput when a problem has fewer samples
    than the largest N, or a sample is no label and `correct` is not given.
    """
    judge = _is_right if correct is None else correct
    if not samples:
        raise BadInput("no problems to select from")
    fewest = min(len(s) for s in samples)
    if not ns or min(ns) < 1 or max(ns) > fewest:
        raise BadInput(f"N must lie between 1 and {fewest}, the fewest samples of a problem")
    return [sum(bool(judge(s[selector(s[:n])])) for s in samples) / len(samples) for n in ns]


def _is_right(sample: Any) -> bool:
    if not isinstance(sample, (bool, int, float, np.number, np.bool_)) or sample not in (0, 1):
        raise BadInput(f"sample {sample!r} is not 0 or 1; say with correct= how to judge it")
    return bool(sample)


def _vote(answers: Sequence[A], weights: Floats, drop_missing: bool) -> A:
    totals: dict[A, float] = {}
    for answer, w in zip(answers, weights.tolist(), strict=True):
        if answer is not None or not drop_missing:
            totals[answer] = totals.get(answer, 0.0) + w
    if not totals:
        raise BadInput("no answer to vote on")
    return max(totals, key=totals.__getitem__)
