"""Scores of two models' logits: the sheet's numbers, the traces' numbers, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import nll
from nll import scores
from nll.scores import binoculars_from_logits, fast_detect_gpt_from_logits
from nll.testing import trace_from_logits

LOGITS = [[1, 0, 2, -1, 0.5], [0, 0, 3, 0, -2], [2, 1.5, 1, 0.5, 0], [-1, 4, 0, 0, 1]]
OTHER = [[0.8, 0.1, 1.5, -0.5, 0.7], [0.2, -0.1, 2, 0.3, -1], [1, 1.5, 1.2, 0.5, 0.4],
         [-0.5, 3, 0.5, 0.2, 0.8]]  # fmt: skip
IDS = [0, 2, 4, 3]


def test_the_numbers_of_the_sheet():
    assert fast_detect_gpt_from_logits(LOGITS, IDS) == pytest.approx(-2.869528371, abs=1e-8)
    assert fast_detect_gpt_from_logits(LOGITS, IDS, OTHER) == pytest.approx(-1.376351821, abs=1e-8)
    assert binoculars_from_logits(LOGITS, OTHER, IDS) == pytest.approx(1.643957570, abs=1e-8)


def test_logits_and_traces_agree():
    rng = np.random.default_rng(1)
    mine, other = rng.normal(size=(2, 9, 30)) * 3
    ids = rng.integers(30, size=9)
    trace = trace_from_logits(mine, ids, reference_logits=other)
    assert fast_detect_gpt_from_logits(mine, ids) == pytest.approx(scores.fast_detect_gpt(trace))
    assert fast_detect_gpt_from_logits(mine, ids, other) == pytest.approx(
        scores.fast_detect_gpt(trace, reference=True)
    )
    assert binoculars_from_logits(mine, other, ids) == pytest.approx(scores.binoculars(trace))


@pytest.mark.parametrize("size", [2, 3, 5, 7, 10, 49, 5000])
@pytest.mark.parametrize("level", [0.0, 0.3, -7.1])
def test_distributions_without_variance_have_no_curvature(size, level):
    """The rounding of ln V and of its mean must not pass for a variance."""
    flat = np.full((4, size), level)
    ids = [0, 1, 1, 0]
    assert "no variance" in fast_detect_gpt_from_logits(flat, ids).reason
    assert "no variance" in fast_detect_gpt_from_logits(flat, ids, flat + 1).reason
    trace = trace_from_logits(flat, ids, reference_logits=flat + 1)
    np.testing.assert_array_equal(trace.varentropy, 0.0)
    np.testing.assert_array_equal(trace.cross_var, 0.0)
    assert "no variance" in scores.fast_detect_gpt(trace).reason


def test_a_small_variance_is_one():
    sure = np.array([[60.0, 0.0, 0.0]])
    rest = 2 * np.exp(-60)
    z = (0 + rest * 60) / (60 * np.sqrt(rest))  # of the likeliest token, to first order
    assert fast_detect_gpt_from_logits(sure, [0]) == pytest.approx(z, rel=1e-6)
    nearly = np.array([[1e-9, 0.0, 0.0]])
    assert fast_detect_gpt_from_logits(nearly, [0]) == pytest.approx(np.sqrt(2), rel=1e-5)


def test_padding_rows_of_one_vocabulary_are_cut():
    padded = np.hstack([OTHER, np.full((4, 3), 9.0)])
    assert binoculars_from_logits(LOGITS, padded, IDS) == binoculars_from_logits(LOGITS, OTHER, IDS)
    assert fast_detect_gpt_from_logits(LOGITS, IDS, padded) == fast_detect_gpt_from_logits(
        LOGITS, IDS, OTHER
    )


def test_compat_averages_the_cross_entropy_over_one_row_more():
    last = [0.0, 1.0, 2.0, 3.0, 4.0]
    strict = binoculars_from_logits([*LOGITS, last], [*OTHER, last], [*IDS, 0])
    official = binoculars_from_logits([*LOGITS, last], [*OTHER, last], IDS, compat=True)
    p = np.exp(last) / np.exp(last).sum()
    cross = (4 * 1.316284020 - (p * np.log(p)).sum()) / 5
    assert official == pytest.approx(2.163915079 / cross, abs=1e-8)
    assert official != strict


def test_undefined_cases_have_reasons():
    none = np.empty((0, 5))
    assert "no token" in fast_detect_gpt_from_logits(none, []).reason
    assert "no token" in binoculars_from_logits(none, none, []).reason
    assert "no variance" in fast_detect_gpt_from_logits([[1.0, 1.0]], [0]).reason
    certain = [[0.0, -np.inf]]
    assert "cross-entropy is 0" in binoculars_from_logits(certain, certain, [0]).reason
    assert "impossible" in fast_detect_gpt_from_logits(certain, [0], [[0.0, 0.0]]).reason


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((LOGITS, OTHER, IDS[:3]), r"\(T, V\)"),
        ((LOGITS[:3], OTHER, IDS), r"\(T, V\)"),
        ((LOGITS[0], OTHER[0], IDS), r"\(T, V\)"),
        ((LOGITS, OTHER, [0, 2, 5, 3]), "0 to 4"),
        ((LOGITS, OTHER, [0, 2, -1, 3]), "0 to 4"),
    ],
)
def test_wrong_shapes_are_refused(args, match):
    with pytest.raises(nll.BadInput, match=match):
        binoculars_from_logits(*args)
