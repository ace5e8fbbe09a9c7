"""What is said of an evaluation: the best of several scores, and intervals that mean little."""

from __future__ import annotations

import dataclasses

import pytest

from nll.metrics import Interval
from nll.runs._eval import Evaluated, Evaluation
from nll.runs._reading import _of_evaluation

NAN = float("nan")


def scored(name: str, low: float, value: float, high: float, kind: str = "score") -> Evaluated:
    return Evaluated(
        name=name, kind=kind, higher_means="member", flipped=False, n=40, dropped=0, positives=20,
        auroc=Interval(value, low, high), tpr_at_1=NAN, tpr_at_5=NAN, prr=NAN,
    )  # fmt: skip


def evaluation(*results: Evaluated) -> Evaluation:
    return Evaluation("t.csv", "label", "member", 40, 20, 0, 1000, list(results))


GOOD = scored("a", 0.7, 0.8, 0.9)
WORSE = scored("b", 0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ([GOOD, WORSE], "the best was picked on these very texts"),
        ([scored("a", 0.4, 0.6, 0.8), WORSE], "which chance can give"),
        ([scored("a", 1.0, 1.0, 1.0), WORSE], "an interval without width"),
    ],
)
def test_the_best_of_several_comes_with_its_doubt(results, says: str) -> None:
    line = _of_evaluation(evaluation(*results))
    assert line.startswith("of 2 scores a tells the 40 labelled texts apart best")
    assert says in line


def test_one_score_was_not_picked() -> None:
    assert "picked" not in _of_evaluation(evaluation(GOOD))


def test_what_needs_no_model_is_told_when_it_does_as_well() -> None:
    words = scored("bag of words", 0.7, 0.8, 0.9, "baseline")
    assert "words alone reach 0.80" in _of_evaluation(evaluation(GOOD, words))
    turned = dataclasses.replace(words, auroc=Interval(0.2, 0.1, 0.3))
    assert "words alone reach 0.80" in _of_evaluation(evaluation(GOOD, turned))
