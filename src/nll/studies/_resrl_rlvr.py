"""The ResRL study's moving half: a small model learns sums from verified answers, four ways."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from nll.studies._cdpo_chains import PROMPT, TOTAL, answers, final, greedy_accuracy, problems
from nll.studies._small_lm import CHARACTERS, adam, decode, encode, sample, step

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("GRPO", "NSR", "W-REINFORCE", "ResRL")
GROUP, PROMPTS, LR, RANK = 8, 8, 3e-4, 16
STOP = CHARACTERS.index(".")


def learned(net: Any, method: str, *, steps: int, seed: int) -> Any:
    """A copy after so many steps, each on PROMPTS fresh problems with GROUP answers."""
    import torch

    own = copy.deepcopy(net)
    optimiser, generator = adam(own, LR), torch.Generator().manual_seed(seed)
    for done in range(steps):
        asked = problems(PROMPTS, 1_000_000 * (seed + 1) + done)
        ids = sample(own, encode(list(asked)), total=TOTAL, n=GROUP, generator=generator)
        truth = [final(a) for a in asked.values() for _ in range(GROUP)]
        flat = ids.flatten(0, 1)
        right = [
            float(final(t[PROMPT:]) == a) for t, a in zip(decode(flat), truth, strict=True)
        ]  # fmt: skip
        loss = loss_of(own, method, flat, torch.tensor(right))
        if loss is not None:
            step(own, optimiser, loss)
    return own


def loss_of(net: Any, method: str, ids: Tensor, reward: Tensor) -> Tensor | None:
    """The clipped loss of groups of GROUP answers (N, TOTAL); None with nothing to learn."""
    import torch

    from nll.objectives import (
        clipped_policy_loss,
        grpo_advantages,
        nsr_advantages,
        resrl_advantages,
    )

    out = net(input_ids=ids[:, :-1], use_cache=False, output_hidden_states=method == "ResRL")
    own = ids[:, PROMPT:]
    logp = torch.log_softmax(out.logits[:, PROMPT - 1 :], -1).gather(-1, own[..., None])[..., 0]
    ended = (own == STOP).cumsum(-1) - (own == STOP).long()
    mask = ended == 0
    group = torch.arange(len(ids)) // GROUP
    match method:
        case "GRPO":
            adv = grpo_advantages(reward, group)
        case "NSR":
            adv = nsr_advantages(reward)
            mask = mask & (adv != 0)[:, None]
        case "W-REINFORCE":
            adv = nsr_advantages(reward, mode="w_reinforce")
        case _:
            states = out.hidden_states[-2][:, PROMPT - 1 :]
            adv = resrl_advantages(reward, group, states, mask, rank=RANK)
    if not mask.any() or not adv.any():
        return None
    return clipped_policy_loss(logp, logp.detach(), adv, mask)


def judged(net: Any, seed: int, *, n: int = 16, many: int = 200) -> dict[str, float]:
    """Greedy accuracy and pass@n on problems held out."""
    import torch

    tested = problems(many, 5_000 + seed)
    drawn = answers(net, tested, n, torch.Generator().manual_seed(seed))
    hits = [any(final(a) == final(tested[p]) for a in found) for p, found in drawn.items()]
    return {"greedy accuracy": greedy_accuracy(net, tested), f"pass@{n}": float(np.mean(hits))}
