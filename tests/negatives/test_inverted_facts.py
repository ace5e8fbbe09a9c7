"""Inverted facts: asking for them, selecting by MEMO, targets that cycle."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import BadInput
from nll.negatives import (
    Inverted,
    invert_facts,
    meow_rows,
    meow_targets,
    parse_inverted,
    select_inverted_facts,
)

ROW_0 = [0.291306, 0.288806, 0.305761, 0.331074]
ROW_1 = [0.393651, 0.393651, 0.457832, 0.393651]
FACTS = ["a", "b", "c", "d"]


def test_selection_oracle():
    assert select_inverted_facts(ROW_0, 3, "largest") == [3, 2, 0]
    assert select_inverted_facts(ROW_0, 3, "smallest") == [1, 0, 2]
    assert select_inverted_facts(ROW_1, 3) == [2, 0, 1]
    assert meow_targets(FACTS, [3, 2, 0], 8) == ["d", "c", "a", "d", "c", "a", "d", "c"]


scores = st.lists(st.one_of(st.just(float("nan")), st.floats(0, 1)), min_size=1, max_size=8)


@settings(deadline=None)
@given(scores, st.integers(1, 10), st.sampled_from(["largest", "smallest", "random"]))
def test_selection_laws(values, k, how):
    found = select_inverted_facts(values, k, how)
    assert len(set(found)) == len(found) == min(k, len(values))
    assert select_inverted_facts(values, k, how) == found
    if how == "random":
        return
    chosen = [values[i] for i in found if values[i] == values[i]]
    assert chosen == sorted(chosen, reverse=how == "largest")
    assert select_inverted_facts(values, len(values), how)[:k] == found
    left = [v for i, v in enumerate(values) if i not in found and v == v]
    if left and chosen:
        assert max(left) <= min(chosen) if how == "largest" else min(left) >= max(chosen)
    if left:
        assert len(chosen) == len(found)  # nan only where there is nothing else


def test_random_selection_varies_with_the_seed():
    drawn = {tuple(select_inverted_facts(ROW_0, 2, "random", seed=s)) for s in range(40)}
    assert len(drawn) > 6
    assert np.mean([i for d in drawn for i in d]) == pytest.approx(1.5, abs=0.5)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 20))
def test_targets_take_each_fact_equally_often(k, n):
    targets = meow_targets(FACTS, list(range(k)), n)
    counts = [targets.count(f) for f in FACTS[:k]]
    assert len(targets) == n == sum(counts)
    assert max(counts) - min(counts) <= 1


def test_rows_for_the_trainer():
    items = [Inverted("q", "true", ("x", "y")), SimpleNamespace(question="p", inverted=["z"])]
    rows = meow_rows(items, [[1, 0], [0]], n=2)
    assert rows == [
        {"prompt": "q", "completion": " y", "label": False},
        {"prompt": "q", "completion": " x", "label": False},
        {"prompt": "p", "completion": " z", "label": False},
        {"prompt": "p", "completion": " z", "label": False},
    ]


class Model:
    """Answers every prompt with the next of its replies."""

    def __init__(self, *replies):
        self.replies, self.asked, self.options = list(replies), [], {}

    def generate(self, prompts, **options):
        self.options = options
        for prompt in prompts:
            self.asked.append(prompt)
            yield [SimpleNamespace(scored_text=self.replies.pop(0))]


def test_asking_a_model():
    model = Model(
        "He is a baker.\n\nHe is a painter.\nHe is a baker.\n",
        "1. Rome\n2) Oslo\n- Paris<|im_end|>",
    )
    found = invert_facts(model, [("Who?", "He is a poet."), ("Where?", "Paris")], n=3)
    assert found[0] == Inverted("Who?", "He is a poet.", ("He is a baker.", "He is a painter."))
    assert found[1].inverted == ("Rome", "Oslo")  # the true answer is dropped, end token and all
    (message,) = model.asked[0]
    assert message["role"] == "user"
    assert "Question: Who?\nAnswer: He is a poet." in message["content"]
    assert "3 other answers" in message["content"]
    assert (model.options["temperature"], model.options["max_new_tokens"]) == (0.9, 512)
    plain = Model("x")
    invert_facts(plain, [("q {a}", "b")], chat=False, instruction="{question}|{answer}|{n}")
    assert plain.asked == ["q {a}|b|4"]
    assert invert_facts(Model(""), [("q", "a")])[0].inverted == ()


def test_reading_a_reply():
    reply = "  1. Anna\n(2) Berta\n\n* Clara \n1984 was the year\nAnna\nDora"
    assert parse_inverted(reply, "Dora") == ("Anna", "Berta", "Clara", "1984 was the year")
    assert parse_inverted("-5 degrees\n3.5 metres") == ("-5 degrees", "3.5 metres")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select_inverted_facts([1.0], 0), "k is how many"),
        (lambda: select_inverted_facts([1.0], 1, "median"), "how must be"),
        (lambda: meow_targets(FACTS, []), "no inverted fact"),
        (lambda: meow_targets(FACTS, [4]), "4 inverted facts"),
        (lambda: meow_targets(FACTS, [0], 0), "n is how many"),
        (lambda: meow_rows([], [[0]]), "0 items"),
        (lambda: invert_facts(Model(), [], n=0), "n is how many"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(BadInput, match=message):
        call()
