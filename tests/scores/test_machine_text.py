"""Machine-text scores: ties, infinities, two models, curvature against a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import nll
from nll import scores
from nll.testing import trace_from_logits, traces
from nll.trace import Trace


def test_lrr_of_only_first_ranks_is_the_most_machine_like():
    trace = Trace(logp=[-0.1, -0.2], rank=[1, 1])
    assert scores.lrr(trace) == np.inf
    assert scores.lrr(Trace(logp=[0.0], rank=[1])) == np.inf


def test_log_rank_is_the_mean_of_logs_not_the_log_of_the_mean():
    trace = Trace(logp=[-1.0, -1.0], rank=[1, 100])
    assert scores.log_rank_score(trace) == pytest.approx(-np.log(100) / 2)


def test_ranks_of_ties_do_not_depend_on_the_order_of_the_vocabulary():
    logits = np.array([[3.0, 3.0, 1.0, 1.0, 0.0]])
    for shift in range(5):
        rolled = np.roll(logits, shift, axis=1)
        trace = trace_from_logits(rolled, [(2 + shift) % 5])
        assert (trace.rank[0], trace.ties[0]) == (3, 1)


@given(trace=traces(min_tokens=1))
@settings(max_examples=150, deadline=None)
def test_a_model_is_its_own_reference(trace):
    own = nll.Trace(
        logp=trace.logp, entropy=trace.entropy, varentropy=trace.varentropy,
        cross_mean=-trace.entropy, cross_var=trace.varentropy, prompt_tokens=trace.prompt_tokens,
    )  # fmt: skip
    one, two = scores.fast_detect_gpt(own), scores.fast_detect_gpt(own, reference=True)
    np.testing.assert_array_equal(one, two)


def test_curvature_of_own_samples_is_standard():
    """Texts drawn from the model have a curvature of mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 9)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    draws = (p.cumsum(axis=1)[None] < rng.random((800, 40, 1))).sum(axis=2)
    values = [scores.fast_detect_gpt(trace_from_logits(logits, x)) for x in draws]
    assert np.mean(values) == pytest.approx(0.0, abs=0.15)
    assert np.std(values) == pytest.approx(1.0, abs=0.15)


def test_two_model_scores_say_when_there_is_no_second_model():
    trace = trace_from_logits(np.eye(3), [0, 1, 2])
    for call in (
        lambda: scores.binoculars(trace),
        lambda: scores.fast_detect_gpt(trace, reference=True),
    ):
        with pytest.raises(nll.MissingField, match="reference=model"):
            call()


def test_binoculars_without_cross_entropy_is_undefined():
    assert "is 0" in scores.binoculars(Trace(logp=[0.0], cross_mean=[0.0])).reason
    impossible = Trace(logp=[-np.inf], cross_mean=[-np.inf], cross_var=[np.inf])
    assert np.isnan(scores.binoculars(impossible))
    assert np.isnan(scores.fast_detect_gpt(impossible, reference=True))


def test_cut_is_a_rank():
    trace = Trace(logp=[-1.0], rank=[1])
    for cut in (0, -1, float("nan")):
        with pytest.raises(nll.BadInput, match="cut"):
            scores.gltr_fraction(trace, cut=cut)


def test_npr_of_the_sheets_means():
    got = scores.npr_from_log_ranks(1.12, [1.5, 1.62, 1.44, 1.71])
    assert got == pytest.approx(1.399553571, abs=1e-8)
    assert scores.npr_from_log_ranks(1.12, [np.nan, 2.24]) == pytest.approx(2)


def test_npr_without_a_value_says_why():
    first, later = Trace(logp=[-0.1], rank=[1]), Trace(logp=[-1.0], rank=[5])
    empty, unranked = Trace(logp=[], rank=[]), Trace(logp=[-1.0], rank=[-1])
    assert "likeliest" in scores.npr(first, [later]).reason
    assert "no token" in scores.npr(empty, [later]).reason
    assert "no perturbed text" in scores.npr(later, [empty, unranked]).reason
    assert scores.npr(later, [empty, later]) == 1


def test_discrepancy_with_one_perturbed_text_counts_in_nats():
    text, other, empty = Trace(logp=[-1.0]), Trace(logp=[-3.0]), Trace(logp=[])
    assert scores.perturbation_discrepancy(text, [other]) == 2
    assert scores.perturbation_discrepancy(text, [empty, other]) == 2
    assert "no perturbed text" in scores.perturbation_discrepancy(text, [empty]).reason
    assert "no token" in scores.perturbation_discrepancy(empty, [text]).reason


def test_discrepancy_without_spread_is_undefined_unless_in_nats():
    text, other = Trace(logp=[-1.0]), Trace(logp=[-3.1])
    assert "equally likely" in scores.perturbation_discrepancy(text, [other] * 3).reason
    assert scores.perturbation_discrepancy(text, [other] * 3, normalise=False) == pytest.approx(2.1)


def test_discrepancy_of_impossible_texts():
    text, never, other = Trace(logp=[-1.0]), Trace(logp=[-np.inf]), Trace(logp=[-2.0])
    assert "probability 0" in scores.perturbation_discrepancy(text, [never, other]).reason
    assert scores.perturbation_discrepancy(text, [never], normalise=False) == np.inf
    assert "probability 0" in scores.perturbation_discrepancy(never, [never]).reason
