"""Step-length confounding: the sheet's documents, the exact mixture law, and known truth."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import (
    aslec_casl,
    aslec_drop,
    fit_aslec_casl,
    local_logp,
    mean_logp,
    select_top_k,
    split_steps,
    step_drop,
    step_length_report,
    step_parts,
    step_spans,
    top_k_entropy,
)
from nll.scores._selection import LAST_BLANK, LINE, _meets

DOCUMENTS = {
    "A": ([3, 4], [-2, -0.5, -0.25, -3, -0.125, -0.5, -0.375]),
    "B": ([2, 2, 2], [-1.5, -0.75, -2.5, -0.25, -4, -1]),
    "C": ([6], [-3.5, -0.25, -0.5, -0.125, -1, -0.625]),
    "D": ([1, 5], [-2.25, -1.75, -0.5, -0.375, -0.25, -0.875]),
    "E": ([2, 3, 1, 2], [-1, -0.5, -2, -1.25, -0.25, -5, -3, -0.125]),
    "G": ([4, 4], [-0.75, -0.25, -0.125, -0.0625, -1.75, -0.5, -0.5, -0.25]),
}


def document(lengths, logp):
    ends = np.cumsum(lengths)
    return nll.Trace(logp=np.array(logp, dtype=float)), np.stack([ends - lengths, ends], axis=1)


POOL = [document(*d) for d in DOCUMENTS.values()]


def test_the_documents_of_the_sheet():
    np.testing.assert_allclose(
        [aslec_drop(*d) for d in POOL],
        [-0.35, -0.666666667, -0.5, -0.5, -0.53125, -0.28125],
        atol=1e-9,
    )
    np.testing.assert_allclose(
        [aslec_drop(*d, skip=2) for d in POOL],
        [-0.375, np.nan, -0.5625, -0.5, -0.25, -0.234375],
        atol=1e-9,
    )
    assert "head of a step" in aslec_drop(*POOL[1], skip=2).reason
    np.testing.assert_allclose(
        [local_logp(step_parts(*d).step_means) for d in POOL],
        [-0.958333333, -1.666666667, -1.0, -1.5, -2.119791667, -0.5234375],
        atol=1e-9,
    )


def test_the_fit_of_the_sheet():
    parts = [step_parts(*d) for d in POOL]
    firsts = [-2.5, -2.666666667, -3.5, -2, -2.75, -1.25]
    np.testing.assert_allclose([p.first for p in parts], firsts, atol=1e-9)
    shares = [0.285714286, 0.5, 0.166666667, 0.333333333, 0.5, 0.25]
    np.testing.assert_allclose([p.share for p in parts], shares, atol=1e-9)
    fit = fit_aslec_casl(POOL)
    np.testing.assert_allclose(
        [fit.intercept, fit.beta_non, fit.beta_first, fit.gamma],
        [0.547118744, 0.357647538, 0.271016008, -2.500832971],
        atol=1e-8,
    )
    assert fit.mean_gap == pytest.approx(np.mean([p.first - p.other for p in parts]))
    adjusted = [-0.249762008, -0.416250181, -0.583194505, -0.166389010, -0.390208515, 0.101770743]
    np.testing.assert_allclose([fit.adjust(*d) for d in POOL], adjusted, atol=1e-8)
    np.testing.assert_allclose(aslec_casl(POOL), adjusted, atol=1e-8)


def test_a_fit_per_group_is_the_fit_of_that_group_alone():
    rng = np.random.default_rng(0)
    others = [document([3, 1, 4], -rng.gamma(1, 1, 8)) for _ in range(6)]
    others = [document(rng.integers(2, 6, 3), -rng.gamma(1, 1, 20)) for _ in range(9)]
    got = aslec_casl(POOL + others, groups=["a"] * 6 + ["b"] * 9)
    np.testing.assert_array_equal(got, [*aslec_casl(POOL), *aslec_casl(others)])


def test_a_fit_is_refused_where_there_is_none():
    with pytest.raises(nll.BadInput, match="needs 5; use aslec_drop"):
        fit_aslec_casl(POOL[:4])
    same_share = [document([3, 3], -np.random.default_rng(i).gamma(1, 1, 6)) for i in range(9)]
    with pytest.raises(nll.BadInput, match="collinear"):
        fit_aslec_casl(same_share)
    empty = document([1, 1], [-1, -2])
    assert fit_aslec_casl([*POOL, empty]).n == 6
    assert fit_aslec_casl(POOL).adjust(*empty) != fit_aslec_casl(POOL).adjust(*empty)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    skip=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_mean_is_a_mixture_of_heads_and_others(lengths, skip, seed):
    logp = -np.random.default_rng(seed).gamma(1, 1, sum(lengths))
    parts = step_parts(*document(lengths, logp), skip=skip)
    heads = sum(min(n, skip) for n in lengths)
    assert parts.share == pytest.approx(heads / sum(lengths))
    if heads == sum(lengths):
        assert parts.other != parts.other
        assert parts.all_mean == pytest.approx(parts.first)
    else:
        mixed = (1 - parts.share) * parts.other + parts.share * parts.first
        assert parts.all_mean == pytest.approx(mixed, abs=1e-12)


def test_an_unscored_first_token_is_skipped_in_means_and_kept_in_lengths():
    trace = nll.Trace(logp=np.array([np.nan, -1, -3, -9.0, -5]))
    parts = step_parts(trace, [(0, 3), (3, 5)])
    assert (parts.other, parts.first, parts.share) == (-3.0, -9.0, 0.4)
    assert parts.step_length == 2.5
    np.testing.assert_array_equal(parts.step_means, [-2, -7])


@pytest.mark.parametrize("spans", [[(0, 2), (1, 3)], [(0, 9)], [(2, 2)], [(-1, 2)], [(2, 1)]])
def test_wrong_spans_are_refused(spans):
    with pytest.raises(nll.BadInput, match="spans must be"):
        aslec_drop(nll.Trace(logp=-np.ones(4)), spans)


def test_no_steps_and_no_head_tokens():
    nothing = nll.Trace(logp=np.empty(0))
    assert aslec_drop(nothing, []).reason == "no token was scored"
    with pytest.raises(nll.BadInput, match="skip"):
        aslec_drop(*POOL[0], skip=0)


def test_split_steps():
    steps = ["We add 2. ", "Then? ", "Yes. ", "Done"]
    assert split_steps("We add 2. Then? Yes. Done") == steps
    assert split_steps("") == []
    assert split_steps("3.5 and 2.") == ["3.5 and 2."]
    assert split_steps("a\n\nb\n", LINE) == ["a\n\n", "b\n"]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab.? \n", max_size=40))
def test_steps_joined_are_the_text(text):
    assert "".join(split_steps(text)) == text


def spelled(pieces, *, prompt=0):
    ends = np.cumsum([len(p) for p in pieces])
    starts = ends - [len(p) for p in pieces]
    return nll.Trace(
        logp=-np.arange(1.0, len(pieces) + 1),
        text="".join(pieces),
        spans=np.stack([starts, ends], axis=1),
        prompt_tokens=prompt,
    )


def test_step_spans_follow_the_characters():
    trace = spelled(["", "We", " add", " 2", ".", " Then", "?", " Yes", ".", " Done", ""])
    expected = [(1, 5), (5, 7), (7, 9), (9, 10)]
    np.testing.assert_array_equal(step_spans(trace), expected)
    behind = spelled(["Q. ", "Q", "We", " add", ".", " Then", " x"], prompt=2)
    np.testing.assert_array_equal(step_spans(behind), [(2, 5), (5, 7)])
    np.testing.assert_array_equal(step_spans(behind, "We add. Then x"), [(2, 5), (5, 7)])
    assert step_drop(behind) == pytest.approx(-np.mean([4, 5, 7]))
    with pytest.raises(nll.BadInput, match="not the trace's answer"):
        step_spans(behind, "We add.")
    by_word = step_spans(behind, splitter=lambda t: [t[:2], t[2:]])
    np.testing.assert_array_equal(by_word, [(2, 3), (3, 7)])
    with pytest.raises(nll.BadInput, match="keep every character"):
        step_spans(behind, splitter=str.split)
    assert step_spans(spelled(["a"], prompt=1)).shape == (0, 2)
    assert step_spans(spelled(["", ""])).shape == (0, 2)


def test_top_k_entropy_refuses_what_it_cannot_know():
    trace = nll.Trace(logp=[-1.0], top_ids=[[0, 1]], top_logp=[[-1.0, -1.0]])
    assert top_k_entropy(trace, k=2) == pytest.approx(np.log(2))
    with pytest.raises(nll.BadInput, match="top_k=5"):
        top_k_entropy(trace)
    with pytest.raises(nll.BadInput, match="1 or more"):
        top_k_entropy(trace, k=0)


def test_select_top_k():
    scores, groups = [1, 3, 3, np.nan, 5, np.nan], list("aaabbc")
    np.testing.assert_array_equal(select_top_k(scores, groups, 1), [1, 4, 5])
    np.testing.assert_array_equal(select_top_k(scores, groups, 2), [1, 2, 3, 4, 5])
    with pytest.raises(nll.BadInput, match="k must be"):
        select_top_k(scores, groups, 0)
    with pytest.raises(nll.BadInput, match="5 groups for 6"):
        select_top_k(scores, groups[:5], 1)


def test_a_pool_whose_quality_does_not_depend_on_step_length():
    """A simulation like the sheet's: the plain mean follows step length, DROP and CASL do not."""
    rng = np.random.default_rng(0)
    pool = []
    for _ in range(300):
        lengths = rng.poisson(rng.uniform(4, 24), 12) + 2
        trace, spans = document(lengths, -rng.gamma(0.35, 1.3, lengths.sum()))
        logp = trace.logp.copy()
        logp[spans[:, 0]] = -rng.gamma(2, 1.1, len(spans))
        pool.append((nll.Trace(logp=logp), spans))
    scores = {
        "M": [mean_logp(t) for t, _ in pool],
        "DROP": [aslec_drop(*d) for d in pool],
        "CASL": aslec_casl(pool),
    }
    report = step_length_report(pool, scores)
    fit = fit_aslec_casl(pool)
    assert report.overall["M"] > 0.4
    assert abs(report.overall["DROP"]) < 0.12
    assert abs(report.overall["CASL"]) < 0.12
    assert fit.r2 > 0.95
    assert fit.gamma == pytest.approx(fit.mean_gap, abs=0.3)
    assert np.corrcoef(scores["DROP"], scores["CASL"])[0, 1] > 0.8
    assert report.within == pytest.approx(report.overall)
    assert report.head_logp < report.other_logp - 1


