"""False positives in mathematics (arXiv 2502.06217): right answers for the wrong reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll import metrics, scores
from nll.metrics import EvalCounts
from nll.studies._common import by_name, read_json_lines, read_table
from nll.studies._guessing import fitted_world, simulate
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Array, Fields, Text, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLUG = "false-positives-math"
SOURCE = "Wloner0809/False-Positives-in-Math, results/analysis, as solutions_300.jsonl"
FP, SOUND, WRONG = "false_positive", "correct", "incorrect"
PAIRS = ((FP, SOUND), (WRONG, SOUND), (FP, WRONG))
LIKELIHOOD: Mapping[str, Callable[[Trace], float]] = {
    "mean NLL": scores.mean_nll, "max NLL": scores.max_nll, "mean entropy": scores.mean_entropy,
}  # fmt: skip
CUT = 640  # characters read of each solution in quick mode
RESAMPLES = 1000
EACH = 20  # solutions of each label and benchmark in quick mode
DETECTORS = {"GPT-4o": "gpt4o", "Qwen-72B": "qwen72b", "Llama-70B": "llama70b"}


@study(
    SLUG,
    title="Right answers for wrong reasons under inference scaling",
    paper="2502.06217",
    claim="Grading sampled solutions by the final answer overstates ability, most of all pass@N; "
    "more samples do not lower the share of false positives, and these look like incorrect "
    "solutions rather than a class of their own.",
    falsifier="The share of false positives falls with N beyond its interval; or, within a "
    "benchmark and with length controlled, a likelihood score tells false positives clearly from "
    "correct solutions, or from incorrect ones.",
)
def false_positives_math(setting: Setting) -> Outcome:
    """Released labels regenerated with intervals, a world of guesses, and scores of solutions."""
    counts = read_table(setting.file(SLUG, "counts.csv.gz"), delimiter=",")
    labels = read_table(setting.file(SLUG, "labels.csv.gz"), delimiter=",")
    held = read_json_lines(setting.file(SLUG, "solutions_300.jsonl", source=SOURCE))
    told = accounts(counts)
    trends = [falls(told, files) for files in series(told)]
    detected, always = detectors(labels, setting.seed)
    chosen = _chosen(held, setting)
    columns = _columns(setting, chosen)
    seen = _separations(columns, setting.seed)
    gap = _overstated(told)
    verdict, why = _judge(trends, seen)
    world = fitted_world(_points(told))
    return Outcome(
        verdict,
        why,
        findings=[*gap, *trends, *[f for f, _ in seen.values()]],
        baselines=[*_length(columns, setting.seed), *detected, always],
        tables={
            "Every released label file": [_row(a) for a in told],
            "AUROC over all benchmarks, nothing controlled": _plain(columns),
            "A world of guesses fitted to pass@N on AIME (Qwen2.5-Math-72B)": [
                *simulate(world, (1, 4, 16, 64, 256), setting.seed)
            ],
        },
        notes=[
            "Human labels exist for selected solutions only, so false positive rates of different "
            "selectors are over different sets of 20 to 90 problems.",
            "AUROCs are within a benchmark (AIME or not, told by the type of the answer), pairs "
            "pooled; length controlled by a line on its logarithm; problems resampled whole. The "
            "verdict asks for 99.2% intervals, for six of them are looked at.",
            f"In quick mode the first {CUT} characters of at most {EACH} solutions of each label "
            "and benchmark are scored, after their problem; their texts may not be carried.",
            f"The fitted world: sound with s ~ Beta({world[0]:.2f}, {world[1]:.2f}), right by a "
            f"flawed path with g ~ Beta({world[2]:.2f}, {world[3]:.2f}), independent; one s and g "
            "for all problems cannot fit. Its verifier sees answers, not reasons.",
        ],
        figure=_figure(told),
    )  # fmt: skip


class Account(dict[str, Any]):
    """One label file: `method`, `model`, `benchmark`, `N`, and its `counts`."""

    @property
    def counts(self) -> EvalCounts:
        """Accepted and flawed solutions."""
        found: EvalCounts = self["counts"]
        return found


def accounts(rows: Sequence[Mapping[str, Any]]) -> list[Account]:
    """Label files once each (some repeat others), by what was selected how."""
    out: dict[tuple[Any, ...], Account] = {}
    for r in rows:
        name = r["file"].rsplit("/", 1)[-1]
        method = name.split("-", 1)[1].rsplit(f"_{r['N']}samples", 1)[0].replace("_", " ")
        key: tuple[Any, ...] = (r["model"], r["benchmark"], method, int(r["N"]))
        n, right, flawed = (int(r[k]) for k in ("n_problems", "auto_correct", "false_positives"))
        found = Account(
            model=key[0], benchmark=key[1], method=method, N=key[3],
            counts=EvalCounts(n, right, flawed),
        )  # fmt: skip
        if key in out and out[key].counts != found.counts:
            found["method"] = f"{method}, {r['file'].split('/')[0][:6]}"
            key = (*key, r["file"])
        out[key] = found
    return sorted(out.values(), key=lambda a: (a["benchmark"], a["model"], a["method"], a["N"]))


def _row(a: Account) -> dict[str, Any]:
    c = a.counts
    low, high = c.false_positive_interval[1:]
    return {
        "model": a["model"], "benchmark": a["benchmark"], "selection": a["method"], "N": a["N"],
        "accepted": c.auto_correct, "false positives": c.false_positive,
        "automatic": c.automatic_accuracy, "manual": c.manual_accuracy,
        "false positive rate": f"{c.false_positive_rate:.3f} ({low:.3f} to {high:.3f})",
    }  # fmt: skip


def series(told: Sequence[Account]) -> list[tuple[Account, Account]]:
    """Smallest and largest N of each model and way of selecting."""
    at: dict[tuple[str, str, str], list[Account]] = {}
    for a in told:
        at.setdefault((a["model"], a["benchmark"], a["method"]), []).append(a)
    return [(group[0], group[-1]) for group in at.values() if group[0]["N"] < group[-1]["N"]]


def falls(told: Sequence[Account], ends: tuple[Account, Account]) -> Finding:
    """Change of the false positive rate from smallest to largest N, with Newcombe's interval."""
    few, many = (e.counts.false_positive_interval for e in ends)
    change = many.value - few.value
    low = change - float(np.hypot(many.value - many.low, few.high - few.value))
    high = change + float(np.hypot(many.high - many.value, few.value - few.low))
    first, last = ends
    name = f"change of FP rate, {first['model']} {first['method']}, N {first['N']} to {last['N']}"
    return Finding(name, change, low, high, last.counts.n)


