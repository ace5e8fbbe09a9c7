"""Traces through Arrow and Parquet: nothing lost, nothing foreign accepted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nll._arrow as arrow
from nll import BadFile, BadInput, Provenance, Trace, read_traces, write_traces
from nll.trace import OPTIONAL, PER_TOKEN, same

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
INT32 = st.integers(-(2**31), 2**31 - 1)


def floats(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Any bits at all, signalling nans, -0.0 and infinities included, in either precision."""
    bits = st.sampled_from([(np.uint32, np.float32), (np.uint64, np.float64)])
    return bits.flatmap(lambda p: hnp.arrays(p[0], shape).map(lambda a: a.view(p[1])))


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    n, k, d = draw(st.integers(0, 5)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    betas = tuple(draw(st.lists(st.floats(0, 8), max_size=3)))

    def maybe(strategy: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | strategy)

    ints = lambda *shape: hnp.arrays(np.int32, shape)  # noqa: E731
    return Trace(
        draw(floats((n,))),
        entropy=maybe(floats((n,))),
        varentropy=maybe(floats((n,))),
        rank=maybe(ints(n)),
        ties=maybe(ints(n)),
        ids=maybe(ints(n)),
        spans=maybe(ints(n, 2)),
        text=draw(TEXT),
        prompt_tokens=draw(st.integers(0, n)),
        top_ids=maybe(ints(n, k)),
        top_logp=maybe(floats((n, k))),
        betas=betas,
        lse_at=maybe(floats((n, len(betas)))),
        boundary=maybe(floats((n + 1,))),
        boundary_at=maybe(floats((n + 1, len(betas)))),
        kl_uniform=maybe(floats((n,))),
        cross_mean=maybe(floats((n,))),
        cross_var=maybe(floats((n,))),
        hidden=maybe(floats((n, d))),
        vocab=draw(st.dictionaries(INT32, TEXT, max_size=3)),
        provenance=Provenance(model=draw(TEXT), bos=maybe(TEXT), sampling={"seed": draw(INT32)}),
        id=maybe(TEXT),
    )


def equal(a: list[Trace], b: list[Trace]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def plain(n: int = 3, **fields: Any) -> Trace:
    return Trace(np.linspace(-2, -1, n, dtype=np.float32), text="x" * n, **fields)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(traces(), max_size=5))
def test_round_trip_is_lossless(tmp_path, many: list[Trace]) -> None:
    write_traces(tmp_path / "t.parquet", many)
    assert equal(list(read_traces(tmp_path / "t.parquet")), many)
    assert equal(list(arrow.table_to_traces(arrow.traces_to_table(many))), many)


def test_every_array_of_a_trace_has_its_column() -> None:
    held = {f.name for f in dataclasses.fields(Trace) if "Array" in str(f.type)}
    assert held == {*PER_TOKEN, *OPTIONAL, "ids", "spans"} == {*arrow._FLOATS, *arrow._INTS}


def test_slices_of_a_table_and_batch_round_trip() -> None:
    many = [plain(n, vocab={n: str(n)}, id=str(n)) for n in range(6)]
    table = arrow.traces_to_table(many)
    assert equal(list(arrow.table_to_traces(table.slice(2, 3))), many[2:5])
    assert equal(list(arrow.table_to_traces(table.to_batches()[0].slice(4))), many[4:])


def test_doubles_that_come_late_rewrite_what_is_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(arrow, "_GROUP_ROWS", 2)
    odd = np.array([0x7F800001, 0xFFC12345], np.uint32).view(np.float32)
    many = [plain(i) for i in range(5)] + [Trace(odd), Trace(np.array([-0.1]))]
    write_traces(tmp_path / "t.parquet", iter(many))
    assert pq.read_schema(tmp_path / "t.parquet").field("logp").type == pa.list_(pa.float64())
    assert equal(list(read_traces(tmp_path / "t.parquet")), many)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_float32_traces_stay_float_columns(tmp_path) -> None:
    write_traces(tmp_path / "t.parquet", [plain()])
    assert pq.read_schema(tmp_path / "t.parquet").field("logp").type == pa.list_(pa.float32())


def test_the_same_traces_make_the_same_bytes(tmp_path) -> None:
    for name in "ab":
        write_traces(tmp_path / name, [plain(provenance=Provenance(model="m")), plain(9)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_reading_and_writing_stream(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(arrow, "_GROUP_ROWS", 4)
    made = 0

    def endless() -> Any:
        nonlocal made
        for _ in range(40):
            made += 1
            yield plain()

    monkeypatch.setattr(
        arrow, "_encode", lambda g, w, real=arrow._encode: seen.append(made) or real(g, w)
    )
    seen: list[int] = []
    write_traces(tmp_path / "t.parquet", endless())
    assert seen == list(range(4, 44, 4))
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 10


def test_reliability_15_a_newer_schema_is_refused_with_the_remedy(tmp_path) -> None:
    table = arrow.traces_to_table([plain()])
    newer = table.replace_schema_metadata({"nll.schema": "2", "nll.version": "9.9"})
    pq.write_table(newer, tmp_path / "new.parquet")
    assert arrow.is_trace_file(tmp_path / "new.parquet")
    with pytest.raises(BadFile, match=r"newer nll \(schema 2.*pip install -U nll"):
        read_traces(tmp_path / "new.parquet")
    with pytest.raises(BadFile, match="newer"):
        arrow.table_to_traces(newer)


def test_a_parquet_file_without_traces_is_refused(tmp_path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "t.parquet")
    assert not arrow.is_trace_file(tmp_path / "t.parquet")
    with pytest.raises(BadFile, match="holds no traces"):
        read_traces(tmp_path / "t.parquet")


def test_a_changed_column_is_refused(tmp_path) -> None:
    table = arrow.traces_to_table([plain()]).drop_columns(["entropy"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(BadFile, match="'entropy' is gone or changed"):
        read_traces(tmp_path / "t.parquet")


@pytest.mark.parametrize("kept", [0, 3, 200, -10, -1])
def test_truncated_files_are_refused(tmp_path, kept: int) -> None:
    write_traces(tmp_path / "t.parquet", [plain()])
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[:kept])
    with pytest.raises(BadFile, match="not a whole Parquet file"):
        read_traces(tmp_path / "t.parquet")
    assert not arrow.is_trace_file(tmp_path / "t.parquet")


def test_damage_inside_is_reported_while_reading(tmp_path) -> None:
    path = tmp_path / "t.parquet"
    write_traces(path, [plain(400, ids=np.arange(400))])
    raw = bytearray(path.read_bytes())
    raw[4:120] = b"\xff" * 116
    path.write_bytes(raw)
    with pytest.raises(BadFile, match="damaged"):
        list(read_traces(path))


def test_missing_file_missing_folder_and_surrogates(tmp_path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        read_traces(tmp_path / "none.parquet")
    with pytest.raises(BadInput, match="there is no folder"):
        write_traces(tmp_path / "none" / "t.parquet", [plain()])
    with pytest.raises(BadInput, match="lone surrogate"):
        write_traces(tmp_path / "t.parquet", [dataclasses.replace(plain(), text="\ud800xx")])
    assert list(tmp_path.iterdir()) == []
