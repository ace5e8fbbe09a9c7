"""Bundles in Parquet: a text's traces, variants and drawn answers together, losslessly.

One row per trace, in the form of a trace file, with the number of its bundle and its role there;
the first row of a bundle also holds what no trace says: why something is missing, clusters,
whether the answer is right. A bundle without any trace is one row that holds an empty one.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nll._arrow import Tagged, is_trace_file, read_tagged, read_traces, write_tagged
from nll._bundle import ROLES, Bundle, Samples
from nll._errors import BadFile
from nll.trace import Trace

_TAGS = pa.schema(
    [("bundle", pa.int64()), ("role", pa.string()), ("about", pa.string())],
    metadata={"nll.bundles": "1"},
)
_SEVERAL = ("neighbours", "perturbed")
_NONE = "none"


def write_bundles(path: str | os.PathLike[str], bundles: Iterable[Bundle]) -> None:
    """Write bundles, as `nll.gather` makes them, to a Parquet file, whole or not at all.

    Everything of a bundle is kept, to the bit, and any score reads it without a model. A few
    hundred traces at a time are held. Raises BadInput when the folder is missing or not writable.
    """
    rows = (
        (trace, (number, role, about))
        for number, bundle in enumerate(bundles)
        for trace, role, about in _rows(bundle)
    )
    write_tagged(path, rows, _TAGS)


def read_bundles(path: str | os.PathLike[str]) -> Iterator[Bundle]:
    """Bundles of a file in their order, read in batches; a trace file gives a bundle per trace.

    Raises BadFile when it holds no traces, is damaged, or from a newer version.
    """
    if not is_bundle_file(path):
        return (Bundle(trace=trace) for trace in read_traces(path))
    return _bundles(read_tagged(path, _TAGS), str(path))


def is_bundle_file(path: str | os.PathLike[str]) -> bool:
    """Whether this is a Parquet file of bundles."""
    return is_trace_file(path) and b"nll.bundles" in (pq.read_schema(path).metadata or {})


def _rows(bundle: Bundle) -> Iterator[tuple[Trace, str, str | None]]:
    held = [(trace, role) for role in ROLES for trace in _traces(getattr(bundle, role))]
    samples = bundle.samples
    if samples is not None:
        held += [(samples.greedy, "greedy")] if samples.greedy is not None else []
        held += [(trace, "drawn") for trace in samples.drawn]
    about: dict[str, Any] = {"missing": dict(bundle.missing)} if bundle.missing else {}
    if samples is not None:
        about["samples"] = {
            "id": samples.id,
            "correct": None if samples.correct is None else bool(samples.correct),
            "clusters": [int(label) for label in samples.clusters],
        }
    told: str | None = json.dumps(about) if about else None
    for trace, role in held or [(Trace(np.empty(0)), _NONE)]:
        yield trace, role, told
        told = None


def _traces(value: object) -> list[Trace]:
    if isinstance(value, Samples):
        return []
    return [value] if isinstance(value, Trace) else list(value or ())  # type: ignore[call-overload]


def _bundles(rows: Iterator[Tagged], name: str) -> Iterator[Bundle]:
    for _, group in itertools.groupby(rows, key=lambda row: row[1][0]):
        found: dict[str, list[Trace]] = {}
        notes: list[str] = []
        for trace, (_, role, note) in group:
            found.setdefault(role, []).append(trace)
            notes += [note] if note is not None else []
        unknown = found.keys() - {*ROLES, "greedy", "drawn", _NONE}
        if unknown:
            raise BadFile(f"{name} holds traces in a role unknown here: {', '.join(unknown)}")
        about = json.loads(notes[0]) if notes else {}
        held: dict[str, Any] = {
            role: tuple(traces) if role in _SEVERAL else traces[0]
            for role, traces in found.items()
            if role in ROLES
        }
        if "samples" in about:
            greedy = found.get("greedy", [None])
            held["samples"] = Samples(
                tuple(found.get("drawn", ())), greedy=greedy[0], **about["samples"]
            )
        yield Bundle(**held, missing=about.get("missing", {}))
