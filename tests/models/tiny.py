"""Tiny random models of the architectures that differ where it matters for likelihood."""

from __future__ import annotations

import warnings
from functools import cache

import torch
import transformers as tf

from nll.models import LanguageModel, from_transformers
from nll.testing import ALPHABET, character_tokenizer

V = len(ALPHABET) + 1
_SMALL = {
    "vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
_LLAMA_LIKE = {**_SMALL, "num_key_value_heads": 2, "max_position_embeddings": 512}

CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**_LLAMA_LIKE, tie_word_embeddings=True),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=512,
        bos_token_id=1, eos_token_id=0,
    ),
    "gemma2": lambda: tf.Gemma2Config(
        **_LLAMA_LIKE, head_dim=8, query_pre_attn_scalar=8, sliding_window=24,
        final_logit_softcapping=3.0, attn_logit_softcapping=5.0,
    ),
    "cohere": lambda: tf.CohereConfig(**_LLAMA_LIKE, logit_scale=0.25),
    "granite": lambda: tf.GraniteConfig(**_LLAMA_LIKE, logits_scaling=4.0),
    "mistral": lambda: tf.MistralConfig(**_LLAMA_LIKE, head_dim=8, sliding_window=16),
    "phi": lambda: tf.PhiConfig(**_LLAMA_LIKE),
    "opt": lambda: tf.OPTConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48,
        max_position_embeddings=512, word_embed_proj_dim=24,
        bos_token_id=1, eos_token_id=0, pad_token_id=0,
    ),
    "roberta": lambda: tf.RobertaConfig(**_SMALL, max_position_embeddings=515, is_decoder=True),
    "mamba": lambda: tf.MambaConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=8,
        bos_token_id=1, eos_token_id=0,
    ),
    "qwen3": lambda: tf.Qwen3Config(**_LLAMA_LIKE, head_dim=8),
}  # fmt: skip


OWN_LOGITS = {"roberta"}  # a head with layers of its own: nll says so, and uses its logits


@cache
def hf_model(kind: str, dtype: torch.dtype = torch.float32) -> tf.PreTrainedModel:
    """The transformers model itself, with weights large enough that its numbers vary."""
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    model = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2 and "conv1d" not in name:
                p.normal_(std=0.25)
            elif name.endswith("bias"):
                p.normal_(std=0.1)
    return model.eval().to(dtype)


def tiny(kind: str, dtype: torch.dtype = torch.float32, **options: object) -> LanguageModel:
    """The same as an nll model."""
    with warnings.catch_warnings():
        if kind in OWN_LOGITS:
            warnings.simplefilter("ignore", UserWarning)
        return from_transformers(
            hf_model(kind, dtype), character_tokenizer(), name=f"tiny-{kind}", **options
        )
