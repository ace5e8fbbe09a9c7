"""The PowerNorm study's language model of characters, with a normalisation layer of choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

Make: TypeAlias = "Callable[[], nn.Module]"
Ids: TypeAlias = npt.NDArray[np.int64]


class Size(NamedTuple):
    """Shape of the model and of its training; warmup: steps of PowerNorm's and the rate's."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    context: int = 64
    batch: int = 16
    updates: int = 400
    warmup: int = 100
    lr: float = 2e-3
    test: int = 400


class Text(NamedTuple):
    """Training text and two tests as ids of characters below `vocabulary`."""

    train: Ids
    test: Ids
    other: Ids
    vocabulary: int


class Trained(NamedTuple):
    """Test nll (nats per character) on both texts with running statistics, on the first also with
    the batch's own for whole batches and for single texts, and the drifts seen (updates, layers) by
    name."""

    nll: float
    other: float
    own: float
    own_single: float
    drift: Mapping[str, npt.NDArray[np.float64]]


def encode(train: str, test: str, other: str) -> Text:
    """Ids of characters; those seen fewer than 20 times in training share id 0."""
    count: dict[str, int] = {}
    for c in train:
        count[c] = count.get(c, 0) + 1
    known = {c: i + 1 for i, c in enumerate(sorted(c for c, n in count.items() if n >= 20))}
    own, here, there = (
        np.array([known.get(s, 0) for s in t], np.int64) for t in (train, test, other)
    )
    return Text(own, here, there, len(known) + 1)


def arms(size: Size) -> dict[str, Make]:
    """Normalisation layers by name."""
    from torch import nn

    from nll.nn import MaskedBatchNorm, PowerNorm, PowerNormV

    d = size.width

    def pn(**more: Any) -> Make:
        return lambda: PowerNorm(d, **({"warmup": size.warmup, "groups": size.heads} | more))

    return {
        LN: lambda: nn.LayerNorm(d),
        "RMSNorm": lambda: nn.RMSNorm(d),
        BN: lambda: MaskedBatchNorm(d),
        "PN-V": lambda: PowerNormV(d, warmup=size.warmup, groups=size.heads),
        PN: pn(),
        "PowerNorm without GroupScale": pn(groups=None),
        LEAKFREE: pn(warmup=0),
    }


LN, BN, PN, LEAKFREE = "LayerNorm", "BatchNorm", "PowerNorm", "PowerNorm without a leak"


def network(make: Make, vocabulary: int, size: Size) -> nn.Module:
    """A causal transformer, norms after each sublayer as in the paper."""
    import torch
    from torch import nn
    from torch.nn.functional import relu, scaled_dot_product_attention

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            d = size.width
            self.mix, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.wide, self.narrow = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
            self.first, self.second = make(), make()

        def forward(self, x: Tensor) -> Tensor:
            shape = (*x.shape[:2], size.heads, -1)
            q, k, v = (t.reshape(shape).transpose(1, 2) for t in self.mix(x).chunk(3, -1))
            seen = scaled_dot_product_attention(q, k, v, is_causal=True)
            x = self.first(x + self.out(seen.transpose(1, 2).reshape(x.shape)))
            normed: Tensor = self.second(x + self.narrow(relu(self.wide(x))))
            return normed

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(vocabulary, size.width)
            self.place = nn.Embedding(size.context, size.width)
            self.blocks = nn.Sequential(*(Block() for _ in range(size.layers)))
            self.head = nn.Linear(size.width, vocabulary)

        def forward(self, ids: Tensor) -> Tensor:
            places = torch.arange(ids.shape[1], device=ids.device)
            logits: Tensor = self.head(self.blocks(self.token(ids) + self.place(places)))
            return logits

    return Model()


