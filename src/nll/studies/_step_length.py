"""Step length confounding (arXiv 2604.06834): does likelihood pick long steps, and ASLEC less?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll import metrics, scores
from nll.scores._casl import Document
from nll.studies._common import by_name, grouped_bars, read_json_lines
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Array, Fields, Text, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = r"(\. |\? |\n+)"
NOTE = re.compile(r"<<[^<>]*>>")
M, DROP, CASL = "mean log-probability", "ASLEC-DROP", "ASLEC-CASL"


@study(
    "step-length",
    title="Likelihood that selects reasoning traces selects long steps",
    paper="2604.06834",
    claim="The first token of a reasoning step is improbable, so choosing traces by mean "
    "log-probability chooses long steps; leaving the first tokens out (ASLEC-DROP) or regressing "
    "their share out (ASLEC-CASL) takes that preference away.",
    falsifier="First tokens of steps are not less likely than the others, or ASLEC-DROP correlates "
    "with the step length as much as the mean log-probability does.",
)
def step_length(setting: Setting) -> Outcome:
    """GSM8K questions with five solutions each: what follows step length, and what it picks."""
    rows = _solutions(setting)
    documents = _documents(setting, rows)
    question = [r["question"] for r in rows]
    right = np.array([r["right"] for r in rows], float)
    length, named = _scores(documents, [r["source"] for r in rows])
    within = {name: _within(values, length, question) for name, values in named.items()}
    found = [*_heads(documents, question, setting.seed), *_correlations(within, setting.seed)]
    verdict, why = _judge(found)
    fit = scores.fit_aslec_casl(documents)
    picks = _picks(named, length, right, question)
    return Outcome(
        verdict,
        why,
        findings=found,
        baselines=[
            _mean("within-question correlation with step length, text length", _within(
                np.array([float(t.n_scored) for t, _ in documents]), length, question
            ), setting.seed),
            _mean("share correct, random pick", right, setting.seed),
            _mean("share correct, shortest solution", right[scores.select_top_k(
                [-float(t.n_scored) for t, _ in documents], question, 1
            )], setting.seed),
        ],
        tables={
            "Correlation with step length (Spearman) and the best pick of each question": picks,
            "Head tokens left out of a step": [_skipped(documents, question, k) for k in (1, 2)],
            "ASLEC-CASL's fit over the pool": [{
                "gamma": fit.gamma, "mean of M_first - M_other": fit.mean_gap, "R2": fit.r2,
                "documents": fit.n,
            }],
            "Simulation in which quality knows nothing of step length": [simulate(setting.seed)],
        },
        notes=[
            "Steps end at a line end, '. ' or '? '; one head token a step (the paper's text), two "
            "(its code) in the table. Only tokens of the solution count.",
            "Short human and GPT-3 solutions of school questions, by default under a 135M model; "
            "the paper has long traces of four reasoning models under a 4B model.",
            "Accuracy after training on the picked traces, the paper's headline, needs GPUs and is "
            "not measured. Step length is one confound of several.",
        ],
        figure=_figure(within, named, length, question),
    )  # fmt: skip


def _solutions(setting: Setting) -> list[dict[str, Any]]:
    held = read_json_lines(setting.file("step-length", "gsm8k_solutions.jsonl.gz"))
    order = np.random.default_rng(setting.seed).permutation(len(held))
    return [
        {
            "question": held[i]["id"],
            "source": source,
            "right": bool(given["is_correct"]),
            "text": Text.pair(
                f"Question: {held[i]['question']}\nAnswer: ", NOTE.sub("", given["solution"])
            ),
        }
        for i in order[: 80 if setting.quick else None]
        for source, given in held[i]["solutions"].items()
    ]


def _documents(setting: Setting, rows: Sequence[Mapping[str, Any]]) -> list[Document]:
    out: list[Document] = []
    for trace in setting.model.trace([r["text"] for r in rows], fields=Fields(top_k=5)):
        out.append((trace, scores.step_spans(trace, pattern=STEPS)))
        if len(out) % 100 == 0:
            setting.say(f"step-length: {len(out)} of {len(rows)} solutions")
    return out


def _scores(
    documents: Sequence[Document], sources: Sequence[str]
) -> tuple[Array, dict[str, Array]]:
    """Mean step length of each document, and the scores that could pick among them."""
    parts = [scores.step_parts(t, s) for t, s in documents]
    named = {
        M: [p.all_mean for p in parts],
        "local log-probability": [scores.local_logp(p.step_means) for p in parts],
        "minus top-5 entropy": [-scores.top_k_entropy(t) for t, _ in documents],
        DROP: [scores.aslec_drop(t, s) for t, s in documents],
        CASL: scores.aslec_casl(documents),
        "ASLEC-CASL, a fit per source": scores.aslec_casl(documents, groups=sources),
    }
    length = np.array([p.step_length for p in parts], float)
    return length, {name: np.asarray(values, float) for name, values in named.items()}


def _within(values: Array, length: Array, question: Sequence[Any]) -> Array:
    """(Q,) rank correlation inside each question; nan where one side does not vary."""
    at: dict[Any, list[int]] = {}
    for i, q in enumerate(question):
        at.setdefault(q, []).append(i)
    return np.array([float(metrics.spearman(values[m], length[m])) for m in at.values()])


def _mean(name: str, values: Array, seed: int) -> Finding:
    held = values[~np.isnan(values)]
    if not held.size:
        return Finding(name, float("nan"))
    found = metrics.bootstrap(lambda x: float(np.mean(x)), held, seed=seed)
    return Finding(name, float(found.value), float(found.low), float(found.high), len(held))


def _heads(documents: Sequence[Document], question: Sequence[Any], seed: int) -> list[Finding]:
    """Log-probability and entropy at step heads minus elsewhere, questions as the unit."""
    gaps: dict[Any, list[tuple[float, float]]] = {}
    for (trace, spans), q in zip(documents, question, strict=True):
        head = np.zeros(len(trace), bool)
        head[np.asarray(spans)[:, 0]] = True
        other = trace.scored & ~head
        head &= trace.scored
        if head.any() and other.any():
            gaps.setdefault(q, []).append(
                (
                    float(trace.logp[head].mean() - trace.logp[other].mean()),
                    float(trace.field("entropy")[head].mean()
                          - trace.field("entropy")[other].mean()),
                )
            )  # fmt: skip
    per = np.array([np.mean(g, axis=0) for g in gaps.values()]).reshape(-1, 2)
    return [
        _mean("log-probability of step heads minus others, nats", per[:, 0], seed),
        _mean("entropy at step heads minus others, nats", per[:, 1], seed),
    ]


def _correlations(within: Mapping[str, Array], seed: int) -> list[Finding]:
    return [
        _mean(f"within-question correlation, {M}", within[M], seed),
        _mean(f"within-question correlation, {DROP}", within[DROP], seed),
        _mean(f"within-question correlation, {CASL}", within[CASL], seed),
        _mean(f"taken away by {DROP}", within[M] - within[DROP], seed),
        _mean(f"taken away by {CASL}", within[M] - within[CASL], seed),
    ]


def _judge(found: Sequence[Finding]) -> tuple[Verdict, str]:
    at = by_name(found)
    gap = at["log-probability of step heads minus others, nats"]
    plain = at[f"within-question correlation, {M}"]
    drop = at[f"within-question correlation, {DROP}"]
    less = at[f"taken away by {DROP}"]
    told = (
        f"step heads are {gap.value:+.2f} nats against other tokens; within questions step length "
        f"correlates {plain.value:.2f} with M and {drop.value:.2f} with DROP "
        f"(difference {less.value:.2f})"
    )
    if gap.high is None or plain.low is None or less.low is None or drop.low is None:
        return "inconclusive", f"{told}: too little varies for intervals."
    if gap.high >= 0 or less.value <= 0:
        return "not supported", f"{told}: heads are not less likely, or DROP keeps the correlation."
    if plain.low <= 0 or less.low <= 0:
        return "inconclusive", f"{told}: the intervals reach zero."
    if drop.low > 0:
        return "inconclusive", f"{told}: DROP takes part of the preference away, not all of it."
    return "supported", f"{told}: DROP leaves none that could be told from zero."


def _picks(
    named: Mapping[str, Array], length: Array, right: Array, question: Sequence[Any]
) -> list[dict[str, Any]]:
    rows = [
        {
            "chosen by": "the whole pool", "overall": "", "within questions": "",
            "step length": float(length.mean()), "share correct": float(right.mean()),
        }
    ]  # fmt: skip
    for name, values in named.items():
        best = scores.select_top_k(values, question, 1)
        inside = _within(values, length, question)
        rows.append(
            {
                "chosen by": name,
                "overall": float(metrics.spearman(values, length)),
                "within questions": float(np.nanmean(inside)) if (inside == inside).any() else "",
                "step length": float(length[best].mean()),
                "share correct": float(right[best].mean()),
            }
        )
    return rows


def _skipped(
    documents: Sequence[Document], question: Sequence[Any], skip: int
) -> dict[str, float | int]:
    drop = [scores.aslec_drop(t, s, skip) for t, s in documents]
    casl = scores.aslec_casl(documents, skip)
    report = scores.step_length_report(documents, {DROP: drop, CASL: casl}, question, skip)
    return {
        "tokens left out": skip,
        "mean logp, heads": report.head_logp,
        "mean logp, others": report.other_logp,
        "DROP within questions": report.within[DROP],
        "CASL within questions": report.within[CASL],
        "DROP with CASL": float(metrics.spearman(drop, casl)),
        "documents without DROP": sum(d != d for d in drop),
    }


def simulate(seed: int, n: int = 300) -> dict[str, float]:
    """Documents whose tokens' quality is independent of their step length, where truth is known."""
    draw = np.random.default_rng(seed)
    documents: list[Document] = []
    for _ in range(n):
        typical, steps = draw.uniform(5, 40), int(draw.integers(5, 30))
        sizes = np.maximum(draw.poisson(typical, steps), 2)
        starts = np.append(0, np.cumsum(sizes)[:-1])
        logp = -draw.gamma(0.35, 1.3, int(sizes.sum()))
        logp[starts] = -draw.gamma(2.0, 1.1, steps)
        documents.append((Trace(logp=logp), np.stack([starts, starts + sizes], axis=1)))
    parts = [scores.step_parts(t, s) for t, s in documents]
    length = [p.step_length for p in parts]
    fit = scores.fit_aslec_casl(documents)
    drop, casl = [p.other for p in parts], [fit.adjust(*d) for d in documents]
    return {
        "M with step length": float(metrics.spearman([p.all_mean for p in parts], length)),
        "DROP with step length": float(metrics.spearman(drop, length)),
        "CASL with step length": float(metrics.spearman(casl, length)),
        "DROP with CASL": float(metrics.spearman(drop, casl)),
        "gamma": fit.gamma,
        "mean gap": fit.mean_gap,
        "R2": fit.r2,
    }


def _figure(
    within: Mapping[str, Array], named: Mapping[str, Array], length: Array, question: Sequence[Any]
) -> Figure:
    overall = [float(metrics.spearman(v, length)) for v in named.values()]
    inside = [float(np.nanmean(w)) if (w == w).any() else float("nan") for w in within.values()]
    return grouped_bars(
        list(named), {"all solutions": overall, "within a question": inside},
        "rank correlation with step length",
    )  # fmt: skip
