"""Deterministic tasks whose accuracy still follows the probability of the text they give.

Makers of the tasks, one rule that judges answers, accuracy by condition, and the regression that
separates the probability of input and output from their lengths. Source: arXiv 2309.13638.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.metrics import Interval, wilson
from nll.tasks._logistic import LogisticFit, logistic_regression
from nll.trace import Array, Trace

ARTICLES = ("a", "an", "the")
VOWELS = frozenset("aeiouAEIOU")
Rule = Literal["contains", "exact"]


def rot(text: str, n: int) -> str:
    """Every ASCII letter n places further in the alphabet, its case kept; the rest as it is.

    Decoding is `rot(text, -n)`.

    >>> rot("Stay here!", 13)
    'Fgnl urer!'
    """
    out = []
    for c in text:
        if c.isascii() and c.isalpha():
            first = ord("A" if c.isupper() else "a")
            c = chr(first + (ord(c) - first + n) % 26)
        out.append(c)
    return "".join(out)


def reverse_words(text: str) -> str:
    """The words, split at spaces, in reverse order; punctuation travels with its word.

    >>> reverse_words("everyone! morning, Good")
    'Good morning, everyone!'
    """
    return " ".join(reversed(text.split(" ")))


def _peel(word: str) -> tuple[str, str, str]:
    """Punctuation in front, the word, punctuation behind."""
    inside = [i for i, c in enumerate(word) if c.isalnum()]
    if not inside:
        return word, "", ""
    first, last = inside[0], inside[-1] + 1
    return word[:first], word[first:last], word[last:]


def swap_articles(text: str, *, with_: Literal["previous", "next"] = "previous") -> str:
    """Every "a", "an", "the" exchanged with the word beside it; punctuation stays in its place.

    `previous` undoes `next`. Articles are swapped one by one, from the side they move to; one at
    the edge, without such a word, stays.

    >>> swap_articles("When we boarded train the, we saw strange a sight.")
    'When we boarded the train, we saw a strange sight.'
    """
    if with_ not in ("previous", "next"):
        raise BadInput(f"an article is swapped with the previous or the next word, not {with_!r}")
    parts = [_peel(word) for word in text.split(" ")]
    words = [word for _, word, _ in parts]
    step = -1 if with_ == "previous" else 1
    for i in range(len(words))[::-step]:
        if words[i] in ARTICLES and 0 <= i + step < len(words):
            words[i], words[i + step] = words[i + step], words[i]
    return " ".join(a + word + b for word, (a, _, b) in zip(words, parts, strict=True))


def pig_latin(text: str, suffix: str = "ay") -> str:
    """Pig Latin, in lower case: leading consonants moved behind the word, then the suffix.

    A word that begins with a vowel only gets the suffix; y is a consonant at the start only.
    Punctuation stays outside.

    >>> pig_latin("but this time, there may also be another reason.")
    'utbay isthay imetay, erethay aymay alsoay ebay anotheray easonray.'
    """
    return " ".join(_pig(word, suffix) for word in text.lower().split(" "))


def _pig(word: str, suffix: str) -> str:
    before, core, behind = _peel(word)
    if not core or core.isdigit():
        return word
    vowels = [i for i, c in enumerate(core) if c in VOWELS or (c == "y" and i)]
    cut = vowels[0] if vowels else 0
    return before + core[cut:] + core[:cut] + suffix + behind


def acronym(words: Sequence[str], letter: int = 1) -> str:
    """The `letter`-th letters of the words, in one; BadInput for a word that is too short."""
    short = [w for w in words if len(w) < letter]
    if letter < 1 or short:
        raise BadInput(f"no letter {letter} in {short[0] if short else 'any word'!r}")
    return "".join(word[letter - 1] for word in words)


def count_items(text: str, what: Literal["words", "characters"] = "words") -> int:
    """How many words (split at white space) or characters a text has."""
    if what not in ("words", "characters"):
        raise BadInput(f"what must be 'words' or 'characters', not {what!r}")
    return len(text.split()) if what == "words" else len(text)


def sort_words(text: str, *, reverse: bool = False) -> str:
    """Words separated by ", ", in alphabetical or reverse order.

    >>> sort_words("over, hard, lost")
    'hard, lost, over'
    """
    return ", ".join(sorted(text.split(", "), reverse=reverse))


def linear_function(x: float, slope: float = 9 / 5, intercept: float = 32) -> str:
    """slope x + intercept with one decimal: Fahrenheit by default, 7/5 and 31 its rare twin.

    >>> linear_function(328), linear_function(328, 7 / 5, 31)
    ('622.4', '490.2')
    """
    return f"{slope * x + intercept:.1f}"


class Task(NamedTuple):
    """A task: what is asked, and how its input and target come from a sentence."""

    instruction: str
    encode: Callable[[str], str]
    decode: bool = True


EXAMPLE = "They put the box on a table."  # it has articles to swap
_CIPHER = (
    "Rot-{n} is a cipher in which each letter is shifted {n} positions forward in the alphabet."
)
TASKS: Mapping[str, Task] = {
    f"{name}_{way}": Task(text, encode, way == "decode")
    for way in ("decode", "encode")
    for name, text, encode in (
        ("rot13", _CIPHER.format(n=13), lambda s: rot(s, 13)),
        ("rot12", _CIPHER.format(n=12), lambda s: rot(s, 12)),
        ("reverse", "Here the words of a sentence stand in reverse order.", reverse_words),
        (
            "swap_articles",
            'Here every "a", "an" and "the" has changed places with the word after it.',
            lambda s: swap_articles(s, with_="next"),
        ),
        (
            "pig_latin",
            "Pig Latin moves a word's first consonants to its end and adds -ay.",
            lambda s: pig_latin(s),
        ),
        (
            "pig_latin_uv",
            "This Pig Latin moves a word's first consonants to its end and adds -uv.",
            lambda s: pig_latin(s, "uv"),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing asked, and what became of it: probabilities in nats, correct 1 or 0, the reply."""

    input: str
    target: str
    prompt: str
    condition: str = ""
    input_logp: float | None = None
    output_logp: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    correct: bool | None = None
    response: str | None = None


