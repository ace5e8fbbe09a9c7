"""The cDPO study's task: sums in a chain, `17+8+5+4=25;30;34.`, whose first error is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nll.studies._small_lm import (
    adam,
    answer_logits,
    answer_logps,
    batches,
    decode,
    encode,
    network,
    sample,
    step,
)

if TYPE_CHECKING:
    from torch import Tensor

PROMPT, TOTAL = 9, 18
TUNE_LR, TUNE_BATCH = 3e-4, 6


class Chains(NamedTuple):
    """Wrong chains to look at: ids (N, TOTAL), and where each first leaves the right one."""

    ids: Tensor
    first: list[int]


class Pair(NamedTuple):
    """A right and a wrong answer to one problem, texts with their prompt."""

    half: int
    chosen: str
    rejected: str


def problem(draw: np.random.Generator) -> tuple[str, str]:
    """A prompt of PROMPT characters and its right answer."""
    a = draw.integers(10, 70)
    b, c, d = draw.integers(1, 10, 3)
    return f"{a}+{b}+{c}+{d}=", f"{a + b};{a + b + c};{a + b + c + d}."


def problems(n: int, seed: int) -> dict[str, str]:
    """n distinct problems with their answers."""
    draw = np.random.default_rng(seed)
    out: dict[str, str] = {}
    while len(out) < n:
        prompt, answer = problem(draw)
        out.setdefault(prompt, answer)
    return out


def final(answer: str) -> str:
    """What an answer ends with: its last number before the first full stop."""
    return answer.split(".", maxsplit=1)[0].rsplit(";", maxsplit=1)[-1] if "." in answer else ""


def base_model(seed: int, *, width: int, until: float, most: int) -> tuple[Any, float, int]:
    """A model trained until so many sampled answers are right, that share, and the steps taken."""
    import torch

    net, draw = network(seed, width=width), np.random.default_rng(seed)
    optimiser = adam(net, 3e-3)
    tested = problems(200, seed + 10_000)
    right = 0.0
    for done in range(1, most + 1):
        ids = encode(["".join(problem(draw)) for _ in range(64)])
        step(net, optimiser, -answer_logps(net, ids, PROMPT).mean())
        if done % 25 == 0:
            right = accuracy(net, tested, torch.Generator().manual_seed(seed))
            if right >= until:
                break
    return net, right, done


def accuracy(net: Any, tested: dict[str, str], generator: Any, n: int = 4) -> float:
    """Share of sampled answers whose final number is right."""
    drawn = answers(net, tested, n, generator)
    return float(np.mean([final(a) == final(tested[p]) for p, many in drawn.items() for a in many]))


def greedy_accuracy(net: Any, tested: dict[str, str]) -> float:
    """Share of greedy answers whose final number is right."""
    found = decode(sample(net, encode(list(tested)), total=TOTAL, how="greedy")[:, 0])
    return float(
        np.mean(
            [final(t[PROMPT:]) == final(a) for t, a in zip(found, tested.values(), strict=True)]
        )
    )


def answers(net: Any, asked: dict[str, str], n: int, generator: Any) -> dict[str, list[str]]:
    """n sampled answers to every problem."""
    ids = sample(net, encode(list(asked)), total=TOTAL, n=n, generator=generator)
    return {
        p: [t[PROMPT:] for t in decode(many)] for p, many in zip(asked, ids.unbind(), strict=True)
    }


def training_sets(
    asked: dict[str, str], drawn: dict[str, list[str]], draw: np.random.Generator
) -> tuple[list[list[str]], list[list[str]], list[Pair]]:
    """Right and wrong texts of either half of the problems, and one pair a problem.

    A wrong text is one solution for each of the most frequent wrong answers that make up half.
    """
    from nll.objectives import select_negatives_top_p

    right: list[list[str]] = [[], []]
    wrong: list[list[str]] = [[], []]
    pairs = []
    for i, (prompt, answer) in enumerate(asked.items()):
        good = [a for a in drawn[prompt] if final(a) == final(answer)]
        bad = [a for a in drawn[prompt] if final(a) != final(answer)]
        if not good or not bad:
            continue
        chosen = good[int(draw.integers(len(good)))]
        right[i % 2].append(prompt + chosen)
        picked = [
            next(a for a in bad if final(a) == name)
            for name in select_negatives_top_p([final(a) for a in bad])
        ]
        wrong[i % 2] += [prompt + a for a in picked]
        pairs.append(Pair(i % 2, prompt + chosen, prompt + picked[0]))
    return right, wrong, pairs


def tuned(net: Any, texts: Sequence[str], seed: int) -> Any:
    """A copy after one epoch on these texts."""
    import copy

    own = copy.deepcopy(net)
    optimiser = adam(own, TUNE_LR)
    ids = encode(texts)
    for part in batches(len(ids), TUNE_BATCH, np.random.default_rng(seed)):
        step(own, optimiser, -answer_logps(own, ids[part], PROMPT).mean())
    return own


def scored(
    pairs: Sequence[Pair], right: list[list[str]], wrong: list[list[str]], net: Any, seed: int
) -> dict[str, Tensor]:
    """(N, T) of the rejected texts: s_t and p_pos by copies tuned on the other half of the
    problems, and p and rank under the model itself."""
    import torch

    from nll.objectives import contrastive_estimation

    ids = encode([p.rejected for p in pairs])
    size = (len(ids), TOTAL - PROMPT)
    out = {name: torch.zeros(size) for name in ("s", "p_pos", "p", "rank")}
    for half in (0, 1):
        rows = torch.tensor([i for i, p in enumerate(pairs) if p.half == half])
        pos, neg = (tuned(net, texts[1 - half], seed) for texts in (right, wrong))
        held, tokens = ids[rows], ids[rows, PROMPT:]
        with torch.no_grad():
            z_pos, z_neg, z = (answer_logits(m, held, PROMPT) for m in (pos, neg, net))
        out["s"][rows] = contrastive_estimation(z_pos, z_neg, tokens)
        out["p_pos"][rows] = contrastive_estimation(z_pos, z_neg, tokens, beta=0.0)
        own = z.gather(-1, tokens[..., None])
        out["p"][rows] = torch.softmax(z, -1).gather(-1, tokens[..., None])[..., 0]
        out["rank"][rows] = 1.0 + (z > own).sum(-1)
    return out


def first_error(pairs: Sequence[Pair], asked: dict[str, str]) -> Chains:
    """Where each rejected text first differs from the right chain."""
    first = []
    for p in pairs:
        given, truth = p.rejected[PROMPT:], asked[p.rejected[:PROMPT]]
        first.append(next(i for i, (a, b) in enumerate(zip(given, truth, strict=True)) if a != b))
    return Chains(encode([p.rejected for p in pairs]), first)


def rollout_successes(
    net: Any, chains: Tensor, asked: dict[str, str], generator: Any, n: int = 64
) -> list[list[int]]:
    """(N, T) right ones among n continuations of every prefix of wrong chains."""
    counts: list[list[int]] = [[] for _ in chains]
    for end in range(PROMPT + 1, TOTAL + 1):
        found = sample(net, chains[:, :end], total=TOTAL, n=n, generator=generator)
        for row, many in enumerate(found):
            texts = decode(many)
            truth = final(asked[texts[0][:PROMPT]])
            counts[row].append(sum(final(t[PROMPT:]) == truth for t in texts))
    return counts
