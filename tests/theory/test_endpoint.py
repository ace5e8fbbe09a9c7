"""The simulated endpoint and its audit: what each setting shows, and what it hides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.theory import LocalEndpoint, ask_row, leakage_audit, mitigation_table

H, V, N = 12, 90, 30
rng = np.random.default_rng(0)
W = rng.normal(size=(V, H))
STATES = rng.normal(size=(N, H))


def model(context):
    return W @ STATES[context]


def truth(context):
    z = model(context)
    return z - np.logaddexp.reduce(z)


WINDOW = (1, 25)


def audit(**settings):
    return leakage_audit(LocalEndpoint(model, **settings), range(N), W=W, window=WINDOW)


def test_the_endpoint_shows_what_its_settings_say():
    full = LocalEndpoint(model).query(0)
    np.testing.assert_allclose(full.values, np.sort(truth(0))[::-1])
    assert full.top == full.tokens[0] == truth(0).argmax()
    few = LocalEndpoint(model, top_k=3, decimals=2).query(0)
    np.testing.assert_allclose(few.values, np.round(np.sort(truth(0))[::-1][:3], 2))
    none = LocalEndpoint(model, top_k=0).query(0)
    assert none.values.size == 0
    assert none.top == truth(0).argmax()
    raw = LocalEndpoint(model, raw=True).query(0)
    assert raw.values[0] == model(0).max()
    noisy = LocalEndpoint(model, noise=0.5, seed=1)
    assert not np.array_equal(noisy.query(0).values, noisy.query(0).values)


def test_bias_moves_the_choice_and_only_where_allowed_the_values():
    token = int(truth(0).argmin())
    open_ = LocalEndpoint(model, top_k=2, logit_bias=True).query(0, {token: 50.0})
    assert open_.top == token
    assert open_.values[0] > -1e-9
    closed = LocalEndpoint(model, top_k=2, logit_bias=True, bias_reported=False)
    assert closed.query(0, {token: 50.0}).top == token
    np.testing.assert_array_equal(closed.query(0, {token: 50.0}).values, closed.query(0).values)
    with pytest.raises(nll.BadInput, match="does not take a logit bias"):
        LocalEndpoint(model).query(0, {token: 1.0})
    with pytest.raises(nll.BadInput, match="0 or more"):
        LocalEndpoint(model, noise=-1)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("bias", [1.0, 20.0])
def test_full_rows_come_back_through_the_bias(raw, bias):
    endpoint = LocalEndpoint(model, top_k=5, logit_bias=True, raw=raw)
    row = ask_row(endpoint, 3, bias=bias)
    assert row.by_bias
    np.testing.assert_allclose(row.values, model(3) if raw else truth(3), atol=1e-9)
    assert endpoint.queries >= 1 + -(-(V - 5) // 4)


def test_an_open_endpoint_leaks_everything():
    report = audit(logit_bias=True)
    assert report.leaks == ("dimension", "subspace", "full rows")
    assert report.hidden.dimension == H
    assert report.held_out < 1e-10
    assert report.projection_rms < 1e-10
    assert report.bias_error < 1e-9
    assert report.queries_per_row == 1.0
    assert report.unseen_tv == 0.0
    assert report.lines()[0].startswith(f"hidden size {H} ")


def test_top_k_without_bias_leaks_no_row_and_says_how_much_is_open():
    report = audit(top_k=10)
    assert report.leaks == ()
    assert report.hidden is None
    assert 0 < report.unseen_tv < 1
    assert report.lines() == ["nothing found: no full row can be had"]
    assert isinstance(report.queries_per_row, nll.Undefined)
    assert audit(top_k=0).unseen_tv == 1.0


def test_what_closes_what():
    tried = [
        {"top_k": 5, "logit_bias": True},
        {"top_k": 5, "logit_bias": True, "bias_reported": False},
        {"decimals": 4},
        {"noise": 20.0},
    ]
    table = mitigation_table(model, range(N), tried, window=WINDOW)
    found = [report.leaks for _, report in table]
    assert found[0] == ("dimension", "subspace", "full rows")
    assert found[1] == ("single values",)
    assert table[1][1].bias_error < 1e-5
    assert table[1][1].per_row == pytest.approx(31 * (V - 1), rel=0.1)
    assert found[2][0] == "dimension"
    assert found[3] == ("full rows",)
    needed = 1 + np.ceil((V - 5) / 4)  # and one more when the bias had to be raised
    assert needed <= table[0][1].queries_per_row < needed + 0.1
    assert table[3][1].lines()[0].startswith("hidden size not found: no clear dimension")
    assert table[3][1].lines()[1].startswith("leaks full rows")


def test_stored_rows_are_audited_like_answers():
    rows = np.array([truth(c) for c in range(N)])
    report = leakage_audit(rows, W=W, window=WINDOW)
    assert report.hidden.dimension == H
    assert report.projection_rms < 1e-10
    assert "not tried" in report.bias_error.reason
    few = leakage_audit(rows[:9], W=W)
    assert few.hidden.dimension is None
    assert "no dimension" in few.held_out.reason
    with pytest.raises(nll.BadInput, match="needs contexts"):
        leakage_audit(LocalEndpoint(model))


def test_a_few_rows_more_than_the_size_suffice():
    """The held-out rows must not take from the others what they need to span the image."""
    for n in range(H + 1, H + 6):
        report = leakage_audit([truth(c) for c in range(n)], W=W)
        assert report.hidden.dimension == H
        assert report.held_out < 1e-9
        assert report.projection_rms < 1e-9
    exact = leakage_audit([truth(c) for c in range(H)], W=W)
    assert exact.hidden.dimension is None
    assert exact.hidden.rank == H


def test_a_context_asked_twice_is_one_row_even_under_noise():
    endpoint = LocalEndpoint(model, noise=1e-3)
    report = leakage_audit(endpoint, [c for c in range(N) for _ in range(3)])
    assert (report.queries, report.hidden.rows) == (N, N)
    assert report.hidden.dimension == H


def test_some_columns_are_enough_and_cheaper():
    columns = np.arange(0, V, 3)
    endpoint = LocalEndpoint(model, top_k=6, logit_bias=True)
    report = leakage_audit(endpoint, range(N), W=W, tokens=columns)
    assert report.columns == len(columns)
    assert report.hidden.dimension == H
    assert report.projection_rms < 1e-9
    assert report.per_row == 1 + np.ceil((V - 6) / 5)
    assert report.queries < N * 10 < N * report.per_row
    with pytest.raises(nll.BadInput, match="ids below"):
        ask_row(endpoint, 0, tokens=[V])
    with pytest.raises(nll.BadInput, match="W must be"):
        leakage_audit(endpoint, range(N), W=W[:5], tokens=columns)


def test_columns_that_every_row_shows_are_used_without_a_bias():
    """Where most but not all values are shown, those common to all rows give the size."""
    report = leakage_audit(LocalEndpoint(model, top_k=V - 4), range(N))
    assert V > report.columns > H
    assert report.hidden.dimension == H
    assert report.rows == 0
    assert "full rows" not in report.leaks


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.floats(-9, 9), min_size=4, max_size=30),
    k=st.integers(1, 8),
    amounts=st.lists(st.floats(-15, 15), min_size=1, max_size=6),
)
def test_a_biased_answer_is_that_of_the_moved_logits(logits, k, amounts):
    """The short way over the best tokens says what the whole vocabulary would."""
    z = np.array(logits)
    bias = dict(zip(range(len(z)), amounts, strict=False))
    seen = LocalEndpoint(lambda _: z, top_k=k, logit_bias=True).query(0, bias)
    moved = z.copy()
    for token, amount in bias.items():
        moved[token] += amount
    order = np.argsort(-moved, kind="stable")[:k]
    np.testing.assert_array_equal(seen.tokens, order)
    assert seen.top == order[0]
    np.testing.assert_allclose(seen.values, (moved - np.logaddexp.reduce(moved))[order], atol=1e-9)


def test_a_changed_array_is_not_taken_for_the_context_before():
    context = np.zeros(3)
    endpoint = LocalEndpoint(lambda c: c * 1.0)
    endpoint.query(context)
    context[2] = 5
    assert endpoint.query(context).top == 2


def test_a_bias_beyond_the_limit_is_refused_and_not_needed():
    endpoint = LocalEndpoint(model, top_k=4, logit_bias=True, max_bias=30)
    with pytest.raises(nll.BadInput, match="up to 30"):
        endpoint.query(0, {1: 31.0})
    assert ask_row(endpoint, 0).by_bias
    narrow = LocalEndpoint(model, top_k=4, logit_bias=True, max_bias=0.01)
    row = ask_row(narrow, 0)
    assert not row.by_bias
    assert np.isnan(row.values).any()


def test_no_values_but_a_bias_leak_one_by_one():
    report = audit(top_k=0, logit_bias=True)
    assert report.leaks == ("single values",)
    assert report.unseen_tv == 1.0
    assert report.bias_error < 1e-5
    far = LocalEndpoint(lambda c: np.array([0.0, -5.0]), top_k=0, logit_bias=True, max_bias=2)
    assert "does not bring" in leakage_audit(far, [0]).bias_error.reason


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("bias", [0.5, 20.0, 600.0])
def test_one_shown_value_and_a_bias_give_full_rows(raw, bias):
    endpoint = LocalEndpoint(model, top_k=1, logit_bias=True, raw=raw)
    row = ask_row(endpoint, 3, bias=bias)
    assert row.by_bias
    np.testing.assert_allclose(row.values, model(3) if raw else truth(3), atol=1e-8)


def test_one_shown_value_and_a_bias_leak_everything():
    endpoint = LocalEndpoint(model, top_k=1, logit_bias=True)
    report = leakage_audit(endpoint, range(N), W=W, window=WINDOW)
    assert report.leaks == ("dimension", "subspace", "full rows")
    assert report.hidden.dimension == H
    assert report.projection_rms < 1e-8
    assert report.bias_error < 1e-9
    assert V < report.per_row < 5 * V
    assert report.per_row == pytest.approx(report.queries_per_row, rel=0.05)
    rounded = ask_row(LocalEndpoint(model, top_k=1, logit_bias=True, decimals=3), 3)
    assert np.abs(rounded.values - truth(3)).max() < 0.01
    assert audit(top_k=1).leaks == ()


def test_one_shown_value_stays_alone_where_the_bias_is_small_or_not_reported():
    for closed in ({"max_bias": 0.01}, {"bias_reported": False}):
        row = ask_row(LocalEndpoint(model, top_k=1, logit_bias=True, **closed), 0)
        assert not row.by_bias
        assert np.isnan(row.values).sum() == V - 1
    narrow = leakage_audit(LocalEndpoint(model, logit_bias=True, max_bias=0.01), range(N))
    assert "does not bring a token up" in narrow.bias_error.reason


def test_padding_that_is_impossible_is_left_out():
    def padded(context):
        return np.append(model(context), [-np.inf, -np.inf])

    taller = np.vstack([W, np.full((2, H), 7.0)])
    endpoint = LocalEndpoint(padded, logit_bias=True)
    report = leakage_audit(endpoint, range(N), W=taller, window=WINDOW)
    assert report.leaks == ("dimension", "subspace", "full rows")
    assert (report.hidden.dimension, report.columns) == (H, V)
    assert report.projection_rms < 1e-10
    assert report.bias_error < 1e-9
    few = leakage_audit(LocalEndpoint(padded, top_k=V + 1), range(N))
    assert few.unseen_tv == 0.0
