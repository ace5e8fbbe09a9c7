"""Embers of autoregression (arXiv 2309.13638): does accuracy follow the probability of the text?"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll import metrics
from nll.studies._common import (
    auroc_finding,
    grouped_bars,
    read_json_lines,
    read_table,
    seeds_finding,
)
from nll.studies._embers_toy import Cell, toy_world
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.tasks import (
    LogisticFit,
    likelihood_choice,
    logistic_regression,
    make_items,
    reverse_words,
    swap_articles,
)
from nll.trace import Array, Fields, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONDITIONS = ("high", "medium", "low")
DECODE = {
    "rot13dec": "sentences", "revdec": "sentences", "swap_next_base": "swap",
    "pig_ay_dec": "piglatin",
}  # fmt: skip
CHOICE = {
    "rot13_decode": "sentences", "reverse_decode": "sentences",
    "swap_articles_decode": "swap", "pig_latin_decode": "piglatin",
}  # fmt: skip
PREDICTORS = ("input_logprob", "output_logprob", "input_ntokens", "output_ntokens", "input_nchars")
SHOTS = ("They put the box on a table.", "We saw the old house near a river.", "Stay here for now!")
FLOOR = 15  # right answers of 300 below which, or this near to all, a cell tells nothing
GPT4 = "gpt-4-0613"
TOYS = 3  # training runs: one alone has put the gaps on either side of 0
ANSWERS, CHOICES = 40, 10  # items a condition in quick mode

Sentences = Mapping[str, Mapping[str, Sequence[str]]]


@study(
    "embers",
    title="Accuracy on deterministic tasks follows the probability of the text",
    paper="2309.13638",
    claim="Even where the task is deterministic, a language model is right more often when the "
    "text it must write is probable, and when the task itself is common.",
    falsifier="With this model's log-probability of the target, the coefficient of output "
    "probability is not positive in some decoding task off the floor, or a tiny model trained on a "
    "common and a rare cipher shows no gap between them, or none between common and shuffled text.",
)
def embers(setting: Setting) -> Outcome:
    """The published answers regressed on our log-probabilities; own answers; a trained toy."""
    rows = read_table(setting.file("embers", "items.tsv.gz"), delimiter="\t")
    with gzip.open(setting.file("embers", "sentences.json.gz"), "rt", encoding="utf-8") as file:
        sentences: Sentences = json.load(file)
    ours = _log_probabilities(setting, sentences)
    theirs = {s: _column(rows, task, GPT4, "output_logprob") for task, s in DECODE.items()}
    cells = _regressions(rows, ours)
    setting.say("embers: own answers")
    own = _own_answers(setting, sentences)
    choice, blind = _choices(setting, sentences)
    setting.say("embers: training the toy model")
    corpus = read_json_lines(setting.file("step-length", "gsm8k_solutions.jsonl.gz"))
    toys = []
    for run in range(TOYS):
        count = 20_000 if setting.quick else 80_000
        toys.append(
            toy_world([r["question"] for r in corpus], count=count, seed=setting.seed + run)
        )
        setting.say(f"embers: toy model {run + 1} of {TOYS}")
    gaps = _gaps(toys)
    verdict, why = _judge(cells, gaps)
    return Outcome(
        verdict,
        why,
        findings=[
            *(
                Finding(
                    f"rank correlation with GPT-2 XL's log-probability, {s}",
                    float(metrics.spearman(ours[s], theirs[s])),
                    n=len(ours[s]),
                )
                for s in theirs
            ),
            *(_coefficient(c) for c in cells if c["model"] == GPT4),
            *gaps,
        ],
        baselines=[*_baselines(rows, ours, setting.seed), blind],
        tables={
            "Right of 100, published answers: high, medium, low probability": _accuracy(rows),
            "Coefficient of output probability (Cauchy prior, z-scored predictors)": [
                {
                    "task": c["task"], "model": c["model"], "right of 300": c["right"],
                    "published probe": c["published"], "z there": c["published z"],
                    "this model": c["ours"], "z here": c["z"], "off floor and ceiling": c["counts"],
                }
                for c in cells
            ],
            "This model's greedy answers, three examples in the prompt": own,
            "This model's choice among four candidates (chance 0.25)": choice,
            "Toy models: share of 300 held-out pieces decoded whole, nats a letter, mean of runs": [
                {
                    "cell": name,
                    "right": float(np.mean([toy[name].right.mean() for toy in toys])),
                    "nll": float(np.mean([toy[name].nll for toy in toys])),
                }
                for name in toys[0]
            ],
        },
        notes=[
            "Published answers are those of 2023 and 2024 models at temperature 0. Lengths in "
            "tokens are GPT-4's throughout and collinear with log-probability.",
            "A greedy answer is the target exactly when each of its tokens has rank 1 after the "
            "ones before it, which one pass shows; 'tokens right' is the share of such tokens.",
            f"The toy world is {TOYS} training runs, and its intervals are over runs: 12 letters a "
            "piece, questions of GSM8K as corpus.",
        ],
        figure=_figure(cells),
    )  # fmt: skip


def _log_probabilities(setting: Setting, sentences: Sentences) -> dict[str, Array]:
    """(300,) summed log p of each bare sentence: high, medium, low."""
    out = {}
    for name, by in sentences.items():
        texts = [s for c in CONDITIONS for s in by[c]]
        traces = setting.model.trace(texts, fields=Fields())
        out[name] = np.array([float(t.values("logp").sum()) for t in traces])
        setting.say(f"embers: {len(texts)} sentences of {name}")
    return out


def _of(rows: Sequence[Mapping[str, Any]], task: str, model: str) -> list[Mapping[str, Any]]:
    return [r for r in rows if r["task"] == task and r["model"] == model]


def _column(rows: Sequence[Mapping[str, Any]], task: str, model: str, name: str) -> Array:
    return np.array([float(r[name]) for r in _of(rows, task, model)])


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    out = []
    for task in ("rot13dec", "rot13enc", *[t for t in DECODE if t != "rot13dec"]):
        line: dict[str, Any] = {"task": task}
        for model in sorted({r["model"] for r in rows}):
            right = _column(rows, task, model, "correct")
            line[model] = ", ".join(f"{int(right[i : i + 100].sum())}" for i in (0, 100, 200))
        out.append(line)
    return out


def _regressions(
    rows: Sequence[Mapping[str, Any]], ours: Mapping[str, Array]
) -> list[dict[str, Any]]:
    out = []
    for task, kind in DECODE.items():
        for model in sorted({r["model"] for r in rows}):
            y = _column(rows, task, model, "correct").astype(int)
            # Claude's tokens are not GPT-4's, and the paper leaves the counts out for it.
            names = [p for p in PREDICTORS if not (model.startswith("claude") and "ntok" in p)]
            columns = {p: _column(rows, task, model, p) for p in names}
            before = _output(columns, y)
            after = _output({**columns, "output_logprob": ours[kind]}, y)
            out.append(
                {
                    "task": task, "model": model, "right": int(y.sum()),
                    "published": before[0], "published z": before[0] / before[1],
                    "ours": after[0], "error": after[1], "z": after[0] / after[1],
                    "counts": "yes" if FLOOR <= y.sum() <= len(y) - FLOOR else "no",
                }
            )  # fmt: skip
    return out


def _output(columns: Mapping[str, Array], y: Array) -> tuple[float, float]:
    """Coefficient of the output's log-probability, and its standard error."""
    names = list(columns)
    fit: LogisticFit = logistic_regression(
        np.column_stack(list(columns.values())), y, prior="cauchy", names=names
    )
    at = 1 + names.index("output_logprob")
    return float(fit.coefficients[at]), float(fit.standard_errors[at])


