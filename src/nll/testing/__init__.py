"""Exact models and traces for tests of scores, sources and tools; public, and free of torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "table_model": "_table_model",
    "trace_from_logits": "_traces",
    "traces": "_strategies",
}

__all__ = ["table_model", "trace_from_logits", "traces"]

if TYPE_CHECKING:
    from nll.testing._strategies import traces
    from nll.testing._table_model import table_model
    from nll.testing._traces import trace_from_logits


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nll.testing' has no attribute '{name}'")
    value = getattr(import_module(f"nll.testing.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
