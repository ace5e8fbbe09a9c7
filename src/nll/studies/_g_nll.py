"""G-NLL (arXiv 2412.15176): is one greedy answer's likelihood as good as ten sampled answers?"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll import scores
from nll._bundle import Samples, answer_text
from nll.studies._common import auroc_finding, by_name
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Fields, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOTS = {"France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo"}
TEN = ("PE, 10 samples", "LN-PE, 10 samples", "D-SE, 10 samples", "SE, 10 samples")


@study(
    "g-nll",
    title="G-NLL: uncertainty from one greedy answer",
    paper="2412.15176",
    claim="The summed negative log-likelihood of the greedy answer tells wrong answers from right "
    "ones as well as scores that need ten sampled answers; length normalisation, or a sampled "
    "instead of the greedy sequence, makes it worse.",
    falsifier="G-NLL's AUROC is not above 0.5 by its interval, or the ten-sample scores beat it "
    "by more than the interval, or one random sample's NLL does as well.",
)
def g_nll(setting: Setting) -> Outcome:
    """Capitals of UN members asked of the model; AUROC of "wrong" of one- and ten-pass scores."""
    rows = list(_answers(setting))
    wrong = np.array([r["wrong"] for r in rows], int)
    names = [n for n in rows[0] if n not in ("wrong", "tokens")]
    found = [auroc_finding(n, wrong, [r[n] for r in rows], seed=setting.seed) for n in names]
    verdict, why = _judge(by_name(found))
    return Outcome(
        verdict,
        why,
        findings=found,
        baselines=[
            auroc_finding("length of the answer", wrong, [r["tokens"] for r in rows]),
            Finding("share of wrong answers", float(wrong.mean()), n=len(wrong)),
        ],
        tables={
            "Exact trees of three steps with ten choices": [
                _trees(c, setting.seed) for c in (0.03, 0.1, 0.3, 1.0)
            ]
        },
        notes=[
            "One kind of short question (capitals) and, by default, a 135M model; the paper uses "
            "models of 7B to 70B on TriviaQA, NQ and SVAMP.",
            "Semantic clusters are answers equal after lower-casing, not entailment.",
        ],
        figure=_figure(found),
    )


def _answers(setting: Setting) -> list[dict[str, float]]:
    path = setting.file("g-nll", "capitals.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = [r for r in csv.DictReader(file) if r["country"] not in SHOTS]
    order = np.random.default_rng(setting.seed).permutation(len(table))
    chosen = [table[i] for i in order[: 100 if setting.quick else len(table)]]
    shots = "".join(f"Q: What is the capital of {c}?\nA: {a}\n" for c, a in SHOTS.items())
    rows = []
    for number, row in enumerate(chosen):
        prompt = f"{shots}Q: What is the capital of {row['country']}?\nA:"
        asked: dict[str, Any] = {"max_new_tokens": 7, "stop": ["\n"], "fields": Fields()}
        ((greedy,),) = setting.model.generate([prompt], **asked)
        (drawn,) = setting.model.generate(
            [prompt], n=10, temperature=1.0, seed=setting.seed + number, **asked
        )
        right = any(c.lower() in greedy.scored_text.lower() for c in row["capitals"].split("|"))
        rows.append({"wrong": float(not right), **_scores(greedy, drawn)})
        if number % 20 == 19:
            setting.say(f"g-nll: {number + 1} of {len(chosen)} questions")
    return rows


def _scores(greedy: Trace, drawn: Sequence[Trace]) -> dict[str, float]:
    clusters = scores.cluster_answers([answer_text(t) for t in drawn])
    samples = Samples(drawn, greedy=greedy, clusters=clusters)
    return {
        "G-NLL": scores.g_nll(greedy),
        "LN-G-NLL": scores.sequence_nll(greedy, normalize=True),
        "max token NLL": scores.max_nll(greedy),
        "mean token entropy": scores.mean_entropy(greedy),
        "NLL of one random sample": scores.sequence_nll(drawn[0]),
        "PE, 10 samples": scores.predictive_entropy(samples),
        "LN-PE, 10 samples": scores.predictive_entropy(samples, normalize=True),
        "D-SE, 10 samples": scores.discrete_semantic_entropy(samples),
        "SE, 10 samples": scores.semantic_entropy(samples),
        "tokens": float(greedy.n_scored),
    }


def _judge(at: Mapping[str, Finding]) -> tuple[Verdict, str]:
    ours, one = at["G-NLL"], at["NLL of one random sample"]
    best = max((at[n] for n in TEN), key=lambda f: f.value)
    low, high = ours.low or 0.0, ours.high or 1.0
    told = f"G-NLL {ours.value:.2f}, best of ten samples {best.value:.2f} ({best.name}), "
    told += f"one random sample {one.value:.2f}, LN-G-NLL {at['LN-G-NLL'].value:.2f}"
    if low <= 0.5 or best.value > high:
        return "not supported", f"{told}: G-NLL is at chance or beaten beyond its interval."
    if one.value >= ours.value:
        return "not supported", f"{told}: a random sample does as well as the greedy answer."
    if at["LN-G-NLL"].value > high:
        return "inconclusive", (
            f"{told}: the main claim holds, but the length-normalised form is better here, "
            "against the paper's ablation."
        )
    if at["LN-G-NLL"].value >= ours.value:
        told += ": the main claim holds; that length normalisation makes it worse is not shown"
    return "supported", f"{told}."


def _trees(concentration: float, seed: int, count: int = 300) -> dict[str, float]:
    """How far greedy is from the mode, and ten samples from the entropy, where all is known."""
    draw = np.random.default_rng(seed)
    agree, gap, error = [], [], []
    for _ in range(count):
        logp = np.zeros(1)
        steps = []
        for _ in range(3):
            rows = np.log(np.maximum(draw.dirichlet([concentration] * 10, len(logp)), 1e-300))
            steps.append(rows)
            logp = (logp[:, None] + rows).ravel()
        at = 0
        for rows in steps:
            at = at * 10 + int(rows[at].argmax())
        p = np.exp(logp) / np.exp(logp).sum()
        entropy = -float((p * np.where(p > 0, logp, 0)).sum())
        sampled = -logp[draw.choice(len(p), 10, p=p)].mean()
        agree.append(bool(logp[at] >= logp.max()))
        gap.append(float(logp.max() - logp[at]))
        error.append(abs(float(sampled) - entropy))
    return {
        "concentration": concentration,
        "greedy is the mode": float(np.mean(agree)),
        "mean gap, nats": float(np.mean(gap)),
        "mean |PE(10) - entropy|, nats": float(np.mean(error)),
    }


def _figure(found: Sequence[Finding]) -> Figure:
    from nll.studies._common import interval_figure

    return interval_figure(found, "AUROC of a wrong answer", chance=0.5)
