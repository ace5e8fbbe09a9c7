"""An answer in plain words: what the numbers say, and what they cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nll.runs._eval import Evaluation
from nll.runs._questions import Question

if TYPE_CHECKING:
    from nll.runs._ask import Cut


def read(
    question: Question,
    main: str,
    n: int,
    top: str | None,
    cuts: Sequence[Cut],
    evaluation: Evaluation | None,
    fpr: float,
    alone: bool,
) -> str:
    """One line: the evidence if there are labels, the flags if there is a threshold, the limits.

    top: the text that looks most like it by the main score, None when none stands out.   alone: no
    second model was asked.
    """
    parts = []
    cut = next((c for c in cuts if c.score == main), None)
    if cut is not None:
        parts.append(_of_cut(question, cut, fpr))
    elif n == 1:
        parts.append(f"{main} of one text means little alone")
    elif top is None:
        parts.append(f"by {main} none of {n} texts stands out")
    else:
        parts.append(f"by {main} the text that looks most {question.flagged} of {n} is {top}")
    if cut is None and evaluation is None:
        parts.append("no value means yes or no by itself: --fit FILE sets a threshold on labels")
    if evaluation is not None:
        parts.append(_of_evaluation(evaluation))
    limits = [question.says, *([question.alone] if alone and question.alone else [])]
    return "; ".join([*parts, *limits]) + "."


def _of_cut(question: Question, cut: Cut, fpr: float) -> str:
    rate, m = cut.threshold.fpr, len(cut.threshold.negatives)
    line = (
        f"{cut.flagged} of {cut.n} texts look {question.flagged} by {cut.score}, at a threshold "
        f"beyond which {rate.value:.1%} of the {m} negatives lie ({rate.low:.1%} to "
        f"{rate.high:.1%} of further ones like them)"
    )
    if m * fpr < 1:
        line += f", too few to show a rate of {fpr:.1%}"
    return line


def _of_evaluation(evaluation: Evaluation) -> str:
    scores = [r for r in evaluation.results if r.kind == "score" and r.auroc.value == r.auroc.value]
    if not scores:
        return "no score could be measured on these labels"
    best = max(scores, key=lambda r: float(r.auroc.value))
    which = f"of {len(scores)} scores {best.name}" if len(scores) > 1 else best.name
    line = (
        f"{which} tells the {evaluation.n} labelled texts apart{' best' * (len(scores) > 1)}, "
        f"AUROC {best.auroc.value:.2f} ({best.auroc.low:.2f} to {best.auroc.high:.2f})"
    )
    if best.auroc.low <= 0.5:
        line += ", which chance can give"
    elif best.auroc.low == best.auroc.high:
        line += ", an interval without width, since they are few or easy"
    elif len(scores) > 1:
        line += ", a little too good, for the best was picked on these very texts"
    blind = [r for r in evaluation.results if r.name in ("bag of words", "length in tokens")]
    told = [max(float(r.auroc.value), 1 - float(r.auroc.value)) for r in blind]
    known = [(v, r.name) for v, r in zip(told, blind, strict=True) if v == v]
    if known and max(known)[0] >= best.auroc.low:
        value, name = max(known)
        what = "words alone" if name == "bag of words" else "length alone"
        line += f", but {what} reach{'es' * (what[0] == 'l')} {value:.2f} without any model"
    return line
