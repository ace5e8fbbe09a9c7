"""Which heads look at the "No" of an instruction, whatever the question? (arXiv 2408.00137)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nll import scores
from nll._errors import BadInput
from nll.models import LanguageModel, attention
from nll.scores import HeadScore, label_positions, negative_attention_score
from nll.trace import Array, TextLike


def negative_attention(
    model: LanguageModel, prompts: Sequence[TextLike], *, yes: str = "Yes", no: str = "No"
) -> Array:
    """(P, L, H) `negative_attention_score` of every head on each prompt; above 0 leans to `no`.

    prompts: texts or chats that list both words (`label_positions`). Raises BadInput without
    prompts. Source: arXiv 2408.00137.
    """
    if not prompts:
        raise BadInput("negative attention needs at least one prompt")
    out = []
    for prompt in prompts:
        seen = attention(model, prompt)
        yes_pos, no_pos = label_positions(seen.text, seen.spans, yes, no)
        out.append(negative_attention_score(seen.weights, yes_pos, no_pos))
    return np.stack(out)


def rank_negative_heads(
    model: LanguageModel, prompts: Sequence[TextLike], *, yes: str = "Yes", no: str = "No"
) -> list[HeadScore]:
    """Heads from the most to the least inclined to `no`, by their mean score over the prompts.

    `nll.scores.rank_negative_heads` does the same from scores. Source: arXiv 2408.00137.
    """
    return scores.rank_negative_heads(negative_attention(model, prompts, yes=yes, no=no))
