"""Answers written in llama.cpp, token by token, from its full logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from nll._errors import BadInput, BadText
from nll.models._encode import Encoded
from nll.models._how import How
from nll.models._llama_cpp import columns
from nll.models._protocol import OnReject
from nll.models._written import Answer, stopped, written
from nll.trace import Array, Rejected, Text, TextLike, Trace

if TYPE_CHECKING:
    from nll.models._llama_cpp import LlamaCppModel


def answers(
    model: LlamaCppModel,
    prompts: Iterable[TextLike],
    how: How,
    seed: int,
    on_reject: OnReject | None,
) -> Iterator[list[Trace]]:
    """The answers to each prompt, in order; see `LanguageModel.generate`."""
    speaks = _Speaks(model)
    for place, prompt in enumerate(prompts):
        try:
            encoded = _prompt(model, prompt, how)
        except BadInput as error:
            if on_reject is None:
                raise
            reason = error.reason if isinstance(error, BadText) else "too_long"
            on_reject(Rejected(place, reason, str(error)))
            continue
        yield [
            written(
                encoded, answer, how, (seed, place),
                hf=speaks, strings=model.strings, provenance=model.provenance,
            )
            for answer in _answers(model, encoded, how, (seed, place), speaks)
        ]  # fmt: skip


def allowed(row: Array, how: How) -> Array:
    """(V,) float64 probabilities of logits (V,) after temperature, top_k and top_p."""
    z = row.astype(np.float64) / how.temperature
    p: Array = np.exp(z - z.max())
    p /= p.sum()
    if how.top_k:
        kth = len(p) - min(how.top_k, len(p))
        p[p < np.partition(p, kth)[kth]] = 0.0
    if how.top_p < 1:
        order = np.argsort(-p, kind="stable")
        p[order[np.cumsum(p[order]) - p[order] >= how.top_p]] = 0.0
    p /= p.sum()
    return p


class _Speaks:
    """What a tokenizer is asked for when an answer becomes text."""

    def __init__(self, model: LlamaCppModel):
        self._engine = model.engine

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool = False) -> str:
        if clean_up_tokenization_spaces:
            raise ValueError("nll never cleans up spaces: its offsets would no longer hold")
        raw: bytes = self._engine.detokenize(list(ids), special=True)
        return raw.decode(errors="replace")


def _prompt(model: LlamaCppModel, prompt: TextLike, how: How) -> Encoded:
    """The prompt in tokens; raises BadInput where there is no room for an answer."""
    if isinstance(prompt, list):
        raise BadText("chat", "for chats serve the file with llama-server and name its address")
    text = Text.of(prompt)
    whole = (text.prompt or "") + text.text
    encoded = (
        model.encode(Text(whole))
        if whole or not model.start
        else Encoded("", np.empty(0, np.int64), np.empty((0, 2), np.int32), 0, "text", None)
    )
    how.check_room(len(model.start) + len(encoded.ids), model.context)
    return dataclasses.replace(
        encoded, prompt_tokens=len(encoded.ids), kind="completion", id=text.id
    )


def _answers(
    model: LlamaCppModel, prompt: Encoded, how: How, seed: tuple[int, int], speaks: _Speaks
) -> Iterator[Answer]:
    engine = model.engine
    read = model.start + prompt.ids.tolist()
    first = model.logits(read)[-1].copy()
    ends = {int(engine.token_eos())}
    if "tokenizer.ggml.eot_token_id" in engine.metadata:
        ends.add(int(engine.metadata["tokenizer.ggml.eot_token_id"]))
    draw = np.random.default_rng(seed)
    for greedy in how.kinds:
        answer, row = Answer(0, greedy), first
        engine.n_tokens = len(read)  # what earlier answers added is forgotten
        for left in reversed(range(how.max_new_tokens)):
            p = None if greedy else allowed(row, how)
            token = int(row.argmax() if p is None else draw.choice(len(row), p=p))
            values = columns(row[None], [token], how.fields)
            answer.add(token, {name: value[0] for name, value in values.items()})
            answer.ended = token in ends or stopped(speaks, answer.tokens, how.stop)
            if answer.ended or not left:
                break
            engine.eval([token])
            row = np.asarray(engine.scores[engine.n_tokens - 1], np.float32)
        yield answer
