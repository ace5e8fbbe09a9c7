"""Problems solved soundly or by a flawed path: pass@N in closed form, fitted and simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from nll.metrics import EvalCounts
from nll.trace import Array

World: TypeAlias = tuple[float, float, float, float]


def expected(world: World, n: int) -> tuple[float, float]:
    """Automatic and manual pass@n: a problem's samples are sound with chance s, flawed with g.

    s ~ Beta(a, b), g ~ Beta(c, d), independent; a sample's answer is right when either happens.
    """
    a, b, c, d = world
    missed, unlucky = _none(a, b, n), _none(c, d, n)
    return 1 - missed * unlucky, 1 - missed


def _none(a: float, b: float, n: int) -> float:
    """E (1 - p)^n for p ~ Beta(a, b)."""
    from scipy.special import betaln

    return float(np.exp(betaln(a, b + n) - betaln(a, b)))


def fitted_world(points: Mapping[int, EvalCounts]) -> World:
    """The world under which pass@N counts are likeliest, each N taken for itself."""
    from scipy.optimize import minimize

    def loss(logs: Array) -> float:
        world: World = tuple(np.exp(np.clip(logs, -12, 12)).tolist())
        total = 0.0
        for n, counts in points.items():
            automatic, manual = expected(world, n)
            sound = counts.auto_correct - counts.false_positive
            chances = np.clip([manual, automatic - manual, 1 - automatic], 1e-12, 1)
            seen = [sound, counts.false_positive, counts.n - counts.auto_correct]
            total -= float(np.dot(seen, np.log(chances)))
        return total

    starts = [np.log([0.2, 2.0, 0.2, 20.0]), np.log([0.5, 5.0, 1.0, 100.0])]
    runs = [
        minimize(loss, s, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-9})
        for s in starts
    ]
    best = min(runs, key=lambda r: float(r.fun))
    a, b, c, d = np.exp(np.clip(best.x, -12, 12)).tolist()
    return a, b, c, d


def simulate(
    world: World, ns: Sequence[int], seed: int, problems: int = 4000
) -> list[dict[str, float]]:
    """Pass@N and best-of-N drawn, beside the closed form of pass@N.

    Best-of-N has a verifier that finds a right answer wherever there is one and cannot see how it
    was reached: it takes the first.
    """
    a, b, c, d = world
    draw = np.random.default_rng(seed)
    s, g = draw.beta(a, b, problems)[:, None], draw.beta(c, d, problems)[:, None]
    most = max(ns)
    sound = draw.random((problems, most)) < s
    right = sound | (draw.random((problems, most)) < g)
    out = []
    for n in ns:
        first = right[:, :n].argmax(axis=1)
        any_right = right[:, :n].any(axis=1)
        picked = sound[np.arange(problems), first] & any_right
        automatic, manual = expected(world, n)
        out.append(
            {
                "N": n,
                "automatic pass@N": float(any_right.mean()), "closed form": automatic,
                "manual pass@N": float(sound[:, :n].any(axis=1).mean()), "its closed form": manual,
                "best-of-N manual": float(picked.mean()),
                "best-of-N false positive rate": 1 - float(picked.sum() / max(any_right.sum(), 1)),
            }
        )  # fmt: skip
    return out
