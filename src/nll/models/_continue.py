"""Sequences that grow by a token a step: prompts read once and together, each answer a row."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from nll.models._network import Network


class Continued:
    """Rows of tokens on one cache; `state` (R, d) predicts the next token of each row.

    It holds logits, as `Network.states` does, where the unembedding is not known.
    Shorter sequences get padding on the left that no token sees, so where lengths differ none may
    exceed `Network.pad_limit`.
    """

    state: torch.Tensor

    def __init__(self, network: Network, sequences: Sequence[Sequence[int]]):
        self._network = network
        device, longest = network.device, max(map(len, sequences))
        ids = torch.tensor([[0] * (longest - len(s)) + list(s) for s in sequences], device=device)
        pads = torch.tensor([longest - len(s) for s in sequences], device=device)
        at = torch.arange(longest, device=device)
        self._mask = (at >= pads[:, None]).long() if bool(pads.any()) else None
        self._next = longest - pads
        self._model = network.hf if network.head is None else network.hf.base_model
        takes = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in takes else "past_key_values"
        self._cache: Any = None
        self._read(ids, (at - pads[:, None]).clamp(min=0))

    def repeat(self, times: int) -> None:
        """Make `times` rows of each, side by side."""
        if times > 1:
            self.keep([row for row in range(len(self.state)) for _ in range(times)])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order; one may be named several times."""
        index = torch.tensor(rows, device=self.state.device)
        self.state, self._next = self.state[index], self._next[index]
        if self._mask is not None:
            self._mask = self._mask[index]
        self._cache.reorder_cache(index)

    def step(self, tokens: torch.Tensor) -> None:
        """Append one token (R,) to each row."""
        if self._mask is not None:
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._read(tokens[:, None], self._next[:, None])
        self._next = self._next + 1

    @torch.inference_mode()
    def _read(self, ids: torch.Tensor, positions: torch.Tensor) -> None:
        given: dict[str, Any] = {"use_cache": True}
        if self._cache is not None:
            given[self._cache_name] = self._cache
        if self._mask is not None:
            given["attention_mask"] = self._mask
        if self._network.takes_positions:
            given["position_ids"] = positions
        out = self._model(ids, **given)
        self._cache = getattr(out, self._cache_name)
        states = out.logits if self._network.head is None else out.last_hidden_state
        self.state = states[:, -1]


def bears_padding(network: Network, close: Any) -> bool:
    """Whether two sequences of different length, continued together, are what they are alone."""
    size = min(int(network.hf.config.get_text_config().vocab_size), 5_000)
    draw = np.random.default_rng(1)
    sequences = [draw.integers(0, size, n).tolist() for n in (13, 7)]
    steps = torch.from_numpy(draw.integers(0, size, (3, 2))).to(network.device)

    def states(rows: list[int]) -> torch.Tensor:
        running = Continued(network, [sequences[r] for r in rows])
        found = [running.state]
        for tokens in steps:
            running.step(tokens[rows])
            found.append(running.state)
        return torch.stack(found, 1).float()

    try:
        together = states([0, 1])
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False  # the model does not take this layout at all
    return all(close(together[r], states([r])[0], network.dtype) for r in (0, 1))
