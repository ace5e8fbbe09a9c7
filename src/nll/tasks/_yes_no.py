"""Yes/no evaluation sets: the same question in several formats, and by what a model knows.

Sources: arXiv 2511.10881, 2408.00137.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nll._bundle import answer_text
from nll._errors import BadInput
from nll.scores import BinaryDecisionReport, binary_decision_report
from nll.trace import Trace

Knowledge = Literal["correct", "incorrect", "insufficient"]


class FormatVariant(NamedTuple):
    """One way to ask: the prompt, and the wordings of a positive and of a negative answer."""

    name: str
    prompt: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


def _cases(word: str) -> tuple[str, ...]:
    return (word, word.lower(), f" {word}", f" {word.lower()}")


def format_variants(
    question: str, *, context: str | None = None, answers: tuple[str, str] | None = None
) -> list[FormatVariant]:
    """The question as yes/no, no/yes, true/false, A/B both ways, with "I don't know", with steps.

    context: a passage, adding the yes/no format behind it.   answers: the statement that "yes"
    stands for and that of "no", adding a choice between the two. Letters have one reading each
    (" A", "A"); the others also in lower case. Raises BadInput for an empty question.
    """
    if not question.strip():
        raise BadInput("the question is empty")
    yes, no = _cases("Yes"), _cases("No")
    a, b = ("A", " A"), ("B", " B")
    ask = question.strip()
    out = [
        FormatVariant("yes/no", f"{ask}\nAnswer Yes or No.\nAnswer:", yes, no),
        FormatVariant("no/yes", f"{ask}\nAnswer No or Yes.\nAnswer:", yes, no),
        FormatVariant(
            "true/false",
            f'The answer to "{ask}" is yes.\nIs this True or False?\nAnswer:',
            _cases("True"),
            _cases("False"),
        ),
        FormatVariant("A=yes", f"{ask}\nA. Yes\nB. No\nAnswer A or B.\nAnswer:", a, b),
        FormatVariant("A=no", f"{ask}\nA. No\nB. Yes\nAnswer A or B.\nAnswer:", b, a),
        FormatVariant("don't know", f"{ask}\nAnswer Yes, No or I don't know.\nAnswer:", yes, no),
        FormatVariant(
            "steps", f"{ask}\nThink step by step, then answer Yes or No.\nAnswer:", yes, no
        ),
    ]
    if context is not None:
        prompt = f"{context.strip()}\n\n{ask}\nAnswer Yes or No.\nAnswer:"
        out.append(FormatVariant("context", prompt, yes, no))
    if answers is not None:
        prompt = f"{ask}\nA. {answers[0]}\nB. {answers[1]}\nAnswer A or B.\nAnswer:"
        out.append(FormatVariant("choice", prompt, a, b))
    return out


def yes_no_answer(text: str) -> bool | None:
    """True for a text whose first word is "yes", False for "no", None (invalid) for any other."""
    word = re.search(r"[^\W_]+", text)
    return {"yes": True, "no": False}.get(word[0].lower()) if word else None


class ShortAnswerItem(NamedTuple):
    """A question with its answer and, where there is one, a plausible wrong answer."""

    question: str
    answer: str
    wrong: str = ""


class BinaryItem(NamedTuple):
    """A yes/no question: `gold` is True for yes, `subset` what the model knows."""

    question: str
    gold: bool
    subset: str = ""


def make_binary_items(
    qa_items: Iterable[ShortAnswerItem], distractors: Sequence[str] = ()
) -> list[BinaryItem]:
    """Two yes/no items per question, with the answer (yes) and a wrong one (no): a balanced set.

    distractors: a wrong answer per question, instead of the items' own. Raises BadInput when a
    wrong answer is missing or equal to the right one.
    """
    items = list(qa_items)
    if distractors and len(distractors) != len(items):
        raise BadInput(f"{len(distractors)} wrong answers for {len(items)} questions")
    out = []
    for i, item in enumerate(items):
        wrong = distractors[i] if distractors else item.wrong
        if not wrong or _plain(wrong) == _plain(item.answer):
            raise BadInput(f"question {i} ({item.question!r}) has no wrong answer")
        for answer, gold in ((item.answer, True), (wrong, False)):
            asked = f'Is "{answer}" the answer to the question "{item.question}"?'
            out.append(BinaryItem(asked, gold))
    return out


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def says(text: str, answer: str) -> bool:
    """Whether a text contains an answer, in whole words, without regard to case or punctuation."""
    wanted = _plain(answer)
    return bool(wanted) and f" {wanted} " in f" {_plain(text)} "


def knowledge_of(greedy: str, drawn: Sequence[str], answer: str) -> Knowledge:
    """What a model knows, from its greedy answer and several drawn ones to the open question.

    correct: the greedy answer is right and so are four fifths of the drawn. incorrect: four fifths
    give one and the same wrong answer. insufficient: anything else. Raises BadInput without drawn.
    """
    if not drawn:
        raise BadInput("knowledge is judged by several drawn answers; there is none")
    if says(greedy, answer) and sum(says(d, answer) for d in drawn) >= _most_of(drawn):
        return "correct"
    return "insufficient" if own_wrong_answer(drawn, answer) is None else "incorrect"


def own_wrong_answer(drawn: Sequence[str], answer: str) -> str | None:
    """The one wrong answer that four fifths of the drawn give, as first written; None without.

    Equal up to case and punctuation; not to know is no answer.
    """
    wrong = [d for d in drawn if not says(d, answer) and _plain(d)]
    plain = [_plain(d) for d in wrong]
    for text, same in zip(wrong, plain, strict=True):
        if plain.count(same) >= _most_of(drawn) and not _UNSURE.search(same):
            return text.strip().rstrip(".").strip()
    return None


def _most_of(drawn: Sequence[str]) -> float:
    return 0.8 * len(drawn) - 1e-9


_UNSURE = re.compile(r"\b(?:do(?:es)? n[o']?t know|don t know|unknown|not sure|unsure|no idea)\b")


class CanGenerate(Protocol):
    """The part of a language model that is asked here."""

    def generate(
        self,
        prompts: Iterable[str],
        *,
        max_new_tokens: int = 64,
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Iterable[list[Trace]]:
        """For each prompt, n answers with their traces."""
        ...


def parametric_knowledge_split(
    model: CanGenerate,
    items: Sequence[ShortAnswerItem],
    *,
    samples: int = 5,
    temperature: float = 0.7,
    max_new_tokens: int = 16,
    seed: int = 0,
) -> list[Knowledge]:
    """`knowledge_of` the model on each question, asked openly: one greedy answer, several drawn.

    Answers end at the line's end. Our operational form of the split of arXiv 2511.10881.
    """
    asked = _asked(model, items, samples, temperature, max_new_tokens, seed)
    return [
        knowledge_of(greedy, drawn, item.answer)
        for item, (greedy, drawn) in zip(items, asked, strict=True)
    ]


def knowledge_items(
    model: CanGenerate,
    items: Sequence[ShortAnswerItem],
    distractors: Sequence[str] = (),
    *,
    samples: int = 5,
    temperature: float = 0.7,
    max_new_tokens: int = 16,
    seed: int = 0,
) -> list[BinaryItem]:
    """`make_binary_items`, each with what the model knows of its question as `subset`.

    Every subset is balanced. Where the model is `incorrect`, its own wrong answer takes the
    distractor's place. Options as in `parametric_knowledge_split`; `bias_by_subset` reads the
    result. Raises BadInput as `make_binary_items`. Source: after arXiv 2511.10881.
    """
    plain = make_binary_items(items, distractors)
    out = []
    asked = _asked(model, items, samples, temperature, max_new_tokens, seed)
    for i, (item, (greedy, drawn)) in enumerate(zip(items, asked, strict=True)):
        known = knowledge_of(greedy, drawn, item.answer)
        own = own_wrong_answer(drawn, item.answer) if known == "incorrect" else None
        pair = plain[2 * i : 2 * i + 2] if own is None else make_binary_items([item], [own])
        out += [one._replace(subset=known) for one in pair]
    return out


def _asked(
    model: CanGenerate,
    items: Sequence[ShortAnswerItem],
    samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> Iterator[tuple[str, list[str]]]:
    """The greedy and the drawn answers to each open question."""
    prompts = [f"Question: {item.question}\nAnswer:" for item in items]
    greedy = model.generate(prompts, max_new_tokens=max_new_tokens, seed=seed, stop=("\n",))
    drawn = model.generate(
        prompts, max_new_tokens=max_new_tokens, n=samples, temperature=temperature, seed=seed,
        stop=("\n",),
    )  # fmt: skip
    for one, many in zip(greedy, drawn, strict=True):
        yield answer_text(one[0]), [answer_text(t) for t in many]


def bias_by_subset(
    items: Sequence[BinaryItem], log_odds: npt.ArrayLike, threshold: float = 0.0
) -> dict[str, BinaryDecisionReport]:
    """`binary_decision_report` of each subset of the items, in the order met.

    log_odds: (n,) of no over yes, one per item. Raises BadInput for unequal lengths.
    """
    odds = np.asarray(log_odds, dtype=np.float64)
    if odds.shape != (len(items),):
        raise BadInput(f"{len(items)} items, but log-odds of shape {odds.shape}")
    kinds = np.array([item.subset for item in items])
    gold = np.array([int(item.gold) for item in items])
    return {
        kind: binary_decision_report(gold[kinds == kind], odds[kinds == kind], threshold)
        for kind in dict.fromkeys(item.subset for item in items)
    }
