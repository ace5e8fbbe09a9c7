"""How token sequences are laid out in forward passes: sorted, packed, shared prefixes read once.

A row of a batch is a forest: sequences that begin alike share the tokens of their common
beginning, and unrelated ones lie side by side. Positions restart with every sequence and the mask
lets a token see its own ancestors only, so a sequence's numbers do not depend on its neighbours.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nll.trace import Array

MIN_SHARED = 8  # shorter common beginnings are not worth a mask


@dataclass(frozen=True, slots=True)
class Segment:
    """A sequence to run: predictions are wanted for `ids[first:]`, and past the end if `tail`.

    `item` and `dest` say where they go: that of ids[first + i] is entry dest + i of the item.
    """

    item: int
    ids: Array
    first: int
    dest: int
    tail: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass and where its rows go.

    ids, positions: (B, L) int64.   used: (B,) tokens of each row that are not padding.
    parents: (B, L) index within the row of the token before, -1 at the start of a sequence.
    plain: every row is one sequence, so that the model's own causal mask serves.
    rows, targets: (R,) flat index of a state and the token it predicts (-1: none is asked).
    items, dests: (R,) where each prediction goes.
    """

    ids: Array
    positions: Array
    used: Array
    parents: Array
    plain: bool
    rows: Array
    targets: Array
    items: Array
    dests: Array

    @property
    def tokens(self) -> int:
        """Tokens the model computes for this batch, padding included."""
        return int(self.ids.size)


def common_prefix(a: Array, b: Array) -> int:
    """Length of the common beginning of two id arrays."""
    n = min(len(a), len(b))
    differ = np.nonzero(a[:n] != b[:n])[0]
    return int(differ[0]) if len(differ) else n


@dataclass(slots=True)
class _Unit:
    """Sequences laid in one piece of a row, in an order that shares as much as possible."""

    segments: list[Segment]
    shared: list[int]
    size: int


def _units(segments: Sequence[Segment], share: bool, budget: int) -> list[_Unit]:
    if not share:
        return [_Unit([s], [0], len(s.ids)) for s in segments]
    order = sorted(segments, key=lambda s: s.ids.astype(">i8").tobytes())
    units: list[_Unit] = []
    for s in order:
        last = units[-1] if units else None
        common = common_prefix(last.segments[-1].ids, s.ids) if last else 0
        if last and common >= MIN_SHARED:
            limit = max(budget, 2 * len(last.segments[0].ids))
            new = len(s.ids) - common
            if last.size + new <= limit:
                last.segments.append(s)
                last.shared.append(common)
                last.size += new
                continue
        units.append(_Unit([s], [0], len(s.ids)))
    return units


def plan(
    segments: Sequence[Segment], *, budget: int, pack: bool, pack_to: int = 256
) -> list[Batch]:
    """Batches of about `budget` tokens, longest first.

    pack: rows may hold several sequences and share prefixes (needs a model that takes the mask).
    Without it every row is one sequence and rows of a batch have similar lengths.
    """
    units = sorted(_units(segments, pack, budget), key=lambda u: -u.size)
    batches: list[Batch] = []
    while units:
        rows: list[list[_Unit]]
        if not pack:
            count = max(1, budget // units[0].size)
            rows, units = [[u] for u in units[:count]], units[count:]
        else:
            rows, units = _fill(units, budget, pack_to)
        batches.append(_build(rows))
    return batches


def _fill(units: list[_Unit], budget: int, pack_to: int) -> tuple[list[list[_Unit]], list[_Unit]]:
    """Take the longest units and fill the space beside them with the longest that fit."""
    width = max(units[0].size, pack_to)
    count = max(1, budget // width)
    left = sum(u.size for u in units)
    if left <= count * width:
        fair = max(1, -(-left // width))
        tries = [_even(units, c) for c in range(max(1, fair - 1), fair + 2)]
        return min(tries, key=lambda rows: len(rows) * max(_size(row) for row in rows)), []
    sizes = [-u.size for u in units]
    rows: list[list[_Unit]] = []
    for _ in range(count):
        space, row = width, []
        while units:
            at = bisect.bisect_left(sizes, -space)
            if at == len(units):
                break
            row.append(units.pop(at))
            space += sizes.pop(at)
        if row:
            rows.append(row)
    return rows, units


def _size(row: Sequence[_Unit]) -> int:
    return sum(u.size for u in row)


def _even(units: list[_Unit], count: int) -> list[list[_Unit]]:
    """The last batch: `count` rows of nearly equal size, each unit into the emptiest row."""
    rows: list[list[_Unit]] = [[] for _ in range(count)]
    heap = [(0, r) for r in range(count)]
    for unit in units:
        size, r = heapq.heappop(heap)
        rows[r].append(unit)
        heapq.heappush(heap, (size + unit.size, r))
    return [row for row in rows if row]


def _build(rows: Sequence[Sequence[_Unit]]) -> Batch:
    width = max(_size(row) for row in rows)
    shape = (len(rows), width)
    ids = np.zeros(shape, np.int64)
    positions = np.zeros(shape, np.int64)
    parents = np.full(shape, -1, np.int64)
    used = np.zeros(len(rows), np.int64)
    at: list[Array] = []
    targets: list[Array] = []
    items: list[Array] = []
    dests: list[Array] = []
    for r, row in enumerate(rows):
        end = 0
        for unit in row:
            path = np.empty(0, np.int64)
            for segment, shared in zip(unit.segments, unit.shared, strict=True):
                n, new = len(segment.ids), len(segment.ids) - shared
                path = np.concatenate([path[:shared], np.arange(end, end + new)])
                span = slice(end, end + new)
                ids[r, span] = segment.ids[shared:]
                positions[r, span] = np.arange(shared, n)
                parents[r, span] = np.concatenate([[-1], path])[shared:n]
                end += new
                wanted = np.arange(segment.first, n + segment.tail)
                at.append(path[wanted - 1] + r * width)
                label = np.full(len(wanted), -1, np.int64)
                label[: n - segment.first] = segment.ids[segment.first :]
                targets.append(label)
                items.append(np.full(len(wanted), segment.item, np.int64))
                dests.append(segment.dest + np.arange(len(wanted)))
        used[r] = end
        # Padding is a sequence of its own, so that it neither sees nor is seen.
        positions[r, end:] = np.arange(width - end)
        parents[r, end:] = np.concatenate([[-1], np.arange(end, width)])[: width - end]
    plain = all(len(row) == 1 and len(row[0].segments) == 1 for row in rows)
    return Batch(
        ids, positions, used, parents, plain,
        *(np.concatenate(x) for x in (at, targets, items, dests)),
    )  # fmt: skip


def visible(parents: Array) -> Array:
    """(B, L, L) bool: which tokens each token sees, itself and its ancestors."""
    b, n = parents.shape
    sees = np.zeros((b, n, n), bool)
    rows = np.arange(b)
    for t in range(n):
        parent = parents[:, t]
        has = parent >= 0
        sees[rows[has], t] = sees[rows[has], parent[has]]
        sees[:, t, t] = True
    return sees


def windows(n: int, *, context: int, stride: int) -> list[tuple[int, int, int]]:
    """(start, end, first scored) of overlapping windows over n tokens; every token scored once.

    The first token of the first window has nothing before it and is never scored.
    """
    out, done, start = [], 1, 0
    while True:
        end = min(start + context, n)
        out.append((start, end, done))
        if end >= n:
            return out
        done, start = end, start + stride
