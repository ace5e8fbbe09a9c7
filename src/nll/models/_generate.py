"""Answers that come back traced: prompts read once, the model's own log-probabilities kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from nll._errors import BadInput, BadText
from nll.models._decode import decode
from nll.models._encode import Encoded, render
from nll.models._how import How
from nll.models._protocol import OnReject
from nll.models._written import Answer, written
from nll.trace import Rejected, Text, TextLike, Trace

if TYPE_CHECKING:
    from nll.models._engine import LocalModel

FIRST_ROWS = 12  # answers: few, so that the first ones come soon
MOST_ROWS = 64
MOST_CACHED = 32_768  # tokens in the cache, the answers' included


class _Asked(NamedTuple):
    """A prompt, where it stood in the stream, and the ids that the model reads."""

    place: int
    prompt: Encoded
    read: list[int]


def generate(
    model: LocalModel,
    prompts: Iterable[TextLike | Encoded],
    how: How,
    *,
    seed: int,
    on_reject: OnReject | None = None,
) -> Iterator[list[Trace]]:
    """The answers to each prompt, in order; see `LanguageModel.generate`.

    Several prompts are continued in one batch, whose numbers are those of each prompt alone: by
    their position in the stream they have their own seeds, and prompts of different length share a
    batch only where that was proved to move nothing.
    """
    for window in _windows(model, prompts, how, on_reject):
        found: dict[int, list[Trace]] = {}
        for group in _groups(model, window, how):
            for asked, answers in zip(group, _answers(model, group, how, seed), strict=True):
                at = (seed, asked.place)
                found[asked.place] = [_trace(model, asked.prompt, a, how, at) for a in answers]
        for asked in window:
            yield found.pop(asked.place)


def _windows(
    model: LocalModel,
    prompts: Iterable[TextLike | Encoded],
    how: How,
    on_reject: OnReject | None,
) -> Iterator[list[_Asked]]:
    """Prompts as they are read, in pieces that grow, so that the first answers come early."""
    limit = FIRST_ROWS
    held: list[_Asked] = []
    for place, value in enumerate(prompts):
        try:
            prompt = read_prompt(model, value)
            held.append(_Asked(place, prompt, _read(model, prompt, how)))
        except BadInput as error:
            if on_reject is None:
                if held:
                    yield held
                raise
            reason = error.reason if isinstance(error, BadText) else "too_long"
            on_reject(Rejected(place, reason, str(error)))
        if (len(held) + 1) * len(how.kinds) > limit and held:
            yield held
            held, limit = [], min(2 * limit, MOST_ROWS)
    if held:
        yield held


def _groups(model: LocalModel, window: Sequence[_Asked], how: How) -> Iterator[list[_Asked]]:
    """Prompts that go into one batch: of equal length, or of like length where padding is borne."""
    held: list[_Asked] = []
    for asked in sorted(window, key=lambda a: len(a.read)):
        size = len(asked.read)
        if held:
            first = len(held[0].read)
            whole = size + how.max_new_tokens
            rows = (len(held) + 1) * len(how.kinds)
            alike = size == first or (
                size <= 16 + 3 * first // 2 and whole <= model.network.pad_limit
            )
            if not alike or rows * whole > MOST_CACHED:
                yield held
                held = []
        held.append(asked)
    if held:
        yield held


def _answers(model: LocalModel, group: Sequence[_Asked], how: How, seed: int) -> list[list[Answer]]:
    """The answers to a group; one that does not fit the device's memory is taken in halves."""
    try:
        return decode(model, [a.read for a in group], [(seed, a.place) for a in group], how)
    except torch.OutOfMemoryError:
        if len(group) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(group) // 2
    return [a for part in (group[:half], group[half:]) for a in _answers(model, part, how, seed)]


def _read(model: LocalModel, prompt: Encoded, how: How) -> list[int]:
    """The ids that the model reads; raises BadInput where there is no room for an answer."""
    bos = model.tokenizer.bos_id
    read: list[int] = ([] if bos is None else [bos]) + prompt.ids.tolist()
    if not read:
        raise BadText("empty", "an empty prompt needs a BOS token to start from (bos='bos')")
    how.check_room(len(read), model.network.context)
    return read


def _trace(
    model: LocalModel, prompt: Encoded, answer: Answer, how: How, seed: tuple[int, int]
) -> Trace:
    return written(
        prompt, answer, how, seed,
        hf=model.tokenizer.hf, strings=model.tokenizer.strings, provenance=model.provenance,
    )  # fmt: skip


def read_prompt(model: LocalModel, prompt: TextLike | Encoded) -> Encoded:
    """A prompt as the model reads it, one of tokens as it is; raises BadText where it cannot be."""
    if isinstance(prompt, Encoded):
        ids = prompt.ids
        return dataclasses.replace(prompt, prompt_tokens=len(ids), kind="completion")
    text, kind = prompt_text(model, prompt)
    if text:  # none is left where there is a BOS to start from
        render(model.tokenizer, Text(text))
    enc = model.tokenizer.hf(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ids = np.asarray(enc["input_ids"], np.int64)
    spans = np.asarray(enc["offset_mapping"], np.int32).reshape(-1, 2)
    return Encoded(text, ids, spans, len(ids), kind, None)


def prompt_text(model: LocalModel, prompt: TextLike) -> tuple[str, str]:
    """The characters that the model continues, from a string, a Text or chat messages."""
    if isinstance(prompt, list):
        hf = model.tokenizer.hf
        if not hf.chat_template:
            raise BadText("no_chat_template", "this model's tokenizer has no chat template")
        rendered = hf.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        bos = model.tokenizer.bos
        return (rendered[len(bos) :] if bos and rendered.startswith(bos) else rendered), "chat"
    text = Text.of(prompt)
    return (text.prompt or "") + text.text, "completion"
