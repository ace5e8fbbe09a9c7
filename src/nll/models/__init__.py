"""Where traces come from: language models behind one protocol."""

from __future__ import annotations

from nll.models._embedded import converted_folder, find_gguf, install_embedded
from nll.models._load import from_transformers, load
from nll.models._protocol import LanguageModel

__all__ = [
    "LanguageModel",
    "converted_folder",
    "find_gguf",
    "from_transformers",
    "install_embedded",
    "load",
]
