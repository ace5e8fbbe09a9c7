"""A-LoL (arXiv 2305.14718): does learning only from better-than-expected answers resist bad data?

A small model has learned a true and two false answers to each question. From there it is trained on
the same rows with their rewards, by eight losses, and by two of them on the false answers alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll.studies._a_lol_tofu import (
    Answers,
    answers,
    distinct_2,
    reference,
    sampled,
    truth_share,
    values,
)
from nll.studies._common import COLOURS, seeds_finding
from nll.studies._npo_tofu import answer_logps, step
from nll.studies._study import Finding, Outcome, Setting, Verdict, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (
    "NLL", "wBC", "R-GOLD", "R-LoL", "A-LoL", "A-LoL ref-free", "A-LoL seq", "A-LoL KL",
)  # fmt: skip
BAD_ONLY = ("wBC", "A-LoL ref-free")
LR, BATCH, KL_BETA = 1e-3, 10, 0.1


@study(
    "a-lol",
    title="A-LoL: offline learning from answers better than expected",
    paper="2305.14718",
    claim="Weighting the likelihood of given answers by their positive advantage over what the "
    "reference policy gains resists bad data better than likelihood, reward-weighted cloning and "
    "R-GOLD do.",
    falsifier="Reward-weighted cloning (wBC) gives the true answer as large a share of probability "
    "on held-out paraphrased questions as reference-free A-LoL, in the mean over seeds.",
)
def a_lol(setting: Setting) -> Outcome:
    """Share of the true answer, diversity of samples and dropped rows for eight losses."""
    few = setting.quick
    size, epochs, steps = ((48, 2), 25, 40) if few else ((128, 3), 40, 1000)
    seeds = range(setting.seed, setting.seed + (3 if few else 5))
    names = ["reference", *METHODS, *(f"{m}, bad rows only" for m in BAD_ONLY)]
    share: dict[str, list[float]] = {n: [] for n in names}
    diversity: dict[str, list[float]] = {n: [] for n in names}
    dropped, expected = [], []
    for seed in seeds:
        held = answers(setting, seed)
        ref = reference(held, size=size, epochs=epochs, seed=seed)
        value = values(ref, held, seed)
        gain = [r.reward - value[r.question] for r in held.rows]
        dropped.append(float(np.mean(np.array(gain) <= 0)))
        expected.append(float(np.mean(value)))
        setting.say(f"a-lol: seed {seed}, reference {truth_share(ref, held):.3f}")
        good, bad = range(len(held.rows)), [i for i in range(len(held.rows)) if i % 3]
        for name in names:
            net = ref
            if name != "reference":
                rows = bad if name.endswith("only") else good
                net = trained(ref, name.split(",")[0], held, value, rows, steps=steps, seed=seed)
            share[name].append(truth_share(net, held))
            asked = [r["paraphrased_question"] for r in held.asked]
            diversity[name].append(distinct_2([t for (t,) in sampled(net, held, asked, 1, seed)]))
            setting.say(f"a-lol: seed {seed}, {name}, {share[name][-1]:.3f}")
    ours = seeds_finding("A-LoL ref-free minus wBC", _less(share, "A-LoL ref-free", "wBC"))
    verdict, why = judge(ours, share)
    return Outcome(
        verdict,
        why,
        findings=[
            *(
                seeds_finding(f"share of the true answer, {n}", share[n], share=True)
                for n in METHODS[4:]
            ),
            ours,
            seeds_finding("A-LoL minus wBC", _less(share, "A-LoL", "wBC")),
            seeds_finding("A-LoL seq minus wBC", _less(share, "A-LoL seq", "wBC")),
            seeds_finding("wBC minus NLL", _less(share, "wBC", "NLL")),
            seeds_finding("rows without a positive advantage", dropped),
            seeds_finding("value of a question", expected),
            *(
                seeds_finding(
                    f"{m} on bad rows only, minus the reference",
                    _less(share, f"{m}, bad rows only", "reference"),
                )
                for m in BAD_ONLY
            ),
        ],
        baselines=[
            seeds_finding(f"share of the true answer, {n}", share[n], share=True)
            for n in ("reference", *METHODS[:4])
        ],
        tables={
            "Paraphrased questions, mean over seeds": [
                {
                    "loss": n,
                    "share of the true answer": float(np.mean(share[n])),
                    "distinct-2": float(np.mean(diversity[n])),
                }
                for n in names
            ]
        },
        notes=[
            f"{len(held.asked)} TOFU questions, {len(held.rows)} rows: the true answer in other "
            "words with reward 0.9, two of the five false ones with 0.2 and noise of sd 0.1; the "
            "share is among the true and all five false answers (chance: 1/6).",
            f"A Llama over words, {size[1]} layers of width {size[0]}, fitted to all rows for "
            f"{epochs} epochs; then {steps} steps of {BATCH} rows with step size {LR:g} for every "
            "loss, all rows in turn.",
            "V is the mean reward of four samples of the reference; a sample has the reward of the "
            "known answer with which it shares most words, since there is no reward model.",
            f"clip 0.9; kl_beta {KL_BETA:g} for A-LoL KL, which pushes rows below that down.",
            "Intervals are Student's over seeds of weights, rewards, samples and order. The "
            "paper's 7B model and human ratings are not repeated.",
        ],
        figure=_figure(share),
    )


def trained(
    ref: Any,
    method: str,
    held: Answers,
    value: Sequence[float],
    rows: Sequence[int],
    *,
    steps: int,
    seed: int,
) -> Any:
    """A copy of the reference after so many steps with one of METHODS on these rows."""
    import torch

    net, draw = copy.deepcopy(ref), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
    queue: list[int] = []
    for _ in range(steps):
        if len(queue) < BATCH:
            queue += draw.permutation(rows).tolist()
        part, queue = [held.rows[i] for i in queue[:BATCH]], queue[BATCH:]
        step(optimiser, loss_of(net, ref, method, held, value, part))
    return net


def loss_of(
    net: Any, ref: Any, method: str, held: Answers, value: Sequence[float], part: Sequence[Any]
) -> Any:
    """The loss of some rows under one of METHODS."""
    import torch

    from nll import objectives as o

    pairs = [r.pair for r in part]
    logp, mask = answer_logps(net, held.words, pairs)
    reward = torch.tensor([r.reward for r in part])
    match method:
        case "NLL":
            return o.nll_loss(logp, mask, token_reduction="sum")  # noqa: S106
        case "wBC":
            return o.weighted_bc_loss(logp, reward, mask=mask)
        case "R-GOLD":
            return o.reward_gold_loss(logp, reward, mask=mask)
    with torch.no_grad():
        base = answer_logps(ref, held.words, pairs).logp
    if method == "R-LoL":
        return o.r_lol_loss(logp, base, reward, mask=mask)
    expected = torch.tensor([value[r.question] for r in part])
    variants: dict[str, Any] = {
        "A-LoL": {},
        "A-LoL ref-free": {"variant": "ref_free"},
        "A-LoL seq": {"variant": "seq"},
        "A-LoL KL": {"variant": "kl", "kl_beta": KL_BETA},
    }
    return o.a_lol_loss(logp, base, reward, expected, mask=mask, **variants[method])


def _less(share: dict[str, list[float]], a: str, b: str) -> list[float]:
    return [x - y for x, y in zip(share[a], share[b], strict=True)]


def judge(ours: Finding, share: dict[str, list[float]]) -> tuple[Verdict, str]:
    """The verdict from the difference that the falsifier speaks of."""
    told = "share of the true answer: " + ", ".join(
        f"{n} {np.mean(share[n]):.3f}" for n in ("NLL", "wBC", "A-LoL ref-free", "A-LoL")
    )
    if not ours.value > 0:
        return "not supported", f"{told}."
    if not (math.nan if ours.low is None else ours.low) > 0:
        return "inconclusive", f"{told}: the difference is within the interval over seeds."
    for other in ("NLL", "R-GOLD"):
        if np.mean(share["A-LoL ref-free"]) <= np.mean(share[other]):
            return "inconclusive", f"{told}: above wBC, but not above {other}."
    return "supported", f"{told}."


def _figure(share: dict[str, list[float]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8))
    axes = figure.add_subplot()
    for row, each in enumerate(reversed(share.values())):
        axes.plot(each, [row] * len(each), "o", color=COLOURS[2], markersize=4)
        axes.plot(np.mean(each), row, "D", color=COLOURS[0])
    axes.set_yticks(range(len(share)), list(reversed(share)))
    axes.axvline(1 / 6, color="#888888", linewidth=1, linestyle="--")
    axes.axvline(float(np.mean(share["reference"])), color=COLOURS[1], linewidth=1)
    axes.set_xlabel(
        "share of the true answer, paraphrased questions (dashed: chance, red: reference)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
