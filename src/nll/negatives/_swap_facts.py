"""False answers by rule: names, titles, dates and numbers of one answer put into another."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from nll._errors import BadInput
from nll.negatives._inverted_facts import Inverted

# Tried in this order at each place; a name is a run of capitalised words inside a sentence.
_KINDS = {
    "date": r"\b\d{1,2}[/.-]\d{1,2}[/.-]\d{4}\b",
    "title": r"\"[^\"]+\"|“[^”]+”",
    "year": r"\b1\d{3}\b|\b20\d{2}\b",
    "number": r"\b\d+(?:[.,]\d+)*\b",
    "name": r"(?<=[^.!?] )[A-Z][\w'-]+(?:(?: (?:de|la|van|von|al|bin))* [A-Z][\w'-]+)*",
}
_FACT = re.compile("|".join(f"(?P<{kind}>{rule})" for kind, rule in _KINDS.items()))


def swap_facts(items: Sequence[tuple[str, str]], *, n: int = 4, seed: int = 0) -> list[Inverted]:
    """Inverted facts without a model: each fact of an answer replaced by another item's.

    items: (question, answer) each.   n: how many to make for each. A fact is a date, a quoted
    title, a year, a number, or a name (capitalised words that do not begin a sentence); it gives
    way to one of the same kind that neither the question nor the answer holds, drawn by seed. What
    the question itself says is left as it is.
    An item gets fewer than n, or none, where it holds no such fact or there are too few to put in
    its place. English rules; whether a sentence stays true by chance is not checked.
    Raises BadInput when n < 1. References: MEOW, arXiv 2409.11844, of which this is the variant by
    rule.

    >>> swap_facts([("When?", "It was in 1984."), ("When?", "In 2001, they say.")], n=1)[0].inverted
    ('It was in 2001.',)
    """
    if n < 1:
        raise BadInput(f"n is how many false answers to make, 1 or more, not {n}")
    found = [[(str(m.lastgroup), m[0]) for m in _FACT.finditer(answer)] for _, answer in items]
    pool: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for kind, text in dict.fromkeys(pair for each in found for pair in each):
        pool[kind].append(text)
    draw = np.random.default_rng(seed)
    return [Inverted(q, a, _swapped(q, a, pool, n, draw)) for q, a in items]


def _swapped(
    question: str, answer: str, pool: dict[str, list[str]], n: int, draw: np.random.Generator
) -> tuple[str, ...]:
    known = f"{question} {answer}"
    others = {kind: [t for t in texts if t not in known] for kind, texts in pool.items()}
    made: dict[str, None] = {}
    for _ in range(4 * n):
        left = {kind: list(texts) for kind, texts in others.items()}
        given: dict[str, str] = {}

        def instead(m: re.Match[str], left: dict[str, list[str]] = left,
                    given: dict[str, str] = given) -> str:  # fmt: skip
            kind = str(m.lastgroup)
            if m[0] in question:
                return m[0]
            if m[0] not in given and left[kind]:
                given[m[0]] = left[kind].pop(int(draw.integers(len(left[kind]))))
            return given.get(m[0], m[0])

        text = _FACT.sub(instead, answer)
        if text != answer:
            made[text] = None
        if len(made) == n:
            break
    return tuple(made)
