"""Batch normalisation over real tokens, and how far a batch's statistics have drifted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nll._errors import BadInput
from nll.nn._power_norm import PowerNorm


class MaskedBatchNorm(nn.BatchNorm1d):
    """torch.nn.BatchNorm1d over the real tokens of (..., C); padding comes out as it went in.

    In training a batch of fewer than two real tokens, which has no variance, does too.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., C) normalised. Raises BadInput for a mask of another shape."""
        if mask is None:
            rows = x.reshape(-1, x.shape[-1])
            if len(rows) < 2 and self.training:
                return x
            return super().forward(rows).reshape(x.shape)
        if mask.shape != x.shape[:-1]:
            raise BadInput(f"mask has shape {tuple(mask.shape)}, tokens {tuple(x.shape[:-1])}")
        keep = mask.bool()
        if int(keep.sum()) < 2 and self.training:
            return x
        out = x.detach().clone()
        out[keep] = super().forward(x[keep])
        return out


@torch.no_grad()
def batch_statistics_drift(
    x: Tensor, layer: PowerNorm | MaskedBatchNorm, mask: Tensor | None = None
) -> dict[str, float]:
    """How far this batch's statistics lie from the layer's running ones; means over channels.

    x: (..., C), the layer's input; mask (...) of real tokens. Of a PowerNorm `quadratic_mean`
    |psi_B^2 - psi^2| / psi^2; of a MaskedBatchNorm `mean` |mean_B - mean| / std and `variance`
    |var_B - var| / var. Dimensionless. Raises BadInput when no token is real.
    References: arXiv 2003.07845, section 3.
    """
    rows = x.reshape(-1, x.shape[-1]) if mask is None else x[mask.bool()]
    if not len(rows):
        raise BadInput("the batch holds no real token")
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if isinstance(layer, PowerNorm):
        rows = rows if layer.group_scale is None else layer.group_scale(rows)
        seen = rows.square().mean(0)
        return {"quadratic_mean": float(((seen - layer.psi2).abs() / layer.psi2).mean())}
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise BadInput("this batch normalisation keeps no running statistics")
    return {
        "mean": float(((rows.mean(0) - mean).abs() / var.sqrt()).mean()),
        "variance": float(((rows.var(0, unbiased=False) - var).abs() / var).mean()),
    }