def make_items(
    sentences: Iterable[str], task: str, *, condition: str = "", example: str = EXAMPLE
) -> list[Item]:
    """An item per sentence of a task such as `rot13_decode`: input, target and one-shot prompt.

    "decode" gives the sentence as target, "encode" as input.   example: the sentence of the shot;
    the paper's for ciphers is "Stay here!". Raises BadInput for an unknown task.
    """
    if task not in TASKS:
        raise BadInput(f"unknown task '{task}'; there are {', '.join(TASKS)}")
    instruction, encode, decode = TASKS[task]
    shown = _pair(example, encode, decode)
    out = []
    for sentence in sentences:
        given, target = _pair(sentence, encode, decode)
        verb, label = ("Undo this", "Original text") if decode else ("Do this", "Result")
        prompt = (
            f'{instruction} {verb} for a message, as in this example:\n\nMessage: "{shown[0]}"\n'
            f'{label}: "{shown[1]}"\n\nMessage: "{given}"\n{label}:'
        )
        out.append(Item(given, target, prompt, condition))
    return out


def _pair(sentence: str, encode: Callable[[str], str], decode: bool) -> tuple[str, str]:
    moved = encode(sentence)
    return (moved, sentence) if decode else (sentence, moved)


def score_response(target: str, response: str, rule: Rule = "contains") -> bool:
    """Whether a response is right: the target is in it (the paper's rule), or is all of it.

    One straight quotation mark is taken off each end of both; case matters. An empty response is
    wrong. `exact` also ignores white space around. Raises BadInput for another rule.
    """
    if rule not in ("contains", "exact"):
        raise BadInput(f"rule must be 'contains' or 'exact', not {rule!r}")
    if rule == "exact":
        target, response = target.strip(), response.strip()
    target, response = _unquoted(target), _unquoted(response)
    if not response:
        return False
    return target in response if rule == "contains" else target == response


