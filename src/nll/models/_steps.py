"""Answers written one token a step, so that other work may be done in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nll import kernels
from nll.models._continue import Continued
from nll.trace import Array, Fields

if TYPE_CHECKING:
    from nll.models._engine import LocalModel


@dataclass(frozen=True, slots=True)
class How:
    """How answers are drawn: n of them; temperature 0 takes the likeliest token. `seed` and `place`
    (of the prompt in its request) decide the draws, whatever else the server does meanwhile."""

    max_new_tokens: int
    n: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    alternatives: int


@dataclass(slots=True)
class Answer:
    """One answer as it grows. `values`: of each token, by the name of the trace's field; they are
    the model's own, before temperature, top_p and top_k. `ended`: by itself or a stop string."""

    tokens: list[int] = field(default_factory=list)
    values: list[Mapping[str, Array]] = field(default_factory=list)
    ended: bool = False


def end_ids(model: LocalModel) -> set[int]:
    """Tokens that end an answer: the tokenizer's own and those of the generation settings."""
    ends = getattr(model.network.hf.generation_config, "eos_token_id", None)
    own = model.tokenizer.hf.eos_token_id
    out = {own} if own is not None else set()
    return out | set(ends if isinstance(ends, list) else [ends] if ends is not None else [])


def answering(
    model: LocalModel, prompt: Sequence[int], place: int, how: How, answers: Sequence[Answer]
) -> Iterator[None]:
    """Add a token to each of the `how.n` answers that has not ended, per step, until all have.

    prompt: what is read, BOS included; it and the new tokens must fit into the context.
    """
    network, hf, ends = model.network, model.tokenizer.hf, end_ids(model)
    reducers = kernels.reducers_for(Fields(top_k=max(1, how.alternatives)))
    likeliest = kernels.reducers_for(Fields(top_k=1))
    draw = torch.Generator(device="cpu").manual_seed(
        int(np.random.SeedSequence((how.seed, place)).generate_state(1, np.uint64)[0] >> 1)
    )
    running = Continued(network, [list(prompt)])
    running.repeat(how.n)
    for step in range(how.max_new_tokens):
        logits = network.logits(running.state)
        if how.temperature == 0:
            none = torch.full((how.n,), -1, device=logits.device)
            chosen = kernels.visit_logits(logits.clone(), none, likeliest)["top_ids"][:, 0].long()
        else:
            p = _allowed(logits, how)
            chosen = torch.multinomial(p, 1, generator=draw)[:, 0].to(logits.device)
        found = {
            k: v.cpu().numpy()
            for k, v in kernels.visit_logits(logits, chosen, reducers).items()
            if k != "lse"
        }
        for s, answer in enumerate(answers):
            if not answer.ended:
                answer.values.append({k: v[s] for k, v in found.items()})
                answer.tokens.append(int(chosen[s]))
                answer.ended = answer.tokens[-1] in ends or _stopped(hf, answer.tokens, how.stop)
        yield
        if step + 1 < how.max_new_tokens and not all(a.ended for a in answers):
            running.step(chosen)
        else:
            return


def _allowed(logits: torch.Tensor, how: How) -> torch.Tensor:
    """(n, V) float64 on the CPU: probabilities after temperature, top_k and top_p; any sum."""
    p = torch.softmax(logits.double().cpu() / how.temperature, -1)
    if how.top_k:
        kth = p.topk(min(how.top_k, p.shape[1]), -1).values[:, -1:]
        p = p.masked_fill(p < kth, 0.0)
    if how.top_p < 1:
        sorted_p, order = p.sort(-1, descending=True)
        beyond = sorted_p.cumsum(-1) - sorted_p >= how.top_p
        p = p.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), 0.0)
    return p


def _stopped(hf: Any, tokens: Sequence[int], stop: Sequence[str]) -> bool:
    if not stop:
        return False
    # Enough of the end that no stop string can hide in front of it.
    tail = list(tokens[-(max(map(len, stop)) * 4 + 4) :])
    text = hf.decode(tail, clean_up_tokenization_spaces=False)
    return any(s in text for s in stop)
