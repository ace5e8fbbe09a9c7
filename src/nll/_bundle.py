"""Several traces that belong together: one text under two models, with its variants and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from nll._errors import BadInput, MissingField
from nll.trace import Trace

END_TOKENS: Final = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>", "<eos>",
)  # fmt: skip


def answer_text(trace: Trace) -> str:
    """What an answer says: without prompt, end-of-text token and surrounding white space.

    The end token belongs to the answer's likelihood, not to what it says: an answer cut at a stop
    string has none. Raises MissingField for tokens without their text.
    """
    answer = trace.completion
    text = answer.text
    if answer.spans is None:
        if len(answer) and not text:
            raise MissingField("this answer holds no text to compare; give Trace(..., text=...)")
    elif len(answer):
        start, end = (int(x) for x in answer.spans[-1])
        if end == len(text) and text[start:end] in END_TOKENS:
            text = text[:start]
    return text.strip()


def without_end(text: str) -> str:
    """A model's text without the end-of-text token's string at its end."""
    for token in END_TOKENS:
        text = text.removesuffix(token)
    return text


@dataclass(frozen=True, slots=True)
class Samples:
    """Answers to one prompt, kept together so that every sampling score reads stored data.

    greedy: the judged answer.   drawn: N answers sampled from the model, each with its trace.
    clusters: (N,) a label per drawn answer, equal for answers of equal meaning; empty when none.
    correct: whether the greedy answer is right, where that is known.
    Raises BadInput when clusters and drawn answers differ in number.
    """

    drawn: Sequence[Trace]
    greedy: Trace | None = None
    clusters: Sequence[int] = ()
    correct: bool | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if len(self.clusters) not in (0, len(self.drawn)):
            raise BadInput(f"{len(self.clusters)} clusters for {len(self.drawn)} drawn answers")

    @property
    def answers(self) -> list[str]:
        """What the drawn answers say: without prompt, end-of-text token and outer white space.

        Raises MissingField when one holds tokens without their text.
        """
        return [answer_text(t) for t in self.drawn]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A text's trace and the further traces that some scores compare it with.

    reference: the same text under a second model.   lower: the text in lower case.
    alone: what is scored of it, without the prompt in front.
    neighbours: texts like it.   perturbed: the text with spans replaced.   samples: drawn answers.
    The names are the positional parameters of scores; what is None or empty was not obtained.
    missing: why, by name, where something was asked for and this text could not give it.
    """

    trace: Trace | None = None
    reference: Trace | None = None
    lower: Trace | None = None
    alone: Trace | None = None
    neighbours: Sequence[Trace] = field(default_factory=tuple)
    perturbed: Sequence[Trace] = field(default_factory=tuple)
    samples: Samples | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str | None:
        """The text's id."""
        held = self.samples if self.trace is None else self.trace
        return None if held is None else held.id

    @property
    def n_scored(self) -> int | None:
        """How many tokens of the text count; None when the text itself was not traced."""
        return None if self.trace is None else self.trace.n_scored

    def role(self, name: str) -> object:
        """What a score's positional parameter `name` is given; MissingField when there is none."""
        value = getattr(self, name, None)
        if value is None or (isinstance(value, tuple | list) and not value):
            why = self.missing.get(name, "nll.gather obtains it")
            raise MissingField(f"there is no '{name}' for this text ({why})")
        return value


ROLES = ("trace", "reference", "lower", "alone", "neighbours", "perturbed", "samples")
