"""How far apart are two short texts? Distances in [0, 1] for the scores that compare answers."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np

from nll._errors import BadInput
from nll.scores._code_distance import codebleu_distance
from nll.trace import Array

Distance: TypeAlias = Callable[[str, str], float]
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")


def token_f1_distance(output: str, reference: str, *, rule: Literal["bag", "set"] = "bag") -> float:
    """1 - F1 of the words: lower case, without punctuation and a/an/the (as in SQuAD).

    rule: `bag` counts a word as often as it occurs in both; `set` counts each shared word once,
    over all words of each text, as in the code of arXiv 2307.10236.
    0 when both texts have no words, 1 when only one has or none is shared.
    """
    if rule not in ("bag", "set"):
        raise BadInput(f"rule must be 'bag' or 'set', not {rule!r}")
    a, b = (
        _ARTICLES.sub(" ", t.lower().translate(_PUNCTUATION)).split() for t in (output, reference)
    )
    shared = len(set(a) & set(b)) if rule == "set" else sum((Counter(a) & Counter(b)).values())
    return 1.0 - _f1(shared, len(a), len(b))


def rouge1_distance(output: str, reference: str) -> float:
    """1 - ROUGE-1 F: shared words, lower case, letters and digits only, without stemming.

    0 when both texts have no words, 1 when only one has.
    """
    a, b = _words(output), _words(reference)
    return 1.0 - _f1(sum((Counter(a) & Counter(b)).values()), len(a), len(b))


def rouge_l_distance(output: str, reference: str) -> float:
    """1 - ROUGE-L F: the longest common subsequence of words, as in `rouge1_distance`."""
    a, b = _words(output), _words(reference)
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return 1.0 - _f1(row[-1], len(a), len(b))


def bleu_distance(output: str, reference: str, *, order: int = 4) -> float:
    """1 - sentence BLEU of the output against one reference, without smoothing; words at spaces.

    Not symmetric: precision of the output's n-grams, times the brevity penalty. As in any
    unsmoothed BLEU, texts that share no n-gram of the highest order have distance 1, so equal
    texts of fewer than `order` words do too. 0 when both texts are empty.
    """
    if order < 1:
        raise BadInput(f"order is the longest n-gram, 1 or more, not {order}")
    a, b = output.split(), reference.split()
    if not a and not b:
        return 0.0
    logs = 0.0
    for n in range(1, order + 1):
        mine, other = (Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (a, b))
        shared = sum((mine & other).values())
        if not shared:
            return 1.0
        logs += math.log(shared / mine.total())
    brevity = min(0.0, 1.0 - len(b) / len(a))
    return 1.0 - math.exp(brevity + logs / order)


def exact_distance(output: str, reference: str) -> float:
    """0 when the answers are the same up to case, spaces and punctuation at the ends, else 1."""
    return float(normalized(output) != normalized(reference))


def embedding_cosine_distance(
    output: str, reference: str, *, embed: Callable[[Sequence[str]], Array]
) -> float:
    """1 - cosine of the texts' embeddings, cut to [0, 1]; 1 when one of them has norm 0.

    embed: texts -> (n, d); use `functools.partial(embedding_cosine_distance, embed=...)`.
    """
    x, y = np.asarray(embed([output, reference]), dtype=np.float64)
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return min(1.0, max(0.0, 1.0 - float(x @ y) / norm)) if norm else 1.0


DISTANCES: Final[dict[str, Distance]] = {
    "token_f1": token_f1_distance,
    "rouge1": rouge1_distance,
    "rouge_l": rouge_l_distance,
    "bleu": bleu_distance,
    "exact": exact_distance,
    "codebleu": codebleu_distance,
}


def named_distance(distance: str | Distance) -> Distance:
    """The distance of this name, or the function itself."""
    if callable(distance):
        return distance
    if distance not in DISTANCES:
        raise BadInput(
            f"unknown distance {distance!r}; there are {', '.join(DISTANCES)}, or give a function"
        )
    return DISTANCES[distance]


def normalized(answer: str) -> str:
    """Lower case, single spaces, no quotes and full stops at the ends; a minus sign stays."""
    return " ".join(answer.casefold().split()).strip(" .,;:!?\"'`")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _f1(shared: int, n: int, m: int) -> float:
    if not n and not m:
        return 1.0
    if not shared:
        return 0.0
    precision, recall = shared / n, shared / m
    return 2.0 * precision * recall / (precision + recall)
