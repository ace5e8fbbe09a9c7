"""Traces as a hypothesis strategy: ragged lengths, ties, certainty, unscored and prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nll._errors import MissingExtra
from nll.testing._traces import trace_from_logits
from nll.trace import Trace

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

    Logits are small whole numbers, so ties are frequent, with entries of -inf among them when
    `impossible`; then a text may hold a token of probability 0. The first token is unscored when
    `bos` is false, and some traces have prompt tokens.

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
        level = st.integers(-6, 6).map(float)
        entry = st.one_of(level, level, level, st.just(-np.inf)) if impossible else level
        rows = st.lists(
            st.lists(entry, min_size=size, max_size=size).filter(lambda r: max(r) > -np.inf),
            min_size=n + 1,
            max_size=n + 1,
        )
        logits = np.array(draw(rows))
        reference = np.array(draw(rows))[:n]
        targets = draw(st.lists(st.integers(0, size - 1), min_size=n, max_size=n))
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
