"""Which tokens make up which word, by character offsets; never by decoding token by token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nll._errors import BadInput
from nll.trace import Array, Trace


class Words(NamedTuple):
    """The words of a text and the tokens that form them.

    spans: (W, 2) first and past-the-end character of each word.
    first, last: (W,) first and past-the-end token; equal when the trace has no token for a word.
    """

    spans: Array
    first: Array
    last: Array


def align_words(trace: Trace, *, words: Sequence[str] | None = None) -> Words:
    """Align the tokens of a trace to the words of its text, whole text with prompt.

    Words are what whitespace separates, with the punctuation on them, unless given: then they must
    follow each other in the text with nothing but whitespace between. White space belongs to the
    word after it, and to none at the end of the text.

    Raises BadInput for a word that is not where it should be, naming it, and for a token that spans
    two words; MissingField when the trace has no spans.
    """
    pieces = trace.field("spans")
    spans = _split(trace.text) if words is None else _find(trace.text, words)
    starts, ends = spans[:, 0], spans[:, 1]
    owner = np.searchsorted(ends, pieces[:, 0], side="right")
    reach = np.append(starts, np.iinfo(np.int32).max)[np.minimum(owner + 1, len(spans))]
    crossing = np.flatnonzero(reach < pieces[:, 1])
    if crossing.size:
        t = int(crossing[0])
        w = int(owner[t])
        text = trace.text
        raise BadInput(
            f"token {t} {text[slice(*pieces[t])]!r} spans two words, {text[slice(*spans[w])]!r} "
            f"and {text[slice(*spans[w + 1])]!r}; a surprisal of either alone does not exist"
        )
    index = np.arange(len(spans))
    return Words(spans, np.searchsorted(owner, index), np.searchsorted(owner, index, side="right"))


def _split(text: str) -> Array:
    found = [match.span() for match in re.finditer(r"\S+", text)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _find(text: str, words: Sequence[str]) -> Array:
    spans, at = [], 0
    for number, word in enumerate(words):
        start = text.find(word, at) if word else -1
        if start < 0 or text[at:start].strip():
            raise BadInput(
                f"word {number} {word!r} is not what follows in the text: {text[at : at + 40]!r}"
            )
        at = start + len(word)
        spans.append((start, at))
    if text[at:].strip():
        raise BadInput(f"the words end before the text does; it goes on: {text[at : at + 40]!r}")
    return np.array(spans, dtype=np.int64).reshape(-1, 2)
