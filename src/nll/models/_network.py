"""A transformers model as the engine sees it: batches in, states out, with its layout proved.

What a model may be given (explicit positions, packed rows, a known unembedding) is found out by
running it: two short sequences alone, then in each layout. A layout that moves a state is not used.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from nll._errors import BadModel
from nll.kernels import Head
from nll.models._continue import bears_padding
from nll.models._layout import Batch, Segment, plan, visible
from nll.models._light import LightLlama
from nll.trace import Array

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
_UNBOUNDED = 1 << 20  # context of models without one (recurrent)


class Network:
    """A causal transformers model with the layouts that it was proved to bear."""

    def __init__(self, hf: Any, name: str, *, pack: bool = True):
        self._model = hf.eval()
        self.name = name
        self.base = hf.base_model
        self.device: torch.device = next(hf.parameters()).device
        self.dtype: torch.dtype = next(hf.parameters()).dtype
        self.context = context_of(hf.config)
        self.head: Head | None = head_of(hf)
        self.takes_positions = "position_ids" in inspect.signature(self.base.forward).parameters
        self.pack_limit = pack_limit(hf.config, self.context) if pack else 0
        self._prove()
        self.width: int = 0 if self.head is None else self.head.weight.shape[1]
        self.vocab_size: int = (
            hf.config.get_text_config().vocab_size if self.head is None else len(self.head.weight)
        )

    @property
    def hf(self) -> Any:
        """The transformers model itself; where a light one stands in, it is opened now."""
        return self._model.whole if isinstance(self._model, LightLlama) else self._model

    @torch.inference_mode()
    def states(self, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
        """(R, d) states at flat row indices, as they enter the unembedding; logits if head is None.

        A pass that does not fit the device's memory is run again in halves.
        """
        flat = self._forward(batch).flatten(0, 1)
        return flat[rows.to(self.device)]

    def _forward(self, batch: Batch) -> torch.Tensor:
        try:
            return self._pass(batch)
        except torch.OutOfMemoryError:
            count = len(batch.ids)
            if count == 1:
                raise
        half = count // 2
        torch.cuda.empty_cache()
        parts = [_rows(batch, slice(0, half)), _rows(batch, slice(half, count))]
        return torch.cat([self._forward(part) for part in parts])

    def _pass(self, batch: Batch) -> torch.Tensor:
        ids = torch.from_numpy(batch.ids).to(self.device)
        given: dict[str, Any] = {"use_cache": False}
        if batch.plain:
            # Padding on the right of a causal model is seen by nobody, so no mask is needed.
            positions = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        else:
            positions = torch.from_numpy(batch.positions).to(self.device)
            given["attention_mask"] = self._mask(batch)
        if self.takes_positions:
            given["position_ids"] = positions
        if self.head is None:
            out: torch.Tensor = self._model(ids, **given).logits
            return out
        states: torch.Tensor = self.base(ids, **given).last_hidden_state
        return states

    def _mask(self, batch: Batch) -> torch.Tensor:
        sees = torch.from_numpy(visible(batch.parents)).to(self.device)
        mask = torch.zeros(sees.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~sees, torch.finfo(self.dtype).min)[:, None]

    @cached_property
    def pad_limit(self) -> int:
        """Longest sequence that may be continued beside longer ones; found out at first use."""
        return pack_limit(self.hf.config, self.context) if bears_padding(self, _close) else 0

    @torch.inference_mode()
    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(n, V) float32 logits of a few states; they are the states if head is None."""
        return states.float() if self.head is None else self.head.logits(states)

    def _prove(self) -> None:
        """Find the layouts under which this model's numbers do not move; see the module's text."""
        size = min(int(self._model.config.get_text_config().vocab_size), 5_000)
        draw = np.random.default_rng(0)
        a, b = (draw.integers(0, size, n).astype(np.int64) for n in (13, 7))
        c = np.concatenate([a[:10], b[:4]])  # begins like a
        wanted = [self._alone(s) for s in (a, b, c)]
        if self.head is not None and not self._head_agrees(a, wanted[0]):
            warnings.warn(
                f"{self.name}: its logits are not a map of its last states that nll knows; "
                "the model's own logits are used, which takes more memory",
                stacklevel=2,
            )
            self.head = None
            wanted = [self._alone(s) for s in (a, b, c)]
        if self.takes_positions and not self._agrees([a, b], wanted, pack=False):
            self.takes_positions = False  # counts positions in its own way (RoBERTa family)
        if not self._agrees([a, b], wanted, pack=False):
            raise BadModel(
                f"{self.name}: a text's numbers change when another text shares its batch "
                "(is it a causal model?)"
            )
        masked = getattr(self._model.config, "_attn_implementation", None) in ("sdpa", "eager")
        if not (masked and self.takes_positions and self._agrees([a, b, c], wanted, pack=True)):
            self.pack_limit = 0

    @torch.inference_mode()
    def _alone(self, ids: Array) -> torch.Tensor:
        """(T, d) states, or (T, V) logits of a model that gives no states or has no known head."""
        given = torch.from_numpy(ids)[None].to(self.device)
        if self.head is not None:
            states = getattr(self.base(given, use_cache=False), "last_hidden_state", None)
            if states is not None:
                return cast(torch.Tensor, states[0])
        logits: torch.Tensor = self._model(given, use_cache=False).logits
        return logits[0]

    @torch.inference_mode()
    def _head_agrees(self, ids: Array, states: torch.Tensor) -> bool:
        """Whether head(states) gives the logits that the model gives itself."""
        if self.head is None or states.shape[-1] != self.head.weight.shape[1]:
            return False
        given = torch.from_numpy(ids)[None].to(self.device)
        own = self._model(given, use_cache=False).logits[0].float()
        mine = self.head.logits(states)
        return _close(mine[:, : own.shape[1]], own[:, : mine.shape[1]], self.dtype)

    @torch.inference_mode()
    def _agrees(self, sequences: list[Array], wanted: list[torch.Tensor], *, pack: bool) -> bool:
        segments = [Segment(i, s, 1, 0, tail=True) for i, s in enumerate(sequences)]
        try:
            for batch in plan(segments, budget=4096, pack=pack):
                flat = self._forward(batch).flatten(0, 1).float()
                for item, reference in enumerate(wanted[: len(sequences)]):
                    mine = flat[torch.from_numpy(batch.rows[batch.items == item])]
                    if not mine.numel():
                        continue
                    if not _close(mine, reference.float(), self.dtype):
                        return False
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False  # the model does not take this layout at all
        return True


