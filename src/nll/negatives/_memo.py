"""How much of a text can a model continue by itself? MEMO and extraction likelihood.

Both ask for greedy continuations of beginnings of the text, whose ends they are compared with.
`nll.scores.memorization_accuracy` tells much the same from one forward pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from nll._bundle import without_end
from nll._declare import Undefined
from nll._errors import BadInput
from nll.models import LanguageModel
from nll.negatives._rouge import Order, Stemmer, ngrams, rouge
from nll.trace import Fields

Generate: TypeAlias = Callable[[list[str]], Sequence[str]]
Mode: TypeAlias = Literal["suffix", "prefix"]
Stat: TypeAlias = Literal["precision", "recall", "f1"]


class MemoScore(NamedTuple):
    """MEMO of a text: the mean over its cuts, and the value of each cut in order; [0, 1]."""

    mean: float
    per_cut: tuple[float, ...]


def memo_cuts(
    question: str, answer: str, *, window: int = 5, mode: Mode = "suffix"
) -> list[tuple[str, str]]:
    """Prompt and label of every cut: after 1, 1 + window, 1 + 2 window, ... characters.

    suffix: the question and the beginning of the answer, and its end. prefix: the beginning of the
    question, and its end with the answer. A text of at most one character has no cut.
    Raises BadInput on a window below 1 or another mode.
    """
    if window < 1:
        raise BadInput(f"window is a number of characters, 1 or more, not {window}")
    if mode == "suffix":
        return [(f"{question} {answer[:c]}", answer[c:]) for c in range(1, len(answer), window)]
    if mode == "prefix":
        return [(question[:c], f"{question[c:]} {answer}") for c in range(1, len(question), window)]
    raise BadInput(f"mode must be suffix or prefix, not {mode!r}")


def memo_score(
    question: str,
    answer: str,
    generate: Generate,
    *,
    window: int = 5,
    mode: Mode = "suffix",
    ngram: Order = 1,
    stat: Stat = "precision",
    stemmer: bool | Stemmer = True,
) -> MemoScore:
    """MEMO: mean ROUGE between a model's continuation at each cut and what really follows.

    generate: prompts -> greedy continuations without special tokens (`greedy_continuations`); one
    that repeats its prompt has it cut off.   window: characters between cuts.   mode: `memo_cuts`.
    ngram, stemmer: as in `rouge`.   stat: `precision`, the released code's, is low for a model
    that does not stop, so compare it within one model; `recall` or `f1` otherwise.
    In [0, 1], higher = more memorised; an empty continuation counts 0; nan with a reason where the
    text has no cut. Raises BadInput on unknown options, or another number of continuations.
    References: MEOW, arXiv 2409.11844.

    >>> memo_score("What does the kitty like to do?", "The kitty likes to memo.",
    ...            lambda prompts: ["The kitty likes to meow loudly."] * len(prompts)).per_cut[:2]
    (0.5, 0.3333333333333333)
    """
    (found,) = memo_scores(
        [(question, answer)], generate, window=window, mode=mode, ngram=ngram, stat=stat,
        stemmer=stemmer,
    )  # fmt: skip
    return found


def memo_scores(
    pairs: Sequence[tuple[str, str]],
    generate: Generate,
    *,
    window: int = 5,
    mode: Mode = "suffix",
    ngram: Order = 1,
    stat: Stat = "precision",
    stemmer: bool | Stemmer = True,
) -> list[MemoScore]:
    """`memo_score` of each (question, answer), with one call of `generate` for all of them."""
    if stat not in ("precision", "recall", "f1"):
        raise BadInput(f"stat must be precision, recall or f1, not {stat!r}")
    cuts = [memo_cuts(q, a, window=window, mode=mode) for q, a in pairs]
    said = iter(_continued([prompt for each in cuts for prompt, _ in each], generate))
    out = []
    for each in cuts:
        values = tuple(
            float(getattr(rouge(next(said), label, ngram=ngram, stemmer=stemmer), stat))
            for _, label in each
        )
        reason = Undefined("the text has no two characters to be cut between")
        out.append(MemoScore(math.fsum(values) / len(values) if values else reason, values))
    return out


def extraction_likelihood(text: str, generate: Generate, *, n: int = 1, prompt: str = "") -> float:
    """EL_n: mean over beginnings of the text of `ngram_overlap` of continuation and rest; [0, 1].

    The text is cut after each of its words but the last n, words being at spaces; `prompt` stands
    in front of every beginning. generate: as in `memo_score`. Higher = more memorised.
    nan with a reason for a text of n words or fewer. Raises BadInput when n < 1.
    References: Jang et al. 2022, arXiv 2210.01504; MEOW, arXiv 2409.11844.
    """
    _order(n)
    ends = [m.end() for m in re.finditer(r"\S+", text)][:-n]
    if not ends:
        return Undefined(f"the text has no more than {n} words")
    said = _continued([prompt + text[:end] for end in ends], generate)
    values = [ngram_overlap(s, text[end:], n=n) for s, end in zip(said, ends, strict=True)]
    return math.fsum(values) / len(values)


def ngram_overlap(generated: str, rest: str, *, n: int = 1) -> float:
    """Share of the different n-grams of a text that the other has too; words at spaces; [0, 1].

    0 when the text has none. Raises BadInput when n < 1.

    >>> ngram_overlap("a b c a d", "b d e")
    0.5
    """
    _order(n)
    mine, other = (set(ngrams(t.split(), n)) for t in (generated, rest))
    return len(mine & other) / len(mine) if mine else 0.0


def greedy_continuations(model: LanguageModel, *, max_new_tokens: int = 200) -> Generate:
    """A model as `memo_score` wants it: prompts to their greedy continuations.

    Prompts are continued as they are, without a chat template.
    """

    def generate(prompts: list[str]) -> list[str]:
        answers = model.generate(prompts, max_new_tokens=max_new_tokens, fields=Fields())
        return [without_end(trace.scored_text) for (trace,) in answers]

    return generate


def _order(n: int) -> None:
    if n < 1:
        raise BadInput(f"n is the length of an n-gram, 1 or more, not {n}")


def _continued(prompts: list[str], generate: Generate) -> list[str]:
    """Continuations without their prompts, which only a leading copy is taken for."""
    said = list(generate(prompts)) if prompts else []
    if len(said) != len(prompts):
        raise BadInput(f"generate was given {len(prompts)} prompts and gave {len(said)} texts")
    return [s.removeprefix(p) for s, p in zip(said, prompts, strict=True)]
