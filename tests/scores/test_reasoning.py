"""Conditional entropy of an answer over the steps of a chain of reasoning."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import (
    answer_entropy,
    answer_mentions,
    answer_nll,
    answer_traces,
    conditional_answer_entropy,
    conditional_answer_nll,
    early_stop_step,
    reasoning_utility,
    split_steps,
    step_utilities,
)
from nll.testing import bigram_table, table_model, trace_from_logits
from nll.trace import Provenance, Trace

ROWS = [
    [[0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]],
    [[0.7, 0.1, 0.1, 0.1], [0.5, 0.5, 0, 0]],
    [[0.97, 0.01, 0.01, 0.01], [0.9, 0.1, 0, 0]],
]
H = [1.333074293477, 0.816797584608, 0.246391755116]
N = [1.295133582723, 0.524911062249, 1.166522150239]
curves = st.lists(st.floats(0, 10), min_size=1, max_size=8)


def contexts() -> list[Trace]:
    with np.errstate(divide="ignore"):
        return [trace_from_logits(np.log(rows), [0, 1]) for rows in ROWS]


def test_entropies_and_cross_entropies_are_those_of_the_sheet():
    np.testing.assert_allclose(answer_entropy(contexts()), H, atol=1e-11)
    np.testing.assert_allclose(answer_nll(contexts()), N, atol=1e-11)
    sums = [2.666148586954, 1.633595169215, 0.492783510231]
    np.testing.assert_allclose(answer_entropy(contexts(), reduction="sum"), sums, atol=1e-11)
    first = [1.386294361120, 0.940447988655, 0.167700536840]
    np.testing.assert_allclose(answer_entropy(contexts(), reduction="first_token"), first)


def test_utility_is_that_of_the_sheet():
    got = reasoning_utility(H)
    np.testing.assert_allclose(got.delta, [0.516276708869, 0.570405829492], atol=1e-11)
    assert got.total == pytest.approx(1.086682538361)
    assert got.slope == pytest.approx(-0.543341269181)
    assert got.relative == pytest.approx(0.815170274964)
    assert got.monotone_share == 1
    assert reasoning_utility(N).monotone_share == 0.5


@settings(deadline=None)
@given(curves)
def test_laws_of_utility(curve):
    got = reasoning_utility(curve)
    assert got.delta.sum() == pytest.approx(got.total, abs=1e-9)
    k = len(curve) - 1
    if k == 0:
        assert got.total == 0
        assert got.slope.reason == got.monotone_share.reason == "there are no steps"
        return
    assert got.slope == pytest.approx(np.polyfit(range(k + 1), curve, 1)[0], abs=1e-9)
    assert 0 <= got.monotone_share <= 1
    shifted = reasoning_utility(np.array(curve) + 1)
    np.testing.assert_allclose(shifted.delta, got.delta, atol=1e-9)
    if curve[0] == 0:
        assert got.relative.reason == "H_0 is 0"
    if k == 1:
        assert got.slope == pytest.approx(curve[1] - curve[0], abs=1e-12)


def test_a_curve_must_be_one():
    for bad in ([], [[1.0]], 3.0):
        with pytest.raises(nll.BadInput, match="curve"):
            reasoning_utility(bad)


def test_impossible_answers_leave_no_bare_nan_and_no_warning():
    falls = reasoning_utility([math.inf, 1.0])
    assert (falls.total, falls.monotone_share) == (math.inf, 1.0)
    assert falls.relative.reason == "the curve is not finite at its ends"
    assert "no slope" in falls.slope.reason
    middle = reasoning_utility([2.0, math.inf, 1.0])
    assert (middle.total, middle.relative, middle.monotone_share) == (1.0, 0.5, 0.5)
    assert "no slope" in middle.slope.reason
    never = reasoning_utility([math.inf, math.inf])
    assert "not finite" in never.total.reason
    assert never.monotone_share == 0.0
    assert reasoning_utility([math.inf]).total == 0.0
    unknown = reasoning_utility([1.0, math.nan])
    assert "nan" in unknown.monotone_share.reason
    assert "not finite" in unknown.total.reason


def test_early_stop_is_the_first_step_that_is_sure_enough():
    assert early_stop_step(H, 1.0) == 1
    assert early_stop_step(H, 2.0) == 0
    assert early_stop_step([3, 0.1, 2, 0.1], 0.1) == 1
    assert early_stop_step(H, 0.1) is None


def test_an_answer_must_have_tokens():
    with pytest.raises(nll.BadInput, match="no scored token"):
        answer_entropy([Trace(logp=[], entropy=[])])
    with pytest.raises(nll.BadInput, match="reduction"):
        answer_nll(contexts(), reduction="max")


@pytest.fixture(scope="module")
def model():
    return table_model()


STEPS = ["two and two", "is four", "so add one"]


def test_each_context_scores_the_answer_alone(model):
    options = {"head": "{question}?", "joint": "\n", "cue": " so"}
    got = answer_traces(model, "how many", STEPS, " five ", **options)
    assert len(got) == 4
    table, at = bigram_table(), nll.testing.ALPHABET.index
    for k, trace in enumerate(got):
        text = "how many?" + "".join("\n" + s for s in STEPS[:k]) + " so five"
        assert trace.text == text
        assert trace.scored_text == "five"
        want = [table[at(a), at(b)] for a, b in zip(" five", "five", strict=False)]
        np.testing.assert_allclose(trace.values("logp"), want, atol=1e-5)


def test_functions_of_a_model_are_those_of_its_traces(model):
    given = (model, "how many", STEPS, "five")
    traces = answer_traces(*given)
    np.testing.assert_array_equal(conditional_answer_entropy(*given), answer_entropy(traces))
    np.testing.assert_array_equal(
        conditional_answer_nll(*given, reduction="sum"), answer_nll(traces, reduction="sum")
    )
    got = step_utilities(*given)
    np.testing.assert_array_equal(got.entropy, answer_entropy(traces))
    np.testing.assert_array_equal(got.nll, answer_nll(traces))
    assert got.entropy_utility.total == reasoning_utility(got.entropy).total
    assert got.mentions == (False,) * 3
    assert got.dropped == (0,) * 4


def test_no_steps_leave_the_question(model):
    got = step_utilities(model, "how many", [], "five")
    assert got.entropy.shape == (1,)
    assert got.entropy_utility.total == 0
    assert got.mentions == ()


class Falling:
    """A model for which the answer gets likelier with every line, as far as the window goes."""

    def __init__(self, window=10_000):
        self.window = window

    def continuations(self, prompt, continuations, *, fields):
        out = []
        for rest in continuations:
            text = prompt + rest
            n = len(text)
            lines = rest.count("\n") - 1
            long = n > self.window
            out.append(
                Trace(
                    logp=np.full(n, -4.0 + lines), entropy=np.full(n, 4.0 - lines), text=text,
                    spans=np.stack([np.arange(n), np.arange(1, n + 1)], axis=1),
                    prompt_tokens=len(prompt),
                    provenance=Provenance(window=self.window if long else None),
                )
            )  # fmt: skip
        return out


def test_the_contexts_that_hold_the_answer_may_be_dropped():
    steps = ["add 2 and 16", "so it is 18", "check 180"]
    plain = step_utilities(Falling(), "what", steps, "18")
    np.testing.assert_allclose(plain.entropy, [4, 3, 2, 1])
    assert plain.mentions == (False, True, False)
    assert plain.nll_utility.total == 3
    clean = step_utilities(Falling(), "what", steps, "18", drop_answer_mentions=True)
    assert clean.entropy_utility.total == clean.nll_utility.total == 1
    np.testing.assert_allclose(clean.entropy, [4, 3, 2, 1])
    untold = step_utilities(Falling(), "what", steps[:1], "18", drop_answer_mentions=True)
    assert untold.entropy_utility.total == 1


def test_a_chain_that_is_too_long_loses_its_first_steps():
    steps = ["x" * 20] * 4
    got = step_utilities(Falling(window=100), "what", steps, "18")
    assert got.dropped == (0, 0, 0, 1, 2)
    np.testing.assert_allclose(got.entropy, [4, 3, 2, 2, 2])
    with pytest.raises(nll.BadInput, match="window of 20"):
        step_utilities(Falling(window=20), "what", steps, "18")


def test_an_answer_that_shares_a_token_with_its_cue_is_refused():
    class Merging(Falling):
        def continuations(self, prompt, continuations, *, fields):
            for trace in super().continuations(prompt, continuations, fields=fields):
                spans = trace.spans.copy()
                spans[-3:-1] = [len(trace.text) - 4, len(trace.text) - 1]
                yield dataclasses.replace(trace, spans=spans)

    with pytest.raises(nll.BadInput, match="reaches into"):
        step_utilities(Merging(), "what", [], "18", cue="is")


@pytest.mark.parametrize("answer", ["", "  "])
def test_an_empty_answer_is_an_error(model, answer):
    with pytest.raises(nll.BadInput, match="empty"):
        conditional_answer_entropy(model, "how many", STEPS, answer)


def test_a_chain_that_was_not_split_is_an_error(model):
    with pytest.raises(nll.BadInput, match="split_steps"):
        conditional_answer_nll(model, "how many", "one text", "five")


def test_mentions_are_whole_words():
    steps = ["so 18.", "180", "2.18", "18.5", "it is (18)", "x18", "=18"]
    assert answer_mentions(steps, "18") == (True, False, False, False, True, False, True)
    assert answer_mentions(["The Answer"], "the answer") == (True,)
    in_groups = ["18,000 of them", "so 2,180", "1,18,3", "18, then"]
    assert answer_mentions(in_groups, "18") == (False, False, True, True)
    assert answer_mentions(in_groups, "180") == (False, False, False, False)
    assert answer_mentions(in_groups, "18,000") == (True, False, False, False)


def test_steps_of_a_chain():
    text = "One. Two!\n\n Three? \nFour"
    assert split_steps(text, by="line") == ["One. Two!", "Three?", "Four"]
    assert split_steps(text, by="blank-line") == ["One. Two!", "Three? \nFour"]
    assert split_steps(text, by="sentence") == ["One.", "Two!", "Three?", "Four"]
    assert split_steps("1|2||", by=lambda t: t.split("|")) == ["1", "2"]
    with pytest.raises(nll.BadInput, match="by must be"):
        split_steps(text, by="word")


def test_entropy_can_fall_while_the_answer_gets_less_likely():
    entropy, nll_ = answer_entropy(contexts()), answer_nll(contexts())
    assert entropy[2] < entropy[1]
    assert nll_[2] > nll_[1]
    assert math.isfinite(nll_[2])
