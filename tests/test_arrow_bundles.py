"""Bundles through Parquet: every trace to the bit, every reason, cluster and answer's rightness."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nll
from nll import BadFile, Bundle, Samples, read_bundles, read_traces, write_bundles, write_traces
from nll.trace import same
from tests.test_arrow import TEXT, plain, traces

ONE = traces()
SOME = st.lists(ONE, max_size=2)
MISSING = st.dictionaries(st.sampled_from(["reference", "perturbed", "samples"]), TEXT, max_size=2)


@st.composite
def samples(draw: st.DrawFn) -> Samples:
    drawn = draw(SOME)
    labels = draw(st.lists(st.integers(-9, 9), min_size=len(drawn), max_size=len(drawn)))
    return Samples(
        drawn,
        greedy=draw(st.none() | ONE),
        clusters=draw(st.sampled_from([(), labels])),
        correct=draw(st.none() | st.booleans()),
        id=draw(st.none() | TEXT),
    )


BUNDLES = st.builds(
    Bundle,
    trace=st.none() | ONE,
    reference=st.none() | ONE,
    lower=st.none() | ONE,
    alone=st.none() | ONE,
    neighbours=SOME,
    perturbed=SOME,
    samples=st.none() | samples(),
    missing=MISSING,
)


def alike(a: object, b: object) -> bool:
    """Equal in every field, traces bit for bit, sequences of whatever kind."""
    if isinstance(a, nll.Trace) and isinstance(b, nll.Trace):
        return same(a, b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, Bundle | Samples) and type(a) is type(b):
        return all(alike(getattr(a, n), getattr(b, n)) for n in type(a).__slots__)
    return a == b


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(BUNDLES, max_size=4))
def test_round_trip_is_lossless(tmp_path, many: list[Bundle]) -> None:
    write_bundles(tmp_path / "b.parquet", many)
    assert alike(list(read_bundles(tmp_path / "b.parquet")), many)


def test_bundles_longer_than_a_batch_and_of_two_precisions_stay_whole(tmp_path) -> None:
    narrow = [plain(2, id=str(i)) for i in range(300)]
    wide = [nll.Trace(np.linspace(-3, -1, 4), text="xxxx") for _ in range(300)]
    many = [
        Bundle(trace=plain(1), perturbed=narrow),
        Bundle(samples=Samples(wide, clusters=np.arange(300), correct=np.bool_(True))),  # type: ignore[arg-type]
        Bundle(missing={"samples": "why"}),
    ]
    write_bundles(tmp_path / "b.parquet", many)
    found = list(read_bundles(tmp_path / "b.parquet"))
    assert alike(found[0], many[0])
    assert found[1].samples is not None
    assert alike(list(found[1].samples.drawn), wide)
    assert list(found[1].samples.clusters) == list(range(300))
    assert found[1].samples.correct is True
    assert alike(found[2], many[2])


def test_a_trace_file_is_a_file_of_bundles_but_not_the_other_way_round(tmp_path) -> None:
    write_traces(tmp_path / "t.parquet", [plain(), plain(5)])
    found = list(read_bundles(tmp_path / "t.parquet"))
    assert alike(found, [Bundle(trace=plain()), Bundle(trace=plain(5))])
    write_bundles(tmp_path / "b.parquet", found)
    with pytest.raises(BadFile, match="read_bundles"):
        read_traces(tmp_path / "b.parquet")


def test_foreign_and_changed_files_are_refused(tmp_path) -> None:
    path = tmp_path / "b.parquet"
    with pytest.raises(BadFile, match="no such file"):
        read_bundles(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(BadFile, match="holds no traces"):
        read_bundles(path)
    write_bundles(path, [Bundle(trace=plain())])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["role"]), path)
    with pytest.raises(BadFile, match="'role' is gone"):
        read_bundles(path)
    at = table.column_names.index("role")
    pq.write_table(table.set_column(at, "role", pa.array(["later"])), path)
    with pytest.raises(BadFile, match="unknown here: later"):
        list(read_bundles(path))


def test_scores_of_stored_bundles_are_those_of_the_bundles(tmp_path) -> None:
    from nll.testing import table_model

    given_ = ["What comes next", "Another question"]
    specs = ["semantic_entropy", "predictive_entropy", "lowercase_score", "mean_nll"]
    many = list(
        nll.gather(
            table_model(), given_, specs, n_samples=3, max_new_tokens=4,
            cluster=lambda answers: [len(a) for a in answers],
        )
    )  # fmt: skip
    write_bundles(tmp_path / "b.parquet", many)
    stored = nll.score(read_bundles(tmp_path / "b.parquet"), specs)
    assert stored.equals(nll.score(many, specs))
