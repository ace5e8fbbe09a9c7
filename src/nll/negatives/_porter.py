"""Porter's stemmer with the small extensions that `rouge_score` gets from NLTK (Porter 1980)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

Rule: TypeAlias = tuple[str, str, Callable[[str], bool]]

_WHOLE = {
    "skies": "sky", "sky": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news",
    "innings": "inning", "inning": "inning", "outings": "outing", "outing": "outing",
    "cannings": "canning", "canning": "canning", "howe": "howe", "proceed": "proceed",
    "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip


@lru_cache(maxsize=65_536)
def porter_stem(word: str) -> str:
    """The stem of one English word in lower case; words of one or two letters stay."""
    if word in _WHOLE:
        return _WHOLE[word]
    if len(word) <= 2:
        return word
    for stage in (_plural, _past, _final_y, _double_suffix, _suffix, _last_suffix, _final_e):
        word = stage(word)
    return _first(word, (("ll", "l", lambda stem: _measure(stem + "l") > 1),))


def _consonants(word: str) -> list[bool]:
    out: list[bool] = []
    for letter in word:
        before = out[-1] if out else False
        out.append(letter not in "aeiou" and not (letter == "y" and before))
    return out


def _measure(stem: str) -> int:
    """How often a consonant follows a vowel."""
    return sum(not a and b for a, b in pairwise(_consonants(stem)))


def _some(stem: str) -> bool:
    return _measure(stem) > 0


def _more(stem: str) -> bool:
    return _measure(stem) > 1


def _short(stem: str) -> bool:
    """Ends consonant, vowel, consonant (no w, x, y), or is a vowel and a consonant."""
    kinds = _consonants(stem)
    if len(kinds) == 2:
        return kinds == [False, True]
    return kinds[-3:] == [True, False, True] and stem[-1] not in "wxy"


def _first(word: str, rules: Sequence[Rule]) -> str:
    """The first rule whose suffix is there decides, whether or not its condition holds."""
    for suffix, instead, condition in rules:
        if word.endswith(suffix):
            stem = word[: len(word) - len(suffix)]
            return stem + instead if condition(stem) else word
    return word


def _always(_: str) -> bool:
    return True


def _plural(word: str) -> str:
    if len(word) == 4 and word.endswith("ies"):
        return word[:-1]
    rules: list[Rule] = [(a, b, _always) for a, b in (("sses", "ss"), ("ies", "i"), ("ss", "ss"))]
    return _first(word, [*rules, ("s", "", _always)])


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _some(word[:-3]) else word
    for suffix in ("ed", "ing"):
        stem = word[: len(word) - len(suffix)]
        if word.endswith(suffix) and not all(_consonants(stem)):
            break
    else:
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if len(stem) > 1 and stem[-1] == stem[-2] and _consonants(stem)[-1]:
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _short(stem) else stem


def _final_y(word: str) -> str:
    return _first(word, (("y", "i", lambda stem: len(stem) > 1 and _consonants(stem)[-1]),))


_DOUBLE: tuple[Rule, ...] = (
    *(
        (a, b, _some)
        for a, b in (
            ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"),
            ("izer", "ize"), ("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"),
            ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"),
            ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"),
            ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"), ("fulli", "ful"),
        )
    ),
    ("logi", "log", lambda stem: _some(stem + "l")),
)  # fmt: skip


def _double_suffix(word: str) -> str:
    if word.endswith("alli") and _some(word[:-4]):
        return _double_suffix(word[:-2])
    return _first(word, _DOUBLE)


_SINGLE: tuple[Rule, ...] = tuple(
    (a, b, _some)
    for a, b in (
        ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"),
        ("ful", ""), ("ness", ""),
    )
)  # fmt: skip


def _suffix(word: str) -> str:
    return _first(word, _SINGLE)


_LAST: tuple[Rule, ...] = (
    *(
        (a, "", _more)
        for a in (
            "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent",
        )
    ),
    ("ion", "", lambda stem: _more(stem) and stem[-1] in "st"),
    *((a, "", _more) for a in ("ou", "ism", "ate", "iti", "ous", "ive", "ize")),
)  # fmt: skip


def _last_suffix(word: str) -> str:
    return _first(word, _LAST)


def _final_e(word: str) -> str:
    return _first(
        word, (("e", "", lambda stem: _more(stem) or (_some(stem) and not _short(stem))),)
    )
