"""The unembedding: hidden states to logits, in float32 whatever the model's dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nll._errors import BadInput

_SLICE_BYTES = 64 << 20
_SLICE_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Head:
    """What turns a hidden state into logits: z = W h + b, then z * scale, then cap tanh(z / cap).

    weight: (V, d), any float dtype.   bias: (V,) or None.   scale: multiplies the logits.
    softcap: bound of the logits, or None.
    keep_float32: hold one float32 copy of a weight in another dtype (4 V d bytes); None means on
    CPU only. Without it the weight is converted 64 MiB at a time, anew for every block of rows.
    Raises BadInput when shapes disagree or softcap is not positive.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    keep_float32: bool | None = None

    def __post_init__(self) -> None:
        if self.weight.dim() != 2 or not self.weight.is_floating_point():
            raise BadInput(
                f"an unembedding must be a (V, d) float tensor, not {tuple(self.weight.shape)} "
                f"{self.weight.dtype}"
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise BadInput(
                f"the bias has shape {tuple(self.bias.shape)}, the vocabulary {self.vocab_size}"
            )
        if self.softcap is not None and not self.softcap > 0:
            raise BadInput(f"softcap must be positive, not {self.softcap}")

    @property
    def vocab_size(self) -> int:
        """V, the number of logits."""
        return self.weight.shape[0]

    @cached_property
    def _weight32(self) -> Tensor | None:
        if self.weight.dtype == torch.float32:
            return self.weight.detach()
        keep = self.keep_float32
        if keep is None:
            keep = self.weight.device.type == "cpu"
        return self.weight.detach().float() if keep else None

    def _slice(self) -> int:
        """How much of the vocabulary one product takes.

        One CPU thread is 10 to 25 % faster when the slice stays in its cache; several threads would
        meet at a barrier after each slice, which costs more than that on a busy machine.
        """
        if self._weight32 is None:
            return max(1, _SLICE_BYTES // (4 * self.weight.shape[1]))
        if self.weight.device.type == "cpu" and torch.get_num_threads() == 1:
            return _SLICE_ROWS
        return self.vocab_size

    @torch.no_grad()
    def logits(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """(R, d) hidden states to (R, V) float32 logits, written into `out` when it is given.

        Products are full float32: autocast, TF32 and reduced matmul precision do not apply here.
        Raises BadInput when rows have another width than the weight, or `out` does not fit.
        """
        if rows.dim() != 2 or rows.shape[1] != self.weight.shape[1]:
            raise BadInput(
                f"hidden states have shape {tuple(rows.shape)}, expected (rows, "
                f"{self.weight.shape[1]})"
            )
        rows = rows.detach().to(device=self.weight.device, dtype=torch.float32)
        if out is None:
            out = rows.new_empty(rows.shape[0], self.vocab_size)
        # torch would resize a slice of the wrong size and leave `out` as it was
        elif out.shape != (rows.shape[0], self.vocab_size) or out.dtype != torch.float32:
            raise BadInput(
                f"the buffer is {tuple(out.shape)} {out.dtype}, not "
                f"({rows.shape[0]}, {self.vocab_size}) float32"
            )
        with _full_float32(rows.device.type):
            step = self._slice()
            for start in range(0, self.vocab_size, step):
                part = slice(start, start + step)
                kept = self._weight32
                weight = self.weight.detach()[part].float() if kept is None else kept[part]
                torch.mm(rows, weight.T, out=out[:, part])
        if self.bias is not None:
            out.add_(self.bias.detach())
        if self.scale != 1.0:
            out.mul_(self.scale)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)
        return out


@contextmanager
def _full_float32(device: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)