def _find(told: Sequence[Account], method: str, n: int) -> EvalCounts:
    (found,) = [
        a.counts for a in told
        if (a["model"], a["benchmark"], a["N"]) == ("Qwen72B", "AIME", n) and a["method"] == method
    ]  # fmt: skip
    return found


def _overstated(told: Sequence[Account]) -> list[Finding]:
    """Automatic minus manual accuracy on AIME with 64 samples, of pass@N and best-of-N."""
    out = []
    for method in ("Pass at N", "BoN"):
        c = _find(told, method, 64)
        found = metrics.wilson(c.false_positive, c.n)
        name = f"automatic minus manual, Qwen72B AIME, {method}, N 64"
        out.append(Finding(name, found.value, found.low, found.high, c.n))
    return out


def _points(told: Sequence[Account]) -> dict[int, EvalCounts]:
    return {n: _find(told, "Pass at N", n) for n in (4, 16, 64)}


def detectors(labels: Sequence[Mapping[str, Any]], seed: int) -> tuple[list[Finding], Finding]:
    """F1 of the released detectors, and of calling everything a false positive."""
    y = np.array([int(r["human_fp"]) for r in labels])

    def f1(truth: Array, said: Array) -> float:
        return float(metrics.detection_report(truth, said).f1)

    out = []
    for name, column in DETECTORS.items():
        said = np.array([int(r[f"{column}_says_fp"]) for r in labels])
        found = metrics.bootstrap(f1, y, said, seed=seed)
        out.append(Finding(f"F1 of {name} as judge", found.value, found.low, found.high, len(y)))
    return out, Finding("F1 of calling everything a false positive", f1(y, y | 1), n=len(y))


def _chosen(held: Sequence[dict[str, Any]], setting: Setting) -> list[dict[str, Any]]:
    if not setting.quick:
        return list(held)
    draw = np.random.default_rng(setting.seed)
    taken: dict[tuple[str, bool], int] = {}
    out = []
    for i in draw.permutation(len(held)):
        key = (held[i]["label"], _is_aime(held[i]))
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= EACH:
            out.append(held[i])
    return out


def _is_aime(item: Mapping[str, Any]) -> bool:
    return isinstance(item["ground_truth"], int)


