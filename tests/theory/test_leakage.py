"""What answers give away: the sheet's numbers, and random models whose size is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.theory import (
    align_projection,
    complete_row,
    hidden_dimension,
    identified_set_tv,
    image_residual,
    linear_cka,
    linear_map_r2,
    logprob_by_bisection,
    logprobs_from_bias,
    output_subspace,
)

W = np.array([[1, 0], [0, 1], [1, 1], [2, -1], [-1, 0.5], [0.5, -2]])
G = np.array([[1, 2], [0.5, -1], [-1.5, 0.25], [2, 1], [0, -0.75]])
LOGITS = G @ W.T
ROW = np.array([3, 1, 0.5, -2, -4, 0])


def log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)


def random_answers(*, h=24, n=48, v=200, seed=0, bias=False):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(v, h))
    return w, rng.normal(size=(n, h)) @ w.T + (rng.normal(size=v) if bias else 0)


def test_the_singular_values_of_the_sheet():
    raw = hidden_dimension(LOGITS, center=False)
    np.testing.assert_allclose(raw.singular_values[:2], [7.014980145, 6.129543504], atol=1e-8)
    assert (raw.dimension, raw.rank) == (2, 2)
    logp = log_softmax(LOGITS)
    uncentred = hidden_dimension(logp, center=False)
    np.testing.assert_allclose(
        uncentred.singular_values[:3], [15.193406700, 6.000174400, 5.404319180], atol=1e-8
    )
    assert (uncentred.dimension, uncentred.rank) == (3, 3)
    centred = hidden_dimension(logp)
    np.testing.assert_allclose(centred.singular_values[:2], [6.470362510, 5.581221550], atol=1e-8)
    assert (centred.dimension, centred.rank) == (2, 2)


def test_the_projection_of_the_sheet():
    found = output_subspace(LOGITS, 2)
    assert found.shape == (6, 2)
    assert align_projection(found, W).rms < 1e-12
    from_logp = output_subspace(log_softmax(LOGITS), 2, center=True)
    assert align_projection(from_logp, W - W.mean(axis=0)).rms < 1e-12
    assert align_projection(from_logp, W).rms > 0.1


@settings(max_examples=30, deadline=None)
@given(h=st.integers(2, 30), seed=st.integers(0, 99), bias=st.booleans(), moved=st.booleans())
def test_the_size_of_a_random_model_is_found(h, seed, bias, moved):
    _, z = random_answers(h=h, n=2 * h + 3, v=4 * h + 9, seed=seed, bias=bias)
    z = log_softmax(z) if moved else z
    found = hidden_dimension(z)
    assert found.dimension == h + bias
    assert found.gap > 1e6
    assert hidden_dimension(z, window=(1, 2 * h)).dimension == h + bias
    again = hidden_dimension(np.repeat(z, 3, axis=0))
    assert (again.dimension, again.rows) == (h + bias, 2 * h + 3)


def test_a_common_direction_is_not_taken_for_the_size():
    _, z = random_answers(v=2000)
    z = z + 500 * np.random.default_rng(5).normal(size=2000)  # a mean that all rows share
    noisy = z + 0.1 * np.random.default_rng(6).normal(size=z.shape)
    assert hidden_dimension(noisy, window=(1, 40)).dimension == 1
    assert hidden_dimension(noisy).dimension == 25
    assert hidden_dimension(noisy).window == (8, 43)


def test_too_few_rows_give_no_dimension():
    _, z = random_answers(h=60, n=40)
    few = hidden_dimension(z)
    assert few.dimension is None
    assert few.rank == 40
    assert "ask more contexts" in few.reason
    assert hidden_dimension(z[:1]).dimension is None
    assert hidden_dimension(np.ones((5, 5))).dimension is None


@pytest.mark.parametrize(("n", "h"), [(4, 12), (8, 12), (12, 12), (20, 40), (31, 40), (5, 5)])
@pytest.mark.parametrize("shared", [5, 50, 5000])
def test_what_few_contexts_share_is_not_taken_for_the_size(n, h, shared):
    rng = np.random.default_rng(h)
    w, states = rng.normal(size=(90, h)), rng.normal(size=(n, h))
    found = hidden_dimension((states + shared * rng.normal(size=h)) @ w.T)
    assert found.dimension is None
    assert "not enough queries" in found.reason
    assert found.rank == n


@pytest.mark.parametrize(("n", "h"), [(24, 1), (24, 3), (20, 8), (30, 5)])
def test_small_sizes_are_found_under_noise_whatever_is_shared(n, h):
    rng = np.random.default_rng(n)
    w, states = rng.normal(size=(90, h)), rng.normal(size=(n, h)) + 5 * rng.normal(size=h)
    found = hidden_dimension(states @ w.T + 0.01 * rng.normal(size=(n, 90)))
    assert found.dimension == h


def test_decimals_and_noise_hide_the_dimension_in_the_end():
    _, z = random_answers(v=2000)
    logp = log_softmax(z)
    assert hidden_dimension(np.round(logp, 3)).dimension == 24
    assert hidden_dimension(np.round(logp, -1)).dimension is None
    noise = np.random.default_rng(1).normal(size=z.shape)
    assert hidden_dimension(logp + 0.01 * noise).dimension == 24
    hidden = hidden_dimension(logp + 5 * noise)
    assert hidden.dimension is None
    assert hidden.gap < 3


@pytest.mark.parametrize("bad", [[[1.0, np.inf]], [[np.nan, 0]], [1.0, 2.0], np.zeros((0, 3))])
def test_rows_that_are_not_full_are_refused(bad):
    with pytest.raises(nll.BadInput, match="answers"):
        hidden_dimension(bad)


def test_bad_arguments_are_refused():
    with pytest.raises(nll.BadInput, match="window"):
        hidden_dimension(LOGITS, window=(0, 3))
    with pytest.raises(nll.BadInput, match="h must be"):
        output_subspace(LOGITS, 7)
    with pytest.raises(nll.BadInput, match="do not compare"):
        align_projection(W, W[:3])


def test_a_few_values_complete_a_row():
    _, z = random_answers(h=5, n=12, v=40)
    image = output_subspace(z, 5)
    at = [3, 9, 14, 20, 33, 38]
    np.testing.assert_allclose(complete_row(image, at, z[0][at]), z[0], atol=1e-9)
    with pytest.raises(nll.BadInput, match="fix 4 of 5"):
        complete_row(image, at[:4], z[0][at[:4]])
    with pytest.raises(nll.BadInput, match="equally many"):
        complete_row(image, at, z[0][:2])


def test_the_image_tells_models_apart():
    w, z = random_answers()
    image = output_subspace(z[:40], 24)
    assert image_residual(z[40:], image) < 1e-12
    tuned = w + 0.01 * np.random.default_rng(3).normal(size=w.shape)
    states = np.linalg.lstsq(w, z[40:].T, rcond=None)[0].T
    assert 0.005 < image_residual(states @ tuned.T, image) < 0.05
    _, other = random_answers(seed=9)
    assert image_residual(other, image) > 0.5
    centred = output_subspace(log_softmax(z[:40]), 24, center=True)
    assert image_residual(log_softmax(z[40:]), centred, center=True) < 1e-12
    with pytest.raises(nll.BadInput, match="do not fit"):
        image_residual(z[:, :10], image)


def test_the_bias_of_the_sheet():
    true = log_softmax(ROW)
    np.testing.assert_allclose(
        true,
        [-0.242834156, -2.242834156, -2.742834156, -5.242834156, -7.242834156, -3.242834156],
        atol=1e-9,
    )
    got = logprobs_from_bias([-0.134420449, -2.134420449], 10)
    np.testing.assert_allclose(got, [-5.242834156, -7.242834156], atol=5e-8)
    three = [-0.007632756, -5.007632756, -7.007632756]
    seen = log_softmax(ROW + 10 * np.isin(np.arange(6), [0, 3, 4]))[[0, 3, 4]]
    np.testing.assert_allclose(seen, three, atol=1e-9)
    np.testing.assert_allclose(logprobs_from_bias(seen, 10), true[[0, 3, 4]], atol=1e-10)
    # with 1 - P = 3e-5, nine decimals of what is seen leave five of what is recovered
    np.testing.assert_allclose(logprobs_from_bias(three, 10), true[[0, 3, 4]], atol=2e-5)
    by_reference = logprobs_from_bias(
        three[1:], 10, reference=(three[0], true[0]), reference_biased=True
    )
    np.testing.assert_allclose(by_reference, true[[3, 4]], atol=1e-8)
    np.testing.assert_allclose(logprobs_from_bias([-2.343079348], 5), [true[4]], atol=1e-8)
    unbiased = logprobs_from_bias([-2.343079348], 5, reference=(-0.343079348, true[0]))
    np.testing.assert_allclose(unbiased, [true[4]], atol=1e-8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=3, max_size=8),
    st.floats(-5, 12),
    st.integers(1, 2),
)
def test_a_bias_is_undone_exactly(logits, bias, m):
    z = np.array(logits)
    moved = z.copy()
    moved[:m] += bias
    seen = log_softmax(moved)
    true = log_softmax(z)
    np.testing.assert_allclose(logprobs_from_bias(seen[:m], bias), true[:m], atol=1e-5)
    reference = (seen[-1], true[-1])
    np.testing.assert_allclose(
        logprobs_from_bias(seen[:m], bias, reference=reference), true[:m], atol=1e-9
    )


def test_bias_that_cannot_be_undone():
    with pytest.raises(nll.BadInput, match="lower it"):
        logprobs_from_bias([0.0], 50)
    with pytest.raises(nll.BadInput, match="finite numbers <= 0"):
        logprobs_from_bias([0.4], 1)
    assert logprobs_from_bias([], 3).shape == (0,)


@pytest.mark.parametrize("token", range(6))
def test_bisection_finds_the_distance_to_the_top(token):
    calls = []

    def top(bias):
        calls.append(bias)
        moved = ROW.copy()
        moved[token] += bias
        return int(np.argmax(moved))

    assert logprob_by_bisection(top, token) == pytest.approx(ROW[token] - 3, abs=1e-9)
    assert len(calls) <= 40


def test_bisection_refuses():
    with pytest.raises(nll.BadInput, match="raise high"):
        logprob_by_bisection(lambda bias: 0, 1, high=5)
    with pytest.raises(nll.BadInput, match="above 0"):
        logprob_by_bisection(lambda bias: 0, 1, tolerance=0)


def test_identified_set():
    assert identified_set_tv([4, 3], 5) == pytest.approx(0.446542744, abs=1e-9)
    assert identified_set_tv([4, 3], 2) == 0.0
    assert identified_set_tv([1e4, 1e4 - 1], 5) == pytest.approx(identified_set_tv([1, 0], 5))
    shown = [identified_set_tv([4, 3, 2, 1, 0.5][:k], 5) for k in range(1, 6)]
    assert shown == sorted(shown, reverse=True)
    with pytest.raises(nll.BadInput, match="1 to 5"):
        identified_set_tv([], 5)


def test_linear_cka():
    x = np.array([[1, 0], [0, 1], [1, 1], [2, 0.5]])
    y = np.array([[2, 1, 0], [0, 1, 1], [2, 2, 1], [4, 2.5, 0.5]])
    assert linear_cka(x, y) == pytest.approx(0.959782809, abs=1e-9)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert linear_cka(x, 7 * y @ turn + 4) == pytest.approx(linear_cka(x, y))
    assert linear_cka(y, y) == pytest.approx(1.0)
    assert isinstance(linear_cka(x, np.ones((4, 2))), nll.Undefined)
    with pytest.raises(nll.BadInput, match="do not compare"):
        linear_cka(x, y[:3])


def test_the_best_linear_map():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    y = x @ rng.normal(size=(3, 2)) + 4 + 0.5 * noise
    design = np.column_stack([np.ones(50), x])
    left = y - design @ np.linalg.solve(design.T @ design, design.T @ y)
    want = 1 - (left**2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    assert linear_map_r2(x, y) == pytest.approx(want, abs=1e-12)
    assert 0.3 < want < 0.99
    stretch = np.diag([1.0, 30.0, 0.1])
    assert linear_map_r2(x @ stretch, y) == pytest.approx(want)
    assert linear_map_r2(x, x @ stretch - 7) == pytest.approx(1.0)
    assert linear_map_r2(np.ones((50, 2)), y) == pytest.approx(0.0, abs=1e-12)
    assert linear_map_r2(y[:, :1], x) != linear_map_r2(x, y[:, :1])
    assert isinstance(linear_map_r2(y, np.ones((50, 2))), nll.Undefined)
    with pytest.raises(nll.BadInput, match="do not compare"):
        linear_map_r2(x, y[:3])
