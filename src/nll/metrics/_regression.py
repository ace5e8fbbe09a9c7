"""Does one number follow another? Correlations, and what a predictor adds to a linear model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics._inputs import Floats, Measured, floats, same_length

Table: TypeAlias = Mapping[str, npt.ArrayLike] | Any


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Linear correlation in [-1, 1]; pairs with a nan are left out and counted.

    nan with a reason when a side is constant or infinite, or fewer than two pairs are left.
    Raises BadInput on different lengths.
    """
    a, b, dropped = _pairs(x, y)
    if lacking := _no_spread(a, b):
        return lacking
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Undefined("a linear correlation needs finite values; spearman takes infinite ones")
    return Measured(_correlation(a, b), n=len(a), dropped=dropped)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Correlation of the ranks (equal values share their mean rank); infinities are ordered.

    nan with a reason when a side is constant or fewer than two pairs are left.
    """
    a, b, dropped = _pairs(x, y)
    if lacking := _no_spread(a, b):
        return lacking
    return Measured(_correlation(_ranks(a), _ranks(b)), n=len(a), dropped=dropped)


def kendall_tau(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in x * in y).

    nan with a reason when a side is constant or fewer than two pairs are left.
    """
    a, b, dropped = _pairs(x, y)
    if lacking := _no_spread(a, b):
        return lacking
    from scipy.stats import kendalltau

    tau = float(kendalltau(_ranks(a), _ranks(b)).statistic)
    return Measured(tau, n=len(a), dropped=dropped)


class DeltaLogLikelihood(float):
    """Gain in log-likelihood per row (nats), with what it came from.

    baseline, full: log-likelihoods of the two models.   n: rows both were fitted on.   dropped:
    rows left out.   slopes: response units per unit of each predictor column of the full model.
    left_out: columns dropped because others determine them.
    """

    baseline: float
    full: float
    n: int
    dropped: int
    slopes: Mapping[str, float]
    left_out: tuple[str, ...]


def delta_log_likelihood(
    table: Table,
    predictors: str | Sequence[str],
    baseline: str | Sequence[str] = (),
    spillover: int = 2,
    weights: str | npt.ArrayLike | None = None,
    *,
    response: str = "rt",
    group: str | None = None,
    keep: npt.ArrayLike | None = None,
    above: float | None = 0.0,
) -> float:
    """What the predictors add to a least-squares model of the response: (LL_full - LL_base) / n.

    LL = -n/2 (ln(2 pi RSS / n) + 1), plus 1/2 sum ln w with weights of mean 1.

    table: columns by name (mapping, data frame), rows in reading order.   predictors: columns,
    each entered with its values 0 .. `spillover` rows back within the `group` (a column such as
    the story).   baseline: terms of both models; `a*b` is a, b and their product, `a:b` the
    product alone, `a@1` column a one row back.   weights: column or (rows,) array, rows of weight
    0 are left out.   keep: (rows,) bool, rows to fit on; lags reach over the others.   above: rows
    whose response is not greater are left out (None: no such rule).   Rows with a nan in any
    column are left out of both models.

    Returns: DeltaLogLikelihood, nats per row; nan with a reason when rows are too few or a model
    fits exactly.   Raises BadInput for an unknown column, different lengths, a weight below 0.
    References: arXiv 2311.09325.
    """
    if spillover < 0:
        raise BadInput(f"spillover must be 0 or more, not {spillover}")
    columns = _Columns(table, group)
    y = columns.of(response)
    names = [predictors] if isinstance(predictors, str) else list(predictors)
    terms = [baseline] if isinstance(baseline, str) else list(baseline)
    base = {t: columns.term(t) for text in terms for t in _expanded(text)}
    own = {
        (f"{p}@{lag}" if lag else p): columns.of(p, lag)
        for p in names
        for lag in range(spillover + 1)
    }
    w = np.ones(len(y)) if weights is None else columns.weights(weights)
    same_length(**{response: y, "weights": w, **base, **own})
    rows = np.isfinite(y) & np.isfinite(w) & (w > 0)
    for column in (*base.values(), *own.values()):
        rows &= np.isfinite(column)
    if keep is not None:
        chosen = np.asarray(keep, dtype=bool)
        same_length(table=y, keep=chosen)
        rows &= chosen
    if above is not None:
        rows &= y > above
    n = int(np.count_nonzero(rows))
    if n <= len(base) + len(own) + 1:
        return Undefined(f"{n} usable rows are too few for {len(base) + len(own) + 1} coefficients")
    y, w = y[rows], w[rows] / w[rows].mean()
    less = _fit(y, {k: v[rows] for k, v in base.items()}, w)
    more = _fit(y, {k: v[rows] for k, v in {**base, **own}.items()}, w)
    if not (math.isfinite(less[0]) and math.isfinite(more[0])):
        return Undefined("a model fits the response exactly")
    out = DeltaLogLikelihood((more[0] - less[0]) / n)
    out.baseline, out.full, out.n, out.dropped = less[0], more[0], n, len(rows) - n
    out.slopes = {k: v for k, v in more[1].items() if k in own}
    out.left_out = more[2]
    return out


