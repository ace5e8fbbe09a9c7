"""Reading inputs, runs that survive an interruption, files that appear whole or not at all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Lazy, because storing traces needs the atomic writing alone.
_HOME = {
    "Ask": "_ask",
    "Asked": "_ask",
    "Cluster": "_ray",
    "Columns": "_read",
    "GatherOptions": "_obtain",
    "ModelOptions": "_task",
    "Outcome": "_run",
    "Row": "_read",
    "WriteError": "_atomic",
    "ask": "_ask",
    "atomic_path": "_atomic",
    "read_rows": "_read",
    "report_data": "_jobs",
    "score_to": "_jobs",
    "title_of": "_jobs",
    "trace_to": "_jobs",
    "write_atomic": "_atomic",
}

__all__ = [
    "Ask",
    "Asked",
    "Cluster",
    "Columns",
    "GatherOptions",
    "ModelOptions",
    "Outcome",
    "Row",
    "WriteError",
    "ask",
    "atomic_path",
    "read_rows",
    "report_data",
    "score_to",
    "title_of",
    "trace_to",
    "write_atomic",
]

if TYPE_CHECKING:
    from nll.runs._ask import Ask, Asked, ask
    from nll.runs._atomic import WriteError, atomic_path, write_atomic
    from nll.runs._jobs import report_data, score_to, title_of, trace_to
    from nll.runs._obtain import GatherOptions
    from nll.runs._ray import Cluster
    from nll.runs._read import Columns, Row, read_rows
    from nll.runs._run import Outcome
    from nll.runs._task import ModelOptions


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nll.runs' has no attribute '{name}'")
    value = getattr(import_module(f"nll.runs.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
