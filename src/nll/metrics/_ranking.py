"""How well does a score put the positives above the negatives? Ties count one half.

Label 1 is the positive class and a higher score speaks for it. Items with a nan score are left out
and counted (`.dropped`); infinities are ordered like any number. With one class alone nothing is
defined, and the result is a nan that says so.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll.metrics._inputs import Bools, Floats, Measured, labelled, share

# Shares such as 0.05 * 20 are compared with counts; this is far below one item and above rounding.
_SLACK = 1e-9


class RocCurve(NamedTuple):
    """Points of the ROC curve, strictest threshold first; the first point flags nothing."""

    fpr: Floats
    tpr: Floats
    threshold: Floats


class PrCurve(NamedTuple):
    """Points of the precision-recall curve, strictest threshold first, without recall 0."""

    precision: Floats
    recall: Floats
    threshold: Floats


class _Counts(NamedTuple):
    tp: Floats
    fp: Floats
    threshold: Floats


def auroc(y_true: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """P(score of a positive > of a negative) + 1/2 P(equal): area under the ROC curve.

    y_true: (n,) 0 or 1.   score: (n,).   Returns: in [0, 1], 0.5 = no order; nan (Undefined) with
    one class alone.   Raises BadInput on different lengths or other labels.

    >>> auroc([1, 1, 0, 0], [0.9, 0.4, 0.4, 0.1])
    0.875
    """
    y, s, dropped = labelled(y_true, score)
    if lacking := one_class(y):
        return lacking
    negatives, positives = np.sort(s[~y]), s[y]
    below = np.searchsorted(negatives, positives, "left")
    up_to = np.searchsorted(negatives, positives, "right")
    pairs = 2 * len(positives) * len(negatives)
    return Measured(int(below.sum() + up_to.sum()) / pairs, n=len(y), dropped=dropped)


def roc_curve(y_true: npt.ArrayLike, score: npt.ArrayLike) -> RocCurve:
    """One point per distinct score ("flag all that score at least this") after (0, 0).

    Returns empty arrays when there is one class alone.   Raises BadInput as `auroc`.
    """
    y, s, _ = labelled(y_true, score)
    if one_class(y):
        return RocCurve(np.empty(0), np.empty(0), np.empty(0))
    c = _counts(y, s)
    return RocCurve(
        np.concatenate([[0.0], c.fp / c.fp[-1]]),
        np.concatenate([[0.0], c.tp / c.tp[-1]]),
        np.concatenate([[np.inf], c.threshold]),
    )


def pr_curve(y_true: npt.ArrayLike, score: npt.ArrayLike) -> PrCurve:
    """Precision and recall at each distinct score; empty with one class alone."""
    y, s, _ = labelled(y_true, score)
    if one_class(y):
        return PrCurve(np.empty(0), np.empty(0), np.empty(0))
    c = _counts(y, s)
    return PrCurve(c.tp / (c.tp + c.fp), c.tp / c.tp[-1], c.threshold)


def aupr(y_true: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Area under the precision-recall curve by trapezoids, from (recall 0, precision 1).

    Not `average_precision`, which sums steps; say which of the two a number is. nan with one class
    alone.   Raises BadInput as `auroc`.
    """
    y, s, dropped = labelled(y_true, score)
    if lacking := one_class(y):
        return lacking
    precision, recall, _ = pr_curve(y, s)
    p = np.concatenate([[1.0], precision])
    widths = np.diff(recall, prepend=0.0)
    area = float(np.sum(widths * (p[1:] + p[:-1]) / 2))
    return Measured(area, n=len(y), dropped=dropped)


def average_precision(y_true: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """sum_i (recall_i - recall_{i-1}) precision_i over distinct scores; nan with one class alone.

    Raises BadInput as `auroc`.
    """
    y, s, dropped = labelled(y_true, score)
    if lacking := one_class(y):
        return lacking
    precision, recall, _ = pr_curve(y, s)
    area = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    return Measured(area, n=len(y), dropped=dropped)


def tpr_at_fpr(y_true: npt.ArrayLike, score: npt.ArrayLike, fpr: float = 0.05) -> float:
    """Largest true positive rate among ROC points with false positive rate <= `fpr`.

    No interpolation between points. nan with one class alone.   Raises BadInput as `auroc`.
    """
    share(fpr, "fpr")
    y, s, dropped = labelled(y_true, score)
    if lacking := one_class(y):
        return lacking
    c = _counts(y, s)
    allowed = c.fp <= fpr * c.fp[-1] + _SLACK
    best = float(c.tp[allowed].max(initial=0.0) / c.tp[-1])
    return Measured(best, n=len(y), dropped=dropped)


def fpr_at_tpr(y_true: npt.ArrayLike, score: npt.ArrayLike, tpr: float = 0.95) -> float:
    """Smallest false positive rate among ROC points with true positive rate >= `tpr`.

    No interpolation between points. nan with one class alone.   Raises BadInput as `auroc`.
    """
    share(tpr, "tpr")
    y, s, dropped = labelled(y_true, score)
    if lacking := one_class(y):
        return lacking
    c = _counts(y, s)
    enough = c.tp >= tpr * c.tp[-1] - _SLACK
    best = 0.0 if tpr == 0 else float(c.fp[enough].min() / c.fp[-1])
    return Measured(best, n=len(y), dropped=dropped)


def best_balanced_accuracy(y_true: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """max over thresholds of (TPR + 1 - FPR) / 2; at least 0.5. nan with one class alone.

    The threshold is picked on the same items, so it flatters.   Raises BadInput as `auroc`.
    """
    y, s, dropped = labelled(y_true, score)
    if lacking := one_class(y):
        return lacking
    fpr, tpr, _ = roc_curve(y, s)
    return Measured(float(np.max(tpr + 1 - fpr) / 2), n=len(y), dropped=dropped)


def one_class(y: Bools) -> Undefined | None:
    """The nan for labels of one class alone (or none at all), else None."""
    if len(y) == 0:
        return Undefined("no item has a score")
    if y.all() or not y.any():
        return Undefined(f"all {len(y)} items have label {int(y[0])}; two classes are needed")
    return None


def _counts(y: Bools, s: Floats) -> _Counts:
    """True and false positives when everything from each distinct score up is flagged."""
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    last = np.append(s[1:] != s[:-1], True)
    tp = np.cumsum(y, dtype=np.float64)
    fp = np.arange(1, len(y) + 1, dtype=np.float64) - tp
    return _Counts(tp[last], fp[last], s[last])
