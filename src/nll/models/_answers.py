"""Whole rows of logits, for audits of what they give away; never needed to score a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from nll._errors import BadInput, BadModel
from nll.models._engine import LocalModel
from nll.models._protocol import LanguageModel
from nll.trace import Array, Fields, TextLike


class NextLogits(NamedTuple):
    """Logits of the next token at distinct places of texts, and what made them.

    logits: (n, V) float32.   states: (n, h) float32, as they enter the unembedding.
    """

    logits: Array
    states: Array


class Unembedding(NamedTuple):
    """weight: (V, h) float32.   tied: whether it is the input table too."""

    weight: Array
    tied: bool


def next_logits(model: LanguageModel, texts: Iterable[TextLike], *, limit: int) -> NextLogits:
    """Logits at every place of the texts where a token is predicted, until `limit` distinct ones.

    Holds 4 V bytes a place. Raises BadInput when no token is predicted, BadModel as `unembedding`.
    """
    head = _local(model).network.head
    held: dict[bytes, Array] = {}
    for trace in model.trace(texts, fields=Fields(hidden=True)):
        for state in trace.field("hidden")[trace.scored]:
            held.setdefault(state.tobytes(), state)
        if len(held) >= limit:
            break
    if not held:
        raise BadInput("the texts hold no token that is predicted; give longer ones")
    states = np.stack(list(held.values())[:limit]).astype(np.float32)
    return NextLogits(head.logits(torch.from_numpy(states)).cpu().numpy(), states)


def unembedding(model: LanguageModel) -> Unembedding:
    """The output projection; BadModel when it is unknown or the model is not in this process."""
    network = _local(model).network
    weight = network.head.weight
    table = network.hf.get_input_embeddings().weight
    tied = table is weight or table.data_ptr() == weight.data_ptr()
    return Unembedding(weight.float().cpu().numpy(), bool(tied))


def _local(model: LanguageModel) -> Any:
    if not isinstance(model, LocalModel):
        raise BadModel("an audit of logits needs a model in this process, or an HTTP endpoint")
    if model.network.head is None:
        raise BadModel(f"the output projection of {model.provenance.model} is not known")
    return model
