"""Log-probs of a batch's answers under the model that is trained, and under its reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nll._errors import BadInput
from nll.models._network import head_of
from nll.objectives import TokenLogps, linear_logps, token_logps

Batch: TypeAlias = Mapping[str, Tensor]
Reference: TypeAlias = Callable[[Batch], Tensor]
REF = "ref"  # the adapter that TRL keeps for what an adapter was before it is trained further


def answer_logps(model: Any, batch: Batch, *, whole: Any = None) -> TokenLogps:
    """(B, T - 1) log-probs of the answers' tokens and their mask, by one pass without the logits.

    batch: input_ids, attention_mask, completion_mask, each (B, T).   whole: the model inside the
    wrappers that training puts around it. Where the unembedding is not a plain linear layer, or is
    cut over devices, the logits are formed.
    """
    whole = model if whole is None else whole
    ids, mask = batch["input_ids"], batch["completion_mask"]
    given = {"input_ids": ids, "attention_mask": batch["attention_mask"], "use_cache": False}
    layer = plain_head(whole)
    if layer is None:
        return token_logps(model(**given).logits, ids, mask)
    with _headless(layer):
        states = model(**given).logits
    return linear_logps(states, layer.weight, ids, mask, bias=layer.bias)


def answer_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, T - 1, V) logits that predict each token, and which of those are the answers'."""
    given = {k: batch[k] for k in ("input_ids", "attention_mask")}
    logits: Tensor = model(**given, use_cache=False).logits
    return logits[:, :-1], batch["completion_mask"][:, 1:].bool()


def plain_head(whole: Any) -> nn.Linear | None:
    """The unembedding where logits are W h + b of the model's last states and W lies here whole."""
    base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    layer = base.get_output_embeddings()
    if type(layer) is not nn.Linear or type(layer.weight) not in (nn.Parameter, Tensor):
        return None
    head = head_of(base)
    plain = head is not None and head.scale == 1 and head.softcap is None
    return layer if plain and layer.weight.dim() == 2 else None


@contextmanager
def _headless(layer: nn.Linear) -> Iterator[None]:
    """The model gives its last states where it gave logits; it is called through its wrappers, so
    that what they do for several processes is done."""
    layer.forward = lambda states: states  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del layer.forward


def reference_of(given: Any, model: Any) -> Reference:
    """A reference as a function of a batch: a model, a function, or None for the model as it is
    now (a frozen copy), or, if it has adapters, as it is with the one called `ref`, else without
    any."""
    if given is None:
        if REF in getattr(model, "peft_config", {}):
            return _Frozen(model, partial(_with_adapter, model, REF))
        if hasattr(model, "disable_adapter"):
            return _Frozen(model, model.disable_adapter)
        return _Frozen(copy.deepcopy(model).requires_grad_(False))
    if isinstance(given, nn.Module):
        return _Frozen(given.requires_grad_(False))
    if not callable(given):
        raise BadInput("a reference is a model, a function of a batch, or None")
    reference: Reference = given
    return reference


@contextmanager
def _with_adapter(model: Any, name: str) -> Iterator[None]:
    before = model.active_adapter
    model.set_adapter(name)
    try:
        yield
    finally:
        model.set_adapter(before)


class _Frozen:
    """A model as a reference; `logits` serves divergences over the whole vocabulary."""

    def __init__(self, model: Any, without: Callable[[], Any] = nullcontext):
        self.model = model
        self.without = without

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        with self._asked(batch):
            return answer_logps(self.model, batch).logp

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        with self._asked(batch):
            return answer_logits(self.model, batch)[0]

    @contextmanager
    def _asked(self, batch: Batch) -> Iterator[None]:
        self.model.to(batch["input_ids"].device)
        training = self.model.training
        self.model.eval()
        try:
            with self.without():
                yield
        finally:
            self.model.train(training)
