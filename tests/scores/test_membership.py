"""Membership scores: how many tokens count, degenerate distributions, laws."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll import scores
from nll.testing import trace_from_logits, traces
from nll.trace import Trace


@pytest.mark.parametrize(
    ("n", "k", "taken"), [(4, 0.2, 1), (100, 0.29, 29), (10, 0.3, 3), (7, 1, 7)]
)
def test_the_share_is_floored_safely_and_at_least_one(n, k, taken):
    logp = -np.arange(1.0, n + 1)
    assert scores.min_k_prob(Trace(logp=logp), k=k) == pytest.approx(np.sort(logp)[:taken].mean())


@pytest.mark.parametrize("score", [scores.min_k_prob, scores.min_k_plus_plus, scores.surp])
def test_k_is_a_share(score):
    trace = trace_from_logits(np.eye(4), [0, 1, 2, 3])
    assert "selects no token" in score(trace, k=0).reason
    for k in (-0.1, 1.01, 20, float("nan")):
        with pytest.raises(nll.BadInput, match="share"):
            score(trace, k=k)


@given(
    logp=st.lists(st.floats(-50, 0), min_size=1, max_size=40),
    k=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_min_k_is_the_mean_of_the_smallest_in_any_order(logp, k, seed):
    n = max(1, int(np.floor(k * len(logp) + 1e-9)))
    shuffled = np.random.default_rng(seed).permutation(logp)
    want = np.mean(sorted(logp)[:n])
    assert scores.min_k_prob(Trace(logp=shuffled), k=k) == pytest.approx(want)
    sure = Trace(logp=logp, entropy=np.zeros(len(logp)))
    assert scores.surp(sure, k=k) == pytest.approx(want)


@given(trace=traces(min_tokens=1, bos=True, impossible=False))
@settings(max_examples=100, deadline=None)
def test_min_k_rises_with_k_to_the_mean(trace):
    if not trace.n_scored:
        return
    for score in (scores.min_k_prob, scores.min_k_plus_plus):
        ladder = [score(trace, k=k) for k in (0.1, 0.3, 0.6, 1.0)]
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(ladder))
    assert scores.min_k_prob(trace, k=1) == pytest.approx(scores.loss_score(trace))


def test_degenerate_distributions_standardise_to_zero():
    uniform = trace_from_logits(np.zeros((3, 5)), [0, 1, 2])
    certain = trace_from_logits([[0.0, -np.inf, -np.inf]] * 2, [0, 0])
    for trace in (uniform, certain):
        assert scores.min_k_plus_plus(trace) == pytest.approx(0.0, abs=1e-9)
        assert "no variance" in scores.fast_detect_gpt(trace).reason


def test_masked_entries_and_negative_variance_do_no_harm():
    masked = trace_from_logits([[1.0, 0.0, -np.inf]], [1])
    plain = trace_from_logits([[1.0, 0.0]], [1])
    assert scores.min_k_plus_plus(masked) == pytest.approx(scores.min_k_plus_plus(plain))
    rounded = Trace(logp=[-0.5], entropy=[0.5], varentropy=[-1e-9])
    assert scores.min_k_plus_plus(rounded) == 0.0


def test_an_impossible_token_is_minus_infinity():
    trace = trace_from_logits([[0.0, -np.inf], [0.0, 0.0]], [1, 0])
    assert scores.min_k_prob(trace) == -np.inf
    assert scores.min_k_plus_plus(trace) == -np.inf
    assert scores.loss_score(trace) == -np.inf
    assert scores.zlib_score(trace) == -np.inf


def test_zlib_measures_the_answer_in_bytes_of_utf8():
    text = "Grüße, \N{WAVING HAND SIGN}"
    trace = Trace(logp=[-1.0, -3.0], text=text, spans=[[0, 5], [5, 8]])
    assert scores.zlib_score(trace) == -2.0 / len(zlib.compress(text.encode()))
    answer = Trace(logp=[-1.0, -3.0], text=text, spans=[[0, 5], [5, 8]], prompt_tokens=1)
    assert scores.zlib_score(answer) == -3.0 / len(zlib.compress(text[5:].encode()))
    assert "does not hold its text" in scores.zlib_score(Trace(logp=[-1.0])).reason
    unknown = Trace(logp=[-1.0, -3.0], text=text, prompt_tokens=1)
    assert "without spans" in scores.zlib_score(unknown).reason
    assert scores.zlib_score(unknown, text="ab") == -3.0 / len(zlib.compress(b"ab"))


def test_surp_takes_only_unlikely_tokens_met_with_confidence():
    trace = Trace(logp=[-9.0, -8.0, -0.1, -0.2], entropy=[3.0, 1.0, 0.1, 0.1])
    assert scores.surp(trace, k=0.5) == -8.0
    assert scores.surp(trace, k=0.5, max_entropy=5.0) == -8.5
    assert "below 0.5 nats" in scores.surp(trace, k=0.5, max_entropy=0.5).reason
    assert "below 1 nats" in scores.surp(trace, k=0.5, max_entropy=1.0).reason
    tied = Trace(logp=[-1.0, -1.0, -1.0, -1.0], entropy=[3.0, 1.0, 1.0, 1.0])
    assert scores.surp(tied, k=0.5) == -1.0
    unknown = Trace(logp=[-1.0, -2.0, -3.0], entropy=[np.nan, 1.0, 1.0])
    assert scores.surp(unknown, k=0.7) == -2.5
    assert "lacks a value" in scores.surp(unknown, k=1).reason
    with pytest.raises(nll.BadInput, match="max_entropy"):
        scores.surp(trace, max_entropy=float("nan"))


def one(*logp):
    return Trace(logp=list(logp))


def test_recall_is_the_ratio_of_the_means():
    assert scores.recall_score(-1.5, -2.0) == 0.75
    assert "probability 1" in scores.recall_score(-1.0, 0.0).reason
    assert "no token" in scores.recall_score(nll.Undefined("no token was scored"), -1.0).reason
    assert "impossible" in scores.recall_score(-np.inf, -np.inf).reason
    assert "lacks a value" in scores.recall_score(np.nan, -1.0).reason


def test_ratios_and_differences_without_a_value_say_why():
    assert "probability 1" in scores.lowercase_score(one(0.0), one(-1.0)).reason
    assert "no token" in scores.lowercase_score(one(-1.0), one()).reason
    assert "no token" in scores.reference_score(one(), one(-1.0)).reason
    assert scores.reference_score(one(-np.inf), one(-1.0)) == -np.inf
    assert "probability 0" in scores.reference_score(one(-np.inf), one(-np.inf)).reason


def test_empty_neighbours_are_left_out():
    text = one(-1.0)
    assert scores.neighbourhood_score(text, [one(), one(-3.0), one(-4.0)]) == 2.5
    assert "no neighbour" in scores.neighbourhood_score(text, [one()]).reason
    assert "no neighbour" in scores.neighbourhood_score(text, []).reason


def test_dc_pdd_counts_the_first_occurrence_of_each_scored_token():
    frequency = {3: 0.5, 4: 0.25}
    trace = Trace(logp=[-9.0, -1.0, -2.0, -0.1], ids=[3, 3, 4, 3], prompt_tokens=1)
    a = [np.exp(-1) * np.log(2), np.exp(-2) * np.log(4)]
    assert scores.dc_pdd(trace, token_freq=frequency, cap=9) == pytest.approx(np.mean(a))
    assert scores.dc_pdd(trace, token_freq=frequency) == pytest.approx(0.01)
    table = np.array([1, 1, 1, 0.5, 0.25])
    assert scores.dc_pdd(trace, token_freq=table, cap=9) == pytest.approx(np.mean(a))
    assert scores.dc_pdd(Trace(logp=[-np.inf], ids=[0]), token_freq=[0.5]) == 0


@pytest.mark.parametrize(
    ("frequency", "match"),
    [({}, "token 3"), ([0.1], "token_freq"), ({3: 0.0}, "smooth"), ({3: 1.5}, "at most 1"),
     ({3: np.nan}, "smooth"), (0.5, "token_freq")],
)  # fmt: skip
def test_dc_pdd_refuses_impossible_frequencies(frequency, match):
    with pytest.raises(nll.BadInput, match=match):
        scores.dc_pdd(Trace(logp=[-1.0], ids=[3]), token_freq=frequency)
    with pytest.raises(nll.BadInput, match="cap"):
        scores.dc_pdd(Trace(logp=[-1.0], ids=[3]), token_freq={3: 0.5}, cap=0)
