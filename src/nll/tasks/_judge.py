"""A judge of reasoning: what to ask about a solution, and how to read the reply (2502.06217)."""

from __future__ import annotations

import re

# What was asked for goes before what was said instead.
_VERDICTS = [
    re.compile(rf"\b(not\s+)?({words})\b", re.IGNORECASE)
    for words in ("true|false", "correct|incorrect")
]
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

    The last "True" or "False" of the reply counts, else the last "correct" or "incorrect", turned
    by a "not" before it; a reply without any is a True, as in the paper's records.
    `detection_report` takes the opposite as prediction.

    >>> read_verdict("False"), read_verdict("The solution is incorrect."), read_verdict("Well.")
    (False, False, True)
    """
    for verdict in _VERDICTS:
        if found := verdict.findall(reply):
            negation, word = found[-1]
            return (word.lower() in ("true", "correct")) != bool(negation)
    return True
