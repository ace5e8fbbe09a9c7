"""Scores of sampled answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll._bundle import Samples
from nll.scores import (
    cocoa,
    consistency_and_confidence,
    exact_match_consistency,
    lexical_similarity,
    mode_gap,
    monte_carlo_probability,
    pointwise_mutual_information,
    predictive_entropy,
    sample_variation_ratio,
    sample_variation_ratio_original,
    variation_ratio,
    variation_ratio_original,
)
from nll.trace import Provenance, Trace

MATRIX = np.array([[0, 0.2, 0.5, 0.9], [0.2, 0, 0.4, 0.7], [0.5, 0.4, 0, 0.3], [0.9, 0.7, 0.3, 0]])
texts = st.lists(
    st.sampled_from(["red", "red green", "green", "blue blue"]), min_size=2, max_size=6
)


def said(*answers: str, greedy: str | None = "red", logp=(-1.0,)) -> Samples:
    judged = None if greedy is None else Trace(logp=[-0.5, -0.5], entropy=[1, 3], text=greedy)
    return Samples([Trace(logp=logp, text=t) for t in answers], greedy=judged)


def test_variation_ratios_are_those_of_the_sheet():
    def apart(a, b):
        return float(MATRIX[int(a), int(b)])

    assert variation_ratio(["0", "1", "2", "3"], apart) == pytest.approx(0.5)
    to_original = dict(zip("abcd", [0.1, 0.25, 0.6, 0.8], strict=True))
    got = variation_ratio_original(list("abcd"), "original", lambda a, _: to_original[a])
    assert got == pytest.approx(0.4375)
    as_array = variation_ratio_original(np.array(["a", "b"]), "o", lambda a, _: to_original[str(a)])
    assert as_array == pytest.approx(0.175)


def test_variation_ratio_goes_over_ordered_pairs():
    assert variation_ratio(["a", "b"], lambda a, b: float(a == "a")) == 0.5


def test_the_end_token_is_no_shared_word():
    def ended(word: str) -> Trace:
        n = len(word)
        return Trace(logp=[-1, -1], text=word + "<|im_end|>", spans=[[0, n], [n, n + 10]])

    samples = Samples([ended("Paris"), ended("Lyon")], greedy=ended("Nice"))
    assert lexical_similarity(samples) == 0
    assert sample_variation_ratio_original(samples, distance="rouge_l") == 1
    alike = Samples([ended("Nice"), Trace(logp=[-1], text="Nice")], greedy=ended("Nice"))
    assert exact_match_consistency(alike) == 1


def test_answers_without_their_text_cannot_be_compared():
    blank = Trace(logp=[-1.0])
    for score in (exact_match_consistency, cocoa, lexical_similarity, consistency_and_confidence):
        with pytest.raises(nll.MissingField, match="no text"):
            score(Samples([blank, blank], greedy=blank))


def test_the_gap_to_the_mode_is_that_to_the_likeliest_whole_answer():
    def answer(*logp, how="sampled", reason="stop"):
        made = Provenance(decoding=how, finish_reason=reason)
        return Trace(logp=list(logp), rank=[1] * len(logp), provenance=made)

    greedy = answer(-1.0, -0.5, how="greedy")
    drawn = [answer(-0.2, -0.3), answer(-3.0), answer(-0.1, reason="length")]
    assert mode_gap(Samples(drawn, greedy=greedy)) == pytest.approx(1.0)
    assert mode_gap(Samples(drawn[1:2], greedy=greedy)) == 0.0
    assert "cut off" in mode_gap(Samples(drawn[2:], greedy=greedy)).reason
    assert "no answer was drawn" in mode_gap(Samples([], greedy=greedy)).reason
    cut = answer(-1.0, how="greedy", reason="length")
    assert "greedy answer was cut off" in mode_gap(Samples(drawn, greedy=cut)).reason
    assert "not decoded greedily" in mode_gap(Samples(drawn, greedy=drawn[0])).reason
    with pytest.raises(nll.MissingField, match="no greedy answer"):
        mode_gap(Samples(drawn))


def test_too_few_outputs_are_undefined():
    assert "two outputs" in variation_ratio(["x"]).reason
    assert "an output" in variation_ratio_original([], "x").reason
    assert variation_ratio_original(["x"], "x") == 0
    assert "two outputs" in lexical_similarity(said("x")).reason
    assert "no answer was drawn" in sample_variation_ratio(said()).reason


def test_distances_outside_0_and_1_or_unknown_are_refused():
    with pytest.raises(nll.BadInput, match=r"\[0, 1\]"):
        variation_ratio(["a", "b"], lambda a, b: 2.0)
    with pytest.raises(nll.BadInput, match="cosine"):
        variation_ratio(["a", "b"], "cosine")


@settings(deadline=None)
@given(texts, st.randoms())
def test_order_of_samples_does_not_matter(answers, random):
    shuffled = list(answers)
    random.shuffle(shuffled)
    for function in (
        lexical_similarity,
        sample_variation_ratio,
        sample_variation_ratio_original,
        exact_match_consistency,
        cocoa,
        consistency_and_confidence,
    ):
        assert function(said(*answers)) == pytest.approx(function(said(*shuffled)), abs=1e-12)


@settings(deadline=None)
@given(texts)
def test_equal_answers_are_fully_consistent(answers):
    one = answers[:1] * len(answers)
    s = said(*one, greedy=answers[0])
    assert lexical_similarity(s) == exact_match_consistency(s) == 1
    assert cocoa(s) == 0
    assert consistency_and_confidence(s) == pytest.approx(math.exp(-0.5))


def test_cocoa_multiplies_the_uncertainty_of_the_greedy_answer():
    s = said("red", "green")
    assert cocoa(s) == pytest.approx(1.0 * 0.5)
    assert cocoa(s, base="mean_nll") == pytest.approx(0.5 * 0.5)
    assert cocoa(s, base="entropy") == pytest.approx(2.0 * 0.5)
    assert consistency_and_confidence(s, normalize=False) == pytest.approx(math.exp(-1) / 2)
    with pytest.raises(nll.BadInput, match="base"):
        cocoa(s, base="rank")


@pytest.mark.parametrize(
    "function",
    [cocoa, exact_match_consistency, sample_variation_ratio_original, consistency_and_confidence],
)
def test_a_missing_greedy_answer_is_an_error(function):
    with pytest.raises(nll.MissingField, match="greedy"):
        function(said("red", greedy=None))


def test_a_prompt_is_no_part_of_the_answer():
    trace = Trace(logp=[-9, -1], text="Q red", spans=[[0, 2], [2, 5]], prompt_tokens=1)
    s = Samples([trace, trace], greedy=Trace(logp=[-1], text="red"))
    assert exact_match_consistency(s) == 1
    assert predictive_entropy(s) == 1


def test_answers_without_a_token_are_left_out():
    s = Samples([Trace(logp=[-2, -4]), Trace(logp=[]), Trace(logp=[-1])])
    assert predictive_entropy(s) == 3.5
    assert predictive_entropy(s, normalize=True) == 2
    assert monte_carlo_probability(s) == pytest.approx((math.exp(-3) + math.exp(-1)) / 2)
    assert "drawn answer" in predictive_entropy(Samples([Trace(logp=[])])).reason


def test_information_of_the_prompt_about_the_answer():
    after = Trace(logp=[-5, -0.5, -1], ids=[9, 1, 2], prompt_tokens=1)
    alone = Trace(logp=[math.nan, -3], ids=[1, 2])
    assert pointwise_mutual_information(after, alone) == 2  # the first token has no own value
    other = Trace(logp=[math.nan, -3], ids=[1, 3])
    assert "other tokens" in pointwise_mutual_information(after, other).reason
    longer = Trace(logp=[-1, -1, -1, -1])
    assert "tokens after its prompt" in pointwise_mutual_information(after, longer).reason
    never = Trace(logp=[-math.inf])
    assert "probability 0" in pointwise_mutual_information(never, never).reason
    assert pointwise_mutual_information(Trace(logp=[-1.0]), never) == math.inf
