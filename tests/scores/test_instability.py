"""Instability of the next-token distribution from step to step."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

import nll
from nll.scores import (
    InstabilityMonitor,
    candidates_used,
    classify_instability,
    instability_peak,
    instability_signal,
    instability_strength,
    jensen_shannon,
    prefix_instability,
)
from nll.testing import traces
from nll.trace import Trace

ROWS = [
    {"a": 0.7, "b": 0.2, "c": 0.05},
    {"d": 0.8, "a": 0.1, "e": 0.06},
    {"a": 0.35, "b": 0.3, "f": 0.25},
    {"g": 0.99, "h": 0.005, "a": 0.001},
]
masses = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda x: sum(x) > 0.01)


def steps(rows) -> Trace:
    return Trace(
        logp=[-1.0] * len(rows),
        top_ids=[[ord(c) for c in row] for row in rows],
        top_logp=[np.log(list(row.values())) for row in rows],
    )


def by_hand(rows, k, lam):
    """Dictionaries all the way."""

    def H(d):
        return -sum(p * math.log(p) for p in d.values() if p > 0)

    kept = []
    for row in rows:
        best = sorted(row.items(), key=lambda x: (-x[1], x[0]))[:k]
        whole = sum(p for _, p in best)
        kept.append({v: p / whole for v, p in best})
    out = []
    for t, p in enumerate(kept):
        q = kept[t - 1] if t else p
        mid = {v: (p.get(v, 0) + q.get(v, 0)) / 2 for v in {*p, *q}}
        out.append(H(mid) - (H(p) + H(q)) / 2 + lam * H(p))
    return out


def test_signal_peak_and_prefixes_are_those_of_the_sheet():
    trace = steps(ROWS)
    np.testing.assert_allclose(
        instability_signal(trace, k=3),
        [0.708018976056, 1.096471414254, 1.655339416557, 0.729168162072],
        atol=1e-11,
    )
    assert instability_peak(trace, k=3) == (3, 0.75)
    np.testing.assert_allclose(
        prefix_instability(trace, [1, 2, 3, 100], k=3),
        [0.708018976056, 1.096471414254, 1.655339416557, 1.655339416557],
        atol=1e-11,
    )
    assert instability_strength(trace, k=2, lam=0.5) == pytest.approx(0.889633589287)


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-6, 1), min_size=4, max_size=4),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_signal_is_its_definition(rows, k, lam):
    np.testing.assert_allclose(
        instability_signal(steps(rows), k=k, lam=lam), by_hand(rows, k, lam), atol=1e-9
    )


def test_impossible_candidates_count_as_absent():
    rows = [{"a": 0.5, "b": 0.5, "c": 0.0}, {"c": 1.0, "a": 0.0, "d": 0.0}]
    with np.errstate(divide="ignore"):
        trace = steps(rows)
    np.testing.assert_allclose(instability_signal(trace), [math.log(2), math.log(2)], atol=1e-12)
    np.testing.assert_allclose(instability_signal(trace, lam=0), [0, math.log(2)], atol=1e-12)
    short = dataclasses.replace(
        trace, top_ids=[[97, 98, -1], [99, -1, -1]],
        top_logp=[[math.log(0.5)] * 2 + [math.nan], [0.0, math.nan, math.nan]],
    )  # fmt: skip
    np.testing.assert_allclose(instability_signal(short), instability_signal(trace), atol=1e-12)


@settings(deadline=None)
@given(masses, masses)
def test_divergence_is_symmetric_and_bounded(x, y):
    n = min(len(x), len(y))
    p, q = (np.array(v[:n]) + 1e-12 for v in (x, y))
    p, q = p / p.sum(), q / q.sum()
    value = jensen_shannon(p, q)
    assert value == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert 0 <= value <= math.log(2)
    assert jensen_shannon(p, p) == pytest.approx(0, abs=1e-12)
    assert value == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-7)


def test_divergence_of_disjoint_distributions_is_ln_2():
    assert jensen_shannon([1, 0, 0], [0, 0.5, 0.5]) == pytest.approx(0.693147180560, abs=1e-12)
    for bad in (([1, 0], [1]), ([0.5, 0.6], [1, 0]), ([-0.5, 1.5], [1, 0]), ([], [])):
        with pytest.raises(nll.BadInput, match="distribution"):
            jensen_shannon(*bad)


@settings(deadline=None)
@given(traces(min_tokens=1, top_k=8), st.sampled_from([1, 3, None]))
def test_laws_of_the_signal(trace, k):
    signal = instability_signal(trace, k=k)
    assert (np.isnan(signal) == ~trace.scored).all()
    held = signal[trace.scored]
    shift = instability_signal(trace, k=k, lam=0)[trace.scored]
    if not held.size:
        return
    assert (shift >= 0).all()
    assert (shift <= math.log(2)).all()
    assert shift[0] == 0
    assert (held <= math.log(2) + math.log(k or 8) + 1e-9).all()
    assert instability_strength(trace, k=k) == held.max()
    so_far = prefix_instability(trace, range(1, len(held) + 1), k=k)
    assert (np.diff(so_far) >= 0).all()
    assert so_far[-1] == held.max()
    if k is None:
        np.testing.assert_allclose(held - shift, trace.values("entropy"), atol=1e-9)


def test_ties_at_the_cut_go_to_the_lowest_id():
    trace = Trace(logp=[-1.0], top_ids=[[7, 3, 5]], top_logp=[np.log([0.5, 0.25, 0.25])])
    other = Trace(logp=[-1.0], top_ids=[[5, 7, 3]], top_logp=[np.log([0.25, 0.5, 0.25])])
    following = {"top_ids": [[3, 5, 9]], "top_logp": [np.log([0.6, 0.3, 0.1])]}
    got = [
        instability_signal(
            Trace(
                logp=[-1.0, -1.0],
                top_ids=np.vstack([t.top_ids, following["top_ids"]]),
                top_logp=np.vstack([t.top_logp, following["top_logp"]]),
            ),
            k=2,
        )
        for t in (trace, other)
    ]
    np.testing.assert_array_equal(*got)


def test_how_many_candidates_were_used():
    trace = Trace(
        logp=[math.nan, -1.0, -1.0, -1.0],
        top_ids=[[-1, -1, -1], [4, 5, 6], [4, 5, -1], [4, 5, 6]],
        top_logp=[[math.nan] * 3, [-1.0, -2.0, -3.0], [-1.0, -2.0, math.nan], [-1, -math.inf, -9]],
    )
    np.testing.assert_array_equal(candidates_used(trace), [0, 3, 2, 2])
    np.testing.assert_array_equal(candidates_used(trace, k=2), [0, 2, 2, 2])
    np.testing.assert_array_equal(candidates_used(trace, k=None), [0, 3, 2, 2])
    with pytest.raises(nll.BadInput, match="candidates"):
        candidates_used(trace, k=0)


def test_a_trace_without_candidates_is_refused():
    empty = Trace(logp=[-1.0, -1.0], top_ids=np.zeros((2, 0)), top_logp=np.zeros((2, 0)))
    with pytest.raises(nll.MissingField, match="no candidates"):
        instability_strength(empty)
    assert instability_strength(steps(ROWS), k=2.0) == instability_strength(steps(ROWS), k=2)


def test_the_full_vocabulary_must_be_there_to_be_used():
    with pytest.raises(nll.MissingField, match="full vocabulary"):
        instability_signal(steps(ROWS), k=None)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_short_traces(n):
    trace = steps(ROWS[:n]) if n else Trace(logp=[], top_ids=[], top_logp=[])
    step, position = instability_peak(trace)
    if n == 0:
        assert step is None
        assert instability_strength(trace).reason == "no token was scored"
        assert np.isnan(prefix_instability(trace, [1, 2])).all()
    else:
        assert step == n
    if n < 3:
        assert position != position
        assert position.reason
    else:
        assert position == 1


def test_classes_of_instability():
    low = {"a": 0.98, "b": 0.01, "c": 0.01}
    high = {"a": 0.4, "b": 0.3, "c": 0.3}
    names = []
    for at in range(6):
        rows = [low] * 6
        rows[at] = high
        names.append(classify_instability(steps(rows), 1.0))
    assert names == ["corrective"] * 2 + ["intermediate"] * 2 + ["destructive"] * 2
    assert classify_instability(steps([low] * 6), 1.0) == "stable"
    assert classify_instability(steps([high]), 0.5) == "undefined"
    late = [low] * 5 + [high]
    assert classify_instability(steps(late), 1.0, early=0, late=1) == "intermediate"


def test_wrong_options_are_refused():
    trace = steps(ROWS)
    for options in ({"k": 0}, {"k": 2.5}, {"lam": -1.0}, {"lam": math.inf}):
        with pytest.raises(nll.BadInput):
            instability_signal(trace, **options)
    with pytest.raises(nll.BadInput, match="window"):
        prefix_instability(trace, [0])
    with pytest.raises(nll.BadInput, match="window"):
        instability_strength(trace, window=0)
    with pytest.raises(nll.BadInput, match="cuts"):
        classify_instability(trace, 1.0, early=0.9)


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-6, 1), min_size=1, max_size=5),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 5),
)
def test_a_monitor_says_step_by_step_what_the_signal_says_at_the_end(rows, k):
    monitor = InstabilityMonitor(k=k, lam=0.5)
    got = [monitor.update([ord(c) for c in row], np.log(list(row.values()))) for row in rows]
    np.testing.assert_allclose(got, by_hand(rows, k, 0.5), atol=1e-9)
    assert monitor.strength == max(got)
    assert monitor.peak == got.index(max(got)) + 1
    assert monitor.steps == len(rows)


def test_a_monitor_needs_candidates():
    monitor = InstabilityMonitor()
    assert monitor.strength.reason == "no step was given"
    assert monitor.peak is None
    for ids, logp in (([], []), ([1], [-1.0, -2.0]), ([[1]], [[-1.0]])):
        with pytest.raises(nll.BadInput, match="vectors alike"):
            monitor.update(ids, logp)
    assert monitor.steps == 0


@pytest.mark.parametrize("k", [3, 15, 50])
def test_comparing_all_pairs_and_sorting_give_the_same(k, monkeypatch):
    draw = np.random.default_rng(k)
    n = 40
    ids = np.stack([draw.permutation(k + 5)[:k] for _ in range(n)])
    ids[3, -1] = -1  # a candidate that is absent
    logp = np.sort(-draw.exponential(2.0, (n, k)), axis=1)[:, ::-1]
    trace = Trace(logp=np.full(n, -1.0), top_ids=ids, top_logp=logp)
    pairs = instability_signal(trace, k=k)
    monkeypatch.setattr("nll.scores._instability.FEW", 0)
    np.testing.assert_allclose(pairs, instability_signal(trace, k=k), rtol=1e-12)
