"""Yes/no evaluation sets: the same question in several formats, and by what a model knows.

Sources: arXiv 2511.10881, 2408.00137.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from nll._errors import BadInput
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
    needed = 0.8 * len(drawn) - 1e-9
    if says(greedy, answer) and sum(says(d, answer) for d in drawn) >= needed:
        return "correct"
    wrong = [_plain(d) for d in drawn if not says(d, answer)]
    most = max((wrong.count(w) for w in set(wrong) if w and not _UNSURE.search(w)), default=0)
    return "incorrect" if most >= needed else "insufficient"


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
    prompts = [f"Question: {item.question}\nAnswer:" for item in items]
    greedy = model.generate(prompts, max_new_tokens=max_new_tokens, seed=seed, stop=("\n",))
    drawn = model.generate(
        prompts, max_new_tokens=max_new_tokens, n=samples, temperature=temperature, seed=seed,
        stop=("\n",),
    )  # fmt: skip
    return [
        knowledge_of(one[0].scored_text, [t.scored_text for t in many], item.answer)
        for item, one, many in zip(items, greedy, drawn, strict=True)
    ]