def train(
    name: str, text: Text, size: Size, seed: int, *, drift_every: int = 10, place: str = "cpu"
) -> Trained:
    """Train one arm; the same seed gives every arm the same weights at the start and batches."""
    import torch

    torch.manual_seed(seed)
    model = network(arms(size)[name], text.vocabulary, size).to(place)
    draw = np.random.default_rng(seed)
    norms, seen = _watch(model)
    first = _batch(text.train, size, draw).to(place)
    if name == LEAKFREE:
        # The layers below must be set before what they pass on is looked at.
        for i in range(len(norms)):
            _pass(model, first)
            layer, held = norms[i]
            layer.initialise(held[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.lr)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / size.warmup)
    )
    drifts: dict[str, list[list[float]]] = {}
    model.train()
    for step in range(size.updates):
        seen.on = step % drift_every == drift_every - 1
        loss = _nll(model, _batch(text.train, size, draw).to(place))
        if seen.on:
            for key in {k for layer in seen.found for k in layer}:
                drifts.setdefault(key, []).append([layer[key] for layer in seen.found])
            seen.found.clear()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
    seen.on = False
    blocks = [_blocks(t, size).to(place) for t in (text.test, text.other)]
    model.eval()
    here, there = (_mean(model, b, size.batch) for b in blocks)
    # Only a training pass uses the batch's statistics; momentum and step counts are put back.
    own, single = (_with_batch_statistics(model, blocks[0], n) for n in (size.batch, 1))
    return Trained(here, there, own, single, {k: np.array(v) for k, v in drifts.items()})


class _Seen:
    """Drift of each layer at the steps where it is switched on."""

    def __init__(self) -> None:
        self.on = False
        self.found: list[dict[str, float]] = []


def _watch(model: nn.Module) -> tuple[list[tuple[Any, list[Tensor]]], _Seen]:
    """Hooks on the layers with statistics; each layer with the last input it was given."""
    from nll.nn import MaskedBatchNorm, PowerNorm, batch_statistics_drift

    seen = _Seen()
    norms: list[tuple[Any, list[Tensor]]] = []
    for layer in model.modules():
        if isinstance(layer, (PowerNorm, MaskedBatchNorm)):
            held: list[Tensor] = []

            def look(layer: Any, given: tuple[Tensor, ...], held: list[Tensor] = held) -> None:
                held[:] = [given[0].detach()]
                if seen.on:
                    seen.found.append(batch_statistics_drift(given[0], layer))

            layer.register_forward_pre_hook(look)
            norms.append((layer, held))
    return norms, seen


def _pass(model: nn.Module, ids: Tensor) -> None:
    import torch

    model.eval()
    with torch.no_grad():
        model(ids[:, :-1])
    model.train()


def _batch(ids: Ids, size: Size, draw: np.random.Generator) -> Tensor:
    import torch

    starts = draw.integers(0, len(ids) - size.context - 1, size.batch)
    return torch.from_numpy(ids[starts[:, None] + np.arange(size.context + 1)])


def _blocks(ids: Ids, size: Size) -> Tensor:
    """(n, context + 1) pieces spread evenly over a text."""
    import torch

    room = len(ids) - size.context - 1
    if room < 1:
        raise BadInput(f"a text of {len(ids)} characters is shorter than the context")
    starts = np.linspace(0, room, min(size.test, room)).astype(int)
    return torch.from_numpy(ids[starts[:, None] + np.arange(size.context + 1)])


def _nll(model: nn.Module, ids: Tensor) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def _mean(model: nn.Module, blocks: Tensor, n: int) -> float:
    import torch

    with torch.no_grad():
        # Whole batches only: a rest would be normalised by fewer texts.
        return float(np.mean([float(_nll(model, b)) for b in blocks.split(n) if len(b) == n]))  # type: ignore[no-untyped-call]


def _with_batch_statistics(model: nn.Module, blocks: Tensor, n: int) -> float:
    """Mean nll where each layer divides by the statistics of the texts before it."""
    from nll.nn import MaskedBatchNorm, PowerNorm

    kept = {k: v.clone() for k, v in model.state_dict().items()}
    held = []
    model.eval()
    for layer in model.modules():
        if isinstance(layer, PowerNorm):
            held.append((layer, layer.warmup))
            layer.warmup = math.inf  # type: ignore[assignment]
            layer.train()
        elif isinstance(layer, MaskedBatchNorm):
            layer.train()
    try:
        return _mean(model, blocks, n)
    finally:
        for layer, warmup in held:
            layer.warmup = warmup
        model.load_state_dict(kept)
        model.eval()
