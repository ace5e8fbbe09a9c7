"""Names that say where a model is: `http://host/v1`, `openai:NAME`, `replay:FILE`, ..."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nll.models._protocol import LanguageModel

_OPENERS = {
    "http": "_openai:open_openai",
    "https": "_openai:open_openai",
    "openai": "_openai:open_openai",
    "replay": "_replay:open_replay",
    "vllm": "_vllm:open_vllm",
    "llamacpp": "_llama_cpp:open_llama_cpp",
}


def opener(name: str) -> Callable[..., LanguageModel] | None:
    """What opens names with this prefix; None for hub ids, folders and other prefixes."""
    prefix, colon, _ = name.partition(":")
    if not colon or prefix not in _OPENERS:
        return None
    module, function = _OPENERS[prefix].split(":")
    found: Callable[..., LanguageModel] = getattr(import_module(f"nll.models.{module}"), function)
    return found
