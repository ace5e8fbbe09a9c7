"""ResRL (arXiv 2605.00380): do false answers leave the subspace of true ones where they are false?

First, without training, on TOFU's invented authors: whether the residual weights find the tokens in
which a false answer differs, and whether a step against false answers hurts the true one less with
them. Then four ways to learn sums from verified answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nll import metrics
from nll.studies._cdpo_chains import base_model
from nll.studies._common import COLOURS, read_json_lines, seeds_finding
from nll.studies._resrl_geometry import SCORES, Question, look, read
from nll.studies._resrl_rlvr import METHODS, judged, learned
from nll.studies._study import Finding, Outcome, Setting, Verdict, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@study(
    "resrl",
    title="ResRL: penalise failed answers where they leave the right ones",
    paper="2605.00380",
    claim="A failed answer's tokens whose hidden states lie outside the low-rank subspace of the "
    "right answers are those that make it fail; penalising in proportion spares what both share, "
    "keeps right answers likely, and reasons better than GRPO and NSR at no loss of pass@k.",
    falsifier="The weights' AUROC for the tokens in which a false answer differs is at or below "
    "0.55 (penultimate layer), or a step with them is kinder to the true answer than one with "
    "uniform weights of equal sum in at most half of the questions.",
)
def resrl(setting: Setting) -> Outcome:
    """AUROC of weights, displacement of true answers, and four objectives on sums."""
    asked = read_json_lines(setting.file("npo", "forget01_perturbed.jsonl.gz"))
    if setting.quick:
        asked = asked[:16]
    else:
        asked = [*asked, *read_json_lines(setting.file("npo", "retain_perturbed.jsonl.gz"))[:10]]
    seen: list[Question] = []
    for i, row in enumerate(asked):
        given = [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"][:2]]
        both = read(setting.model, row["question"], given)
        found = look(both[:2], both[2:], setting.seed + i)
        if found is not None:
            seen.append(found)
        if i % 4 == 3:
            setting.say(f"resrl: {i + 1} of {len(asked)} questions")
    runs, start = _learning(setting)
    areas = {n: _over_questions(f"AUROC, {n}", [q.areas[n] for q in seen]) for n in SCORES}
    kinder = _kinder("ResRL", seen)
    gains = {
        f"{a} minus {b}, {what}": seeds_finding(
            f"{a} minus {b}, {what}",
            [x[what] - y[what] for x, y in zip(runs[a], runs[b], strict=True)],
        )
        for a, b in (("ResRL", "NSR"), ("ResRL", "GRPO"), ("NSR", "GRPO"))
        for what in ("greedy accuracy", "pass@16")
    }
    verdict, why = judge(areas, kinder, gains)
    return Outcome(
        verdict,
        why,
        findings=[areas["penultimate"], areas["last"], kinder, *gains.values()],
        baselines=[areas["random subspace"], areas["nll"], _kinder("shuffled", seen)],
        tables={
            "Change of ln p of the true answer by a step of length 1 (first order), mean": [
                {"weights": n, "nats": float(np.mean([q.displaced[n] for q in seen]))}
                for n in seen[0].displaced
            ],
            "Sums after learning, mean over seeds": [
                {"objective": n, **{k: float(np.mean([r[k] for r in many])) for k in many[0]}}
                for n, many in {"none": start, **runs}.items()
            ],
        },
        notes=[
            f"{len(seen)} of {len(asked)} questions; right: the answer and its paraphrase, wrong: "
            "two perturbed answers, whose tokens are compared with the paraphrase by difflib. "
            "AUROCs are means over questions with a bootstrap of questions.",
            "`random subspace` is the residual from random directions of the same number and "
            "centre; `nll` is the token's nll; `shuffled` has ResRL's weights in random order.",
            "The step is on the unembedding alone and taken to first order, where it is exact as "
            "the step size goes to 0; weights are rescaled to mean 1.",
            "Sums: a Llama of two layers, "
            f"{len(runs['GRPO'])} seeds, {_steps(setting)} steps of 8 problems with 8 answers, "
            "rank 16 for its width of 64, all from one base model; intervals are Student's.",
            "The paper's 4B and 8B models and benchmarks are not run here.",
        ],
        figure=_figure(areas, seen, runs, start),
    )


def _steps(setting: Setting) -> int:
    return 40 if setting.quick else 200


def _learning(
    setting: Setting,
) -> tuple[dict[str, list[dict[str, float]]], list[dict[str, float]]]:
    base, share, _ = base_model(setting.seed, width=64, until=0.4, most=1500)
    setting.say(f"resrl: base model, {share:.0%} of sums right")
    seeds = range(setting.seed, setting.seed + (3 if setting.quick else 5))
    start = [judged(base, seed) for seed in seeds]
    runs: dict[str, list[dict[str, float]]] = {m: [] for m in METHODS}
    for seed in seeds:
        for method in METHODS:
            net = learned(base, method, steps=_steps(setting), seed=seed)
            runs[method].append(judged(net, seed))
            setting.say(f"resrl: seed {seed}, {method}, {runs[method][-1]['greedy accuracy']:.3f}")
    return runs, start


def _over_questions(name: str, values: Sequence[float]) -> Finding:
    found = metrics.bootstrap(np.mean, np.array(values), n=1000, seed=0)
    return Finding(name, float(found.value), float(found.low), float(found.high), len(values))


def _kinder(name: str, seen: Sequence[Question]) -> Finding:
    """Share of questions in which these weights lower the true answer less than uniform ones."""
    hits = sum(q.displaced[name] > q.displaced["uniform"] for q in seen)
    low, high = metrics.wilson(hits, len(seen))[-2:]
    return Finding(
        f"questions in which a step is kinder to the true answer, {name} against uniform weights",
        hits / len(seen), float(low), float(high), len(seen),
    )  # fmt: skip


def judge(
    areas: dict[str, Finding], kinder: Finding, gains: dict[str, Finding]
) -> tuple[Verdict, str]:
    """The verdict: geometry and displacement decide, learning can only weaken it."""
    area, learned = areas["penultimate"], gains["ResRL minus NSR, greedy accuracy"]
    told = (
        f"AUROC {area.value:.3f} for differing tokens (random subspace "
        f"{areas['random subspace'].value:.3f}, nll {areas['nll'].value:.3f}); kinder in "
        f"{kinder.value:.0%} of questions; ResRL minus NSR {learned.value:+.3f} in accuracy"
    )
    if area.value <= 0.55 or kinder.value <= 0.5:
        return "not supported", f"{told}."
    low, least = (math.nan if f.low is None else f.low for f in (area, kinder))
    if not (low > 0.55 and least > 0.5):
        return "inconclusive", f"{told}: not clear of the falsifier's bounds."
    if area.value <= areas["random subspace"].value:
        return "inconclusive", f"{told}: random directions do as well."
    if not (learned.low is not None and learned.low > 0):
        return "inconclusive", f"{told}: the geometry holds, better learning is not shown."
    return "supported", f"{told}."


def _figure(
    areas: dict[str, Finding],
    seen: Sequence[Question],
    runs: dict[str, list[dict[str, float]]],
    start: list[dict[str, float]],
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4))
    left, middle, right = figure.subplots(1, 3)
    for row, (name, f) in enumerate(reversed(areas.items())):
        left.plot([f.low, f.high], [row, row], color=COLOURS[0], linewidth=2)
        left.plot(f.value, row, "o", color=COLOURS[0])
        left.text(f.value, row + 0.15, name, fontsize=8, ha="center")
    left.set(yticks=[], xlabel="AUROC, differing tokens", ylim=(-0.5, len(areas)))
    left.axvline(0.5, color="#888888", linewidth=1, linestyle="--")
    across = [[q.displaced[n] for q in seen] for n in ("uniform", "ResRL")]
    middle.plot(*across, "o", color=COLOURS[0], markersize=4)
    ends = [min(map(min, across)), max(map(max, across))]
    middle.plot(ends, ends, color="#888888", linewidth=1, linestyle="--")
    middle.set(xlabel="displacement, uniform weights", ylabel="displacement, ResRL weights")
    for i, (name, many) in enumerate({"none": start, **runs}.items()):
        right.plot(
            [r["greedy accuracy"] for r in many], [r["pass@16"] for r in many], "o",
            color=f"C{i}", label=name, markersize=5,
        )  # fmt: skip
    right.set(xlabel="greedy accuracy", ylabel="pass@16")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
