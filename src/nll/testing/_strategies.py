"""Traces as a hypothesis strategy: ragged lengths, ties, certainty, unscored and prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nll._errors import MissingExtra
from nll.testing._traces import trace_from_logits
from nll.trace import Trace

# Bytes shrink towards 0, so the simplest table is uniform.
LEVELS = np.array([0, 1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 12, 0.5, -np.inf, -np.inf])

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def traces(
    *,
    min_tokens: int = 0,
    max_tokens: int = 12,
    max_vocabulary: int = 8,
    betas: Sequence[float] = (0.4, 2.0),
    top_k: int = 3,
    impossible: bool = True,
    bos: bool | None = None,
) -> SearchStrategy[Trace]:
    """Exact traces of random texts under random next-token tables, with every optional field.

    Logits are from a small set of numbers, so ties are frequent, with entries of -inf among them
    when `impossible`; then a text may hold a token of probability 0. The first token is unscored
    when `bos` is false, and some traces have prompt tokens.

    Raises MissingExtra without hypothesis.
    """
    try:
        from hypothesis import strategies as st
    except ImportError:
        raise MissingExtra("nll.testing.traces needs hypothesis: pip install hypothesis") from None

    @st.composite
    def build(draw: st.DrawFn) -> Trace:
        size = draw(st.integers(2, max_vocabulary))
        n = draw(st.integers(min_tokens, max_tokens))
        cells = (n + 1) * size
        drawn = draw(st.binary(min_size=2 * cells + n, max_size=2 * cells + n))
        numbers = np.frombuffer(drawn, dtype=np.uint8).astype(np.int64)
        levels = LEVELS if impossible else LEVELS[np.isfinite(LEVELS)]
        logits, reference = levels[numbers[: 2 * cells] % len(levels)].reshape(2, n + 1, size)
        logits[np.isneginf(logits).all(axis=1)] = 0.0
        reference = np.where(np.isneginf(reference).all(axis=1, keepdims=True), 0.0, reference)[:n]
        targets = numbers[2 * cells :] % size
        has_bos = draw(st.booleans()) if bos is None else bos
        end = logits[n].copy()
        logits = logits[:n]
        if n and not has_bos:
            logits[0] = np.nan
        return trace_from_logits(
            logits,
            targets,
            prompt_tokens=draw(st.integers(0, n)) if draw(st.booleans()) else 0,
            top_k=top_k,
            betas=betas,
            boundary_ids=range((size + 1) // 2),
            end_logits=end,
            reference_logits=reference,
        )

    return build()
