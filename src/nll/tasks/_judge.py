"""A judge of reasoning: what to ask about a solution, and how to read the reply (2502.06217)."""

from __future__ import annotations

import re

_VERDICT = re.compile(r"\b(not\s+)?(true|false|correct|incorrect)\b", re.IGNORECASE)
_ASK = """\
Here is a mathematical problem and a solution of it. The final answer may be right although the \
reasoning is not: steps that matter may be left out, or an inference, a calculation or the use of \
a notion may be wrong. Slips that do no harm and errors that the solution itself corrects do not \
count. Evaluate every step, then reply with one word only: True if the whole reasoning is sound, \
False if it is not.

Problem:
{problem}

Solution:
{solution}"""


def judge_prompt(problem: str, solution: str) -> str:
    """What to ask a judge, at temperature 0, about a solution whose final answer is right."""
    return _ASK.format(problem=problem.strip(), solution=solution.strip())


def read_verdict(reply: str) -> bool:
    """Whether the judge calls the reasoning sound; False predicts a false positive.

    The last "True", "False", "correct" or "incorrect" of the reply counts, turned by a "not" before
    it, and a reply without any is a True, as in the paper's records. `detection_report` takes the
    opposite as prediction.

    >>> read_verdict("False"), read_verdict("The solution is incorrect."), read_verdict("Well.")
    (False, False, True)
    """
    found = _VERDICT.findall(reply)
    if not found:
        return True
    negation, word = found[-1]
    return (word.lower() in ("true", "correct")) != bool(negation)
