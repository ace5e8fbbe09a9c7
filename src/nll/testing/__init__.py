"""Exact models and traces for tests of scores, sources and tools; public, and free of torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ALPHABET": "_table_model",
    "FAULTS": "_faulty_server",
    "FaultyServer": "_faulty_server",
    "bigram_table": "_table_model",
    "character_tokenizer": "_table_model",
    "characters": "_table_model",
    "random_model": "_random_model",
    "table_model": "_table_model",
    "trace_from_logits": "_traces",
    "traces": "_strategies",
}

__all__ = [
    "ALPHABET", "FAULTS", "FaultyServer", "bigram_table", "character_tokenizer", "characters",
    "random_model", "table_model", "trace_from_logits", "traces",
]  # fmt: skip

if TYPE_CHECKING:
    from nll.testing._faulty_server import FAULTS, FaultyServer
    from nll.testing._random_model import random_model
    from nll.testing._strategies import traces
    from nll.testing._table_model import (
        ALPHABET,
        bigram_table,
        character_tokenizer,
        characters,
        table_model,
    )  # fmt: skip
    from nll.testing._traces import trace_from_logits


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nll.testing' has no attribute '{name}'")
    value = getattr(import_module(f"nll.testing.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
