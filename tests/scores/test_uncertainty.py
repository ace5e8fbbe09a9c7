"""Uncertainty of a sequence: refusals and laws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

import nll
from nll import scores
from nll.testing import trace_from_logits, traces
from nll.trace import Provenance, Trace

GREEDY = Provenance(decoding="greedy", vocab_size=4)


def test_g_nll_refuses_what_was_not_decoded_greedily():
    for decoding in ("given", "sampled"):
        trace = Trace(logp=[-0.1], rank=[1], provenance=Provenance(decoding=decoding))
        for score in (scores.g_nll, scores.zero_one_uncertainty):
            value = score(trace)
            assert np.isnan(value)
            assert decoding in value.reason


def test_g_nll_has_its_long_name_too():
    trace = Trace(logp=[-0.1, -0.2], rank=[1, 1], provenance=GREEDY)
    assert scores.maximum_sequence_probability_nll(trace) == scores.g_nll(trace) == 0.1 + 0.2


def test_g_nll_refuses_a_greedy_claim_that_ranks_belie():
    trace = Trace(logp=[-0.1, -3.0, -0.2], rank=[1, 2, 1], provenance=GREEDY)
    assert "1 of 3 tokens" in scores.g_nll(trace).reason
    top = Trace(logp=[-0.7, -1.0], top_logp=[[-0.7], [-0.5]], top_ids=[[0], [0]], provenance=GREEDY)
    assert "1 of 2 tokens" in scores.g_nll(top).reason
    assert scores.g_nll(Trace(logp=[-0.7, -1.0], provenance=GREEDY)) == pytest.approx(1.7)


def test_g_nll_reads_only_the_answer():
    trace = Trace(logp=[-9.0, -0.5], rank=[7, 1], prompt_tokens=1, provenance=GREEDY)
    assert scores.g_nll(trace) == 0.5


@settings(max_examples=150, deadline=None)
@given(trace=traces(min_tokens=1, bos=True, impossible=False))
def test_sequence_measures_hang_together(trace):
    if not trace.n_scored:
        return
    total, mean = scores.sequence_nll(trace), scores.mean_nll(trace)
    assert total == pytest.approx(mean * trace.n_scored)
    assert mean == scores.sequence_nll(trace, normalize=True)
    assert scores.perplexity(trace) == pytest.approx(np.exp(mean))
    assert scores.min_token_prob(trace) == pytest.approx(np.exp(-scores.max_nll(trace)))
    assert mean <= scores.max_nll(trace) + 1e-12
    assert scores.loss_score(trace) == scores.log_likelihood(trace) == -mean
    assert scores.mean_entropy(trace) == scores.entropy_score(trace)


def test_impossible_tokens_are_infinitely_surprising():
    trace = Trace(logp=[-0.5, -np.inf])
    for score in (scores.sequence_nll, scores.mean_nll, scores.perplexity, scores.max_nll):
        assert score(trace) == np.inf
    assert scores.min_token_prob(trace) == 0.0
    assert scores.perplexity(Trace(logp=[-1e5])) == np.inf
    assert scores.perplexity(Trace(logp=[-709.5])) == pytest.approx(np.exp(709.5))


def test_certainty_is_zero_and_not_minus_zero():
    trace = Trace(logp=[0.0, 0.0], rank=[1, 1], provenance=GREEDY)
    for score in (scores.sequence_nll, scores.mean_nll, scores.g_nll, scores.max_nll):
        assert str(score(trace)) == "0.0"


def test_uniform_distribution_has_no_certainty():
    trace = trace_from_logits(np.zeros((3, 4)), [0, 1, 2], top_k=4)
    assert scores.self_certainty(trace) == pytest.approx(0.0, abs=1e-12)
    assert scores.probability_margin(trace) == pytest.approx(0.0, abs=1e-12)
    assert scores.top_k_negentropy(trace, k=4) == pytest.approx(0.0, abs=1e-12)
    assert scores.mean_entropy(trace) == pytest.approx(np.log(4))


def test_a_missing_value_at_a_scored_token_is_undefined_with_a_reason():
    trace = Trace(logp=[-1.0, -2.0], entropy=[0.5, np.nan], rank=[1, -1])
    for score in (scores.mean_entropy, scores.rank_score, scores.lrr, scores.gltr_fraction):
        assert "lacks a value" in score(trace).reason


def test_candidates_that_are_not_held_are_asked_for():
    held = dataclasses.replace(trace_from_logits(np.zeros((2, 30)), [0, 1], top_k=10))
    with pytest.raises(nll.MissingField, match="top_k=15"):
        scores.top_k_negentropy(held)
    small = trace_from_logits(np.zeros((2, 5)), [0, 1], top_k=15)
    assert "only 5 tokens" in scores.top_k_negentropy(small).reason
    with pytest.raises(nll.MissingField, match="top_k"):
        scores.probability_margin(Trace(logp=[-1.0]))


def test_tokens_with_fewer_candidates_do_not_count():
    full = [-0.1, -2.6, -4.0]
    trace = Trace(
        logp=[-0.1, -0.1], top_logp=[full, [-0.1, -2.6, -np.inf]], top_ids=[[0, 1, 2]] * 2
    )
    assert scores.top_k_negentropy(trace, k=3) == pytest.approx(0.676681558348)
    unlikely = Trace(logp=[-1.0], top_ids=[[0, 1, 2]], top_logp=[[-1000.1, -1002.6, -1004.0]])
    assert scores.top_k_negentropy(unlikely, k=3) == pytest.approx(0.676681558348)
    none = Trace(logp=[-0.1], top_logp=[[-0.1, -np.inf, -np.inf]], top_ids=[[0, 1, 2]])
    assert "no scored token has 3" in scores.top_k_negentropy(none, k=3).reason
    for k in (1, 0, 2.5, np.inf):
        with pytest.raises(nll.BadInput, match="k is"):
            scores.top_k_negentropy(trace, k=k)
    with pytest.raises(nll.BadInput, match="reduce"):
        scores.top_k_negentropy(trace, k=3, reduce="median")
