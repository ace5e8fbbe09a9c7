"""Where traces come from: language models behind one protocol."""

from __future__ import annotations

from nll.models._attention import Attention, attention
from nll.models._bounds import Bounds, entropy_bounds
from nll.models._capabilities import Capabilities, availability, capabilities, possible
from nll.models._embedded import converted_folder, find_gguf, install_embedded
from nll.models._greedy import decode_greedy
from nll.models._load import from_transformers, load
from nll.models._openai import from_openai
from nll.models._parity import FieldDifference, Parity, Worst, compare, parity
from nll.models._protocol import LanguageModel
from nll.models._replay import Recorder
from nll.models._retry import Retry

__all__ = [
    "Attention",
    "Bounds",
    "Capabilities",
    "FieldDifference",
    "LanguageModel",
    "Parity",
    "Recorder",
    "Retry",
    "Worst",
    "attention",
    "availability",
    "capabilities",
    "compare",
    "converted_folder",
    "decode_greedy",
    "entropy_bounds",
    "find_gguf",
    "from_openai",
    "from_transformers",
    "install_embedded",
    "load",
    "parity",
    "possible",
]
