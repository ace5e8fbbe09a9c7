"""Which document of a pool to pick, with the share of step heads regressed out (ASLEC-CASL)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.scores._common import defined
from nll.scores._selection import Spans, StepParts, step_parts
from nll.trace import Array, Trace

Document: TypeAlias = tuple[Trace, Spans]


class CaslFit(NamedTuple):
    """M = intercept + beta_non M_other + beta_first M_first + gamma F, fitted by least squares.

    gamma is close to `mean_gap`, the mean of M_first - M_other, since M is exactly the mixture of
    both. r2: share of M's variance explained.   n: documents in the fit.
    """

    beta_non: float
    beta_first: float
    gamma: float
    intercept: float
    r2: float
    mean_gap: float
    n: int
    skip: int

    def adjust(self, trace: Trace, spans: Spans) -> float:
        """ASLEC-CASL: M - gamma F, nats, higher is more natural; nan for a document left out."""
        parts = step_parts(trace, spans, self.skip)
        if not _usable(parts):
            return Undefined("the document has no scored head token or no other")
        return defined(parts.all_mean - self.gamma * parts.share)


def _usable(parts: StepParts) -> bool:
    return bool(np.isfinite([parts.all_mean, parts.first, parts.other, parts.share]).all())


def fit_aslec_casl(documents: Sequence[Document], skip: int = 1) -> CaslFit:
    """Fit ASLEC-CASL on a pool of documents, each a trace and the spans of its steps.

    Documents without scored heads or other tokens are left out. Raises BadInput for fewer than 5
    documents, or when the three terms are collinear (all with the same share of heads, say): use
    `aslec_drop` then. An adjustment, no causal proof. Source: arXiv 2604.06834.
    """
    held = [p for p in (step_parts(t, s, skip) for t, s in documents) if _usable(p)]
    if len(held) < 5:
        raise BadInput(f"{len(held)} usable documents, a CASL fit needs 5; use aslec_drop")
    y = np.array([p.all_mean for p in held])
    x = np.array([[p.other, p.first, p.share] for p in held])
    centred = x - x.mean(axis=0)
    scale = np.linalg.norm(centred, axis=0)
    size = np.abs(x).max(axis=0) * np.sqrt(len(held))
    if (scale <= 1e-10 * np.maximum(size, 1e-300)).any() or (
        np.linalg.matrix_rank(centred / np.maximum(scale, 1e-300), tol=1e-8) < 3
    ):
        raise BadInput("the documents' terms are collinear, so CASL has no fit; use aslec_drop")
    beta = np.linalg.lstsq(centred, y - y.mean(), rcond=None)[0]
    left = y - y.mean() - centred @ beta
    spread = float(((y - y.mean()) ** 2).sum())
    return CaslFit(
        beta_non=float(beta[0]), beta_first=float(beta[1]), gamma=float(beta[2]),
        intercept=float(y.mean() - x.mean(axis=0) @ beta),
        r2=1 - float((left**2).sum()) / spread if spread else Undefined("M does not vary"),
        mean_gap=float(np.mean(x[:, 1] - x[:, 0])), n=len(held), skip=skip,
    )  # fmt: skip


def aslec_casl(
    documents: Sequence[Document], skip: int = 1, *, groups: Sequence[Hashable] | None = None
) -> Array:
    """(N,) ASLEC-CASL of each document, nats, fitted on all of them or within each group.

    groups: a label per document, such as its teacher (the paper's code fits per teacher, its text
    speaks of the pool). nan for documents left out. Raises BadInput where a fit is refused.
    """
    out = np.full(len(documents), np.nan)
    labels = [0] * len(documents) if groups is None else list(groups)
    for members in _members(labels, len(documents)):
        fit = fit_aslec_casl([documents[i] for i in members], skip)
        for i in members:
            out[i] = fit.adjust(*documents[i])
    return out


def _members(groups: Sequence[Hashable], n: int) -> Iterator[list[int]]:
    if len(groups) != n:
        raise BadInput(f"{len(groups)} groups for {n} documents")
    found: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(group, []).append(i)
    yield from found.values()


def select_top_k(scores: npt.ArrayLike, groups: Sequence[Hashable], k: int) -> Array:
    """Positions, in order, of the k highest scores of each group (all where there are fewer).

    nan ranks last; of equal scores the first wins. Raises BadInput for k < 1 or unequal lengths.
    """
    values = np.asarray(scores, dtype=np.float64)
    if k < 1:
        raise BadInput(f"k must be 1 or more, not {k}")
    picked: list[int] = []
    for members in _members(groups, len(values)):
        order = np.argsort(-values[members], kind="stable")[:k]
        picked += [members[i] for i in order]
    return np.array(sorted(picked), dtype=np.int64)


class StepLengthReport(NamedTuple):
    """How much scores follow the step length, and what heads are like. Means over documents.

    head_logp, other_logp: nats.   heads: share of head tokens.   overall, within: by score, its
    rank correlation with the mean step length over all documents, and the mean of those within
    groups (nan where there is no spread).   picked: by score, mean step length of each group's
    best.   step_length: of the pool.
    """

    head_logp: float
    other_logp: float
    heads: float
    step_length: float
    overall: dict[str, float]
    within: dict[str, float]
    picked: dict[str, float]
    skip: int


def step_length_report(
    documents: Sequence[Document],
    scores: Mapping[str, npt.ArrayLike],
    groups: Sequence[Hashable] | None = None,
    skip: int = 1,
) -> StepLengthReport:
    """Does a score choose long steps? Its correlation with step length, overall and within groups.

    scores: by name, (N,) one value per document; nan is left out.   groups: a label per document,
    its question; without it all are one group. Raises BadInput for unequal lengths.
    """
    parts = [step_parts(t, s, skip) for t, s in documents]
    length = np.array([float(p.step_length) for p in parts])
    groups = [0] * len(parts) if groups is None else groups
    members = list(_members(groups, len(parts)))
    overall, within, picked = {}, {}, {}
    for name, given in scores.items():
        values = np.asarray(given, dtype=np.float64)
        if values.shape != length.shape:
            raise BadInput(f"score '{name}' has shape {values.shape} for {len(parts)} documents")
        overall[name] = _rank_correlation(values, length)
        inside = np.array([float(_rank_correlation(values[m], length[m])) for m in members])
        within[name] = _mean(inside, "no group in which both vary")
        picked[name] = _mean(length[select_top_k(values, groups, 1)], "no document")
    return StepLengthReport(
        head_logp=_mean(np.array([float(p.first) for p in parts]), "no document"),
        other_logp=_mean(np.array([float(p.other) for p in parts]), "no document"),
        heads=_mean(np.array([float(p.share) for p in parts]), "no document"),
        step_length=_mean(length, "no document"),
        overall=overall, within=within, picked=picked, skip=skip,
    )  # fmt: skip


def _mean(values: Array, reason: str) -> float:
    held = values[~np.isnan(values)]
    return float(held.mean()) if held.size else Undefined(reason)


def _rank_correlation(x: Array, y: Array) -> float:
    """Spearman's, with mean ranks for ties; undefined without spread."""
    from scipy.stats import rankdata

    held = ~(np.isnan(x) | np.isnan(y))
    a, b = rankdata(x[held]), rankdata(y[held])
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Undefined("a correlation needs two documents that differ")
    return float(np.corrcoef(a, b)[0, 1])
