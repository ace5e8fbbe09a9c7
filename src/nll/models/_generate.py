"""Answers that come back traced: the prompt read once, the model's own log-probabilities kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nll import kernels
from nll._errors import BadInput, BadText
from nll.models._encode import Encoded, piece_spans
from nll.trace import PAST_END, Array, Fields, Text, TextLike, Trace

if TYPE_CHECKING:
    from nll.models._engine import LocalModel


def generate(model: LocalModel, prompt: TextLike, **settings: Any) -> list[Trace]:
    """n answers to one prompt; see `LanguageModel.generate`, and `answering` for the settings."""
    steps = answering(model, read_prompt(model, prompt), **settings)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: list[Trace] = done.value
            return found


def answering(
    model: LocalModel,
    prompt: Encoded,
    *,
    max_new_tokens: int,
    n: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: tuple[int, int],
    stop: tuple[str, ...],
    fields: Fields,
) -> Generator[list[list[int]], None, list[Trace]]:
    """n answers to one prompt, one token of each per step; other work may be done in between.

    Yields the n lists of tokens so far (the same lists each time, an end or stop string included)
    and returns the traces. Raises BadInput for impossible settings and for a prompt that leaves no
    room in the context.
    """
    _check(max_new_tokens, n, temperature, top_p, top_k)
    tokenizer, network = model.tokenizer, model.network
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    read = bos + prompt.ids.tolist()
    if not read:
        raise BadText("empty", "an empty prompt needs a BOS token to start from (bos='bos')")
    if len(read) + max_new_tokens > network.context:
        raise BadInput(
            f"the prompt has {len(read)} tokens; with {max_new_tokens} new ones it exceeds the "
            f"context of {network.context}"
        )
    tokens, found, ended = yield from _sample(
        model, read, max_new_tokens, n, temperature, top_p, top_k, seed, stop, fields
    )
    greedy = temperature == 0
    sampling = {} if greedy else {
        "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": list(seed)
    }  # fmt: skip
    out = []
    for s in range(n):
        answer, pieces, reason = _finish(model, tokens[s], ended[s], stop)
        held: dict[str, Any] = {
            k: _after(v[s][: len(answer)], len(prompt.ids), past_end=k in PAST_END)
            for k, v in found.items()
        }
        all_ids = np.concatenate([prompt.ids, np.array(answer, np.int64)])
        spans = np.concatenate([
            prompt.spans, np.asarray(pieces, np.int32).reshape(-1, 2) + len(prompt.text)
        ])  # fmt: skip
        shown = [all_ids, held["top_ids"].ravel()] if fields.top_k else [all_ids]
        known = np.concatenate(shown)
        answer_text = tokenizer.hf.decode(answer, clean_up_tokenization_spaces=False)
        out.append(
            Trace(
                ids=all_ids, spans=spans, text=prompt.text + answer_text,
                prompt_tokens=len(prompt.ids), betas=fields.betas,
                vocab=tokenizer.strings(known[known >= 0]),
                provenance=dataclasses.replace(
                    model.provenance, kind=prompt.kind,
                    decoding="greedy" if greedy else "sampled",
                    sampling=sampling, finish_reason=reason,
                ),
                **held,
            )
        )  # fmt: skip
    return out


def read_prompt(model: LocalModel, prompt: TextLike) -> Encoded:
    """A prompt as the model reads it; raises BadText for a chat without a template."""
    text, kind = prompt_text(model, prompt)
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


def _check(max_new_tokens: int, n: int, temperature: float, top_p: float, top_k: int) -> None:
    if max_new_tokens < 1 or n < 1:
        raise BadInput("max_new_tokens and n must be at least 1")
    if not temperature >= 0:
        raise BadInput(f"temperature must be 0 (greedy) or more, not {temperature}")
    if not 0 < top_p <= 1 or top_k < 0:
        raise BadInput("top_p must be in (0, 1] and top_k 0 (off) or more")
    if temperature == 0 and n > 1:
        raise BadInput("n greedy answers would all be the same; set a temperature")


def _sample(
    model: LocalModel, read: list[int], limit: int, n: int, temperature: float, top_p: float,
    top_k: int, seed: tuple[int, int], stop: tuple[str, ...], fields: Fields,
) -> Generator[
    list[list[int]], None, tuple[list[list[int]], dict[str, list[Array]], list[bool]]
]:  # fmt: skip
    network, hf = model.network, model.tokenizer.hf
    reducers = kernels.reducers_for(
        fields | Fields(top_k=1),
        boundary_ids=model.boundary_ids if fields.boundary else None,
    )
    draw = torch.Generator(device="cpu").manual_seed(
        int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    )
    stops = {t for t in _end_ids(model)}
    state, cache = network.prefill(read)
    if n > 1:
        state = state.repeat_interleave(n, 0)
        cache.batch_repeat_interleave(n)
    tokens: list[list[int]] = [[] for _ in range(n)]
    ended = [False] * n
    steps: list[dict[str, Array]] = []
    for position in range(len(read), len(read) + limit):
        logits = network.logits(state)
        if temperature == 0:
            top = kernels.visit_logits(
                logits.clone(), torch.full((n,), -1, device=logits.device),
                kernels.reducers_for(Fields(top_k=1)),
            )["top_ids"][:, 0].long()  # fmt: skip
            chosen = top
        else:
            chosen = _draw(logits, temperature, top_p, top_k, draw)
        step = {
            k: v.cpu().numpy()
            for k, v in kernels.visit_logits(logits, chosen, reducers).items()
            if k != "lse"
        }
        if fields.hidden:
            step["hidden"] = state.float().cpu().numpy()
        steps.append(step)
        for s in range(n):
            if not ended[s]:
                tokens[s].append(int(chosen[s]))
                ended[s] = tokens[s][-1] in stops or _stopped(hf, tokens[s], stop)
        yield tokens
        if all(ended) or position + 1 == len(read) + limit:
            break
        state = network.step(chosen, position, cache)
    drop = () if fields.top_k else ("top_ids", "top_logp")
    found = {
        k: [np.stack([step[k][s] for step in steps]) for s in range(n)]
        for k in steps[0]
        if k not in drop
    }
    if fields.top_k:
        for k in ("top_ids", "top_logp"):
            found[k] = [v[:, : fields.top_k] for v in found[k]]
    return tokens, found, ended


def _draw(
    logits: torch.Tensor, temperature: float, top_p: float, top_k: int, draw: torch.Generator
) -> torch.Tensor:
    p = torch.softmax(logits.double().cpu() / temperature, -1)
    if top_k:
        kth = p.topk(min(top_k, p.shape[1]), -1).values[:, -1:]
        p = p.masked_fill(p < kth, 0.0)
    if top_p < 1:
        sorted_p, order = p.sort(-1, descending=True)
        beyond = sorted_p.cumsum(-1) - sorted_p >= top_p
        p = p.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), 0.0)
    return torch.multinomial(p, 1, generator=draw)[:, 0].to(logits.device)


def _end_ids(model: LocalModel) -> set[int]:
    ends = getattr(model.network.hf.generation_config, "eos_token_id", None)
    own = model.tokenizer.hf.eos_token_id
    out = {own} if own is not None else set()
    return out | set(ends if isinstance(ends, list) else [ends] if ends is not None else [])


def _stopped(hf: Any, tokens: list[int], stop: tuple[str, ...]) -> bool:
    if not stop:
        return False
    text = hf.decode(tokens, clean_up_tokenization_spaces=False)
    return any(s in text for s in stop)


def _finish(
    model: LocalModel, tokens: list[int], ended: bool, stop: tuple[str, ...]
) -> tuple[list[int], list[tuple[int, int]], str]:
    """Tokens kept, their spans in the decoded answer, and why it ended.

    Tokens from the first that touches a stop string on are dropped, and a partial one with them.
    """
    text, spans = piece_spans(model.tokenizer.hf, tokens)
    cuts = [text.find(s) for s in stop if s in text]
    if cuts:
        keep = sum(end <= min(cuts) for _, end in spans)
        return tokens[:keep], spans[:keep], "stop"
    return tokens, spans, "stop" if ended else "length"


def _after(values: Array, prompt: int, *, past_end: bool) -> Array:
    """The answer's values behind a prompt of which nothing is known."""
    empty = np.nan if values.dtype.kind == "f" else -1
    head = np.full((prompt, *values.shape[1:]), empty, values.dtype)
    parts = [head, values]
    if past_end:  # nothing was computed behind a generated answer
        parts.append(np.full_like(values[:1], np.nan))
    return np.concatenate(parts)
