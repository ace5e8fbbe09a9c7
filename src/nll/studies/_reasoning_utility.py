"""Reasoning utility (arXiv 2508.20395): does the answer's entropy fall along right chains only?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nll import metrics, scores
from nll.models import LanguageModel
from nll.studies._common import by_name
from nll.studies._gsm8k import (
    Chain,
    Problem,
    one_right_one_wrong,
    paired_auroc,
    read_problems,
)
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD, CUE = "Question: {question}\nAnswer:", "\nA:"
GRID = np.linspace(0, 1, 5)
MEASURES = ("U", "-slope", "-last")
CURVES = {"H": "entropy", "N": "cross-entropy"}
GOLD, OWN = "gold answer", "chain's own answer"


class Row(NamedTuple):
    """A problem's right and wrong chain; what was measured, by name, and the curves."""

    chains: tuple[Chain, Chain]
    measured: tuple[Mapping[str, float], Mapping[str, float]]
    curves: tuple[Mapping[str, Array], Mapping[str, Array]]


@study(
    "reasoning-utility",
    title="Conditional entropy of the answer along a chain of reasoning",
    paper="2508.20395",
    claim="The entropy of a separate model over the answer, given ever more reasoning steps, falls "
    "along right chains and stays flat or rises along wrong ones; wrong chains are longer.",
    falsifier="With the gold answer neither the fall U = H_0 - H_K nor the slope of H tells right "
    "from wrong chains of the same problems beyond its interval.",
)
def reasoning_utility(setting: Setting) -> Outcome:
    """Right against wrong solutions of the same grade-school problems, read by the model."""
    problems = read_problems(setting)
    draw = np.random.default_rng(setting.seed)
    order = draw.permutation(len(problems))[: 50 if setting.quick else None]
    rows = []
    for number, i in enumerate(order):
        rows.append(_row(setting.model, problems[i], draw))
        if number % 10 == 9:
            setting.say(f"reasoning-utility: {number + 1} of {len(order)} problems")
    found = [
        paired_auroc(f"{answer}, {curve}: {measure}", *_columns(rows, (answer, curve, measure)),
                     seed=setting.seed)
        for answer in (GOLD, OWN) for curve in CURVES for measure in MEASURES
    ]  # fmt: skip
    bases = _baselines(rows, setting.seed)
    verdict, why = _judge(by_name(found), by_name(bases))
    return Outcome(
        verdict,
        why,
        findings=found,
        baselines=bases,
        tables={
            "Mean curves, nats, by share of the chain read": _mean_curves(rows),
            "Right and wrong chains": _differences(rows),
        },
        notes=[
            "AUROC of the right chain within problems that have one right and one wrong solution; "
            "intervals resample problems. H is the model's own entropy over the answer's tokens, "
            "N the negative log-likelihood of the given answer; both are means over its tokens.",
            "The gold answer needs the label; with the chain's own answer none is used.",
            "By default a 135M reader of solutions by older 6B and 175B models to grade-school "
            "problems; the paper reads chains of Qwen2.5-32B and GPT-4o on MATH with Qwen3-8B.",
        ],
        figure=_figure(rows),
    )


def _row(model: LanguageModel, problem: Problem, draw: np.random.Generator) -> Row:
    pair = one_right_one_wrong(problem, draw)
    measured, curves = [], []
    for chain in pair:
        gold = _read(model, problem, chain, problem.answer)
        own = gold if chain.answer == problem.answer else _read(model, problem, chain, chain.answer)
        named = {GOLD: gold, OWN: own}
        measured.append({
            **{f"{a}, {c}: {m}": v
               for a, u in named.items() for c in CURVES for m, v in _values(u, c).items()},
            "mentions": float(any(gold.mentions)),
            "before it is mentioned": _unmentioned(gold),
            "own answer before it is mentioned": _unmentioned(own),
            "steps": float(len(chain.steps)),
            "characters": float(sum(len(s) for s in chain.steps)),
        })  # fmt: skip
        curves.append({f"{a}, {c}": _curve(u, c) for a, u in named.items() for c in CURVES})
    return Row(pair, (measured[0], measured[1]), (curves[0], curves[1]))


def _read(
    model: LanguageModel, problem: Problem, chain: Chain, answer: str
) -> scores.StepUtilities:
    return scores.step_utilities(model, problem.question, chain.steps, answer, head=HEAD, cue=CUE)


def _curve(found: scores.StepUtilities, curve: str) -> Array:
    return found.entropy if curve == "H" else found.nll


def _values(found: scores.StepUtilities, curve: str) -> dict[str, float]:
    utility = found.entropy_utility if curve == "H" else found.nll_utility
    return {"U": utility.total, "-slope": -utility.slope, "-last": -_curve(found, curve)[-1]}


def _unmentioned(found: scores.StepUtilities) -> float:
    """U of H over the contexts in which the answer does not stand yet."""
    upto = found.mentions.index(True) + 1 if True in found.mentions else len(found.entropy)
    return scores.reasoning_utility(found.entropy[:upto]).total


