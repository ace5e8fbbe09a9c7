"""Does the model lean to one answer? Label log-odds, errors by side, attention to the label words.

The negative label is "no" throughout; a positive log-odds speaks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined, score
from nll._errors import BadInput
from nll.scores._common import INF, NO_TOKENS, known
from nll.trace import Array, Fields, Trace

READABLE = 0.5  # below this share of the probability the label words say little


class HasOptions(Protocol):
    """The part of a language model that is asked here."""

    def options(self, prompt: str, continuations: Sequence[str]) -> Array:
        """(n,) log-probability of each continuation given the prompt, nats."""
        ...


class LabelReadout(NamedTuple):
    """How likely the negative and the positive wordings of an answer are, each in sum. Nats."""

    logp_negative: float
    logp_positive: float

    @property
    def log_odds(self) -> float:
        """lp(negative) - lp(positive); nan when both are impossible."""
        odds = self.logp_negative - self.logp_positive
        return known(odds, "the model gives none of the label words any probability")

    @property
    def p_negative(self) -> float:
        """Share of the negative label among the two, sigmoid of the log-odds."""
        x = self.log_odds
        if x != x:
            return x
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    @property
    def coverage(self) -> float:
        """Probability of all label words; below 0.5 the readout means little."""
        return math.exp(self.logp_negative) + math.exp(self.logp_positive)


def label_readout_from_logp(negative: npt.ArrayLike, positive: npt.ArrayLike) -> LabelReadout:
    """Readout from the log-probabilities, nats, of each side's wordings, which exclude each other.

    Raises BadInput when a side has none, or a value is nan or above 0.
    """
    sides = []
    for name, given in (("negative", negative), ("positive", positive)):
        values = np.atleast_1d(np.asarray(given, dtype=np.float64)).ravel()
        if not values.size:
            raise BadInput(f"the {name} label has no wording")
        if np.isnan(values).any() or (values > 1e-9).any():
            raise BadInput(f"log-probabilities of the {name} label must be numbers <= 0")
        sides.append(float(np.logaddexp.reduce(values)))
    return LabelReadout(*sides)


def label_readout(
    model: HasOptions,
    prompt: str,
    negative: Sequence[str],
    positive: Sequence[str],
    *,
    terminators: Sequence[str] = ("",),
) -> LabelReadout:
    """Readout of what the model would answer to the prompt, from one reading of it.

    negative, positive: wordings such as `(" No", " no")`; a wording of several tokens counts with
    the product of their probabilities.   terminators: what may follow one, such as `(".", "\\n")`,
    so that " No" does not count for " Nobody" where that begins with the same token; what is
    followed by something else then counts for neither side. Raises BadInput when one wording (with
    its terminator) begins another, since the longer is then counted twice, or stands on both sides.
    """
    ends = [terminators] if isinstance(terminators, str) else list(terminators)
    if not ends:
        raise BadInput("terminators must hold at least '', which is whatever follows")
    negative, positive = (
        [word + end for word in _wordings(side) for end in ends] for side in (negative, positive)
    )
    words = [*negative, *positive]
    for i, word in enumerate(words):
        for j, other in enumerate(words):
            if i != j and other.startswith(word):
                raise BadInput(f"label wording {word!r} also begins {other!r}; drop one of them")
    logp = np.asarray(model.options(prompt, words), dtype=np.float64)
    return label_readout_from_logp(logp[: len(negative)], logp[len(negative) :])


def _wordings(given: Sequence[str]) -> list[str]:
    words = [given] if isinstance(given, str) else list(given)
    if not words or not all(words):
        raise BadInput("each label needs at least one wording, and none may be empty")
    return words


def label_log_odds(
    model: HasOptions,
    prompt: str,
    negative: Sequence[str],
    positive: Sequence[str],
    *,
    terminators: Sequence[str] = ("",),
) -> float:
    """lp(negative) - lp(positive) after the prompt, nats: above 0 the model leans to the negative.

    See `label_readout`, which also says how much of the probability the label words hold.
    Source: arXiv 2511.10881.
    """
    return label_readout(model, prompt, negative, positive, terminators=terminators).log_odds


@score(
    higher_means="negative",
    reads=("top_ids", "top_logp"),
    unit="nats",
    range=(-INF, INF),
    paper="2511.10881",
    question="bias",
    fields=lambda top_k, **_: Fields(top_k=top_k),
)
def answer_log_odds(
    trace: Trace, *, negative_ids: Sequence[int], positive_ids: Sequence[int], top_k: int = 50
) -> float:
    """Log-odds of the negative over the positive label at the answer's first token, from a trace.

    negative_ids, positive_ids: token ids of the wordings. Reads the most likely tokens that the
    trace keeps (`top_k` is what is asked of the model); wordings below them are left out. Undefined
    when no token was scored or none of a side's wordings is among the kept. Raises BadInput when a
    token is on both sides. Source: arXiv 2511.10881.
    """
    both = set(negative_ids) & set(positive_ids)
    if both:
        raise BadInput(f"token {min(both)} stands for both labels")
    if not trace.n_scored:
        return NO_TOKENS
    ids, logp = trace.values("top_ids")[0], trace.values("top_logp")[0]
    sides = [logp[np.isin(ids, list(side))] for side in (negative_ids, positive_ids)]
    if not all(side.size for side in sides):
        return Undefined(f"a label is not among the {len(ids)} most likely tokens that were kept")
    negative, positive = (float(np.logaddexp.reduce(side)) for side in sides)
    return known(negative - positive, "a label lacks a log-probability")


def negative_bias(tnr: float, tpr: float) -> float:
    """TNR - TPR, in [-1, 1]: above 0 the model errs towards "no"; nan when either rate is.

    Independent of the balance of the classes. Source: after arXiv 2511.10881.
    """
    return known(float(tnr) - float(tpr), "a class is empty, so its rate does not exist")


def precision_recall_gap(precision: float, recall: float) -> float:
    """Precision - recall of "yes": above 0 leans to "no", but moves with the balance of classes.

    nan when either is. Source: arXiv 2408.00137.
    """
    reason = "no item was answered or labelled yes, so precision or recall does not exist"
    return known(float(precision) - float(recall), reason)


class BinaryDecisionReport(NamedTuple):
    """What a yes/no model gets wrong, and to which side; "yes" is the positive class.

    ties: log-odds exactly at the threshold, counted as yes.   invalid: nan log-odds, left out.
    auroc: of the log-odds for gold "no", whatever the threshold.
    """

    tp: int
    fn: int
    tn: int
    fp: int
    ties: int
    invalid: int
    tpr: float
    tnr: float
    precision: float
    f1: float
    accuracy: float
    balanced_accuracy: float
    negative_bias: float
    precision_recall_gap: float
    negative_ratio: float
    gold_negative_ratio: float
    mean_p_no: float
    auroc: float

    @property
    def recall(self) -> float:
        """The same as `tpr`."""
        return self.tpr

    @property
    def over_negative(self) -> float:
        """Share answered "no" minus share that is "no"."""
        return known(self.negative_ratio - self.gold_negative_ratio, "no item has a valid answer")

    @property
    def over_p_no(self) -> float:
        """Mean probability of "no" minus the share that is "no": `over_negative` before the cut."""
        return known(self.mean_p_no - self.gold_negative_ratio, "no item has a valid answer")


def binary_decision_report(
    y_true: npt.ArrayLike, log_odds: npt.ArrayLike, threshold: float = 0.0
) -> BinaryDecisionReport:
    """Errors by side of answers that are "no" where the log-odds of no exceed the threshold.

    y_true: (n,) 1 for gold yes, 0 for gold no.   log_odds: (n,) of no over yes, nats; nan marks an
    invalid answer. Rates of an empty class, and whatever follows from them, are nan. Raises
    BadInput for other labels or unequal lengths. Source: arXiv 2511.10881.
    """
    y, x = np.asarray(y_true), np.asarray(log_odds, dtype=np.float64)
    if y.ndim != 1 or y.shape != x.shape:
        raise BadInput(f"labels and log-odds must be equally many, not {y.shape} and {x.shape}")
    if y.size and not np.isin(y, (0, 1)).all():
        raise BadInput("labels must be 1 (yes) or 0 (no)")
    valid = ~np.isnan(x)
    yes, x = y[valid].astype(bool), x[valid]
    no = x > threshold
    tp, fn = int(np.sum(yes & ~no)), int(np.sum(yes & no))
    tn, fp = int(np.sum(~yes & no)), int(np.sum(~yes & ~no))
    n = len(x)
    tpr = _share(tp, tp + fn, "there is no item with gold yes")
    tnr = _share(tn, tn + fp, "there is no item with gold no")
    precision = _share(tp, tp + fp, "nothing was answered yes")
    empty = "no item has a valid answer"
    balanced = known((tpr + tnr) / 2, "a class is empty")
    p_no = 0.5 * (1.0 + np.tanh(x / 2))
    return BinaryDecisionReport(
        tp=tp, fn=fn, tn=tn, fp=fp,
        ties=int(np.sum(x == threshold)), invalid=int(np.sum(~valid)),
        tpr=tpr, tnr=tnr, precision=precision,
        f1=_share(2 * tp, 2 * tp + fp + fn, "there is no yes on either side"),
        accuracy=_share(tp + tn, n, empty), balanced_accuracy=balanced,
        negative_bias=negative_bias(tnr, tpr),
        precision_recall_gap=precision_recall_gap(precision, tpr),
        negative_ratio=_share(fn + tn, n, empty),
        gold_negative_ratio=_share(tn + fp, n, empty),
        mean_p_no=_share(float(p_no.sum()), n, empty),
        auroc=_auroc(~yes, x),
    )  # fmt: skip


def _share(part: float, whole: int, reason: str) -> float:
    return part / whole if whole else Undefined(reason)


def _auroc(positive: Array, values: Array) -> float:
    """Chance that a positive's value exceeds a negative's, ties one half."""
    high, low = values[positive], np.sort(values[~positive])
    if not high.size or not low.size:
        return Undefined("a class is empty")
    below, upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + upto).sum()) / 2 / (high.size * low.size)


def debias_threshold(log_odds: npt.ArrayLike, prior: float = 0.5) -> float:
    """Threshold that takes a standing lean to "no" out: mean log-odds - logit(prior), nats.

    log_odds: (n,) of no over yes on content-free prompts, or on items whose share of no is 1/2.
    prior: the share of no expected where it is used. It moves the balance of errors, never AUROC.
    nan for no values. Raises BadInput for values that are not finite or a prior not within (0, 1).
    Source: contextual calibration, the plain alternative to arXiv 2408.00137.
    """
    x = np.asarray(log_odds, dtype=np.float64).ravel()
    if not 0 < prior < 1:
        raise BadInput(f"prior is the expected share of no, between 0 and 1, not {prior}")
    if not np.isfinite(x).all():
        raise BadInput("log-odds for calibration must be finite")
    if not x.size:
        return Undefined("no log-odds to calibrate on")
    return float(x.mean()) - (math.log(prior) - math.log1p(-prior)) + 0.0


def negative_attention_score(
    attentions: npt.ArrayLike, yes_pos: int, no_pos: int, start: int | None = None
) -> float | Array:
    """How much more attention heads pay to "No" than to "Yes" in the instruction.

    NAS = sum_{i >= start} (A[i,yes] + A[i,no]) ln(A[i,no] / A[i,yes]); above 0 leans to "No".

    attentions: (..., N, N), row i attends to column j; any leading axes (layer, head) are kept and
    a single matrix gives a float.   yes_pos, no_pos: 0-based positions of the words.   start: first
    row that counts, by default the one after both words. 1e-12 is added inside the logarithm, and
    rows that look at neither word are skipped. Undefined when no row is left to count. Raises
    BadInput for shapes, positions or weights that cannot be. Source: arXiv 2408.00137.
    """
    a = np.asarray(attentions, dtype=np.float64)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise BadInput(f"attentions must be (..., N, N), not {a.shape}")
    n = a.shape[-1]
    if not (0 <= yes_pos < n and 0 <= no_pos < n) or yes_pos == no_pos:
        raise BadInput(f"yes_pos {yes_pos} and no_pos {no_pos} must be two positions below {n}")
    first = max(yes_pos, no_pos) + 1 if start is None else start
    if first < 0:
        raise BadInput(f"start must be 0 or more, not {first}")
    yes, no = a[..., first:, yes_pos], a[..., first:, no_pos]
    if not np.isfinite([yes, no]).all() or (np.minimum(yes, no) < 0).any():
        raise BadInput("attention weights must be finite and not negative; use eager attention")
    both = yes + no
    terms = np.where(both > 0, both * np.log((no + 1e-12) / (yes + 1e-12)), 0.0)
    counted = (both > 0).any(axis=-1)
    total = np.where(counted, terms.sum(axis=-1), np.nan)
    if a.ndim > 2:
        return total
    return known(float(total), "no counted row attends to either word")


class HeadScore(NamedTuple):
    """A head and its mean negative attention score."""

    layer: int
    head: int
    score: float


def rank_negative_heads(scores: npt.ArrayLike) -> list[HeadScore]:
    """Heads from the most to the least inclined to "No", by their mean over prompts.

    scores: (P, L, H) `negative_attention_score` of each prompt, layer and head; nan entries are
    left out of a head's mean, and a head without any is last. Source: arXiv 2408.00137.
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 3 or not s.shape[0]:
        raise BadInput(f"scores must be (prompts, layers, heads) with a prompt, not {s.shape}")
    held = ~np.isnan(s)
    number = held.sum(axis=0)
    mean = np.where(number > 0, np.where(held, s, 0).sum(axis=0) / np.maximum(number, 1), np.nan)
    order = np.argsort(-mean.ravel(), kind="stable")
    width = mean.shape[1]
    return [HeadScore(int(i) // width, int(i) % width, float(mean.ravel()[i])) for i in order]
