"""The one answer that a single-sequence uncertainty judges."""

from __future__ import annotations

from collections.abc import Sequence

from nll.models._protocol import DEFAULT_FIELDS, LanguageModel
from nll.trace import Fields, TextLike, Trace


def decode_greedy(
    model: LanguageModel,
    prompt: TextLike,
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    fields: Fields = DEFAULT_FIELDS,
) -> Trace:
    """The greedy answer to a prompt, with its trace: what `nll.scores.g_nll` scores.

    The likeliest token at each step, of equally likely ones that of the lowest id, until the model
    ends its text, a stop string comes or `max_new_tokens` are written. An end-of-text token is an
    entry of the trace; what touches a stop string is not. `provenance.finish_reason` is `length`
    where the answer was cut off. Several prompts go faster through `model.generate`.
    Raises BadText for a prompt that cannot be continued.
    """
    ((answer,),) = model.generate([prompt], max_new_tokens=max_new_tokens, stop=stop, fields=fields)
    return answer
