"""Thin trainers: change what a model finds likely."""

from __future__ import annotations

from nll.training._finetune import finetune_causal
from nll.training._nas_align import AlignedHead, Alignment, nas_align

__all__ = ["AlignedHead", "Alignment", "finetune_causal", "nas_align"]
