"""Tune the heads that look at "No" until they no longer do (experimental; arXiv 2408.00137)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from nll._errors import BadInput, BadModel, BadText
from nll.models import LanguageModel, from_transformers
from nll.models._attention import eager
from nll.models._encode import encode
from nll.models._engine import LocalModel
from nll.scores import label_positions, negative_attention_score, rank_negative_heads
from nll.trace import Text


class AlignedHead(NamedTuple):
    """A head, its mean negative attention score before and after, and whether it was kept.

    loss_before, loss_after: mean nll of the right word on the validation items, nats.
    """

    layer: int
    head: int
    before: float
    after: float
    loss_before: float
    loss_after: float
    steps: int
    kept: bool


class Alignment(NamedTuple):
    """The tuned model, and what became of each head."""

    model: LanguageModel
    heads: tuple[AlignedHead, ...]


class _Item(NamedTuple):
    ids: torch.Tensor  # prompt, then the right word
    n_prompt: int
    yes_pos: int
    no_pos: int


def nas_align(
    model: LanguageModel,
    items: Sequence[tuple[str, bool]],
    validation: Sequence[tuple[str, bool]],
    *,
    top_k: int = 5,
    lr: float = 1e-3,
    max_steps: int = 20,
    batch_size: int = 8,
    yes: str = "Yes",
    no: str = "No",
    seed: int = 0,
) -> Alignment:
    """Tune the query and key slices of the `top_k` heads with the highest positive score, in turn.

    items: prompts that list both words (`label_positions`), each with True when the answer is
    `yes`; as many of either. A step lowers the nll of the right word (" Yes", " No" after the
    prompt) over `batch_size` items. A head is done when its mean score over all items is no longer
    above 0, or after `max_steps`; when the validation loss is then higher, its weights go back.
    Under grouped-query attention a key slice is shared with the other heads of its group.

    Our reading of NASA, whose details we could not check: experimental. The plain alternative is
    `nll.scores.debias_threshold`. Returns a tuned copy; `model` is unchanged. Raises BadInput for
    unbalanced or no items, BadModel without separate query and key projections.
    """
    if not isinstance(model, LocalModel):
        raise BadInput("only a local model can be tuned")
    gold = [right for _, right in items]
    if not items or not validation or 2 * sum(gold) != len(gold):
        raise BadInput("items need as many yes as no, and validation at least one item")
    if top_k < 1 or max_steps < 1 or batch_size < 1:
        raise BadInput("top_k, max_steps and batch_size must be 1 or more")
    train, held = (_items(model, x, yes, no) for x in (items, validation))
    hf = copy.deepcopy(model.network.hf).eval()
    draw = np.random.default_rng(seed)
    with eager(hf):
        ranked = [h for h in rank_negative_heads(_scores(hf, train)) if h.score > 0][:top_k]
        done = tuple(
            _tune(hf, h.layer, h.head, train, held, lr, max_steps, batch_size, draw) for h in ranked
        )
    hf.requires_grad_(True)
    tuned = from_transformers(
        hf,
        model.tokenizer.hf,
        name=f"{model.provenance.model}, {sum(h.kept for h in done)} heads aligned",
        bos=model.provenance.bos or "none",
        batch_tokens=model.batch_tokens,
    )
    return Alignment(tuned, done)


def _items(model: LocalModel, given: Sequence[tuple[str, bool]], yes: str, no: str) -> list[_Item]:
    bos = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    texts = [Text.pair(prompt, f" {yes if right else no}") for prompt, right in given]
    out = []
    for done in encode(model.tokenizer, texts):
        if isinstance(done, BadText):
            raise done
        n = done.prompt_tokens
        at = label_positions(done.text[: int(done.spans[n - 1, 1])], done.spans[:n], yes, no)
        ids = torch.tensor([*bos, *done.ids.tolist()], device=model.network.device)
        out.append(_Item(ids, n + len(bos), at[0] + len(bos), at[1] + len(bos)))
    return out


def _loss(hf: Any, item: _Item) -> torch.Tensor:
    logits = hf(item.ids[None], use_cache=False).logits[0, item.n_prompt - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), item.ids[item.n_prompt :])


@torch.no_grad()
def _mean_loss(hf: Any, items: Sequence[_Item]) -> float:
    return float(np.mean([_loss(hf, item).item() for item in items]))


@torch.no_grad()
def _scores(hf: Any, items: Sequence[_Item]) -> np.ndarray[Any, Any]:
    """(P, L, H) negative attention scores over the prompts."""
    out = []
    for item in items:
        prompt = item.ids[: item.n_prompt][None]
        found = getattr(hf(prompt, use_cache=False, output_attentions=True), "attentions", None)
        if not found or any(a is None for a in found):
            raise BadModel("this model gives no attention weights")
        weights = np.stack([a[0].float().cpu().numpy() for a in found])
        out.append(negative_attention_score(weights, item.yes_pos, item.no_pos))
    return np.stack(out)


def _slices(hf: Any, layer: int, head: int) -> list[tuple[torch.nn.Parameter, slice]]:
    """The rows of the query and key projections that belong to a head."""
    layers = getattr(hf.base_model, "layers", None)
    attention = getattr(layers[layer], "self_attn", None) if layers is not None else None
    query, key = (getattr(attention, name, None) for name in ("q_proj", "k_proj"))
    if query is None or key is None:
        raise BadModel(
            "this architecture has no separate query and key projections (q_proj, k_proj)"
        )
    config = hf.config.get_text_config()
    heads, groups = config.num_attention_heads, config.num_key_value_heads or 0
    size = query.weight.shape[0] // heads
    shared = head * groups // heads
    rows = {
        query: slice(head * size, (head + 1) * size),
        key: slice(shared * size, (shared + 1) * size),
    }
    return [
        (parameter, place)
        for layer_, place in rows.items()
        for parameter in (layer_.weight, layer_.bias)
        if parameter is not None
    ]


def _tune(
    hf: Any, layer: int, head: int, train: Sequence[_Item], held: Sequence[_Item], lr: float,
    max_steps: int, batch_size: int, draw: np.random.Generator,
) -> AlignedHead:  # fmt: skip
    slices = _slices(hf, layer, head)
    saved = [(p, p.detach().clone()) for p, _ in slices]
    before, loss_before = _head_score(hf, train, layer, head), _mean_loss(hf, held)
    hf.requires_grad_(False)
    for parameter, _ in slices:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam([p for p, _ in slices], lr=lr)
    after, steps = before, 0
    while after > 0 and steps < max_steps:
        chosen = draw.choice(len(train), min(batch_size, len(train)), replace=False)
        optimiser.zero_grad()
        for i in chosen:
            (_loss(hf, train[i]) / len(chosen)).backward()  # type: ignore[no-untyped-call]
        for parameter, place in slices:
            outside = torch.ones_like(parameter, dtype=torch.bool)
            outside[place] = False
            if parameter.grad is not None:
                parameter.grad[outside] = 0
        optimiser.step()
        steps, after = steps + 1, _head_score(hf, train, layer, head)
    loss_after = _mean_loss(hf, held)
    kept = loss_after <= loss_before
    if not kept:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)
    return AlignedHead(layer, head, before, after, loss_before, loss_after, steps, kept)


def _head_score(hf: Any, items: Sequence[_Item], layer: int, head: int) -> float:
    """Mean over the prompts on which the head looks at either word; nan where it never does."""
    found = _scores(hf, items)[:, layer, head]
    held = found[~np.isnan(found)]
    return float(held.mean()) if held.size else float("nan")