def _columns(setting: Setting, chosen: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Label, benchmark, problem, length and likelihood scores of each solution."""
    cut = CUT if setting.quick else None
    texts = [Text.pair(f"{r['problem']}\n\n", r["solution"][:cut]) for r in chosen]
    values: dict[str, list[float]] = {name: [] for name in LIKELIHOOD}
    for number, trace in enumerate(setting.model.trace(texts, fields=Fields())):
        for name, score in LIKELIHOOD.items():
            values[name].append(float(score(trace)))
        if number % 40 == 39:
            setting.say(f"{SLUG}: {number + 1} of {len(texts)} solutions")
    return {
        "label": np.array([r["label"] for r in chosen]),
        "aime": np.array([_is_aime(r) for r in chosen]),
        "problem": np.array([r["problem"] for r in chosen]),
        "length": np.array([float(len(r["solution"])) for r in chosen]),
        **{name: np.array(v) for name, v in values.items()},
    }


def within_auroc(positive: Array, values: Array, group: Array) -> float:
    """AUROC over pairs of the same group only; nan where no group has both classes."""
    won = pairs = 0.0
    for g in np.unique(group):
        y, s = positive[group == g], values[group == g]
        here = float(y.sum() * (~y).sum())
        if here:
            won, pairs = won + here * float(metrics.auroc(y.astype(int), s)), pairs + here
    return won / pairs if pairs else float("nan")


def controlled(values: Array, length: Array, group: Array) -> Array:
    """What a line on log length leaves of the values, within groups."""
    x, y = np.log(length), values.astype(float).copy()
    for g in np.unique(group):
        x[group == g] -= x[group == g].mean()
        y[group == g] -= y[group == g].mean()
    slope = float(x @ y / (x @ x)) if float(x @ x) else 0.0
    out: Array = y - slope * x
    return out


def _separation(
    columns: Mapping[str, Array], pair: tuple[str, str], name: str, control: bool, seed: int
) -> tuple[Finding, tuple[float, float]]:
    """Within-benchmark AUROC of the pair's first label, with 95% and 99.2% intervals."""
    rows = np.flatnonzero(np.isin(columns["label"], pair))
    y, group = columns["label"][rows] == pair[0], columns["aime"][rows]
    values = columns[name][rows]
    if control:
        values = controlled(values, columns["length"][rows], group)
    problem = np.unique(columns["problem"][rows], return_inverse=True)[1]
    members = [np.flatnonzero(problem == p) for p in range(problem.max() + 1)]
    draw = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[i] for i in draw.integers(len(members), size=len(members))])
        drawn.append(within_auroc(y[at], values[at], group[at]))
    low, high, lowest, highest = np.nanquantile(drawn, [0.025, 0.975, 0.025 / 6, 1 - 0.025 / 6])
    shown = f"{pair[0].replace('_', ' ')} against {pair[1]}, {name}"
    shown += ", length controlled" if control else ""
    found = Finding(shown, within_auroc(y, values, group), float(low), float(high), len(rows))
    return found, (float(lowest), float(highest))


def _separations(
    columns: Mapping[str, Array], seed: int
) -> dict[str, tuple[Finding, tuple[float, float]]]:
    found = [_separation(columns, p, name, True, seed) for p in PAIRS for name in LIKELIHOOD]
    return {f.name: (f, wide) for f, wide in found}


def _length(columns: Mapping[str, Array], seed: int) -> list[Finding]:
    return [_separation(columns, pair, "length", False, seed)[0] for pair in PAIRS]


def _plain(columns: Mapping[str, Array]) -> list[dict[str, Any]]:
    out = []
    for pair in PAIRS:
        rows = np.isin(columns["label"], pair)
        y = (columns["label"][rows] == pair[0]).astype(int)
        line: dict[str, Any] = {"pair": f"{pair[0].replace('_', ' ')} against {pair[1]}"}
        for name in ("length", *LIKELIHOOD):
            line[name] = float(metrics.auroc(y, columns[name][rows]))
        out.append({**line, "n": int(rows.sum())})
    return out


def _judge(
    trends: Sequence[Finding], seen: Mapping[str, tuple[Finding, tuple[float, float]]]
) -> tuple[Verdict, str]:
    fallen = [f.name for f in trends if (f.high or 0.0) < 0]
    at = by_name([f for f, _ in seen.values()])
    looked = {k: wide for k, (_, wide) in seen.items() if k.startswith("false positive")}
    clear = [k for k, (low, high) in looked.items() if low > 0.5 or high < 0.5]
    far = max(looked, key=lambda k: abs(at[k].value - 0.5))
    told = (
        f"the false positive rate falls with N beyond its interval in {len(fallen)} of "
        f"{len(trends)} series; of {len(looked)} likelihood scores of false positives the furthest "
        f"from 0.5 is {at[far].value:.2f} ({far})"
    )
    if fallen or clear:
        what = "; ".join(clear) or fallen[0]
        return "not supported", f"{told}: clearly apart: {what}."
    return "supported", f"{told}: none is clearly apart, with intervals as wide as shown."


def _figure(told: Sequence[Account]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.8))
    axes = figure.add_subplot()
    for method, colour in (("Pass at N", "#c44e52"), ("BoN", "#1f3b66")):
        mine = [
            a for a in told
            if (a["model"], a["benchmark"], a["method"]) == ("Qwen72B", "AIME", method)
        ]  # fmt: skip
        n = [a["N"] for a in mine]
        for kind, style in (("automatic", "o-"), ("manual", "s--")):
            values = [getattr(a.counts, f"{kind}_accuracy") for a in mine]
            axes.plot(n, values, style, color=colour, label=f"{method}, {kind}")
    axes.set_xscale("log")
    axes.set_xticks([4, 16, 64, 256], ["4", "16", "64", "256"], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("samples N")
    axes.set_ylabel("accuracy, Qwen2.5-Math-72B on AIME")
    axes.set_ylim(0, None)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
