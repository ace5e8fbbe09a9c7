"""Which negatives, and how strongly: the sheet's numbers, simplex laws, edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nll import BadInput
from nll.negatives import mirror_ascent_step, select_negatives


def test_mirror_oracle():
    found = mirror_ascent_step([0.25] * 4, [2, -1, 0, 0.5], 0.1)
    np.testing.assert_allclose(found, [0.29237569, 0.21659724, 0.23937697, 0.25165009], atol=1e-8)
    assert select_negatives([2, -1, 0, 0.5], 2) == [0, 3]


gains = arrays(float, 5, elements=st.floats(-50, 50))
weights = arrays(float, 5, elements=st.floats(0.01, 10))


@settings(deadline=None)
@given(weights, gains, st.floats(0, 2), st.floats(0.1, 100))
def test_weights_stay_on_the_simplex_and_follow_the_gain(w, g, eta, total):
    found = mirror_ascent_step(w, g, eta, total)
    assert found.sum() == pytest.approx(total)
    assert (found >= 0).all()
    np.testing.assert_allclose(mirror_ascent_step(w, g + 7, eta, total), found, rtol=1e-6)
    np.testing.assert_allclose(mirror_ascent_step(3 * w, g, eta, total), found, rtol=1e-9)
    np.testing.assert_allclose(
        mirror_ascent_step(w, g, 0.0, total), w / w.sum() * total, rtol=1e-12
    )
    growth = (found / w)[np.argsort(g, kind="stable")]
    assert (np.diff(growth) >= -1e-9 * growth[:-1]).all()


@settings(deadline=None)
@given(weights, gains)
def test_two_steps_are_one_of_twice_the_size(w, g):
    twice = mirror_ascent_step(mirror_ascent_step(w, g, 0.05), g, 0.05)
    np.testing.assert_allclose(twice, mirror_ascent_step(w, g, 0.1), rtol=1e-9)


def test_mirror_edges():
    assert mirror_ascent_step([1, 1], [1e6, 1e6 - 1], 1.0).sum() == pytest.approx(1)
    assert mirror_ascent_step([0, 1, 1], [1e9, 0, 0], 1.0).tolist() == [0, 0.5, 0.5]
    assert mirror_ascent_step([1, 1, 1], [np.nan, 0, 0], 1.0, total=4).tolist() == [0, 2, 2]
    assert mirror_ascent_step([], [], 0.1).shape == (0,)
    found = mirror_ascent_step(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0]), 1.0)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found, mirror_ascent_step([0.5, 0.5], [1, 0], 1.0), rtol=1e-6)
    mixed = mirror_ascent_step(torch.tensor([0.5, 0.5]), [1.0, 0], 1.0)
    np.testing.assert_array_equal(mixed, found)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([-1, 1], [0, 0], 0.1), "0 or positive"),
        (([np.nan, 1], [0, 0], 0.1), "finite"),
        (([0, 0], [1, 1], 0.1), "weight above 0"),
        (([1, 1], [np.nan, np.nan], 0.1), "weight above 0"),
        (([1, 1], [np.inf, 0], 0.1), "infinite"),
        (([1, 1], [1], 0.1), "1 gains"),
        (([1], [1], -0.1), "eta"),
        (([1], [1], 0.1, 0), "total"),
    ],
)
def test_mirror_refusals(args, message):
    with pytest.raises(BadInput, match=message):
        mirror_ascent_step(*args)


@settings(deadline=None)
@given(arrays(float, st.integers(0, 12), elements=st.floats(-5, 5)), st.integers(0, 15))
def test_selection_takes_the_largest_that_help(g, m):
    found = select_negatives(g, m)
    assert len(set(found)) == len(found) == min(m, int((g > 0).sum()))
    assert all(g[i] > 0 for i in found)
    values = [g[i] for i in found]
    assert values == sorted(values, reverse=True)
    left = [g[i] for i in range(len(g)) if i not in found and g[i] > 0]
    assert not left or not values or max(left) <= min(values)
    assert bool(found.reason) == (len(found) < m)


def test_selection_edges():
    none = select_negatives([-1, 0, -3])
    assert (none, none.harmful, none.undefined) == ([], 3, 0)
    assert "would hurt" in none.reason
    assert select_negatives([]).reason == "there are no examples"
    some = select_negatives([np.nan, 2, 1], 3)
    assert (some, some.undefined) == ([1, 2], 1)
    assert some.reason == "only 2 of 3 examples have a gain above 0"
    assert select_negatives([1, 2, 2, 1], 3) == [1, 2, 0]
    assert select_negatives(torch.tensor([0.5, 1.5]), 1) == [1]
    assert select_negatives([1, 2], 0) == []
    with pytest.raises(BadInput, match="how many"):
        select_negatives([1], -1)
