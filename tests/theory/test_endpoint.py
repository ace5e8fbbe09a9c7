"""The simulated endpoint and its audit: what each setting shows, and what it hides."""

from __future__ import annotations

import numpy as np
import pytest

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
    settings = [
        {"top_k": 5, "logit_bias": True},
        {"top_k": 5, "logit_bias": True, "bias_reported": False},
        {"decimals": 4},
        {"noise": 20.0},
    ]
    table = mitigation_table(model, range(N), settings, window=WINDOW)
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
