"""The judge of reasoning: its prompt and its verdicts."""

from __future__ import annotations

import pytest

from nll.metrics import detection_report
from nll.tasks import judge_prompt, read_verdict


def test_the_prompt_holds_both_texts_as_they_are():
    asked = judge_prompt(" What is {x}?\n", "It is \\frac{1}{2}. {solution}")
    assert "What is {x}?\n" in asked
    assert asked.endswith("Solution:\nIt is \\frac{1}{2}. {solution}")


@pytest.mark.parametrize(
    ("reply", "sound"),
    [
        ("True", True),
        ("false.", False),
        ("**False**", False),
        ("The solution is incorrect.", False),
        ("At first it looks correct, but step 3 fails: False", False),
        ("Not false at all, so: True", True),
        ("Falsely", True),
        ("False, though the answer is correct", False),
        ("Step 2 is not  correct.", False),
        ("It is not false", True),
        ("I cannot tell", True),
        ("", True),
    ],
)
def test_verdicts(reply, sound):
    assert read_verdict(reply) is sound


def test_verdicts_feed_the_report():
    replies = ["False", "True", "incorrect", "no idea"]
    found = detection_report([1, 1, 0, 0], [not read_verdict(r) for r in replies])
    assert found[:4] == (1, 1, 1, 1)