def _close(mine: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype) -> bool:
    scale = reference.abs().max().clamp(min=1e-6)
    return bool((mine - reference).abs().max() / scale < _TOLERANCE[dtype])


def _rows(batch: Batch, part: slice) -> Batch:
    return Batch(
        batch.ids[part], batch.positions[part], batch.used[part], batch.parents[part], batch.plain,
        batch.rows, batch.targets, batch.items, batch.dests,
    )  # fmt: skip


def context_of(config: Any) -> int:
    """How many tokens the model can read at once."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            # RoBERTa-type tables keep their first rows for padding.
            padded = config.model_type in ("roberta", "xlm-roberta", "camembert", "xmod")
            return value - (int(config.pad_token_id or 0) + 1 if padded else 0)
    return _UNBOUNDED


def pack_limit(config: Any, context: int) -> int:
    """Longest sequence whose mask is plainly causal in every layer, so that rows may be packed."""
    config = config.get_text_config()
    limits = [context]
    for name in ("sliding_window", "attention_chunk_size", "window_size"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            limits.append(value)
    return min(limits)


def head_of(hf: Any) -> Head | None:
    """The unembedding with what the architecture does to its logits; proved by `Network`."""
    layer = hf.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim != 2:
        return None
    config = hf.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    bias = getattr(layer, "bias", None)
    return Head(
        weight=weight.detach(),
        bias=None if bias is None else bias.detach(),
        scale=scale,
        softcap=None if cap is None else float(cap),
    )


@torch.inference_mode()
def fingerprint(hf: Any) -> str:
    """A hash of all weights: exact integer sums over every tensor, and a sample of its bytes."""
    digest = hashlib.sha256()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in sorted(hf.state_dict().items()):
        bits = tensor.detach().contiguous().view(-1).view(whole[tensor.element_size()])
        step = max(1, bits.numel() // 4096)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {int(bits.sum())}".encode())
        digest.update(bits[::step].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
