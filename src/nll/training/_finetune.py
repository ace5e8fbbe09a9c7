"""Plain continued training on texts, the model before kept as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from nll._errors import BadInput, BadText
from nll.models import LanguageModel, from_transformers
from nll.models._encode import encode
from nll.models._engine import LocalModel
from nll.trace import Text, TextLike


def finetune_causal(
    model: LanguageModel,
    texts: Sequence[TextLike],
    *,
    epochs: int = 1,
    lr: float = 5e-5,
    batch_size: int = 16,
    max_tokens: int = 512,
    weight_decay: float = 0.01,
    seed: int = 0,
    after_epoch: Callable[[int, float], None] = lambda *_: None,
) -> LanguageModel:
    """A copy of `model` trained on `texts` by the mean nll of their tokens; AdamW, all weights.

    Texts are cut to `max_tokens` and read with the model's own BOS rule. `after_epoch` hears the
    number of the epoch and its mean loss in nats per token. The same seed gives the same weights.
    Raises BadInput when the model is not in this process or no text has two tokens.
    """
    if not isinstance(model, LocalModel):
        raise BadInput("only a local model can be trained")
    rows = _rows(model, texts, max_tokens)
    hf = copy.deepcopy(model.network.hf).train()
    optimiser = torch.optim.AdamW(hf.parameters(), lr=lr, weight_decay=weight_decay)
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    for epoch in range(epochs):
        total = count = 0.0
        order = draw.permutation(len(rows))
        for start in range(0, len(rows), batch_size):
            loss, tokens = _loss(hf, [rows[i] for i in order[start : start + batch_size]])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
            optimiser.step()
            total, count = total + loss.item() * tokens, count + tokens
        after_epoch(epoch + 1, total / count)
    return from_transformers(
        hf.eval(),
        model.tokenizer.hf,
        name=f"{model.provenance.model}, tuned on {len(rows)} texts",
        bos=model.provenance.bos or "none",
        batch_tokens=model.batch_tokens,
    )


def _rows(model: LocalModel, texts: Sequence[TextLike], max_tokens: int) -> list[torch.Tensor]:
    bos = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    rows = []
    for done in encode(model.tokenizer, [Text.of(t) for t in texts]):
        if isinstance(done, BadText):
            raise done
        ids = [*bos, *done.ids.tolist()][:max_tokens]
        if len(ids) > 1:
            rows.append(torch.tensor(ids, device=model.network.device))
    if not rows:
        raise BadInput("there is nothing to train on: no text has two tokens")
    return rows


def _loss(hf: Any, rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Mean nll over all predicted tokens of a right-padded batch, and how many they are."""
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(r) for r in rows], device=ids.device)
    held = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    logits = hf(ids, attention_mask=held.long(), use_cache=False).logits[:, :-1]
    targets = ids[:, 1:].masked_fill(~held[:, 1:], -100)
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    return loss, int(held[:, 1:].sum())
