"""Every score gives the numbers of its paper's sheet."""

from __future__ import annotations

import numpy as np
import pytest

import nll.scores
from nll._declare import Request
from nll.testing import trace_from_logits
from tests.scores.oracles import build, cases, expectations

CASES = dict(cases())


@pytest.mark.parametrize(
    ("case", "name", "parameters", "value"),
    expectations(),
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_score_is_what_the_paper_says(case, name, parameters, value):
    got = Request(nll.declarations()[name], parameters, name)(build(CASES[case]))
    np.testing.assert_allclose(got, value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", [label for label, case in CASES.items() if "fields" in case])
def test_exact_trace_has_the_fields_of_the_sheet(case):
    trace = build(CASES[case])
    for name, value in CASES[case]["fields"].items():
        np.testing.assert_allclose(getattr(trace, name), value, rtol=0, atol=1e-8, err_msg=name)


def test_gltr_fractions_are_the_three_fractions():
    ranks = np.array([1, 10, 11, 100, 101, 1000, 1001, 5000])
    trace = nll.Trace(logp=-np.ones(8), rank=ranks)
    assert nll.scores.gltr_fractions(trace) == (2 / 8, 4 / 8, 6 / 8)
    assert nll.scores.gltr_fractions(trace, cuts=(1,)) == (1 / 8,)


@pytest.mark.parametrize("order", [0, 0.3, 1, 2.0, 7.5, np.inf])
def test_renyi_from_logits_agrees_with_the_trace(order):
    logits = np.array([[2, 1, 0, -1, 0.5], [0, 0, 0, 0, 0], [9, 0, -3, 1, 1]])
    betas = (order,) if 0 < order < np.inf else ()
    trace = trace_from_logits(logits, [0, 1, 2], betas=betas, top_k=1)
    np.testing.assert_allclose(
        nll.scores.renyi_from_logits(logits, order),
        nll.scores.renyi_entropy(trace, order=order),
        atol=1e-12,
    )


def test_renyi_from_logits_leaves_impossible_tokens_out():
    logits = [0.0, 0.0, -np.inf]
    for order in (0, 0.5, 1, 2, np.inf):
        assert nll.scores.renyi_from_logits(logits, order) == pytest.approx(np.log(2))
    with pytest.raises(nll.BadInput, match="order"):
        nll.scores.renyi_from_logits(logits, -1)
