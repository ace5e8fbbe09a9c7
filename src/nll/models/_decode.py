"""Answers, token by token: the greedy one and the drawn ones of several prompts in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nll import kernels
from nll.models._continue import Continued
from nll.models._how import How
from nll.models._written import Answer, stopped
from nll.trace import Array, Fields

if TYPE_CHECKING:
    from nll.models._engine import LocalModel


def decode(
    model: LocalModel,
    prompts: Sequence[list[int]],
    seeds: Sequence[tuple[int, int]],
    how: How,
) -> list[list[Answer]]:
    """For each prompt of token ids, its answers, the greedy one first; see `decoding`."""
    answers: list[list[Answer]] = []
    for answers in decoding(model, prompts, seeds, how):  # noqa: B007  the last step has them whole
        pass
    return answers


def decoding(
    model: LocalModel,
    prompts: Sequence[list[int]],
    seeds: Sequence[tuple[int, int]],
    how: How,
) -> Iterator[list[list[Answer]]]:
    """The answers to each prompt after each step, in which all that go on grow by a token.

    They are the same objects at every step; other work may be done in between. What a prompt's
    answers draw depends on its seed alone, not on what else is in the batch.
    """
    network, hf = model.network, model.tokenizer.hf
    kinds = how.kinds
    answers = [Answer(p, greedy) for p in range(len(prompts)) for greedy in kinds]
    chance = [_Chance(seed, how) for seed in seeds]
    reducers = kernels.reducers_for(
        how.fields | Fields(top_k=1),
        boundary_ids=model.boundary_ids if how.fields.boundary else None,
    )
    stops = end_ids(model)
    running = Continued(network, prompts)
    running.repeat(len(kinds))
    size = len(kinds)
    grouped = [answers[p * size : (p + 1) * size] for p in range(len(prompts))]
    live = list(range(len(answers)))
    for left in reversed(range(how.max_new_tokens)):
        logits = network.logits(running.state)
        chosen = _chosen(logits, answers, live, chance, size)
        found = _values(running.state, logits, chosen, reducers, how.fields)
        kept = []
        for at, row in enumerate(live):
            answer = answers[row]
            answer.add(int(chosen[at]), {name: value[at] for name, value in found.items()})
            answer.ended = answer.tokens[-1] in stops or stopped(hf, answer.tokens, how.stop)
            if not answer.ended:
                kept.append(at)
        yield grouped
        if not kept or not left:
            return
        if len(kept) < len(live):
            running.keep(kept)
            chosen = chosen[torch.tensor(kept, device=chosen.device)]
            live = [live[at] for at in kept]
        running.step(chosen)


class _Chance:
    """What one prompt's drawn answers are drawn with, whether others have ended or not."""

    def __init__(self, seed: tuple[int, int], how: How):
        self._how = how
        self._source = torch.Generator(device="cpu").manual_seed(
            int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
        )

    def draw(self, logits: torch.Tensor, answers: Sequence[int]) -> torch.Tensor:
        """One token for each of these of the n answers, by their (L, V) logits."""
        p = _allowed(logits, self._how)
        # As torch.multinomial does, with noise for the answers that have ended too.
        noise = torch.empty((self._how.n, p.shape[1]), dtype=p.dtype)
        noise.exponential_(generator=self._source)
        return (p / noise[list(answers)]).argmax(-1)


def _chosen(
    logits: torch.Tensor, answers: Sequence[Answer], live: Sequence[int],
    chance: Sequence[_Chance], size: int,
) -> torch.Tensor:  # fmt: skip
    """(L,) the next token of each live answer; `size` answers belong to each prompt."""
    out = torch.empty(len(live), dtype=torch.long, device=logits.device)
    greedy = [at for at, row in enumerate(live) if answers[row].greedy]
    if greedy:
        none = torch.full((len(greedy),), -1, device=logits.device)
        first = kernels.reducers_for(Fields(top_k=1))
        out[greedy] = kernels.visit_logits(logits[greedy], none, first)["top_ids"][:, 0].long()
    for prompt, source in enumerate(chance):
        mine = [
            at
            for at, row in enumerate(live)
            if answers[row].prompt == prompt and not answers[row].greedy
        ]
        if mine:
            before = prompt * size + sum(a.greedy for a in answers[:size])
            drawn = source.draw(logits[mine], [live[at] - before for at in mine])
            out[mine] = drawn.to(logits.device)
    return out


def _values(
    state: torch.Tensor, logits: torch.Tensor, chosen: torch.Tensor, reducers: Any, fields: Fields
) -> dict[str, Array]:
    found = {
        k: v.cpu().numpy()
        for k, v in kernels.visit_logits(logits, chosen, reducers).items()
        if k != "lse"
    }
    if fields.hidden:
        found["hidden"] = state.float().cpu().numpy()
    for name in ("top_ids", "top_logp"):
        top = found.pop(name)
        if fields.top_k:
            found[name] = top[:, : fields.top_k]
    return found


def _allowed(logits: torch.Tensor, how: How) -> torch.Tensor:
    """(L, V) float64 probabilities after temperature, top_k and top_p; they need not sum to 1."""
    p = torch.softmax(logits.double().cpu() / how.temperature, -1)
    if how.top_k:
        kth = p.topk(min(how.top_k, p.shape[1]), -1).values[:, -1:]
        p = p.masked_fill(p < kth, 0.0)
    if how.top_p < 1:
        sorted_p, order = p.sort(-1, descending=True)
        beyond = sorted_p.cumsum(-1) - sorted_p >= how.top_p
        p = p.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), 0.0)
    return p


def end_ids(model: LocalModel) -> set[int]:
    """Tokens that end an answer: the tokenizer's own and those of the generation settings."""
    ends = getattr(model.network.hf.generation_config, "eos_token_id", None)
    own = model.tokenizer.hf.eos_token_id
    out = {own} if own is not None else set()
    return out | set(ends if isinstance(ends, list) else [ends] if ends is not None else [])
