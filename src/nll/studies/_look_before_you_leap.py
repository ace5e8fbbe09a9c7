"""Look before you leap (arXiv 2307.10236): which of twelve measures tells wrong answers?"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nll import metrics, scores
from nll._bundle import Samples, answer_text, without_end
from nll.scores._distance import Distance
from nll.studies._common import auroc_finding, by_name, interval_figure
from nll.studies._run_code import parses, share_passed
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Array, Fields, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOTS = {"France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo"}
SINGLE = ("Max Prob", "Average Prob", "Max Ent", "Average Ent")
SAMPLED = ("Sample VR", "Sample VRO")
POINTS = {"Max-Ent": "max_entropy", "Min-Ent": "min_entropy", "MaxDiff-Ent": "max_rise"}
CODE_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@")
DRAWN: dict[str, Any] = {"n": 5, "temperature": 0.7, "top_p": 0.95, "greedy": True}


class Measured(NamedTuple):
    """One input: its uncertainties by name, its answer's quality in [0, 1], and model calls."""

    values: Mapping[str, float]
    quality: float
    calls: Mapping[str, int]


@study(
    "look-before-you-leap",
    title="Twelve uncertainty measures against the quality of the answer",
    paper="2307.10236",
    claim="Uncertainty goes with bad answers: sample-based variation ratios most, then "
    "perturbation at the token of largest entropy, then scores of the single answer; perturbation "
    "at the token of least entropy is nearly useless.",
    falsifier="No measure's interval of the correlation with quality excludes zero, or Min-Ent "
    "perturbation is as good as Max-Ent, or single-answer scores tell wrong answers better than "
    "sample-based ones beyond the paired interval.",
)
def look_before_you_leap(setting: Setting) -> Outcome:
    """Capitals asked of the model, and functions written by it; all twelve measures of each."""
    rows = _capitals(setting)
    wrong = np.array([r.quality < 1 for r in rows], int)
    if not 0 < wrong.sum() < len(wrong):
        return Outcome(
            "inconclusive",
            f"{wrong.mean():.0%} of the answers are wrong: nothing can be told apart.",
            findings=[Finding("share of wrong answers", float(wrong.mean()), n=len(wrong))],
        )
    code = _programs(setting)
    columns = {n: np.array([r.values[n] for r in rows]) for n in rows[0].values}
    length = columns.pop("length of the answer")
    found = [auroc_finding(n, wrong, v, seed=setting.seed) for n, v in columns.items()]
    order = _differences(wrong, columns, setting.seed)
    linear = {n: _pearson(n, v, rows, setting.seed) for n, v in columns.items()}
    verdict, why = _judge(by_name(found), by_name(order), list(linear.values()))
    return Outcome(
        verdict,
        why,
        findings=[*found, *order],
        baselines=[
            auroc_finding("length of the answer", wrong, length, seed=setting.seed),
            Finding("share of wrong answers", float(wrong.mean()), n=len(wrong)),
        ],
        tables={
            "Capitals: correlation with a right answer": [
                _row(f, columns[n], rows) for n, f in linear.items()
            ],
            f"{len(code)} HumanEval functions: correlation with parsing and passing tests": [
                _row(_pearson(n, v, code, setting.seed), v, code)
                for n in code[0].values
                for v in [np.array([r.values[n] for r in code])]
            ],
        },
        notes=[
            "Distance of answers: 1 - F1 over sets of words, as in the paper's code; for functions "
            "1 - F1 of all words. 'Max Prob' and 'Average Prob' are negative log-probabilities.",
            "Perturbed answers are compared whole, with the tokens before the perturbed one; the "
            "paper's code compares what follows with the whole original answer.",
            "Two perturbations at the same token are one; the measures share its texts.",
            "Capitals and short functions by a 135M model by default; the paper uses models of 1B "
            "to 8B and APIs on question answering, summaries, translation and code. The functions "
            "do not enter the verdict.",
        ],
        figure=_figure([*found], wrong, length, setting.seed),
    )


