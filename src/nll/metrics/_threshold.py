"""A threshold with a stated false-alarm rate, and a word when the scores have moved since."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.metrics._inputs import Bools, Floats, floats, share
from nll.metrics._resampling import Interval

Direction = Literal["higher", "lower"]


class Drift(NamedTuple):
    """Kolmogorov-Smirnov distance of new scores from those a threshold was fitted on.

    warning: what to tell the user, empty when the two do not differ at the level asked for.
    """

    distance: float
    p: float
    warning: str


@dataclass(frozen=True, eq=False)
class Threshold:
    """Flag a text when its score lies beyond `value.value` (above it, or below for `lower`).

    value: the threshold with an interval from order statistics, free of any assumption on the
    distribution.   fpr: share of the negatives that it flags, with the interval in which the
    false-alarm rate on further negatives of the same kind lies.
    """

    value: Interval
    fpr: Interval
    direction: Direction
    negatives: Floats

    def flags(self, scores: npt.ArrayLike) -> Bools:
        """(n,) which scores are flagged; nan is not."""
        s = floats(scores, "scores")
        out: Bools = s > self.value.value if self.direction == "higher" else s < self.value.value
        return out

    def drift(self, scores: npt.ArrayLike, *, alpha: float = 0.01) -> Drift:
        """Compare new scores, which should be mostly negatives, with those fitted on.

        Raises BadInput when no new score is a number.
        """
        share(alpha, "alpha")
        new = _defined(scores)
        if not len(new):
            raise BadInput("no new score to compare with those that the threshold was fitted on")
        from scipy.stats import ks_2samp

        found = ks_2samp(self.negatives, new, method="auto")
        distance, p = float(found.statistic), float(found.pvalue)
        warning = (
            f"these {len(new)} scores do not look like the {len(self.negatives)} that the "
            f"threshold was fitted on (Kolmogorov-Smirnov distance {distance:.2f}, p = {p:.2g}); "
            f"its false-alarm rate of {self.fpr.value:.1%} cannot be relied on here"
            if p < alpha
            else ""
        )  # fmt: skip
        return Drift(distance, p, warning)


def fit_threshold(
    negatives: npt.ArrayLike,
    fpr: float = 0.05,
    direction: Direction = "higher",
    *,
    level: float = 0.95,
) -> Threshold:
    """The least strict threshold that flags at most a share `fpr` of these negatives.

    negatives: (n,) scores of texts that must not be flagged; nan is left out.   direction: which
    side speaks for the positive class.   The true rate on further negatives follows
    Beta(k + 1, n - k) with k = floor(fpr n), from which its interval is taken at `level`.

    Raises BadInput without scores, fpr outside [0, 1), an unknown direction.
    """
    share(fpr, "fpr", one=False)
    share(level, "level", zero=False, one=False)
    if direction not in ("higher", "lower"):
        raise BadInput(f"direction is 'higher' or 'lower', not '{direction}'")
    known = _defined(negatives)
    n = len(known)
    if not n:
        raise BadInput("no scores of negatives to fit a threshold on")
    from scipy.stats import beta, binom

    sign = 1.0 if direction == "higher" else -1.0
    falling = np.sort(sign * known)[::-1]
    k = math.floor(fpr * n + 1e-9)
    cut = float(falling[k])
    flagged = int(np.count_nonzero(falling > cut))
    tail = (1 - level) / 2
    ends = beta.ppf([tail, 1 - tail], k + 1, n - k)
    # The cut as a quantile: the count of scores above it is binomial.
    above = binom.ppf([tail, 1 - tail], n, fpr)
    stricter = falling[int(np.clip(above[0], 0, n - 1))]
    looser = falling[int(np.clip(above[1], 0, n - 1))]
    low, high = sorted((float(sign * stricter), float(sign * looser)))
    value = Interval(sign * cut, low, high)
    rate = Interval(flagged / n, min(float(ends[0]), flagged / n), float(ends[1]))
    return Threshold(value, rate, direction, known)


def _defined(scores: npt.ArrayLike) -> Floats:
    s = floats(scores, "scores")
    out: Floats = s[~np.isnan(s)]
    return out
