"""Thin trainers on transformers: change what a model finds likely."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Lazy, because the trainers import transformers.Trainer, which takes seconds.
_HOME = {
    "ALoLTrainer": "_learn",
    "AlignedHead": "_nas_align",
    "Alignment": "_nas_align",
    "CDPOTrainer": "_preference",
    "ClapsTrainer": "_claps",
    "FinetuneTrainer": "_learn",
    "GroupRLTrainer": "_group",
    "LikelihoodTrainer": "_trainer",
    "OfflineRLTrainer": "_learn",
    "PreferenceTrainer": "_preference",
    "ResRLTrainer": "_group",
    "UnlearnTrainer": "_unlearn",
    "finetune_causal": "_finetune",
    "nas_align": "_nas_align",
}

__all__ = [
    "ALoLTrainer",
    "AlignedHead",
    "Alignment",
    "CDPOTrainer",
    "ClapsTrainer",
    "FinetuneTrainer",
    "GroupRLTrainer",
    "LikelihoodTrainer",
    "OfflineRLTrainer",
    "PreferenceTrainer",
    "ResRLTrainer",
    "UnlearnTrainer",
    "finetune_causal",
    "nas_align",
]

if TYPE_CHECKING:
    from nll.training._claps import ClapsTrainer
    from nll.training._finetune import finetune_causal
    from nll.training._group import GroupRLTrainer, ResRLTrainer
    from nll.training._learn import ALoLTrainer, FinetuneTrainer, OfflineRLTrainer
    from nll.training._nas_align import AlignedHead, Alignment, nas_align
    from nll.training._preference import CDPOTrainer, PreferenceTrainer
    from nll.training._trainer import LikelihoodTrainer
    from nll.training._unlearn import UnlearnTrainer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nll.training' has no attribute '{name}'")
    value = getattr(import_module(f"nll.training.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
