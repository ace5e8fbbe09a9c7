"""ROUGE of a text against another, as the package `rouge_score` counts it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from nll._errors import BadInput
from nll.negatives._porter import porter_stem

Stemmer: TypeAlias = Callable[[str], str]
Order: TypeAlias = int | Literal["L"]
_WORD = re.compile(r"[a-z0-9]+")


class Rouge(NamedTuple):
    """Shared units over the prediction's, over the reference's, and the harmonic mean; [0, 1]."""

    precision: float
    recall: float
    f1: float


def rouge(
    prediction: str, reference: str, *, ngram: Order = 1, stemmer: bool | Stemmer = True
) -> Rouge:
    """ROUGE-N (ngram 1, 2, ...) or ROUGE-L (ngram "L": longest common subsequence of words).

    Words are runs of a-z and 0-9 of the text in lower case, so other scripts have none. stemmer:
    Porter's on words of more than three letters, none, or any function of a word.
    0 where a side has no unit. Raises BadInput on another ngram.

    >>> rouge("running runs ran", "run runner").recall
    0.5
    """
    a, b = (_words(t, stemmer) for t in (prediction, reference))
    if ngram == "L":
        return _shares(_common(a, b), len(a), len(b))
    if not isinstance(ngram, int) or ngram < 1:
        raise BadInput(f'ngram must be 1, 2, ... or "L", not {ngram!r}')
    mine, other = (Counter(ngrams(t, ngram)) for t in (a, b))
    return _shares((mine & other).total(), mine.total(), other.total())


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _words(text: str, stemmer: bool | Stemmer) -> list[str]:
    found = _WORD.findall(text.lower())
    if stemmer is False:
        return found
    if stemmer is True:
        return [porter_stem(w) if len(w) > 3 else w for w in found]
    return [stemmer(w) for w in found]


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def _shares(shared: int, mine: int, other: int) -> Rouge:
    precision, recall = shared / max(mine, 1), shared / max(other, 1)
    both = precision + recall
    return Rouge(precision, recall, 2 * precision * recall / both if both else 0.0)
