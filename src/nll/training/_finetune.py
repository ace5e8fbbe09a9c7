"""Plain continued training on texts, the model before kept as it was."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from nll._errors import BadInput, BadText, MissingExtra
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
    lora: int | Any | None = None,
    after_epoch: Callable[[int, float], None] = lambda *_: None,
) -> LanguageModel:
    """A copy of `model` trained on `texts` by the mean nll of their tokens; AdamW.

    Texts are cut to `max_tokens` and read with the model's own BOS rule. `after_epoch` hears the
    number of the epoch and its mean loss in nats per token. The same seed gives the same weights.
    lora: train adapters (peft) instead of all weights, and add them to these at the end: a rank
    (alpha twice as large, dropout 0.05, on the query and value projections, as in arXiv 2404.08679,
    which takes rank 16 and a learning rate of 1e-4), or a peft LoraConfig.
    Raises BadInput when the model is not in this process, no text has two tokens, or the model has
    no projections of these names; MissingExtra without peft.
    """
    if not isinstance(model, LocalModel):
        raise BadInput("only a local model can be trained")
    rows = _rows(model, texts, max_tokens)
    hf: Any = copy.deepcopy(model.network.hf)
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    if lora is not None:
        hf = _adapted(hf, lora)
    hf.train()
    optimiser = torch.optim.AdamW(
        [p for p in hf.parameters() if p.requires_grad], lr=lr, weight_decay=weight_decay
    )
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
    if lora is not None:
        hf = hf.merge_and_unload()
    return from_transformers(
        hf.eval(),
        model.tokenizer.hf,
        name=f"{model.provenance.model}, tuned on {len(rows)} texts",
        bos=model.provenance.bos or "none",
        batch_tokens=model.batch_tokens,
    )


def _adapted(hf: Any, lora: Any) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtra('adapters need peft; run: pip install "nll[train]"') from None
    if isinstance(lora, int):
        if lora < 1:
            raise BadInput(f"lora is the rank of the adapters, 1 or more, not {lora}")
        lora = LoraConfig(
            r=lora, lora_alpha=2 * lora, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM",
            target_modules=["q_proj", "v_proj"],
        )  # fmt: skip
    try:
        with warnings.catch_warnings():
            # peft asks transformers in words that its newer versions find old.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            return get_peft_model(hf, lora)
    except ValueError as error:
        reason = str(error).split("\n")[0]
        raise BadInput(f"this model cannot take the adapters: {reason}") from None


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