def test_step_length_report_by_group():
    pool = [document([n], -np.ones(n)) for n in (2, 4, 6, 3, 9)]
    report = step_length_report(pool, {"s": [1, 2, 3, 2, 1]}, groups=list("aaabb"))
    assert report.step_length == pytest.approx(4.8)
    assert report.within["s"] == pytest.approx(0.0)  # +1 in a, -1 in b
    assert report.picked["s"] == pytest.approx(4.5)
    flat = step_length_report(pool, {"s": np.ones(5)})
    assert flat.overall["s"] != flat.overall["s"]
    with pytest.raises(nll.BadInput, match="score 's'"):
        step_length_report(pool, {"s": [1.0]})


@settings(deadline=None)
@given(
    st.text("ab \n\t\u2003\u3000\x1c\U0001f600", max_size=20),
    st.lists(st.tuples(st.integers(0, 22), st.integers(0, 6)), min_size=1, max_size=8),
)
def test_a_token_meets_its_first_solid_character(text, drawn):
    """Against the definition, one token at a time; spans may be empty or leave the text."""
    spans = np.array([(a, a + n) for a, n in drawn])
    for (a, b), found in zip(spans, _meets(text, spans), strict=True):
        piece = text[a:b]
        solid = [a + i for i, c in enumerate(piece) if not c.isspace()]
        assert found == (solid[0] if solid else a + max(len(piece) - 1, 0))


def test_no_white_space_lies_beyond_the_last_blank():
    blanks = [code for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    assert blanks[-1] == LAST_BLANK
