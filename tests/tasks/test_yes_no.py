"""Yes/no sets: formats that mean the same, balanced items, and what a model knows."""

from __future__ import annotations

import pytest

import nll
from nll.tasks import (
    BinaryItem,
    ShortAnswerItem,
    bias_by_subset,
    format_variants,
    knowledge_items,
    knowledge_of,
    make_binary_items,
    own_wrong_answer,
    parametric_knowledge_split,
    says,
    yes_no_answer,
)


def test_formats_ask_the_same_and_know_their_labels():
    found = {
        v.name: v for v in format_variants("Is water wet?", context="It is.", answers=("w", "d"))
    }
    assert set(found) == {
        "yes/no", "no/yes", "true/false", "A=yes", "A=no", "don't know", "steps", "context",
        "choice",
    }  # fmt: skip
    assert all("Is water wet?" in v.prompt for v in found.values())
    assert all(v.prompt.endswith("Answer:") for v in found.values())
    assert all(not set(v.positive) & set(v.negative) for v in found.values())
    assert "A. Yes" in found["A=yes"].prompt
    assert (found["A=yes"].positive, found["A=yes"].negative) == (("A", " A"), ("B", " B"))
    assert "A. No" in found["A=no"].prompt
    assert (found["A=no"].positive, found["A=no"].negative) == (("B", " B"), ("A", " A"))
    assert found["no/yes"].prompt.index("No or") < found["no/yes"].prompt.index("Yes")
    assert found["context"].prompt.startswith("It is.")
    assert "A. w\nB. d" in found["choice"].prompt
    assert {v.name for v in format_variants("Is it?")} == set(found) - {"context", "choice"}
    with pytest.raises(nll.BadInput, match="empty"):
        format_variants(" ")


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes, it is", True), (" **no**.", False), ("NO", False), ("Not so", None), ("", None)],
)
def test_written_answers_are_read_by_their_first_word(text, answer):
    assert yes_no_answer(text) is answer


ITEM = ShortAnswerItem("What is the capital of Peru?", "Lima", "Quito")


def test_items_are_balanced():
    items = make_binary_items([ITEM])
    assert [i.gold for i in items] == [True, False]
    assert '"Lima"' in items[0].question
    assert '"Quito"' in items[1].question
    assert '"Bogota"' in make_binary_items([ITEM], ["Bogota"])[1].question
    with pytest.raises(nll.BadInput, match="2 wrong answers for 1"):
        make_binary_items([ITEM], ["a", "b"])
    with pytest.raises(nll.BadInput, match="no wrong answer"):
        make_binary_items([ITEM], ["lima."])
    with pytest.raises(nll.BadInput, match="no wrong answer"):
        make_binary_items([ShortAnswerItem("q", "a")])


def test_says_compares_whole_words():
    assert says("It is LIMA.", "Lima")
    assert not says("Climate", "Lima")
    assert not says("anything", "")


@pytest.mark.parametrize(
    ("greedy", "drawn", "kind"),
    [
        ("Lima", ["Lima"] * 4 + ["Quito"], "correct"),
        ("Lima", ["Lima"] * 3 + ["Quito"] * 2, "insufficient"),
        ("Quito", ["Lima"] * 5, "insufficient"),
        ("Quito", ["Quito"] * 3 + ["quito.", "Lima"], "incorrect"),
        ("Quito", ["Quito", "Bogota", "Quito", "Quito", "Rome"], "insufficient"),
        ("?", ["I don't know"] * 5, "insufficient"),
        ("", [""] * 5, "insufficient"),
    ],
)
def test_knowledge(greedy, drawn, kind):
    assert knowledge_of(greedy, drawn, "Lima") == kind


def test_knowledge_needs_drawn_answers():
    with pytest.raises(nll.BadInput, match="drawn"):
        knowledge_of("Lima", [], "Lima")


