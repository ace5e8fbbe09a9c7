"""U2A (arXiv 2504.06659): does a gradient product tell which bad answers are worth unlearning?

A small language model learns some of TOFU's answers by heart, most of them false. For each false
answer a gain is predicted, and measured by unlearning that answer alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nll import metrics
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.studies._tofu_student import LEARN_LR, learn, student, texts_of, tofu_rows
from nll.studies._u2a_tofu import (
    ALONE,
    BAD,
    Arm,
    Floats,
    Task,
    divide,
    last_blocks,
    measured,
    predicted,
    preference,
    selections,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_SIZES = (1e-3, 1e-2)  # the verdict rests on the first


@study(
    "u2a",
    title="U2A: which bad answers to unlearn",
    paper="2504.06659",
    claim="Unlearning a bad answer helps or hurts alignment depending on the angle between its "
    "gradient and the alignment gradient, and unlearning those of the largest gain improves "
    "alignment most.",
    falsifier="The predicted gain ranks the measured effects of unlearning single answers with a "
    "Spearman correlation below 0.3; or the gains of all bad answers have one sign.",
)
def u2a(setting: Setting) -> Outcome:
    """Predicted and measured gains of false TOFU answers; then the best, random and worst 30."""
    forget, retain = tofu_rows(setting)
    rows = [*retain, *forget]
    who = student(setting, texts_of(rows), layers=3, seed=setting.seed)
    bad, good, wanted, held_out = divide(rows, setting.seed)
    nll = learn(
        who, [*bad, *good], epochs=40 if setting.quick else 10, enough=0.3, seed=setting.seed,
        lr=LEARN_LR if setting.quick else 2e-5, say=lambda m: setting.say(f"u2a: learning, {m}"),
    )  # fmt: skip
    params = last_blocks(who.net)
    task = Task(bad, good, preference(who, *wanted), preference(who, *held_out))
    gains, others = predicted(who, params, task)
    setting.say("u2a: gains of all answers")
    alone = np.random.default_rng(setting.seed).permutation(len(bad))[:ALONE].tolist()
    effects = {size: measured(who, params, task, alone, size) for size in STEP_SIZES}
    setting.say(f"u2a: unlearned {ALONE} answers, each alone, with {len(STEP_SIZES)} step sizes")
    arms = selections(setting, who, params, task, gains)
    main = effects[STEP_SIZES[0]].lowered
    rho = _rank("gain and measured effect, Spearman", gains[alone], main)
    share = _mean("bad answers whose gain is 0 or less", (gains <= 0).astype(float))
    tops = np.array([a.lowered for a in arms["largest gains"]])
    margins = [tops - [a.lowered for a in arms[n]] for n in ("random", "smallest gains")]
    unseen = np.array([a.lowered_held_out for a in arms["largest gains"]])
    verdict, why = judge(rho, share, gains, margins, unseen)
    norms, nlls = others["gradient norm"], others["nll"]
    return Outcome(
        verdict,
        why,
        findings=[
            rho,
            _rank("the same, diagonal curvature", others["diagonal gain"][alone], main),
            _rank("the same at ten times the step", gains[alone], effects[STEP_SIZES[1]].lowered),
            share,
            _mean("true answers whose gain is 0 or less", (others["good"] <= 0).astype(float)),
            _mean("largest gains lower J more than random ones by, nats", margins[0]),
            _mean("largest gains lower J more than smallest ones by, nats", margins[1]),
            _mean("largest gains: J of held-out pairs lowered by, nats", unseen),
        ],
        baselines=[
            _rank("cosine alone and measured effect", (gains / norms)[alone], main),
            _rank("gradient norm and measured effect", norms[alone], main),
            _rank("nll of the answer and measured effect", nlls[alone], main),
        ],
        tables={
            "Unlearning 30 answers, mean of five seeds": [
                {
                    "selection": name,
                    "J lowered by, nats": float(np.mean([a.lowered for a in many])),
                    "held-out J lowered by, nats": float(
                        np.mean([a.lowered_held_out for a in many])
                    ),
                    "held-out preference accuracy": float(np.mean([a.accuracy for a in many])),
                }
                for name, many in arms.items()
            ],
            "One answer alone, 5 steps": [
                {
                    "step size": size,
                    "answers that lowered J": float((e.lowered > 0).mean()),
                    "median J lowered by, nats": float(np.median(e.lowered)),
                    "rise of its own nll, nats per token": float(e.forgotten.mean()),
                }
                for size, e in effects.items()
            ],
            "Gains by quantile": [
                {
                    "quantile": q,
                    "bad": float(np.quantile(gains, q)),
                    "true": float(np.quantile(others["good"], q)),
                }
                for q in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
            ],
        },
        notes=[
            f"The model knew its {BAD} false and {len(good)} true answers to {nll:.2f} nats per "
            "token when unlearning began; preference pairs ask some of the same questions with "
            "answers it never saw.",
            "Only the weights of the last two blocks are changed (no adapters); gains are those of "
            "NPO's loss at the start model.",
            "Intervals: bootstrap over answers (95%), or over five orders of the batches.",
            "Gains say what the first small step does; after many steps they must be computed "
            "again, which the driver does.",
        ],
        figure=_figure(gains, others["good"], gains[alone], main, arms),
    )


def judge(
    rho: Finding, share: Finding, gains: Floats, margins: Sequence[Floats], unseen: Floats
) -> tuple[Verdict, str]:
    """The falsifier first, then what the claim expects beyond it."""
    over, under = (float(m.mean()) for m in margins)
    told = (
        f"Gain and measured effect correlate at {rho.value:.2f}; {share.value:.0%} of the bad "
        f"answers have a gain of 0 or less; unlearning the 30 largest lowers J by {over:.3f} nats "
        f"more than 30 random ones and by {under:.3f} more than the 30 smallest; on held-out pairs "
        f"the largest {'lower' if unseen.mean() > 0 else 'raise'} it by {abs(unseen.mean()):.3f}"
    )
    if rho.value < 0.3 or (gains > 0).all() or (gains <= 0).all():
        return "not supported", f"{told}."
    if rho.value >= 0.6 and share.value < 0.5 and over > 0 and under > over:
        return "supported", f"{told}."
    return "inconclusive", f"{told}: not in all as the claim expects."


def _rank(name: str, x: Floats, y: Floats) -> Finding:
    from scipy.stats import spearmanr

    def rho(a: Floats, b: Floats) -> float:
        return float(spearmanr(a, b).statistic)

    found = metrics.bootstrap(rho, x, y, n=1000, seed=0)
    return Finding(name, float(found.value), float(found.low), float(found.high), len(x))


def _mean(name: str, values: Floats) -> Finding:
    found = metrics.bootstrap(np.mean, values, n=1000, seed=0)
    return Finding(name, float(found.value), float(found.low), float(found.high), len(values))


def _figure(
    bad: Floats, good: Floats, gain: Floats, effect: Floats, arms: Mapping[str, Sequence[Arm]]
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6))
    left, middle, right = figure.subplots(1, 3)
    left.scatter(gain, effect, s=14, color="#1f3b66")
    left.set(xlabel="predicted gain", ylabel="J lowered by one answer alone, nats")
    edges = np.histogram_bin_edges(np.concatenate([bad, good]), 24)
    middle.hist(bad, edges, alpha=0.7, label="false answers", color="#c44e52")
    middle.hist(good, edges, alpha=0.7, label="true answers", color="#1f3b66")
    middle.set(xlabel="predicted gain", ylabel="answers")
    middle.legend(frameon=False, fontsize=8)
    for row, many in enumerate(reversed(list(arms.values()))):
        right.plot([a.lowered for a in many], [row] * len(many), "o", color="#1f3b66", alpha=0.6)
    right.set_yticks(range(len(arms)), list(reversed(list(arms))))
    right.set(xlabel="J lowered by 30 answers, nats")
    for axes in (left, right):
        axes.axvline(0, color="#888888", linewidth=1, linestyle="--")
    left.axhline(0, color="#888888", linewidth=1, linestyle="--")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
