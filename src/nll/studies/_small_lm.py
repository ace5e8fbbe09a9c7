"""A language model of two layers over a handful of characters, for studies that train and sample.

All texts of a batch have one length, so there is no padding anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

CHARACTERS = "0123456789+=;."


def encode(texts: Sequence[str]) -> Tensor:
    """(N, T) ids of texts of one length."""
    import torch

    return torch.tensor([[CHARACTERS.index(c) for c in text] for text in texts])


def decode(ids: Tensor) -> list[str]:
    """The texts of (N, T) ids."""
    return ["".join(CHARACTERS[i] for i in row) for row in ids.tolist()]


def network(seed: int, *, width: int = 128, layers: int = 2) -> Any:
    """A Llama over CHARACTERS with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(CHARACTERS), hidden_size=width, intermediate_size=2 * width,
                num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
                max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip


def answer_logits(net: Any, ids: Tensor, start: int) -> Tensor:
    """(N, T - start, V) logits that predict the characters from `start` on."""
    out: Tensor = net(input_ids=ids[:, :-1], use_cache=False).logits[:, start - 1 :]
    return out


def answer_logps(net: Any, ids: Tensor, start: int) -> Tensor:
    """(N, T - start) log-probs of the characters from `start` on."""
    import torch

    logp = torch.log_softmax(answer_logits(net, ids, start), -1)
    return logp.gather(-1, ids[:, start:, None])[..., 0]


def step(net: Any, optimiser: Any, loss: Tensor) -> None:
    """One update, the gradient cut to norm 1."""
    import torch

    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()


def adam(net: Any, lr: float) -> Any:
    """AdamW over all weights, as every study here uses it."""
    import torch

    return torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)


def batches(n: int, size: int, draw: np.random.Generator) -> Iterator[list[int]]:
    """Every row once, in a random order."""
    order = draw.permutation(n).tolist()
    for start in range(0, n, size):
        yield order[start : start + size]


def sample(
    net: Any,
    prompts: Tensor,
    *,
    total: int,
    n: int = 1,
    how: Literal["sample", "greedy"] = "sample",
    temperature: float = 1.0,
    generator: Any = None,
) -> Tensor:
    """(N, n, total) prompts (N, P), each continued n times up to `total` characters."""
    import torch

    ids = prompts.repeat_interleave(n, 0)
    if total > prompts.shape[1]:
        with torch.no_grad():
            out = net(input_ids=prompts, use_cache=True)
            cache = out.past_key_values
            cache.batch_repeat_interleave(n)
            logits = out.logits[:, -1].repeat_interleave(n, 0)
            while True:
                if how == "greedy":
                    drawn = logits.argmax(-1, keepdim=True)
                else:
                    p = torch.softmax(logits / temperature, -1)
                    drawn = torch.multinomial(p, 1, generator=generator)
                ids = torch.cat([ids, drawn], 1)
                if ids.shape[1] == total:
                    break
                logits = net(input_ids=drawn, past_key_values=cache, use_cache=True).logits[:, -1]
    return ids.reshape(len(prompts), n, -1)