class _Columns:
    """Columns of a table by name, and their values some rows back within a group."""

    def __init__(self, table: Table, group: str | None):
        self.table = table
        self.groups = None if group is None else np.asarray(self._raw(group))

    def _raw(self, name: str) -> Any:
        try:
            return self.table[name]
        except (KeyError, IndexError, ValueError):
            raise BadInput(f"the table has no column '{name}'") from None

    def of(self, name: str, lag: int = 0) -> Floats:
        values = floats(self._raw(name), f"column '{name}'")
        if self.groups is not None:
            same_length(**{name: values, "group": self.groups})
        if lag == 0:
            return values
        out = np.full(len(values), np.nan)
        out[lag:] = values[:-lag]
        if self.groups is not None:
            other = np.ones(len(values), dtype=bool)
            other[lag:] = self.groups[lag:] != self.groups[:-lag]
            out[other] = np.nan
        return out

    def term(self, term: str) -> Floats:
        out: Floats | None = None
        for factor in term.split(":"):
            found = re.fullmatch(r"(.+?)(?:@(\d+))?", factor)
            if found is None:
                raise BadInput(f"cannot read the term '{term}'")
            column = self.of(found[1], int(found[2] or 0))
            if out is not None:
                same_length(**{term: out, factor: column})
            out = column if out is None else out * column
        assert out is not None  # noqa: S101  a term has at least one factor
        return out

    def weights(self, weights: str | npt.ArrayLike) -> Floats:
        w = self.of(weights) if isinstance(weights, str) else floats(weights, "weights")
        if (w < 0).any():
            raise BadInput("weights must be 0 or more")
        return w


def _expanded(text: str) -> list[str]:
    """`a*b` as a, b, a:b."""
    factors = [f.strip() for f in text.split("*")]
    if not all(factors):
        raise BadInput(f"cannot read the term '{text}'")
    out = []
    for chosen in sorted(range(1, 2 ** len(factors)), key=lambda m: (m.bit_count(), m)):
        out.append(":".join(f for i, f in enumerate(factors) if chosen >> i & 1))
    return out


def _fit(
    y: Floats, columns: Mapping[str, Floats], w: Floats
) -> tuple[float, dict[str, float], tuple[str, ...]]:
    """Log-likelihood, slopes, and the columns that others determine."""
    n, root = len(y), np.sqrt(w)
    basis, kept, left_out, scales = [root / np.linalg.norm(root)], [], [], []
    for name, column in columns.items():
        scale = float(np.linalg.norm(root * (column - np.average(column, weights=w))))
        rest = root * column
        size = float(np.linalg.norm(rest))
        # Twice, because once is not orthogonal enough when columns are nearly parallel.
        for _ in range(2):
            for q in basis:
                rest = rest - (q @ rest) * q
        length = float(np.linalg.norm(rest))
        if length <= 1e-10 * max(size, 1e-300):
            left_out.append(name)
            continue
        basis.append(rest / length)
        kept.append(name)
        scales.append(scale)
    target = root * y
    Q = np.stack(basis, 1)
    rest = target - Q @ (Q.T @ target)
    rest = rest - Q @ (Q.T @ rest)
    rss = float(rest @ rest)
    if rss <= 1e-24 * float(target @ target):
        return math.inf, {}, tuple(left_out)
    likelihood = -n / 2 * (math.log(2 * math.pi * rss / n) + 1) + 0.5 * float(np.log(w).sum())
    design = np.stack(
        [root, *(root * columns[k] / s for k, s in zip(kept, scales, strict=True))], 1
    )
    solved = np.linalg.lstsq(design, target, rcond=None)[0]
    slopes = {k: float(b / s) for k, b, s in zip(kept, solved[1:], scales, strict=True)}
    return likelihood, slopes, tuple(left_out)


def _pairs(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats, int]:
    a, b = floats(x, "x"), floats(y, "y")
    same_length(x=a, y=b)
    kept = ~(np.isnan(a) | np.isnan(b))
    return a[kept], b[kept], int(len(a) - np.count_nonzero(kept))


def _no_spread(a: Floats, b: Floats) -> Undefined | None:
    if len(a) < 2:
        return Undefined("fewer than two pairs")
    if a.min() == a.max() or b.min() == b.max():
        return Undefined("one side is constant")
    return None


def _ranks(values: Floats) -> Floats:
    _, place, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    out: Floats = (last - (sizes - 1) / 2)[place]
    return out


def _correlation(a: Floats, b: Floats) -> float:
    r = float(_unit(a) @ _unit(b))
    return min(1.0, max(-1.0, r))


def _unit(a: Floats) -> Floats:
    """Centred, of norm 1; scaled in between, so that squares neither under- nor overflow."""
    a = a / 2 - a.min() / 2
    a = a / a.max()
    a = a - a.mean()
    out: Floats = a / np.linalg.norm(a)
    return out
