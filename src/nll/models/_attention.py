"""What the heads of a model look at while it reads a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from nll._errors import BadInput, BadModel, BadText
from nll.models._encode import encode
from nll.models._protocol import LanguageModel
from nll.trace import Array, Text, TextLike


class Attention(NamedTuple):
    """weights: (L, H, N, N), row i attends to column j <= i.   text: what was read.

    spans: (N, 2) characters of each token in `text`, (0, 0) for a BOS that the model was given.
    """

    weights: Array
    text: str
    spans: Array


def attention(model: LanguageModel, prompt: TextLike) -> Attention:
    """Attention weights, float32, of every layer and head over a prompt.

    prompt: a text; of a chat or a (prompt, completion) pair only what stands before the answer is
    read. Needs L H N^2 numbers of memory. The model computes attention plainly ("eager") for this
    call, since its faster ways give no weights; afterwards it is as it was. Raises BadInput when
    the model is not in this process or the prompt is longer than its context, BadModel when it has
    no attention weights to give.
    """
    import torch

    from nll.models._engine import LocalModel

    if not isinstance(model, LocalModel):
        raise BadInput("attention weights can be had of a local model only")
    (done,) = encode(model.tokenizer, [Text.of(prompt)])
    if isinstance(done, BadText):
        raise done
    keep = done.prompt_tokens if done.kind in ("chat", "completion") else len(done.ids)
    bos = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    ids = [*bos, *done.ids[:keep].tolist()]
    if not ids or len(ids) > model.network.context:
        raise BadInput(f"{len(ids)} tokens; the model reads 1 to {model.network.context}")
    hf = model.network.hf
    with eager(hf), torch.inference_mode():
        given = torch.tensor([ids], device=model.network.device)
        found = getattr(hf(given, use_cache=False, output_attentions=True), "attentions", None)
    if not found or any(a is None for a in found):
        raise BadModel(f"{model.network.name} gives no attention weights")
    weights = np.stack([a[0].float().cpu().numpy() for a in found])
    spans = np.concatenate([np.zeros((len(bos), 2), np.int64), done.spans[:keep]])
    return Attention(weights, done.text[: int(spans[-1, 1])], spans)


@contextmanager
def eager(hf: Any) -> Iterator[None]:
    """Attention computed plainly within the block, so that its weights exist.

    Raises BadModel where the architecture has no plain form.
    """
    before = hf.config._attn_implementation
    try:
        hf.set_attn_implementation("eager")
    except (ValueError, AttributeError) as error:
        raise BadModel(f"this model cannot compute attention plainly: {error}") from None
    try:
        yield
    finally:
        hf.set_attn_implementation(before)
