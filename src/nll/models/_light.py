"""The embedded model without transformers, whose import takes longer than scoring a text does.

Only what a trace needs: token ids and offsets, and the backbone's states. Everything else
(generation, training, chat templates) goes to the transformers model and tokenizer, which are
opened on first use and share these weights. `Network` proves the layouts of this one too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

EMBEDDING = "model.embed_tokens.weight"


class LightLlama:
    """A Llama of plain make (tied embeddings, no biases, default rotary angles), in float32.

    weights: tensors under transformers' names.   config: the folder's config.json.
    whole: opens the transformers model that these weights belong to.
    """

    def __init__(
        self, weights: dict[str, torch.Tensor], config: dict[str, Any], whole: Callable[[], Any]
    ):
        self.weights = weights
        self.config = SimpleNamespace(**config, _attn_implementation="sdpa")
        self.config.get_text_config = lambda: self.config
        self.base_model = LightBackbone(weights, self.config)
        self._open_whole = whole

    @cached_property
    def whole(self) -> Any:
        """The transformers model, over the same tensors."""
        model = self._open_whole()
        model.load_state_dict(self.state_dict(), assign=True)
        model.tie_weights()
        return model.eval()

    def eval(self) -> LightLlama:
        """Nothing here behaves otherwise in training."""
        return self

    def parameters(self) -> Iterator[torch.Tensor]:
        """All weights."""
        return iter(self.weights.values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All weights under transformers' names, the tied unembedding included."""
        return {**self.weights, "lm_head.weight": self.weights[EMBEDDING]}

    def get_output_embeddings(self) -> Any:
        """What holds the unembedding's (V, d) weight."""
        return SimpleNamespace(weight=self.weights[EMBEDDING], bias=None)

    def __call__(self, input_ids: torch.Tensor, **given: Any) -> Any:
        """The states of `base_model` with the (B, T, V) logits."""
        out = self.base_model(input_ids, **given)
        out.logits = functional.linear(out.last_hidden_state, self.weights[EMBEDDING])
        return out


class LightBackbone:
    """All of it but the unembedding."""

    def __init__(self, weights: dict[str, torch.Tensor], config: SimpleNamespace):
        self.weights = weights
        self.config = config
        theta = float(config.rope_parameters["rope_theta"])
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
        self._frequencies = 1.0 / theta ** (half / config.head_dim)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
        """`last_hidden_state` (B, T, d) of ids (B, T) under a (B, 1, T, T) mask, or causally."""
        if use_cache:
            raise ValueError("a light model keeps no cache; generate with the whole one")
        w, config = self.weights, self.config
        x = functional.embedding(input_ids, w[EMBEDDING])
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        angles = position_ids[..., None].float() * self._frequencies
        cos, sin = (f(torch.cat([angles, angles], -1))[:, None] for f in (torch.cos, torch.sin))
        for i in range(config.num_hidden_layers):
            name = f"model.layers.{i}."
            h = self._norm(x, name + "input_layernorm")
            x = x + self._attention(h, name + "self_attn.", cos, sin, attention_mask)
            h = self._norm(x, name + "post_attention_layernorm")
            gate = functional.silu(functional.linear(h, w[name + "mlp.gate_proj.weight"]))
            up = functional.linear(h, w[name + "mlp.up_proj.weight"])
            x = x + functional.linear(gate.mul_(up), w[name + "mlp.down_proj.weight"])
        return SimpleNamespace(last_hidden_state=self._norm(x, "model.norm"))

    __call__ = forward

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.weights[name + ".weight"]
        return functional.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    def _attention(
        self, x: torch.Tensor, name: str, cos: torch.Tensor, sin: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        batch, length, _ = x.shape
        q, k, v = (
            functional.linear(x, self.weights[f"{name}{part}_proj.weight"])
            .view(batch, length, -1, self.config.head_dim)
            .transpose(1, 2)
            for part in "qkv"
        )
        out = functional.scaled_dot_product_attention(
            _turned(q, cos, sin), _turned(k, cos, sin), v,
            attn_mask=mask, is_causal=mask is None, enable_gqa=True,
        )  # fmt: skip
        out = out.transpose(1, 2).reshape(batch, length, -1)
        return functional.linear(out, self.weights[name + "o_proj.weight"])


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class LightTokenizer:
    """A tokenizer.json with the calls that the engine makes; others go to transformers' own."""

    is_fast = True

    def __init__(self, folder: Path, whole: Callable[[], Any]):
        from tokenizers import Tokenizer

        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.eos_token, self.bos_token = config["eos_token"], config["bos_token"]
        self.eos_token_id = self.backend_tokenizer.token_to_id(self.eos_token)
        self.bos_token_id = self.backend_tokenizer.token_to_id(self.bos_token)
        self._open_whole = whole

    @cached_property
    def whole(self) -> Any:
        """The transformers tokenizer of the same folder."""
        return self._open_whole()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __call__(
        self,
        text: str | Sequence[str],
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        return_attention_mask: bool = True,
        verbose: bool = True,
    ) -> dict[str, list[Any]]:
        """Ids and (begin, end) characters of a text, or a list of them of several."""
        many = [text] if isinstance(text, str) else list(text)
        found = self.backend_tokenizer.encode_batch(many, add_special_tokens=add_special_tokens)
        out: dict[str, list[Any]] = {"input_ids": [e.ids for e in found]}
        if return_attention_mask:
            out["attention_mask"] = [e.attention_mask for e in found]
        if return_offsets_mapping:
            out["offset_mapping"] = [e.offsets for e in found]
        return {k: v[0] for k, v in out.items()} if isinstance(text, str) else out

    def decode(self, ids: Sequence[int], clean_up_tokenization_spaces: bool = False) -> str:
        """The text of these ids, special tokens included."""
        if clean_up_tokenization_spaces:
            raise ValueError("nll never cleans up spaces: its offsets would no longer hold")
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=False))

    def get_vocab(self) -> dict[str, int]:
        """Token strings to ids, as the vocabulary writes them."""
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    def convert_ids_to_tokens(self, token: int) -> str:
        """One token as the vocabulary writes it."""
        return str(self.backend_tokenizer.id_to_token(token))


def open_light(folder: Path) -> tuple[LightLlama, LightTokenizer]:
    """The converted embedded model in `folder`; see `nll.models._embedded`."""
    from safetensors.torch import load_file

    def whole_model() -> Any:
        from transformers import AutoModelForCausalLM

        from nll.models._embedded import quiet

        with quiet():
            return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)

    def whole_tokenizer() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    return LightLlama(weights, config, whole_model), LightTokenizer(folder, whole_tokenizer)