def _unquoted(text: str) -> str:
    return text.removeprefix('"').removesuffix('"')


def levenshtein(a: str, b: str) -> int:
    """Least number of characters inserted, deleted or replaced to turn a into b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


class HasTraces(Protocol):
    """The part of a language model that is asked here."""

    def trace(self, texts: Iterable[str]) -> Iterable[Trace]:
        """One trace per text."""
        ...


def sequence_logp(model: HasTraces, text: str) -> float:
    """Sum of ln p over a bare text, nats; without BOS its first token is not scored."""
    (trace,) = model.trace([text])
    values = trace.values("logp")
    return float(values.sum()) if values.size else Undefined("no token was scored")


class HasOptions(Protocol):
    """The part of a language model that is asked here."""

    def options(self, prompt: str, continuations: Sequence[str]) -> Array:
        """(n,) log-probability of each continuation given the prompt, nats."""
        ...


class Choice(NamedTuple):
    """best: position of the most likely candidate.   logp: (n,) of all, nats."""

    best: int
    logp: Array


def likelihood_choice(model: HasOptions, prompt: str, candidates: Sequence[str]) -> Choice:
    """What a model too small to write the answer would choose: the likeliest of the candidates.

    Of equals the first wins. Candidates of other lengths have other sums: keep them alike.
    """
    if not candidates:
        raise BadInput("there is no candidate to choose from")
    logp = np.asarray(model.options(prompt, list(candidates)), dtype=np.float64)
    return Choice(int(np.argmax(logp)), logp)


class ConditionAccuracy(NamedTuple):
    """Accuracy in one condition with its 95 % Wilson interval, over n items.

    mean_distance, median_distance: `levenshtein` between target and response, a quotation mark off
    each end, over the items that hold a response; nan when none does.
    """

    accuracy: float
    interval: Interval
    n: int
    mean_distance: float
    median_distance: float


class Sensitivity(NamedTuple):
    """Accuracy by condition, in the order met, and the regression on probability and length."""

    by_condition: dict[str, ConditionAccuracy]
    regression: LogisticFit | None


def _distances(items: Sequence[Item]) -> tuple[float, float]:
    found = [
        levenshtein(_unquoted(item.target), _unquoted(item.response))
        for item in items
        if item.response is not None
    ]
    if not found:
        return Undefined("no item holds a response"), Undefined("no item holds a response")
    return float(np.mean(found)), float(np.median(found))


def probability_sensitivity(
    items: Sequence[Item], *, prior: Literal["cauchy"] | None = "cauchy"
) -> Sensitivity:
    """Accuracy by condition, and how far the probability of input and output explains it.

    The regression is on log-probabilities, tokens and input characters, z-scored, of what every
    item knows; None when none knows a log-probability. Raises BadInput without items, or for one
    not judged.
    """
    if not items or any(item.correct is None for item in items):
        raise BadInput("each item must say whether it is correct, and there must be one")
    names = list(dict.fromkeys(item.condition for item in items))
    by = {}
    for name in names:
        members = [item for item in items if item.condition == name]
        k, n = sum(bool(item.correct) for item in members), len(members)
        by[name] = ConditionAccuracy(k / n, wilson(k, n), n, *_distances(members))
    columns = {
        name: [getattr(item, name) for item in items]
        for name in ("input_logp", "output_logp", "input_tokens", "output_tokens")
    }
    known: dict[str, npt.ArrayLike] = {k: v for k, v in columns.items() if None not in v}
    if not {"input_logp", "output_logp"} & set(known):
        return Sensitivity(by, None)
    known["input_chars"] = [len(item.input) for item in items]
    x = np.column_stack([np.asarray(v, dtype=np.float64) for v in known.values()])
    y = [int(bool(item.correct)) for item in items]
    return Sensitivity(by, logistic_regression(x, y, prior=prior, names=list(known)))
