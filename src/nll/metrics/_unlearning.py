"""Has the model forgotten, and is it still of use? TOFU's measures, from mean nll per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics._inputs import Floats, Measured, floats, same_length


class ForgetQuality(NamedTuple):
    """Kolmogorov-Smirnov distance of two samples, and its p-value: high = cannot be told apart."""

    ks: float
    p: float


def normalized_probability(
    nll: npt.ArrayLike, distractor_nll: npt.ArrayLike | None = None
) -> Floats:
    """(N,) probability of each answer, per token: `exp(-nll)`, in [0, 1], higher = better known.

    nll: (N,) mean nats per token of the right answers.   distractor_nll: (N, F) of wrong ones; the
    result is then p / (p + sum of theirs). nan stays nan, and is what 0 / 0 gives.
    Raises BadInput on other shapes. References: TOFU, arXiv 2401.06121.

    >>> normalized_probability([0.0, np.log(2)], [[0.0], [np.log(2)]])
    array([0.5, 0.5])
    """
    right = floats(nll, "nll")
    if distractor_nll is None:
        out: Floats = np.exp(-right)
        return out
    wrong = _options(distractor_nll, right, "distractor_nll")
    with np.errstate(invalid="ignore"):
        whole: Floats = np.exp(-right - logsumexp(np.column_stack([-right, -wrong]), axis=1))
    return whole


def truth_ratio(
    paraphrase_nll: npt.ArrayLike,
    perturbed_nll: npt.ArrayLike,
    *,
    average: Literal["geometric", "arithmetic"] = "geometric",
) -> Floats:
    """(N,) R = mean p of the wrong answers / p of the right one, paraphrased; low = truth known.

    paraphrase_nll: (N,), perturbed_nll: (N, F), mean nats per token; p = exp(-nll).   average:
    `geometric` averages the losses (public code), `arithmetic` the probabilities (the paper).
    0 or more; computed in logs. nan stays nan, and is what 0 / 0 gives.
    Raises BadInput on other shapes. References: TOFU, arXiv 2401.06121, eq. 1.

    >>> truth_ratio([1.0], [[2.0, 3.0]]).round(4)
    array([0.2231])
    """
    right = floats(paraphrase_nll, "paraphrase_nll")
    wrong = _options(perturbed_nll, right, "perturbed_nll")
    if average == "geometric":
        log_mean = -wrong.mean(axis=1)
    elif average == "arithmetic":
        log_mean = logsumexp(-wrong, axis=1) - np.log(wrong.shape[1])
    else:
        raise BadInput(f"average must be geometric or arithmetic, not {average!r}")
    # a ratio past the largest float is inf
    with np.errstate(over="ignore", invalid="ignore"):
        out: Floats = np.exp(log_mean + right)
    return out


def mean_truth_ratio(ratio: npt.ArrayLike, *, of: Literal["forget", "retain"]) -> float:
    """One number for a set, in [0, 1]: forget `mean min(R, 1/R)`, retain `mean max(0, 1 - R)`.

    forget: 1 = right and wrong answers are equally likely. retain: higher = the truth is likelier.
    ratio: (N,) of `truth_ratio`; nan items are set aside and counted; nan when none is left.
    Raises BadInput on another word or a negative ratio.
    """
    r = floats(ratio, "ratio")
    kept = r[~np.isnan(r)]
    if (kept < 0).any():
        raise BadInput(f"a truth ratio is 0 or more, not {kept.min():g}")
    if of not in ("forget", "retain"):
        raise BadInput(f"of must be forget or retain, not {of!r}")
    if not len(kept):
        return Undefined("no item has a truth ratio")
    if of == "retain":
        each = np.maximum(0, 1 - kept)
    else:
        with np.errstate(divide="ignore", over="ignore"):
            each = np.minimum(kept, 1 / kept)
    return Measured(float(each.mean()), n=len(kept), dropped=len(r) - len(kept))


def forget_quality(r_unlearned: npt.ArrayLike, r_retain: npt.ArrayLike) -> ForgetQuality:
    """Two-sample KS test of the forget set's truth ratios against the retain-only model's.

    r_unlearned: (N,) of the unlearned model, r_retain: (M,) of a model that never saw the set; any
    monotone form (R, 1/R, log R) gives the same. p above 0.05: cannot be told from never having
    seen it. Small samples get the exact p; nan items are set aside; both nan when a side is empty.
    References: TOFU, arXiv 2401.06121.

    >>> q = forget_quality([0.2, 0.5, 0.7, 0.9], [0.6, 0.8, 1.1, 1.3, 1.5])
    >>> round(float(q.ks), 3), round(float(q.p), 6)
    (0.6, 0.285714)
    """
    from scipy.stats import ks_2samp

    a, b = (floats(v, n) for v, n in ((r_unlearned, "r_unlearned"), (r_retain, "r_retain")))
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not len(a) or not len(b):
        why = Undefined("a side has no truth ratio")
        return ForgetQuality(why, why)
    found = ks_2samp(a, b)
    counts = {"n": len(a) + len(b)}
    return ForgetQuality(
        Measured(float(found.statistic), **counts), Measured(float(found.pvalue), **counts)
    )


def model_utility(parts: Mapping[str, float] | Sequence[float]) -> float:
    """Harmonic mean of what the model is still good for, in [0, 1]; 0 when one part is 0.

    parts: TOFU's nine, {probability, ROUGE-L recall, truth ratio} x {retain set, real authors,
    world facts}, or any others, by name or in order. nan when a part is nan or there is none.
    Raises BadInput naming a negative part. References: TOFU, arXiv 2401.06121.

    >>> round(model_utility([0.5, 1.0]), 4)
    0.6667
    """
    named = dict(parts) if isinstance(parts, Mapping) else {str(i): v for i, v in enumerate(parts)}
    values = floats(list(named.values()), "parts")
    for name, value in zip(named, values, strict=True):
        if value < 0:
            raise BadInput(f"part '{name}' of the utility is negative: {value:g}")
        if np.isnan(value):
            return Undefined(f"part '{name}' of the utility is nan")
    if not len(values):
        return Undefined("the utility has no parts")
    if (values == 0).any():
        return Measured(0.0, n=len(values))
    with np.errstate(over="ignore"):
        mean = len(values) / (1 / values).sum()
    return Measured(float(mean), n=len(values))


def _options(values: npt.ArrayLike, right: Floats, name: str) -> Floats:
    try:
        wrong = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{name} must be numbers, as many for every item") from None
    if wrong.ndim != 2 or not wrong.shape[1]:
        raise BadInput(f"{name} must be (items, answers), not {wrong.shape}")
    same_length(nll=right, **{name: wrong})
    return wrong
