"""PowerNorm: each channel over a running quadratic mean of all tokens, without centring."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from nll._errors import BadInput

Scale: TypeAlias = Literal["running", "batch"]


class PowerNorm(nn.Module):
    """y = gamma * x / sqrt(psi^2 + eps) + beta with the quadratic mean psi^2 of earlier batches.

    x: (..., C) with a boolean mask (...) of the real tokens; padding comes out as it went in, is in
    no statistic and gets no gradient. The gradient is the paper's: dx = (G - nu * xh) / root, with
    a running correction nu in the place of the batch's own term.
    running: False is PN-V, which divides by the batch's own psi^2 in training, with the exact
    gradient.   alpha, alpha_backward: how much of psi^2 and nu a step keeps.
    warmup: steps that still divide by the batch's psi^2. In a causal model those, like PN-V, see
    later tokens of the same text: warmup=0 after `initialise(x)` does not.
    groups: divide each token's groups of channels by their root mean square first (`GroupScale`, as
    the public code always does).   backward_scale: the root under dx, that of the forward pass
    (`running`, the paper) or the batch's (`batch`, the public code).
    Buffers: psi2 (C,), nu (C,), steps, and `clamped`, how often nu's update was held back because a
    channel's outliers would have made it diverge. They move once for each forward pass in training
    (each micro-batch of an accumulation), never under no_grad, in eval(), in a recomputation by
    torch.utils.checkpoint (use_reentrant=False), or when all is padding. psi2 and nu stay in
    float32 when the layer is cast to half precision, where a quadratic mean overflows.
    Raises BadInput for impossible options or shapes. References: arXiv 2003.07845.
    """

    psi2: Tensor
    nu: Tensor
    steps: Tensor
    clamped: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        alpha: float = 0.9,
        alpha_backward: float = 0.9,
        eps: float = 1e-5,
        warmup: int = 10_000,
        groups: int | None = None,
        running: bool = True,
        backward_scale: Scale = "running",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not (0 < alpha < 1 and 0 < alpha_backward < 1):
            raise BadInput(f"alpha must be between 0 and 1, not {alpha} and {alpha_backward}")
        if backward_scale not in ("running", "batch"):
            raise BadInput(f"backward_scale must be running or batch, not {backward_scale!r}")
        if warmup < 0:
            raise BadInput(f"warmup must be 0 or more, not {warmup}")
        self.num_features = num_features
        self.alpha, self.alpha_backward, self.eps = alpha, alpha_backward, eps
        self.warmup, self.running, self.backward_scale = warmup, running, backward_scale
        self.group_scale = None if groups is None else GroupScale(num_features, groups)
        kind = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.ones(num_features, **kind))
        self.bias = nn.Parameter(torch.zeros(num_features, **kind))
        wide = {"device": device, "dtype": torch.float64 if dtype == torch.float64 else None}
        self.register_buffer("psi2", torch.ones(num_features, **wide))
        self.register_buffer("nu", torch.zeros(num_features, **wide))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=device))
        self.register_buffer("clamped", torch.zeros((), dtype=torch.long, device=device))
        self._used: Tensor | None = None

    def _apply(self, fn: Any, recurse: bool = True) -> PowerNorm:
        wide = {name: getattr(self, name) for name in ("psi2", "nu")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in wide.items():
            now = getattr(self, name)
            least = torch.promote_types(now.dtype, torch.float32)
            if now.dtype != least:
                setattr(self, name, before.to(device=now.device, dtype=least))
        return self

    def extra_repr(self) -> str:
        """Width and kind."""
        return f"{self.num_features}, running={self.running}, warmup={self.warmup}"

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Set psi^2 to that of this batch, so that training can begin with warmup=0."""
        rows, _ = self._rows(x, mask)
        if len(rows):
            self.psi2.copy_(rows.square().mean(0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., C) normalised; see the class."""
        rows, keep = self._rows(x, mask)
        if not len(rows):
            return x
        y = self._normalised(rows) * self.weight.to(rows) + self.bias.to(rows)
        if keep is None:
            return y.to(x.dtype).reshape(x.shape)
        out = x.detach().clone()
        out[keep] = y.to(x.dtype)
        return out

    def _rows(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(N, C) real tokens in float32 at least, and which those are."""
        if x.shape[-1] != self.num_features:
            raise BadInput(f"x has {x.shape[-1]} channels, the layer {self.num_features}")
        if mask is not None and mask.shape != x.shape[:-1]:
            raise BadInput(f"mask has shape {tuple(mask.shape)}, tokens {tuple(x.shape[:-1])}")
        keep = None if mask is None else mask.bool()
        rows = x.reshape(-1, self.num_features) if keep is None else x[keep]
        rows = rows.to(torch.promote_types(rows.dtype, self.psi2.dtype))
        return (rows if self.group_scale is None else self.group_scale(rows)), keep

    def _normalised(self, rows: Tensor) -> Tensor:
        if not self.training:
            return rows / (self.psi2 + self.eps).sqrt()
        batch = rows.square().mean(0)
        used = self._step(batch.detach())
        if not self.running:
            return rows / (batch + self.eps).sqrt()
        out: Tensor = _Correction.apply(rows, used, batch.detach(), self)  # type: ignore[no-untyped-call]
        return out

    def _step(self, batch: Tensor) -> Tensor:
        """The psi^2 to divide by; moves the statistics, unless this pass is no step."""
        # Inside a backward pass a forward one can only be the recomputation of a checkpoint.
        if torch._C._current_graph_task_id() != -1:
            if self._used is None:
                raise RuntimeError(
                    "PowerNorm cannot be recomputed by a reentrant checkpoint, whose first pass "
                    "keeps no statistics; use torch.utils.checkpoint(..., use_reentrant=False)"
                )
            return self._used
        first = not torch.is_grad_enabled()
        k = int(self.steps) + 1
        used = batch if k <= self.warmup else self.psi2.to(batch).clone()
        if first:
            self._used = None
            return used
        self.steps += 1
        if k < self.warmup:
            self.psi2.mul_((k - 1) / k).add_(batch / k)
        self.psi2.mul_(self.alpha).add_((1 - self.alpha) * batch)
        self._used = used
        return used


class PowerNormV(PowerNorm):
    """PN-V: `PowerNorm(running=False)`, the batch's own quadratic mean and the exact gradient."""

    def __init__(self, num_features: int, **options: Any):
        super().__init__(num_features, running=False, **options)


class GroupScale(nn.Module):
    """Each token's groups of channels over the root of their mean square; nothing is learned."""

    def __init__(self, num_features: int, groups: int, *, eps: float = 1e-5):
        super().__init__()
        if groups < 1 or num_features % groups:
            raise BadInput(f"{num_features} channels cannot be cut into {groups} groups")
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) scaled."""
        parts = x.reshape(*x.shape[:-1], self.groups, -1)
        parts = parts.to(torch.promote_types(x.dtype, torch.float32))
        scale = (parts.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (parts * scale).reshape(x.shape).to(x.dtype)


class _Correction(torch.autograd.Function):
    """x / sqrt(psi^2 + eps), with the running correction in the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, used: Tensor, batch: Tensor, layer: PowerNorm) -> Tensor:
        root = (used + layer.eps).sqrt()
        normal = x / root
        under = root if layer.backward_scale == "running" else (batch + layer.eps).sqrt()
        ctx.save_for_backward(normal, under)
        ctx.layer = layer
        return normal

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        normal, under = ctx.saved_tensors
        layer: PowerNorm = ctx.layer
        dx = (grad - layer.nu.to(grad) * normal) / under
        with torch.no_grad():
            kept = 1 - layer.alpha_backward
            gamma = normal.square().mean(0)
            most = 1 / kept
            layer.clamped += (gamma > most).sum()
            nu = layer.nu * (1 - kept * gamma.clamp(max=most))
            layer.nu.copy_(nu + kept * (grad * normal).mean(0))
        return dx, None, None, None
