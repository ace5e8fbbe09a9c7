"""Likelihood ratios: the sheet's sums, laws, and pairs of traces that do not compare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import nll
from nll import scores
from nll.testing import traces
from nll.trace import Trace

Q, A, QA = (-42.0, -35.5), (-33.0, -21.5), (-70.25, -52.0)


@pytest.mark.parametrize(
    ("form", "value"), [("q", -6.5), ("a", -11.5), ("qa", -18.25), ("a|q", -11.75)]
)
def test_qa_ratio_of_the_sheet(form, value):
    assert scores.qa_ratio(Q, A, QA, form=form) == pytest.approx(value)


def test_qa_ratio_of_traces_and_of_their_sums_agree():
    pairs = [(Trace(logp=[x / 2, x / 2]), Trace(logp=[y])) for x, y in (Q, A, QA)]
    for form in ("q", "a", "qa", "a|q"):
        assert scores.qa_ratio(*pairs, form=form) == pytest.approx(
            scores.qa_ratio(Q, A, QA, form=form)
        )


def test_qa_ratio_asks_only_for_what_its_form_needs():
    assert scores.qa_ratio(q=Q, form="q") == pytest.approx(-6.5)
    assert scores.qa_ratio(q=Q, qa=QA) == pytest.approx(-11.75)
    with pytest.raises(nll.BadInput, match=r"'a\|q' needs qa and q"):
        scores.qa_ratio(q=Q)
    with pytest.raises(nll.BadInput, match="form must be"):
        scores.qa_ratio(Q, A, QA, form="b")
    with pytest.raises(nll.BadInput, match="not one of each"):
        scores.qa_ratio(q=(-1.0, Trace(logp=[-1.0])), form="q")
    assert "impossible" in scores.qa_ratio(q=(-np.inf, -np.inf), form="q").reason
    assert "no token" in scores.qa_ratio(q=(Trace(logp=[]), Trace(logp=[])), form="q").reason


@settings(max_examples=50, deadline=None)
@given(trace=traces(impossible=False))
def test_a_model_against_itself_is_zero_and_the_ratio_is_antisymmetric(trace):
    other = Trace(logp=trace.logp * 1.5 - 0.1, prompt_tokens=trace.prompt_tokens, spans=trace.spans)
    for normalise in (False, True):
        same = scores.likelihood_ratio(trace, trace, normalise=normalise)
        assert same == 0 if trace.n_scored else same != same
        there = scores.likelihood_ratio(trace, other, normalise=normalise)
        back = scores.likelihood_ratio(other, trace, normalise=normalise)
        np.testing.assert_array_equal(there, -back)


def test_the_ratio_is_the_difference_of_the_negative_likelihoods():
    pre, tuned = Trace(logp=[-1.2, -3.4]), Trace(logp=[-0.9, -1.1])
    for normalise in (False, True):
        lh = [scores.negative_likelihood(t, normalise=normalise) for t in (tuned, pre)]
        assert scores.likelihood_ratio(pre, tuned, normalise=normalise) == pytest.approx(
            lh[0] - lh[1]
        )


def test_across_tokenizers_only_sums_compare():
    coarse = Trace(logp=[-3.0], spans=[[0, 4]], text="abcd")
    fine = Trace(logp=[-1.0, -1.5], spans=[[0, 2], [2, 4]], text="abcd")
    assert scores.likelihood_ratio(coarse, fine) == pytest.approx(-0.5)
    assert "only the sums" in scores.likelihood_ratio(coarse, fine, normalise=True).reason


def test_models_that_score_different_parts_do_not_compare():
    whole = Trace(logp=[-1.0, -1.5], spans=[[0, 2], [2, 4]], text="abcd")
    rest = Trace(logp=[np.nan, -1.5], spans=[[0, 2], [2, 4]], text="abcd")
    assert "different parts" in scores.likelihood_ratio(whole, rest).reason
    assert (
        "different parts"
        in scores.likelihood_ratio(Trace(logp=[-1.0, -2.0]), Trace(logp=[np.nan, -2.0])).reason
    )
    with pytest.raises(nll.BadInput, match="different texts"):
        scores.likelihood_ratio(whole, Trace(logp=[-1.0], text="other"))


def test_the_tuned_model_may_be_the_first_of_the_two():
    pre, tuned = Trace(logp=[-1.2, -3.4]), Trace(logp=[-0.9, -1.1])
    for normalise in (False, True):
        here = scores.likelihood_ratio(pre, tuned, normalise=normalise)
        assert here == pytest.approx(-2.6 / (2 if normalise else 1))
        swapped = scores.likelihood_ratio(tuned, pre, normalise=normalise, finetuned="trace")
        assert swapped == here
    with pytest.raises(nll.BadInput, match="finetuned is"):
        scores.likelihood_ratio(pre, tuned, finetuned="second")


def test_a_value_that_one_model_lacks_inside_the_text_is_surfaced():
    half = Trace(logp=[-1.0, np.nan, -2.0])
    whole = Trace(logp=[-1.0, -2.0, -3.0])
    assert "one of the models only" in scores.likelihood_ratio(half, whole).reason
    assert "one of the models only" in scores.likelihood_ratio(whole, half).reason
    assert scores.likelihood_ratio(half, half) == 0


def test_an_impossible_text_is_told():
    never = Trace(logp=[-np.inf])
    assert scores.likelihood_ratio(never, Trace(logp=[-1.0])) == -np.inf
    assert "impossible" in scores.likelihood_ratio(never, never).reason