def _coefficient(cell: Mapping[str, Any]) -> Finding:
    value, wide = float(cell["ours"]), 1.96 * float(cell["error"])
    name = f"coefficient of output probability, GPT-4, {cell['task']}"
    return Finding(name, value, value - wide, value + wide, 300)


def _baselines(
    rows: Sequence[Mapping[str, Any]], ours: Mapping[str, Array], seed: int
) -> list[Finding]:
    """AUROC of GPT-4's right answers by our log-probability, and by length alone."""
    out = []
    for task, kind in DECODE.items():
        right = _column(rows, task, GPT4, "correct")
        short = -_column(rows, task, GPT4, "output_nchars")
        out += [
            auroc_finding(f"AUROC of GPT-4 right, {task}, {name}", right, values, seed=seed)
            for name, values in (("log-probability", ours[kind]), ("short text", short))
        ]
    return out


def _own_answers(setting: Setting, sentences: Sentences) -> list[dict[str, Any]]:
    out = []
    count = ANSWERS if setting.quick else 100
    for task, kind, instruction, encode in (
        ("reversal", "sentences", "Put the words into reverse order.", reverse_words),
        ("article swap", "swap", "Swap each article with the word before it.",
         lambda s: swap_articles(s, with_="next")),
    ):  # fmt: skip
        shots = "".join(f"Input: {encode(s)}\nOutput: {s}\n\n" for s in SHOTS)
        for condition in CONDITIONS:
            chosen = sentences[kind][condition][:count]
            asked = [
                Text.pair(f"{instruction}\n\n{shots}Input: {encode(s)}\nOutput:", f" {s}")
                for s in chosen
            ]
            ranks = [t.values("rank") for t in setting.model.trace(asked, fields=Fields())]
            found = metrics.wilson(sum(bool((r == 1).all()) for r in ranks), len(ranks))
            out.append(
                {
                    "task": task, "condition": condition, "right": found.value,
                    "95% interval": f"{found.low:.3f} to {found.high:.3f}",
                    "tokens right": float(np.mean([(r == 1).mean() for r in ranks])),
                    "n": len(ranks),
                }
            )  # fmt: skip
    return out


