"""What is there to beat? Baselines that never ask the model: words, length, chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics._inputs import Bools, Floats, binary, same_length, share
from nll.metrics._ranking import auroc, tpr_at_fpr
from nll.metrics._resampling import Interval, bootstrap


class BlindBaseline(NamedTuple):
    """Out-of-fold scores (n,) of the words alone, their AUROC with interval, TPR at 5 % FPR."""

    auroc: Interval
    tpr_at_fpr_5: float
    scores: Floats


def blind_baseline(
    texts: Sequence[str],
    labels: npt.ArrayLike,
    *,
    folds: int = 5,
    min_df: float = 0.05,
    n: int = 1000,
    seed: int = 0,
) -> BlindBaseline:
    """How well do the words alone tell the classes apart? If they do, the split leaks.

    Logistic regression on word counts (words in at least a share `min_df` of the training texts),
    stratified folds, every text scored by a classifier that has not seen it. On a random split
    such scores fall a little below 0.5 by construction.   labels: (n,) 0 or 1.   nan with a
    reason when a class has fewer than two texts or no word is frequent enough.

    Raises BadInput on different lengths, folds < 2, min_df outside (0, 1].
    References: Das et al. 2024, arXiv 2406.16201.
    """
    y = binary(labels, "labels")
    same_length(texts=texts, labels=y)
    share(min_df, "min_df", zero=False)
    if folds < 2:
        raise BadInput(f"folds must be 2 or more, not {folds}")
    smaller = int(min(np.count_nonzero(y), np.count_nonzero(~y)))
    if smaller < 2:
        return _without("each class needs two texts or more")
    scores = _out_of_fold(texts, y, min(folds, smaller), min_df, seed)
    if scores is None:
        return _without(f"no word is in {min_df:.0%} of the texts")
    return BlindBaseline(
        bootstrap(auroc, y, scores, n=n, seed=seed, stratify=y), tpr_at_fpr(y, scores, 0.05), scores
    )


def length_baseline(
    lengths: npt.ArrayLike, labels: npt.ArrayLike, *, n: int = 1000, seed: int = 0
) -> Interval:
    """AUROC of the length as the score, with its interval; below 0.5 when positives are shorter."""
    y = binary(labels, "labels")
    return _with_interval(y, np.asarray(lengths, np.float64), n, seed)


def random_baseline(labels: npt.ArrayLike, *, n: int = 1000, seed: int = 0) -> Interval:
    """AUROC of a random score on these labels: the value of chance and how far it strays here."""
    y = binary(labels, "labels")
    return _with_interval(y, np.random.default_rng(seed).random(len(y)), n, seed)


def _with_interval(y: Bools, scores: Floats, n: int, seed: int) -> Interval:
    same_length(labels=y, scores=scores)
    if not len(y):
        lacking = Undefined("no items")
        return Interval(lacking, lacking, lacking)
    return bootstrap(auroc, y, scores, n=n, seed=seed, stratify=y)


def _without(reason: str) -> BlindBaseline:
    lacking = Undefined(reason)
    return BlindBaseline(Interval(lacking, lacking, lacking), lacking, np.empty(0))


def _out_of_fold(
    texts: Sequence[str], y: Bools, folds: int, min_df: float, seed: int
) -> Floats | None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    words = [CountVectorizer().build_analyzer()(text) for text in texts]
    out = np.empty(len(y))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)
    for train, test in splits:
        # By hand, because the vectoriser raises where no word is left.
        seen = [set(words[i]) for i in train]
        frequent = _frequent(seen, min_df)
        if not frequent:
            return None
        counts = CountVectorizer(analyzer=_same, vocabulary=frequent)
        matrix = counts.transform([words[i] for i in train])
        model = LogisticRegression(solver="liblinear", max_iter=1000, random_state=seed)
        model.fit(matrix, y[train])
        out[test] = model.predict_proba(counts.transform([words[i] for i in test]))[:, 1]
    return out


def _same(words: list[str]) -> list[str]:
    return words


def _frequent(seen: list[set[str]], min_df: float) -> list[str]:
    count: dict[str, int] = {}
    for words in seen:
        for word in words:
            count[word] = count.get(word, 0) + 1
    return sorted(w for w, c in count.items() if c >= min_df * len(seen) - 1e-9)
