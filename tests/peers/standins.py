"""Peers whose dependencies cannot live beside transformers 5: imported without those.

`make test-slow` installs lm-polygraph and uqlm alone, into .venv/peers. Of what they import and the
environment lacks, nothing computes a number that is compared: those modules are empty stand-ins.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

FOLDER = Path(sys.prefix) / "peers"
NAMES = (
    "bert_score", "boostedprob", "bs4", "diskcache", "fastchat", "ipywidgets", "langchain",
    "langchain_core", "omegaconf", "optuna", "sentence_transformers", "spacy",
)  # fmt: skip


class _Empty(type):
    """A class any of whose attributes is such a class too, and whose instances do nothing."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {"__init__": lambda self, *args, **options: None})


class _StandIns(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        return ModuleSpec(name, self, is_package=True) if top in NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: getattr(_Empty("absent", (), {}), name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "omegaconf":  # lm-polygraph reads its options by attribute, no more
            module.OmegaConf = SimpleNamespace(create=lambda d: SimpleNamespace(**d))  # type: ignore[attr-defined]


_finder = _StandIns()


def peer(name: str) -> ModuleType | None:
    """A module of a peer, or None where `make test-slow` has not installed it."""
    if not (FOLDER / name.partition(".")[0]).is_dir():
        return None
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)  # last: what is installed is used itself
        sys.path.append(str(FOLDER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
