"""How answers are written: the options of `generate`, for every engine alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nll._errors import BadInput
from nll.trace import Fields


@dataclass(frozen=True, slots=True)
class How:
    """How answers are written: the options of `LanguageModel.generate`.

    Raises BadInput for settings that cannot be.
    """

    max_new_tokens: int
    n: int
    temperature: float
    top_p: float
    top_k: int
    stop: tuple[str, ...]
    fields: Fields
    greedy: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.n < 1:
            raise BadInput("max_new_tokens and n must be at least 1")
        if not self.temperature >= 0:
            raise BadInput(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise BadInput("top_p must be in (0, 1] and top_k 0 (off) or more")
        if self.temperature == 0 and self.n > 1:
            raise BadInput("n greedy answers would all be the same; set a temperature")
        if self.temperature == 0 and self.greedy:
            raise BadInput("at temperature 0 the answer is the greedy one; leave greedy out")

    @property
    def kinds(self) -> tuple[bool, ...]:
        """For each answer to a prompt, whether it is the greedy one."""
        return (True,) if self.temperature == 0 else (True,) * self.greedy + (False,) * self.n

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of drawn answers, as a provenance holds them; the seed comes with it."""
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}

    def check_room(self, read: int, context: int) -> None:
        """Raise BadInput where an answer does not fit the context behind `read` tokens."""
        if read + self.max_new_tokens > context:
            raise BadInput(
                f"the prompt has {read} tokens; with {self.max_new_tokens} new ones it exceeds the "
                f"context of {context}"
            )
