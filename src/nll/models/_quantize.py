"""int8 on a CPU: the backbone's linear layers in whole numbers, everything else in float32.

Weights are rounded per output channel, activations per row, so that no text's numbers depend on
the texts beside it. A few input features are much larger than the rest in every language model;
those (found on a short probe text) keep float32 columns. The unembedding and the statistics keep
the original float32 weights. Rounding magnifies float32 noise: where the batch moves a float32
log p by 1e-5, it can move an int8 one by as much as the declared error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from nll._errors import BadInput, BadModel
from nll.models._engine import LocalModel
from nll.trace import Array, Fields

# CPUs without VNNI add pairs of uint8 x int8 products in 16 bits; these ranges never overflow
# there: 2 * (128 + 127) * 63 < 2 ** 15.
_WEIGHT_STEPS = 63
_ROW_STEPS = 127
_ZERO = 128
_LAYERS = (nn.Linear, Conv1D)

PROBE = (
    "The harbour was quiet before dawn. A fisherman untied his boat, checked the nets twice and "
    "rowed out past the lighthouse. In 1931, he said, the whole bay froze over, and people walked "
    "to the island with lanterns. def area(r): return 3.14159 * r ** 2"
)


class Int8Linear(nn.Module):
    """y = W x + b with int8 weights per output channel and 8-bit activations per row, exact int32.

    weight: (n, d) float32; it is not kept.   bias: (n,) or None.
    seen: (d,) largest |x| of each input feature; the top 1/32 (16 at least) stay in float32.
    Input (..., d), output (..., n), float32.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, seen: torch.Tensor):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        kept = min(self.in_features, max(16, self.in_features // 32))
        self._large = seen.topk(kept).indices
        self._columns = weight[:, self._large].T.contiguous()
        weight = weight.index_fill(1, self._large, 0)
        scale = weight.abs().amax(1).clamp(min=1e-12) / _WEIGHT_STEPS
        whole = (weight / scale[:, None]).round_().to(torch.int8).contiguous()
        # plain attributes: a packed weight is opaque, and must not be converted with the model
        self._packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self._scale = scale.contiguous()
        self._none = torch.zeros(len(scale), dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d) to (..., n)."""
        rows = x.reshape(-1, self.in_features).float()
        y = rows[:, self._large] @ self._columns
        rows = rows.index_fill(1, self._large, 0)
        largest = rows.abs().amax(1, keepdim=True).clamp_(min=1e-30)
        whole = (rows * (_ROW_STEPS / largest)).add_(_ZERO).round_().to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            whole, 1 / _ROW_STEPS, _ZERO, self._packed, self._scale, self._none, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        y.addcmul_(product, largest)
        if self._bias is not None:
            y.add_(self._bias)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}"


@torch.inference_mode()
def quantized(model: LocalModel) -> LocalModel:
    """The same model with int8 linear layers, its error against float32 measured and declared.

    `model` gives up its float32 layers: use the result in its place. Its layouts were proved in
    float32 and hold here, since every row is rounded by itself.
    Raises BadInput off the CPU, BadModel for a model whose layers cannot be replaced.
    """
    network = model.network
    if network.device.type != "cpu" or network.dtype != torch.float32:
        raise BadInput("dtype int8 is for the CPU; on a GPU use bfloat16 or float16")
    if network.head is None:
        raise BadModel(f"{network.name}: int8 needs a model whose unembedding is known")
    seen: dict[nn.Module, torch.Tensor] = {}
    with _watching(network.base, seen):
        before = _probe(model)
    if _replace(network.base, seen) == 0:
        raise BadModel(f"{network.name} has no linear layers that int8 could replace")
    now = LocalModel(
        network,
        model.tokenizer,
        dataclasses.replace(model.provenance, dtype="int8"),
        batch_tokens=model.batch_tokens,
    )
    try:
        after = _probe(now)
    except AttributeError as error:
        raise BadModel(
            f"{network.name} reads the weights of its layers itself, so it cannot run in int8 "
            f"({error})"
        ) from None
    now.provenance = dataclasses.replace(
        now.provenance, declared_error=declared("int8", before, after)
    )
    return now


def declared(dtype: str, exact: Array, rounded: Array) -> str:
    """One line on how far `rounded` log p are from `exact` ones, both (T,), nan where unscored."""
    gap = np.abs(exact.astype(np.float64) - rounded)
    gap = gap[~np.isnan(exact)]
    return (
        f"{dtype}: |log p - float32| mean {gap.mean():.2g}, max {gap.max():.2g} nats "
        f"on a probe of {len(gap)} tokens"
    )


def _probe(model: LocalModel) -> Array:
    (trace,) = model.trace([PROBE], fields=Fields())
    return trace.logp


@contextmanager
def _watching(base: nn.Module, seen: dict[nn.Module, torch.Tensor]) -> Iterator[None]:
    """Note the largest |x| that each input feature of each linear layer takes meanwhile."""

    def look(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        largest = given[0].detach().abs().flatten(0, -2).amax(0)
        seen[layer] = torch.maximum(seen[layer], largest) if layer in seen else largest

    hooks = [m.register_forward_pre_hook(look) for m in base.modules() if type(m) in _LAYERS]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _replace(module: nn.Module, seen: dict[nn.Module, torch.Tensor]) -> int:
    """Put Int8Linear in the place of every linear layer that ran; returns how many."""
    count = 0
    for name, child in list(module.named_children()):
        if child in seen:
            layer: Any = child
            weight = layer.weight.T if type(layer) is Conv1D else layer.weight
            setattr(module, name, Int8Linear(weight.detach(), layer.bias, seen.pop(child)))
            count += 1
        else:
            count += _replace(child, seen)
    return count