def _capitals(setting: Setting) -> list[Measured]:
    path = setting.file("g-nll", "capitals.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = [r for r in csv.DictReader(file) if r["country"] not in SHOTS]
    order = np.random.default_rng(setting.seed).permutation(len(table))
    chosen = [table[i] for i in order[: 80 if setting.quick else len(table)]]
    shots = "".join(f"Q: What is the capital of {c}?\nA: {a}\n" for c, a in SHOTS.items())
    prompts = [f"{shots}Q: What is the capital of {r['country']}?\nA:" for r in chosen]
    limit: dict[str, Any] = {"max_new_tokens": 10, "stop": ["\n"]}
    distance = partial(scores.token_f1_distance, rule="set")
    answers = setting.model.generate(
        prompts, seed=setting.seed, fields=Fields(top_k=5), **limit, **DRAWN
    )
    rows = []
    for row, prompt, (greedy, *drawn) in zip(chosen, prompts, answers, strict=True):
        told = greedy.scored_text.lower()
        right = any(c.lower() in told for c in row["capitals"].split("|"))
        rows.append(
            _measure(setting, prompt, greedy, drawn, distance, float(right), list(POINTS), limit)
        )
        if len(rows) % 20 == 0:
            setting.say(f"look-before-you-leap: {len(rows)} of {len(chosen)} questions")
    return rows


def _programs(setting: Setting) -> list[Measured]:
    path = setting.file("look-before-you-leap", "HumanEval.jsonl.gz")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    order = np.random.default_rng(setting.seed).permutation(len(lines))
    chosen = [json.loads(lines[i]) for i in order[: 12 if setting.quick else len(lines)]]
    limit: dict[str, Any] = {"max_new_tokens": 96 if setting.quick else 512, "stop": CODE_STOP}
    answers = setting.model.generate(
        [t["prompt"] for t in chosen], seed=setting.seed, fields=Fields(top_k=5), **limit, **DRAWN
    )
    points = ["Max-Ent"] if setting.quick else list(POINTS)
    rows = []
    for task, (greedy, *drawn) in zip(chosen, answers, strict=True):
        rows.append(
            _measure(
                setting, task["prompt"], greedy, drawn, scores.token_f1_distance,
                _quality(task, greedy), points, limit, separators="line",
            )
        )  # fmt: skip
        setting.say(f"look-before-you-leap: {len(rows)} of {len(chosen)} functions")
    return rows


def _quality(task: Mapping[str, str], greedy: Trace) -> float:
    """0 for what is no Python, else 0.5 and half the share of assertions that hold."""
    program = task["prompt"] + without_end(greedy.scored_text)
    if not parses(program):
        return 0.0
    return 0.5 + 0.5 * share_passed(program, task["test"], task["entry_point"])


def _measure(
    setting: Setting,
    prompt: str,
    greedy: Trace,
    drawn: Sequence[Trace],
    distance: Distance,
    quality: float,
    points: Sequence[str],
    limit: Mapping[str, Any],
    *,
    separators: str = "sentence",
) -> Measured:
    samples = Samples(drawn, greedy=greedy)
    single = scores.segment_scores(greedy, separators)
    values: dict[str, float] = dict(zip(SINGLE, single[:4], strict=True))
    values["Sample VR"] = scores.sample_variation_ratio(samples, distance=distance)
    values["Sample VRO"] = scores.sample_variation_ratio_original(samples, distance=distance)
    calls = dict.fromkeys(SINGLE, 1) | {"Sample VR": 5, "Sample VRO": 6}
    texts: dict[int, list[str]] = {}
    where = (
        scores.perturbation_points(greedy.completion.field("entropy"))
        if len(greedy.completion)
        else None
    )
    for name in points:
        vr = vro = float("nan")
        if where is not None:
            at = getattr(where, POINTS[name])
            if at not in texts:
                found = scores.perturb(setting.model, prompt, greedy, at, 4, **limit)
                texts[at] = [t.strip() for t in found.texts]
            vr = scores.variation_ratio(texts[at], distance)
            vro = scores.variation_ratio_original(texts[at], answer_text(greedy), distance)
        values |= {f"{name} VR": vr, f"{name} VRO": vro}
        calls |= {f"{name} VR": 5, f"{name} VRO": 5}
    values["length of the answer"] = float(greedy.n_scored)
    return Measured(values, quality, calls)


def _pearson(name: str, values: Array, rows: Sequence[Measured], seed: int) -> Finding:
    quality = np.array([r.quality for r in rows])
    r = metrics.bootstrap(metrics.pearson, values, quality, n=1000, seed=seed)
    return Finding(name, float(r.value), float(r.low), float(r.high), len(rows))


def _row(found: Finding, values: Array, rows: Sequence[Measured]) -> dict[str, Any]:
    rho = float(metrics.spearman(values, np.array([r.quality for r in rows])))
    known = found.low is not None and found.low == found.low
    return {
        "measure": found.name,
        "Pearson": _shown(found.value),
        "95% interval": f"{found.low:.2f} to {found.high:.2f}" if known else "",
        "Spearman": _shown(rho),
        "defined": int((values == values).sum()),
        "model calls": rows[0].calls.get(found.name, 1),
    }


def _shown(value: float) -> float | str:
    return float(value) if value == value else "undefined"


def _differences(wrong: Array, columns: Mapping[str, Array], seed: int) -> list[Finding]:
    """AUROC of one minus that of another measure on the same answers."""
    best = {
        kind: max(names, key=lambda n: metrics.auroc(wrong, columns[n]))
        for kind, names in (("single", SINGLE), ("sampled", SAMPLED))
    }
    pairs = {
        "Max-Ent minus Min-Ent, VR": ("Max-Ent VR", "Min-Ent VR"),
        "Max-Ent minus Min-Ent, VRO": ("Max-Ent VRO", "Min-Ent VRO"),
        "best single minus best sampled": (best["single"], best["sampled"]),
    }

    def gap(y: Array, a: Array, b: Array) -> float:
        kept = ~np.isnan(a) & ~np.isnan(b)
        return metrics.auroc(y[kept], a[kept]) - metrics.auroc(y[kept], b[kept])

    out = []
    for name, (one, other) in pairs.items():
        found = metrics.bootstrap(
            gap, wrong, columns[one], columns[other], n=1000, seed=seed, stratify=wrong
        )
        out.append(
            Finding(name, float(found.value), float(found.low), float(found.high), len(wrong))
        )
    return out


def _judge(
    at: Mapping[str, Finding], order: Mapping[str, Finding], linear: Sequence[Finding]
) -> tuple[Verdict, str]:
    single = max((at[n] for n in SINGLE), key=lambda f: f.value)
    sampled = max((at[n] for n in SAMPLED), key=lambda f: f.value)
    gaps = [f for n, f in order.items() if n.startswith("Max-Ent")]
    told = (
        f"AUROC of a wrong answer: {single.name} {single.value:.2f}, {sampled.name} "
        f"{sampled.value:.2f}; perturbation at Max-Ent {at['Max-Ent VR'].value:.2f}, at Min-Ent "
        f"{at['Min-Ent VR'].value:.2f}"
    )
    if not any((f.low or 0.0) > 0 or (f.high or 0.0) < 0 for f in linear):
        return "not supported", f"{told}: no measure goes with the quality beyond its interval."
    if all(f.value <= 0 for f in gaps):
        return "not supported", f"{told}: Min-Ent is as good a point as Max-Ent."
    if (order["best single minus best sampled"].low or 0.0) > 0:
        return "not supported", (
            f"{told}: the single answer's scores, the paper's weakest useful kind, are above the "
            "sampled ones, its strongest, beyond the paired interval."
        )
    if any((f.low or 0.0) <= 0 for f in gaps) or sampled.value <= single.value:
        return "inconclusive", f"{told}: the order of the paper is not shown beyond the intervals."
    return "supported", f"{told}: in the paper's order."


def _figure(found: list[Finding], wrong: Array, length: Array, seed: int) -> Figure:
    base = auroc_finding("length of the answer", wrong, length, seed=seed)
    return interval_figure([*found, base], "AUROC of a wrong answer", chance=0.5)