class Parrot:
    """Says "Lima" when greedy, and in turn what it was given when drawn."""

    def __init__(self, *drawn):
        self.drawn = drawn

    def generate(self, prompts, *, max_new_tokens, n=1, temperature=0.0, seed=0, stop=()):
        assert stop == ("\n",)
        for prompt in prompts:
            assert prompt == f"Question: {ITEM.question}\nAnswer:"
            said = ["Lima"] if temperature == 0 else self.drawn[:n]
            yield [nll.Trace(logp=[-1.0], text=s) for s in said]


def test_the_split_asks_the_model_openly():
    known = parametric_knowledge_split(Parrot(*["Lima"] * 5), [ITEM, ITEM])
    assert known == ["correct", "correct"]
    assert parametric_knowledge_split(Parrot(*["Quito"] * 5), [ITEM]) == ["incorrect"]


class Ending(Parrot):
    """Some of its answers end with the end-of-text token, others at the line's end."""

    def generate(self, prompts, **options):
        for answers in super().generate(prompts, **options):
            yield [self.ended(t) if i % 2 else t for i, t in enumerate(answers)]

    @staticmethod
    def ended(trace):
        n = len(trace.text)
        spans = [[0, n], [n, n + 10]]
        return nll.Trace(logp=[-1.0, -1.0], text=trace.text + "<|im_end|>", spans=spans)


def test_the_end_token_is_no_word_of_an_answer():
    assert parametric_knowledge_split(Ending(*["Quito"] * 5), [ITEM]) == ["incorrect"]
    assert "im_end" not in "".join(
        i.question for i in knowledge_items(Ending(*["Quito"] * 5), [ITEM])
    )


def test_own_wrong_answers():
    assert own_wrong_answer([" Quito.", "quito", "Quito", "QUITO!", "Lima"], "Lima") == "Quito"
    assert own_wrong_answer(["Quito"] * 3 + ["Lima"] * 2, "Lima") is None
    assert own_wrong_answer(["Lima"] * 5, "Lima") is None
    assert own_wrong_answer(["I don't know"] * 5, "Lima") is None
    assert own_wrong_answer([""] * 5, "Lima") is None


def test_items_know_what_the_model_knows_and_use_its_own_error():
    known = knowledge_items(Parrot(*["Lima"] * 5), [ITEM])
    assert known == [i._replace(subset="correct") for i in make_binary_items([ITEM])]
    wrong = knowledge_items(Parrot(*["Bogota."] * 5), [ITEM, ITEM])
    own = make_binary_items([ITEM], ["Bogota"])
    assert wrong == [i._replace(subset="incorrect") for i in own] * 2
    unsure = knowledge_items(Parrot("a", "b", "c", "d", "e"), [ITEM], ["Cuzco"])
    assert [i.subset for i in unsure] == ["insufficient"] * 2
    assert '"Cuzco"' in unsure[1].question
    with pytest.raises(nll.BadInput, match="no wrong answer"):
        knowledge_items(Parrot(*["Lima"] * 5), [ShortAnswerItem(ITEM.question, "Lima")])


def test_bias_by_subset():
    items = [
        BinaryItem("a", True, "correct"), BinaryItem("b", False, "correct"),
        BinaryItem("c", True, "insufficient"), BinaryItem("d", False, "insufficient"),
    ]  # fmt: skip
    found = bias_by_subset(items, [-1.0, 1.0, 2.0, 2.0])
    assert list(found) == ["correct", "insufficient"]
    assert found["correct"].negative_bias == 0.0
    assert (found["insufficient"].negative_bias, found["insufficient"].tpr) == (1.0, 0.0)
    assert bias_by_subset(items, [-1.0, 1.0, 2.0, 2.0], 5.0)["insufficient"].negative_bias == -1.0
    assert bias_by_subset([], []) == {}
    with pytest.raises(nll.BadInput, match="4 items"):
        bias_by_subset(items, [0.0])
