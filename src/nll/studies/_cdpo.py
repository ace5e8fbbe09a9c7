"""cDPO (arXiv 2411.19943): does the contrast of two tuned copies find the token that dooms?

A model of two layers that gets most sums right and some wrong. Its own right and wrong answers tune
two copies; where they part is compared with the first wrong digit, which is known, and with what
rollouts say. Then DPO, RPO and cDPO on the same pairs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll import metrics
from nll.studies._cdpo_chains import (
    PROMPT,
    Pair,
    accuracy,
    answers,
    base_model,
    first_error,
    greedy_accuracy,
    problems,
    rollout_successes,
    scored,
    training_sets,
)
from nll.studies._common import COLOURS, seeds_finding
from nll.studies._small_lm import adam, answer_logps, batches, encode, step
from nll.studies._study import Finding, Outcome, Setting, Verdict, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("DPO", "RPO", "cDPO")
GAMMA, LR, BATCH, EPOCHS = 1.0, 2e-4, 8, 3
SCORES = {
    "contrast": "1 - s, contrast of the tuned copies",
    "p": "nll under the base model",
    "rank": "rank under the base model",
    "p_pos": "nll under the copy tuned on right answers",
}


@study(
    "cdpo",
    title="cDPO: the critical tokens of wrong reasoning",
    paper="2411.19943",
    claim="The contrast of two copies, tuned on right and on wrong answers, finds the token after "
    "which a wrong answer cannot be saved; weighting rejected tokens by it in DPO makes better "
    "reasoners and does not lower the likelihood of the chosen answers.",
    falsifier="Its AUROC for the first wrong digit is not above that of the base model's nll.",
)
def cdpo(setting: Setting) -> Outcome:
    """AUROC and agreement of critical tokens; accuracy and likelihood after three objectives."""
    import torch

    few = setting.quick
    seeds = range(setting.seed, setting.seed + (3 if few else 5))
    areas: dict[str, list[float]] = {name: [] for name in SCORES}
    agreed: dict[str, list[float]] = {"contrast": [], "p": [], "exists": [], "rollouts": []}
    after: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    before: list[dict[str, float]] = []
    used, starts = [], []
    for seed in seeds:
        net, start, taken = base_model(
            seed, width=64 if few else 128, until=0.6, most=1500 if few else 10_000
        )
        starts.append(start)
        setting.say(f"cdpo: seed {seed}, base model {start:.0%} right after {taken} steps")
        generator = torch.Generator().manual_seed(seed)
        asked = problems(200, seed + 100)
        drawn = answers(net, asked, 64, generator)
        right, wrong, pairs = training_sets(asked, drawn, np.random.default_rng(seed))
        used.append(len(pairs))
        held = scored(pairs, right, wrong, net, seed)
        chains = first_error(pairs, asked)
        told = _told(held)
        label = torch.zeros(len(pairs), told["p"].shape[1], dtype=torch.long)
        label[range(len(pairs)), chains.first] = 1
        for name in SCORES:
            areas[name].append(metrics.auroc(label.flatten().numpy(), told[name].flatten().numpy()))
        look = slice(0, 20 if few else 50)
        counts = rollout_successes(net, chains.ids[look], asked, generator)
        for name, value in agreement(told, counts, chains.first[look]).items():
            agreed[name].append(value)
        setting.say(
            f"cdpo: seed {seed}, AUROC {areas['contrast'][-1]:.3f}, nll {areas['p'][-1]:.3f}"
        )
        tested = problems(500, seed + 10_000)
        before.append(_standing(net, net, pairs, tested, seed))
        for method in METHODS:
            own = preferred(net, method, pairs, held["s"], seed)
            after[method].append(_standing(own, net, pairs, tested, seed))
            setting.say(f"cdpo: seed {seed}, {method}, {after[method][-1]['accuracy']:.3f}")
    found = [
        seeds_finding(f"AUROC, {SCORES['contrast']}", areas["contrast"], share=True),
        seeds_finding(
            "AUROC above the base model's nll", np.subtract(areas["contrast"], areas["p"]).tolist()
        ),
        seeds_finding(
            "lowest s within one of the rollouts' critical token", agreed["contrast"], share=True
        ),
        seeds_finding("chains with a critical token by rollouts", agreed["exists"], share=True),
        seeds_finding(
            "rollouts' critical token is the first wrong digit", agreed["rollouts"], share=True
        ),
        seeds_finding("accuracy, cDPO minus DPO", _less(after, "cDPO", "DPO", "accuracy")),
        seeds_finding("chosen log-prob, DPO", [r["chosen"] for r in after["DPO"]]),
        seeds_finding("chosen log-prob, cDPO", [r["chosen"] for r in after["cDPO"]]),
        seeds_finding("chosen log-prob, cDPO minus DPO", _less(after, "cDPO", "DPO", "chosen")),
    ]
    verdict, why = judge(found[1], areas, found[5], found[8])
    return Outcome(
        verdict,
        why,
        findings=found,
        baselines=[
            *(
                seeds_finding(f"AUROC, {SCORES[n]}", areas[n], share=True)
                for n in SCORES
                if n != "contrast"
            ),
            seeds_finding(
                "highest nll within one of the rollouts' critical token", agreed["p"], share=True
            ),
        ],
        tables={
            "After training on the same pairs, mean over seeds": [
                {"objective": name, **{k: float(np.mean([r[k] for r in many])) for k in many[0]}}
                for name, many in {"none": before, **after}.items()
            ],
        },
        notes=[
            f"Sums like 17+8+5+4=25;30;34. by a Llama of two layers of width {64 if few else 128}, "
            f"{min(starts):.0%} to {max(starts):.0%} of whose sampled answers are right; 64 "
            f"answers to each of 200 problems a seed, of which {min(used)} to {max(used)} have "
            "right and wrong ones.",
            "Copies are tuned on one half of the problems and judge the other (one epoch, all "
            "weights, step size and batch of the paper); labels are the first wrong digit.",
            "p under the base model and its nll order tokens alike; they are one baseline.",
            f"DPO, RPO and cDPO: the same pairs, {EPOCHS} epochs, step size {LR:g}, beta = gamma = "
            f"{GAMMA:g}. `chosen` and `rejected`: change of the answers' log-prob, nats.",
            "Intervals are Student's over seeds, each with its own base model, problems and "
            "samples. The paper's 8B to 70B models are not run here.",
        ],
        figure=_figure(areas, {"none": before, **after}),
    )


def _told(held: dict[str, Any]) -> dict[str, Any]:
    """Scores of which the highest is the most critical."""
    return {
        "contrast": 1 - held["s"],
        "p": -held["p"].log(),
        "rank": held["rank"],
        "p_pos": -held["p_pos"].log(),
    }


def agreement(
    told: dict[str, Any], counts: Sequence[Sequence[int]], first: Sequence[int]
) -> dict[str, float]:
    """Shares of chains: with a critical token by rollouts; and of those, whose highest score is
    within one place of it, and whose first wrong digit it is."""
    from nll.objectives import critical_token_by_rollout

    by_rollout = [critical_token_by_rollout(c) for c in counts]
    known = [(i, t) for i, t in enumerate(by_rollout) if t is not None]
    out = {"exists": len(known) / len(by_rollout)}
    out["rollouts"] = _share([first[i] == t for i, t in known])
    for name in ("contrast", "p"):
        best = told[name].argmax(-1).tolist()
        out[name] = _share([abs(best[i] - t) <= 1 for i, t in known])
    return out


def _share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else math.nan


def preferred(net: Any, method: str, pairs: Sequence[Pair], s: Any, seed: int) -> Any:
    """A copy trained on the pairs with one of METHODS."""
    import torch

    from nll.objectives import cdpo_loss, dpo_loss, rpo_loss

    own = copy.deepcopy(net)
    optimiser, draw = adam(own, LR), np.random.default_rng(seed)
    chosen, rejected = (encode([getattr(p, n) for p in pairs]) for n in ("chosen", "rejected"))
    with torch.no_grad():
        ref_c, ref_r = (answer_logps(net, ids, PROMPT) for ids in (chosen, rejected))
    for _ in range(EPOCHS):
        for rows in batches(len(pairs), BATCH, draw):
            given = (
                answer_logps(own, chosen[rows], PROMPT), ref_c[rows],
                answer_logps(own, rejected[rows], PROMPT), ref_r[rows],
            )  # fmt: skip
            match method:
                case "DPO":
                    loss = dpo_loss(*given, beta=GAMMA)
                case "RPO":
                    loss = rpo_loss(*given, beta=GAMMA)
                case _:
                    loss = cdpo_loss(*given, s[rows], gamma=GAMMA)
            step(own, optimiser, loss)
    return own


def _standing(
    own: Any, net: Any, pairs: Sequence[Pair], tested: dict[str, str], seed: int
) -> dict[str, float]:
    import torch

    out = {
        "accuracy": accuracy(own, tested, torch.Generator().manual_seed(seed), n=8),
        "greedy accuracy": greedy_accuracy(own, tested),
    }
    for name in ("chosen", "rejected"):
        ids = encode([getattr(p, name) for p in pairs])
        with torch.no_grad():
            change = answer_logps(own, ids, PROMPT) - answer_logps(net, ids, PROMPT)
        out[name] = float(change.sum(-1).mean())
    return out


def _less(after: dict[str, list[dict[str, float]]], a: str, b: str, what: str) -> list[float]:
    return [x[what] - y[what] for x, y in zip(after[a], after[b], strict=True)]


def judge(
    above: Finding, areas: dict[str, list[float]], accuracy: Finding, chosen: Finding
) -> tuple[Verdict, str]:
    """The verdict: the contrast against nll decides, the training half can only weaken it."""
    ours, plain = np.mean(areas["contrast"]), np.mean(areas["p"])
    told = (
        f"AUROC {ours:.3f} for the first wrong digit, {plain:.3f} by the base model's nll; "
        f"accuracy of cDPO minus DPO {accuracy.value:+.3f}, of the chosen log-prob "
        f"{chosen.value:+.2f} nats"
    )
    low, high = (math.nan if x is None else x for x in (above.low, above.high))
    if ours <= plain:
        sure = "" if high < 0 else ", though within the interval over seeds"
        return "not supported", f"{told}: the contrast is no better than nll{sure}."
    if not low > 0:
        return "inconclusive", f"{told}: the contrast is not surely better than nll."
    if accuracy.high is not None and accuracy.high < 0:
        return "inconclusive", f"{told}: tokens are found, but training by them is worse."
    if not (accuracy.low is not None and accuracy.low > 0 and (chosen.low or 0) > 0):
        return "inconclusive", f"{told}: tokens are found, better training is not shown."
    return "supported", f"{told}."


def _figure(areas: dict[str, list[float]], runs: dict[str, list[dict[str, float]]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4))
    left, right = figure.subplots(1, 2)
    for row, values in enumerate(reversed(areas.values())):
        left.plot(values, [row] * len(values), "o", color=COLOURS[2], markersize=4)
        left.plot(np.mean(values), row, "D", color=COLOURS[0])
    left.set_yticks(range(len(areas)), [SCORES[n] for n in reversed(areas)])
    left.set_xlabel("AUROC, first wrong digit (dots: seeds, diamond: mean)")
    for i, (name, many) in enumerate(runs.items()):
        right.plot(
            [r["chosen"] for r in many], [r["accuracy"] for r in many], "o",
            color=COLOURS[(i + 2) % 4], label=name,
        )  # fmt: skip
    right.set(xlabel="change of the chosen answers' log-prob, nats", ylabel="accuracy")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
