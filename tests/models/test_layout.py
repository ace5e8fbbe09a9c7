"""Every wanted prediction is planned once, from the right state, with the right past."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll.models._layout import Segment, common_prefix, plan, visible, windows

sequences = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=40), min_size=1, max_size=12)


def segments(rows: list[list[int]], firsts: list[int]) -> list[Segment]:
    return [
        Segment(i, np.array(r, np.int64), min(f, len(r) - 1), 10 * i, tail=i % 2 == 0)
        for i, (r, f) in enumerate(zip(rows, firsts, strict=True))
    ]


@given(sequences, st.data(), st.integers(1, 64), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_prediction_once_with_its_own_past(rows, data, budget, pack) -> None:
    firsts = [data.draw(st.integers(1, 5)) for _ in rows]
    wanted = segments(rows, firsts)
    seen = []
    for batch in plan(wanted, budget=budget, pack=pack, pack_to=16):
        sees = visible(batch.parents)
        width = batch.ids.shape[1]
        for row, target, item, dest in zip(
            batch.rows, batch.targets, batch.items, batch.dests, strict=True
        ):
            segment = wanted[item]
            t = segment.first + dest - segment.dest
            r, at = divmod(int(row), width)
            past = np.nonzero(sees[r, at])[0]
            np.testing.assert_array_equal(batch.ids[r, past], segment.ids[:t])
            np.testing.assert_array_equal(batch.positions[r, past], np.arange(t))
            assert target == (segment.ids[t] if t < len(segment.ids) else -1)
            seen.append((int(item), int(dest)))
    expected = [(s.item, s.dest + i) for s in wanted for i in range(len(s.ids) - s.first + s.tail)]
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize(("shortest", "longest", "count"), [(10, 150, 32), (5, 2000, 200)])
def test_packing_wastes_at_most_three_percent(shortest: int, longest: int, count: int) -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        lengths = (shortest * (longest / shortest) ** draw.random(count)).astype(int)
        wanted = [Segment(i, draw.integers(0, 9_999, n), 1, 0) for i, n in enumerate(lengths)]
        computed = sum(b.tokens for b in plan(wanted, budget=1024, pack=True))
        assert computed <= 1.03 * lengths.sum()


def test_an_unrelated_neighbour_is_never_seen() -> None:
    wanted = [Segment(0, np.arange(5), 1, 0), Segment(1, np.arange(50, 57), 1, 0)]
    (batch,) = plan(wanted, budget=512, pack=True)
    sees = visible(batch.parents)[0]
    groups = batch.ids[0] >= 50
    assert not sees[np.ix_(groups, ~groups)].any()
    assert not sees[np.ix_(~groups, groups)].any()


@given(st.integers(1, 200), st.integers(2, 30), st.data())
def test_windows_cover_every_token_once(n, context, data) -> None:
    stride = data.draw(st.integers(1, context - 1))
    scored = []
    for start, end, done in windows(n, context=context, stride=stride):
        assert end - start <= context
        assert done > start  # something stands to the left of the first scored token
        scored += range(done, end)
        if start:
            assert done - start >= context - stride
    assert scored == list(range(1, n))


def test_common_prefix() -> None:
    a, b = np.array([1, 2, 3]), np.array([1, 2, 4, 5])
    assert (common_prefix(a, b), common_prefix(a, a), common_prefix(a, b[:0])) == (2, 3, 0)
