"""Thin trainers: change what a model finds likely."""

from __future__ import annotations

from nll.training._finetune import finetune_causal

__all__ = ["finetune_causal"]
