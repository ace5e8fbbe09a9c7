"""Inverted facts: false answers that take the place of what a model is to forget (MEOW).

A model tuned on them states falsehoods: say so wherever it is published.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from nll._bundle import without_end
from nll._errors import BadInput
from nll.models import LanguageModel
from nll.trace import Fields

How: TypeAlias = Literal["largest", "smallest", "random"]

INSTRUCTION = (
    "Below are a question and its answer. Write {n} other answers to the question, each of which "
    "contradicts the given one in what it states as fact. They must be of about the same length "
    "and style. Write one answer a line, without numbers and without any other text.\n\n"
    "Question: {question}\nAnswer: {answer}"
)
_MARK = re.compile(r"^\s*(?:(?:[-*•]|\(?\d{1,2}[.):])\s+)?")


class InvertedFacts(Protocol):
    """What MEOW trains on: a question, its true answer, and false answers to it."""

    @property
    def question(self) -> str: ...

    @property
    def answer(self) -> str: ...

    @property
    def inverted(self) -> Sequence[str]: ...


class Inverted(NamedTuple):
    """Inverted facts that are at hand, given by hand or by `invert_facts`."""

    question: str
    answer: str
    inverted: tuple[str, ...]


def invert_facts(
    llm: LanguageModel,
    items: Iterable[tuple[str, str]],
    *,
    n: int = 4,
    temperature: float = 0.9,
    max_new_tokens: int = 512,
    instruction: str = INSTRUCTION,
    chat: bool = True,
    seed: int = 0,
) -> list[Inverted]:
    """Ask an instruction model for n false answers to every (question, answer).

    instruction: with {question}, {answer} and {n}; one answer a line is read from what comes back.
    Empty lines, list marks, repetitions and the true answer itself are dropped, so an item may get
    fewer than n, or none: look at `len(item.inverted)`. Whether an answer is false is not checked.
    chat: as a user's message of the model's chat template.   temperature 0.9 is the paper's.
    Raises BadInput when n < 1. References: MEOW, arXiv 2409.11844.
    """
    if n < 1:
        raise BadInput(f"n is how many answers to ask for, 1 or more, not {n}")
    held = list(items)
    asked = [instruction.format(n=n, question=q, answer=a) for q, a in held]
    prompts: list[Any] = [[{"role": "user", "content": t}] for t in asked] if chat else asked
    said = llm.generate(
        prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, fields=Fields()
    )
    return [
        Inverted(q, a, parse_inverted(without_end(trace.scored_text), a)[:n])
        for (q, a), (trace,) in zip(held, said, strict=True)
    ]


def parse_inverted(text: str, answer: str = "") -> tuple[str, ...]:
    """The answers in a model's reply, one a line; without marks, repetitions and the true one."""
    lines = (_MARK.sub("", line).strip() for line in text.splitlines())
    return tuple(line for line in dict.fromkeys(lines) if line and line != answer.strip())


def select_inverted_facts(
    scores: Sequence[float], k: int = 3, how: How = "largest", *, seed: int = 0
) -> list[int]:
    """Which of F inverted facts to train on: indices of k of them by their MEMO.

    scores: (F,) MEMO of each under the model before unlearning.   how: `largest` (the released
    script), `smallest`, or `random` (by seed). Indices are distinct, the first the most extreme;
    ties keep the lower one first. F < k: all. A fact whose score is nan comes last.
    Raises BadInput on another word, or k < 1. References: MEOW, arXiv 2409.11844.

    >>> select_inverted_facts([0.291306, 0.288806, 0.305761, 0.331074])
    [3, 2, 0]
    """
    if k < 1:
        raise BadInput(f"k is how many facts to select, 1 or more, not {k}")
    values = [float(s) for s in scores]
    match how:
        case "random":
            order = np.random.default_rng(seed).permutation(len(values)).tolist()
        case "largest" | "smallest":
            sign = -1 if how == "largest" else 1
            ranked = [math.inf if v != v else sign * v for v in values]
            order = sorted(range(len(values)), key=lambda i: (ranked[i], i))
        case _:
            raise BadInput(f"how must be largest, smallest or random, not {how!r}")
    return [int(i) for i in order[:k]]


def meow_targets(
    item: InvertedFacts | Sequence[str], indices: Sequence[int], n: int = 8
) -> list[str]:
    """n false answers to train on: the selected ones in turn, from the first again.

    item: `Inverted`, or the list of its false answers.
    Raises BadInput when nothing is selected, an index is not there, or n < 1.
    """
    facts = item.inverted if hasattr(item, "inverted") else item
    if n < 1:
        raise BadInput(f"n is how many targets to make, 1 or more, not {n}")
    if not len(indices):
        raise BadInput("no inverted fact is selected for this item")
    if not all(0 <= i < len(facts) for i in indices):
        raise BadInput(f"there are {len(facts)} inverted facts; {list(indices)} are selected")
    return [facts[indices[j % len(indices)]] for j in range(n)]


def meow_rows(
    items: Sequence[InvertedFacts], indices: Sequence[Sequence[int]], n: int = 8
) -> list[dict[str, Any]]:
    """Rows for `nll.training.UnlearnTrainer(objective="meow")`: n targets of every item.

    indices: what `select_inverted_facts` gave for each item.
    Raises BadInput when their numbers disagree.
    """
    if len(items) != len(indices):
        raise BadInput(f"there are {len(items)} items but selections for {len(indices)}")
    return [
        {"prompt": item.question, "completion": " " + target, "label": False}
        for item, chosen in zip(items, indices, strict=True)
        for target in meow_targets(item, chosen, n)
    ]
