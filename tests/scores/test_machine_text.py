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
