"""What studies share: reading rows, drawing bars."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from nll.studies._common import grouped_bars, read_json_lines


def test_json_lines_are_read_gzipped_or_not(tmp_path: Path) -> None:
    # U+2028 ends a line for str.splitlines, but stands bare in JSON strings.
    body = '{"a": "one\u2028two"}\n\n{"a": 2}\n'.encode()
    (tmp_path / "x.jsonl").write_bytes(body)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(body))
    for name in ("x.jsonl", "x.jsonl.gz"):
        assert read_json_lines(tmp_path / name) == [{"a": "one\u2028two"}, {"a": 2}]


@pytest.mark.parametrize("count", [1, 3])
def test_bars_stand_in_groups_the_first_row_on_top(count: int) -> None:
    series = {f"s{i}": [1.0 + i, -2.0] for i in range(count)}
    figure = grouped_bars(["first", "second"], series, "label")
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["first", "second"]
    ticks = axes.get_yticks()
    assert ticks[0] > ticks[1]
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in axes.patches]
    assert sorted(w for y, w in bars if y > 0.5) == [1.0 + i for i in range(count)]
    assert [w for y, w in bars if y < 0.5] == [-2.0] * count
    figure.savefig(io.BytesIO(), format="svg")
