"""A small network with random weights over characters, to be trained in a minute."""

from __future__ import annotations

from typing import Any

from nll.models import LanguageModel, from_transformers
from nll.testing._table_model import ALPHABET, character_tokenizer


def random_model(
    alphabet: str = ALPHABET, *, layers: int = 2, width: int = 32, context: int = 256, seed: int = 0
) -> LanguageModel:
    """A causal transformer over characters with random weights; four attention heads.

    width: of its states, a multiple of 8.   context: longest text in characters. The same seed
    gives the same weights, and no other random number of the process moves.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": len(alphabet) + 1, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": context, "bos_token_id": 1, "eos_token_id": 0,
        "pad_token_id": None,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = LlamaForCausalLM(LlamaConfig(**shape))
    return from_transformers(hf, character_tokenizer(alphabet), name=f"random, {layers}x{width}")