def _choices(setting: Setting, sentences: Sentences) -> tuple[list[dict[str, Any]], Finding]:
    """Does the cipher in the prompt lead to its own text, and is it only the likeliest text?"""
    draw = np.random.default_rng(setting.seed)
    count = CHOICES if setting.quick else 100
    out, unasked, total = [], 0, 0
    for task, kind in CHOICE.items():
        for condition in CONDITIONS:
            chosen = sentences[kind][condition][:count]
            right = 0
            for i, item in enumerate(make_items(chosen, task, condition=condition)):
                words = item.target.split(" ")
                others = [" ".join(draw.permutation(words)) for _ in range(2)]
                near = sentences[kind]["high"][(i + 1) % len(sentences[kind]["high"])]
                candidates = [f' "{s}"' for s in (item.target, *others, near)]
                best = likelihood_choice(setting.model, item.prompt, candidates).best
                right += best == 0
                if task != "reverse_decode":  # the same sentences as the shift cipher's
                    blank = likelihood_choice(setting.model, "Original text:", candidates).best
                    unasked, total = unasked + (blank == 0), total + 1
            found = metrics.wilson(right, len(chosen))
            out.append(
                {
                    "task": task, "condition": condition, "right": found.value,
                    "95% interval": f"{found.low:.3f} to {found.high:.3f}", "n": len(chosen),
                }
            )  # fmt: skip
        setting.say(f"embers: choices of {task}")
    alone = metrics.wilson(unasked, total)
    name = "target likeliest of four without any question"
    return out, Finding(name, alone.value, alone.low, alone.high, total)


def _gaps(toys: Sequence[Mapping[str, Cell]]) -> list[Finding]:
    pairs = (
        ("toy: common minus rare cipher", "rot13 common", "rot12 common"),
        ("toy: common minus shuffled text, common cipher", "rot13 common", "rot13 shuffled"),
        ("toy: common minus shuffled text, rare cipher", "rot12 common", "rot12 shuffled"),
    )
    return [
        seeds_finding(
            name, [float(toy[left].right.mean() - toy[right].right.mean()) for toy in toys]
        )
        for name, left, right in pairs
    ]


def _judge(cells: Sequence[Mapping[str, Any]], gaps: Sequence[Finding]) -> tuple[Verdict, str]:
    held = [c for c in cells if c["counts"] == "yes"]
    least = min(held, key=lambda c: float(c["z"]))
    told = (
        f"output probability has a positive coefficient in {sum(c['ours'] > 0 for c in held)} of "
        f"{len(held)} cells off floor and ceiling (least z {least['z']:.1f}: {least['task']}, "
        f"{least['model']}); toy gaps {', '.join(f'{g.value:.2f}' for g in gaps)}"
    )
    if least["ours"] <= 0 or min(g.high or 0.0 for g in gaps) <= 0:
        return "not supported", f"{told}: a coefficient or a gap is not positive."
    if least["z"] < 2 or min(g.low or 0.0 for g in gaps) <= 0:
        return "inconclusive", f"{told}: positive throughout, but not beyond every interval."
    return "supported", f"{told}: positive throughout, beyond the intervals."


def _figure(cells: Sequence[Mapping[str, Any]]) -> Figure:
    return grouped_bars(
        [f"{c['task']}, {c['model']}" for c in cells if c["counts"] == "yes"],
        {
            "GPT-2 XL (published)": [c["published z"] for c in cells if c["counts"] == "yes"],
            "this model": [c["z"] for c in cells if c["counts"] == "yes"],
        },
        "z of the coefficient of output probability",
    )