def _columns(rows: Sequence[Row], key: tuple[str, str, str] | str) -> tuple[Array, Array]:
    name = key if isinstance(key, str) else f"{key[0]}, {key[1]}: {key[2]}"
    right, wrong = (np.array([r.measured[side][name] for r in rows]) for side in (0, 1))
    return right, wrong


def _baselines(rows: Sequence[Row], seed: int) -> list[Finding]:
    fewer = {"fewer steps": "steps", "fewer characters": "characters"}
    return [
        paired_auroc("the gold answer stands in the steps", *_columns(rows, "mentions"), seed=seed),
        paired_auroc(
            f"{GOLD}, H: U before it is mentioned", *_columns(rows, "before it is mentioned"),
            seed=seed,
        ),
        paired_auroc(
            f"{OWN}, H: U before it is mentioned",
            *_columns(rows, "own answer before it is mentioned"), seed=seed,
        ),
        *(
            paired_auroc(name, *(-x for x in _columns(rows, key)), seed=seed)
            for name, key in fewer.items()
        ),
    ]  # fmt: skip


def _judge(at: Mapping[str, Finding], base: Mapping[str, Finding]) -> tuple[Verdict, str]:
    total, slope = (at[f"{GOLD}, H: {m}"] for m in ("U", "-slope"))
    own, twin = at[f"{OWN}, H: U"], at[f"{GOLD}, N: U"]
    said, steps = base["the gold answer stands in the steps"], base["fewer steps"]
    told = (
        f"gold answer: U {total.value:.2f}, -slope {slope.value:.2f}, cross-entropy "
        f"{twin.value:.2f}; the chain's own answer {own.value:.2f}; whether the gold answer stands "
        f"in the chain {said.value:.2f}, fewer steps {steps.value:.2f}"
    )
    held = [(f.low or 0.0) > 0.5 for f in (total, slope)]
    if not any(held):
        return "not supported", f"{told}: the entropy does not tell right from wrong chains."
    if not all(held):
        return "inconclusive", f"{told}: only one of U and slope separates beyond its interval."
    limit = "" if (own.low or 0.0) > 0.5 else ", but only for one who knows the answer"
    return "supported", f"{told}: the entropy falls more along right chains{limit}."


def _mean_curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    out = []
    for name in rows[0].curves[0]:
        for side, label in enumerate(("right", "wrong")):
            curve = _mean_curve([r.curves[side][name] for r in rows])
            shown = {f"{g:.0%}": float(v) for g, v in zip(GRID, curve, strict=True)}
            out.append({"curve": name, "chains": label, **shown})
    return out


def _mean_curve(curves: Sequence[Array]) -> Array:
    on_grid = [np.interp(GRID, np.linspace(0, 1, len(c)), c) for c in curves]
    mean: Array = np.mean(on_grid, axis=0)
    return mean


def _differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    from scipy.stats import mannwhitneyu

    out = []
    for name in (*rows[0].measured[0],):
        right, wrong = _columns(rows, name)
        kept = ~np.isnan(right) & ~np.isnan(wrong)
        out.append({
            "measure": name,
            "right": float(right[kept].mean()),
            "wrong": float(wrong[kept].mean()),
            "right above wrong": float((right > wrong)[kept].mean()),
            "Mann-Whitney p": float(mannwhitneyu(right[kept], wrong[kept]).pvalue),
            "correlation given steps": "" if name == "steps" else partial_correlation(rows, name),
        })  # fmt: skip
    return out


def partial_correlation(rows: Sequence[Row], name: str) -> float:
    """Pearson r of a measure with being right, the number of steps regressed out of both."""
    steps, values = (np.concatenate(_columns(rows, key)) for key in ("steps", name))
    right = np.repeat([1.0, 0.0], len(rows))
    kept = ~np.isnan(values)
    design = np.stack([np.ones(kept.sum()), steps[kept]], 1)
    left = [
        y[kept] - design @ np.linalg.lstsq(design, y[kept], rcond=None)[0] for y in (values, right)
    ]
    if min(np.abs(x).max() for x in left) < 1e-9:
        return float("nan")
    return float(metrics.pearson(*left))


def _figure(rows: Sequence[Row]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6))
    for panel, answer in enumerate((GOLD, OWN)):
        axes = figure.add_subplot(1, 2, panel + 1)
        for curve, style in (("H", "-"), ("N", "--")):
            for side, (label, colour) in enumerate((("right", "#1f3b66"), ("wrong", "#c44e52"))):
                mean = _mean_curve([r.curves[side][f"{answer}, {curve}"] for r in rows])
                axes.plot(GRID, mean, style, color=colour, label=f"{CURVES[curve]}, {label} chains")
        axes.set_title(answer, fontsize=10)
        axes.set_xlabel("share of the steps read")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        if panel == 0:
            axes.set_ylabel("nats per token of the answer")
            axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
