"""Layers for models that are trained from scratch."""

from nll.nn._power_norm import GroupScale, PowerNorm, PowerNormV
from nll.nn._statistics import MaskedBatchNorm, batch_statistics_drift

__all__ = ["GroupScale", "MaskedBatchNorm", "PowerNorm", "PowerNormV", "batch_statistics_drift"]
