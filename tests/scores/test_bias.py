"""Negative bias: the sheet's counts, readouts and attention rows; symmetries between the labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import (
    answer_log_odds,
    binary_decision_report,
    debias_threshold,
    label_log_odds,
    label_readout,
    label_readout_from_logp,
    negative_attention_score,
    negative_bias,
    precision_recall_gap,
    rank_negative_heads,
)

ROWS = np.array(
    [
        [1, 0, 0, 0, 0],
        [0.5, 0.5, 0, 0, 0],
        [0.2, 0.3, 0.5, 0, 0],
        [0.1, 0.2, 0.4, 0.3, 0],
        [0.05, 0.15, 0.3, 0.25, 0.25],
    ]
)


class Table:
    """Answers from a table, whatever the prompt."""

    def __init__(self, **logp):
        self.logp = logp

    def options(self, prompt, continuations):
        return np.array([self.logp[c.strip()] for c in continuations])


def decisions(tp, fn, tn, fp):
    y = np.repeat([1, 1, 0, 0], [tp, fn, tn, fp])
    return y, np.repeat([-1.0, 1.0, 1.0, -1.0], [tp, fn, tn, fp])


def test_the_counts_of_the_sheet():
    r = binary_decision_report(*decisions(30, 70, 90, 10))
    assert (r.tp, r.fn, r.tn, r.fp, r.ties, r.invalid) == (30, 70, 90, 10, 0, 0)
    got = [r.precision, r.recall, r.precision_recall_gap, r.tnr, r.negative_bias, r.negative_ratio]
    np.testing.assert_allclose(got, [0.75, 0.3, 0.45, 0.9, 0.6, 0.8], atol=1e-12)
    np.testing.assert_allclose(
        [r.gold_negative_ratio, r.accuracy, r.f1, r.balanced_accuracy, r.over_negative],
        [0.5, 0.6, 0.428571428571, 0.6, 0.3],
        atol=1e-12,
    )


def test_the_readouts_of_the_sheet():
    one = label_readout_from_logp(-0.7, -1.2)
    assert one.log_odds == pytest.approx(0.5)
    assert one.p_negative == pytest.approx(0.622459331202, abs=1e-12)
    more = label_readout_from_logp([-0.9, -2.4], [-1.2, -2.0, -3.5])
    np.testing.assert_allclose(
        [more.logp_positive, more.logp_negative, more.p_negative],
        [-0.762011034860, -0.698586722217, 0.515850765069],
        atol=1e-11,
    )
    assert more.coverage == pytest.approx(np.exp(-0.76201103486) + np.exp(-0.698586722217))


def test_labels_are_read_from_a_model():
    model = Table(Yes=-1.2, yes=-2.0, No=-0.9, no=-2.4)
    odds = label_log_odds(model, "?", [" No", " no"], [" Yes", " yes"])
    want = np.logaddexp(-0.9, -2.4) - np.logaddexp(-1.2, -2.0)
    assert odds == pytest.approx(want)
    assert label_readout(model, "?", " No", " Yes").log_odds == pytest.approx(0.3)
    with pytest.raises(nll.BadInput, match="also begins"):
        label_readout(model, "?", [" No"], [" None"])
    with pytest.raises(nll.BadInput, match="also begins"):
        label_readout(model, "?", [" No"], [" No"])
    with pytest.raises(nll.BadInput, match="at least one wording"):
        label_readout(model, "?", [], [" Yes"])


def test_impossible_labels():
    none = label_readout_from_logp(-np.inf, -np.inf)
    assert none.coverage == 0.0
    assert "none of the label words" in none.log_odds.reason
    assert none.p_negative != none.p_negative
    assert label_readout_from_logp(-np.inf, -1).p_negative == 0.0
    assert label_readout_from_logp(-1, -np.inf).p_negative == 1.0
    with pytest.raises(nll.BadInput, match="negative label must be numbers"):
        label_readout_from_logp([0.5], [-1])
    with pytest.raises(nll.BadInput, match="no wording"):
        label_readout_from_logp([-1], [])


def test_answer_log_odds_knows_what_the_trace_kept():
    trace = nll.Trace(logp=[-1.0], top_ids=[[4, 7]], top_logp=[[-0.5, -1.0]])
    assert answer_log_odds(trace, negative_ids=[4], positive_ids=[7, 9]) == pytest.approx(0.5)
    missing = answer_log_odds(trace, negative_ids=[4], positive_ids=[9])
    assert "2 most likely" in missing.reason
    with pytest.raises(nll.BadInput, match="both labels"):
        answer_log_odds(trace, negative_ids=[4], positive_ids=[4])


def test_a_tie_is_a_yes_and_a_nan_is_no_answer():
    r = binary_decision_report([1, 0, 1, 0], [0.0, 0.0, np.nan, 2.0])
    assert (r.tp, r.fp, r.tn, r.fn, r.ties, r.invalid) == (1, 1, 1, 0, 2, 1)
    assert binary_decision_report([1, 0], [0.0, 0.1], threshold=0.1).ties == 1


def test_rates_of_an_empty_class_are_undefined():
    r = binary_decision_report([1, 1], [1.0, -1.0])
    assert r.tpr == 0.5
    for value in (r.tnr, r.negative_bias, r.balanced_accuracy, r.auroc):
        assert isinstance(value, nll.Undefined)
    r = binary_decision_report([1, 0], [1.0, 1.0])
    for value in (r.precision, r.precision_recall_gap):
        assert isinstance(value, nll.Undefined)
    assert r.negative_bias == 1.0
    empty = binary_decision_report([], [])
    assert isinstance(empty.accuracy, nll.Undefined)
    assert isinstance(negative_bias(float("nan"), 1.0), nll.Undefined)
    assert isinstance(precision_recall_gap(float("nan"), 1.0), nll.Undefined)


@pytest.mark.parametrize(("y", "x"), [([2, 0], [1, 1]), ([1], [1, 1]), ([[1]], [[1]])])
def test_bad_labels_are_refused(y, x):
    with pytest.raises(nll.BadInput, match="labels"):
        binary_decision_report(y, x)


odds = st.lists(st.tuples(st.booleans(), st.integers(-40, 40)), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(odds, st.integers(-20, 20))
def test_a_shift_moves_the_bias_and_leaves_auroc(pairs, shift):
    y = [p[0] for p in pairs]
    x = np.array([p[1] / 4 for p in pairs])
    before, after = binary_decision_report(y, x), binary_decision_report(y, x + shift)
    np.testing.assert_equal(float(after.auroc), float(before.auroc))
    if shift > 0 and before.negative_bias == before.negative_bias:
        assert after.negative_bias >= before.negative_bias - 1 - 1e-12
        assert after.tnr >= before.tnr
        assert after.tpr <= before.tpr
    moved = binary_decision_report(y, x + shift, threshold=float(shift))
    assert moved[:4] == before[:4]


@settings(max_examples=100, deadline=None)
@given(odds)
def test_swapping_the_labels_turns_the_bias_round(pairs):
    y, x = np.array([p[0] for p in pairs]), np.array([p[1] + 0.5 for p in pairs])
    a, b = binary_decision_report(y, x), binary_decision_report(~y, -x)
    assert (a.tp, a.fn) == (b.tn, b.fp)
    np.testing.assert_allclose(a.negative_bias, -b.negative_bias, atol=1e-12)
    np.testing.assert_allclose(a.mean_p_no, 1 - b.mean_p_no, atol=1e-12)


def test_over_production_of_no_in_answers_and_in_probability():
    report = binary_decision_report([1, 0, 1, 1], [0.1, 2.0, -1.0, np.inf])
    assert report.over_negative == pytest.approx(0.75 - 0.25)
    p = [1 / (1 + np.exp(-x)) for x in (0.1, 2.0, -1.0)]
    assert report.over_p_no == pytest.approx((sum(p) + 1) / 4 - 0.25)
    assert isinstance(binary_decision_report([1], [np.nan]).over_p_no, nll.Undefined)


def test_debias_threshold():
    lean = [1.0, 2.0, 3.0]
    assert debias_threshold(lean) == pytest.approx(2.0)
    assert debias_threshold(lean, 0.8) == pytest.approx(2.0 - np.log(4))
    assert isinstance(debias_threshold([]), nll.Undefined)
    with pytest.raises(nll.BadInput, match="prior"):
        debias_threshold(lean, 1.0)
    with pytest.raises(nll.BadInput, match="finite"):
        debias_threshold([np.nan])
    y, x = np.array([1, 1, 0, 0]), np.array([1.0, 1.5, 2.0, 2.5])
    assert binary_decision_report(y, x).negative_bias == 1.0
    assert binary_decision_report(y, x, debias_threshold(x)).negative_bias == 0.0


class Characters:
    """A text goes on character by character, by these probabilities whatever came before."""

    def __init__(self, **p):
        self.p = p

    def options(self, prompt, continuations):
        return [sum(np.log(self.p.get(c, 0.05)) for c in text) for text in continuations]


def test_a_terminator_keeps_longer_words_out():
    model = Characters(N=0.3, o=0.2, Y=0.4)
    ends = (".", "!")
    found = label_readout(model, "?", "No", "Y", terminators=ends)
    assert found.logp_negative == pytest.approx(np.log(0.3 * 0.2 * 0.05 * 2))
    assert found.logp_positive == pytest.approx(np.log(0.4 * 0.05 * 2))
    assert label_log_odds(model, "?", "No", "Y", terminators=ends) == found.log_odds
    assert label_readout(model, "?", "No", "Y", terminators="").coverage == pytest.approx(0.46)
    with pytest.raises(nll.BadInput, match="begins"):
        label_readout(model, "?", "No", "Y", terminators=("", "."))
    assert label_readout(model, "?", ["No"], ["None"], terminators=ends).coverage < 0.01
    with pytest.raises(nll.BadInput, match="at least"):
        label_readout(model, "?", "No", "Y", terminators=())


def test_the_attention_rows_of_the_sheet():
    assert negative_attention_score(ROWS, 1, 2) == pytest.approx(0.727804539588, abs=1e-10)
    assert negative_attention_score(ROWS, 2, 1) == pytest.approx(-0.727804539588, abs=1e-10)
    assert negative_attention_score(ROWS, 1, 2, start=4) == pytest.approx(0.311916231252, abs=1e-10)


def test_attention_of_many_heads_and_masked_rows():
    heads = np.stack([ROWS, ROWS[:, [0, 2, 1, 3, 4]]])[None]
    np.testing.assert_allclose(
        negative_attention_score(heads, 1, 2), [[0.727804539588, -0.727804539588]], atol=1e-10
    )
    masked = ROWS.copy()
    masked[3, 1:3] = 0
    assert negative_attention_score(masked, 1, 2) == pytest.approx(0.311916231252, abs=1e-10)
    masked[4, 1] = 0
    assert negative_attention_score(masked, 1, 2) == pytest.approx(0.3 * np.log(0.3e12), rel=1e-9)
    masked[4, 2] = 0
    assert isinstance(negative_attention_score(masked, 1, 2), nll.Undefined)
    assert isinstance(negative_attention_score(ROWS, 1, 4), nll.Undefined)
    with pytest.raises(nll.BadInput, match="two positions"):
        negative_attention_score(ROWS, 1, 1)
    with pytest.raises(nll.BadInput, match="two positions"):
        negative_attention_score(ROWS, 1, 5)
    with pytest.raises(nll.BadInput, match="must be"):
        negative_attention_score(ROWS[:3], 1, 2)
    with pytest.raises(nll.BadInput, match="eager"):
        negative_attention_score(ROWS * np.nan, 1, 2)
    with pytest.raises(nll.BadInput, match="start"):
        negative_attention_score(ROWS, 1, 2, start=-1)


def test_rank_negative_heads():
    scores = np.array([[[1.0, -2.0], [np.nan, 4.0]], [[3.0, 0.0], [np.nan, 6.0]]])
    ranked = rank_negative_heads(scores)
    assert [(h.layer, h.head) for h in ranked] == [(1, 1), (0, 0), (0, 1), (1, 0)]
    assert [h.score for h in ranked[:3]] == [5.0, 2.0, -1.0]
    assert np.isnan(ranked[3].score)
    with pytest.raises(nll.BadInput, match="prompts"):
        rank_negative_heads(np.zeros((0, 1, 1)))
