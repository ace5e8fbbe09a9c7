"""Dynamic instability (arXiv 2602.02863): do size and time of its peak tell wrong answers?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nll import metrics, scores
from nll.studies._common import auroc_finding, by_name
from nll.studies._gsm8k import one_right_one_wrong, paired_auroc, read_problems
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Array, Fields, Text, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

K = 50
LARGEST = (6, 10, 20)  # numbers stay below one of these
WINDOWS = (1, 4, 8, 12, 20, 24, 32, 50, 64)
S, ADDED = "S, strength of the peak", "AUROC of S minus that of its entropy part"
ENTROPY = "S without its shift: largest top-k entropy"
SHOTS = (
    "Question: Tom has 5 apples. He buys 3 apples. Then he eats 2 apples. How many apples does Tom "
    "have now?\nAnswer: Let's think step by step. Tom has 5 apples. He buys 3: 5 + 3 = 8. He eats "
    "2: 8 - 2 = 6. The answer is 6.\n\n"
    "Question: Anna has 9 books. She loses 4 books. Then she finds 7 books. How many books does "
    "Anna have now?\nAnswer: Let's think step by step. Anna has 9 books. She loses 4: 9 - 4 = 5. "
    "She finds 7: 5 + 7 = 12. The answer is 12.\n\n"
)
PEOPLE = (("Ben", "he"), ("Lucy", "she"), ("Sam", "he"), ("Mia", "she"))
THINGS = ("apples", "coins", "cards", "pens", "shells")
MORE, LESS = ("buys", "finds", "gets"), ("loses", "sells", "gives away")
_SAID = re.compile(r"answer is\D{0,3}(-?\d[\d,]*)")


class Item(NamedTuple):
    """A question with its answer, a number."""

    question: str
    answer: str


class Answered(NamedTuple):
    """The model's own chain for a question: its trace, and whether its answer is wrong."""

    trace: Trace
    wrong: bool


@study(
    "dynamic-instability",
    title="Dynamic instability: a peak of shift and entropy warns of a wrong answer",
    paper="2602.02863",
    claim="The largest sum of entropy and step-to-step shift of the next-token distribution tells "
    "wrong answers from right ones, already from the first tokens; late peaks are worse than early "
    "ones of like size.",
    falsifier="The interval of AUROC(wrong, S) includes 0.5, or S adds nothing over its entropy "
    "part: the interval of the paired difference of their AUROCs includes 0 or lies below.",
)
def dynamic_instability(setting: Setting) -> Outcome:
    """The model's own chains on word problems, and its reading of other models' chains."""
    items, limit = _items(setting)
    rows = _answer(setting, items, limit)
    wrong = np.array([r.wrong for r in rows], int)
    if not 0 < wrong.sum() < len(wrong):
        return _one_sided(rows)
    columns = _columns([r.trace for r in rows])
    found = {n: auroc_finding(n, wrong, v, seed=setting.seed) for n, v in columns.items()}
    prefix = _prefixes(rows, wrong, setting.seed)
    findings = [found[S], _added(wrong, columns, setting.seed), found["shift alone"], *prefix,
                _finding_of_correlation(columns)]  # fmt: skip
    late = _timing(rows, columns[S])
    verdict, why = _judge(by_name(findings), found, late)
    return Outcome(
        verdict,
        why,
        findings=findings,
        baselines=[
            *(found[n] for n in columns if n not in (S, "shift alone")),
            Finding("share of wrong answers", float(wrong.mean()), n=len(wrong)),
        ],
        tables={
            "Accuracy by fifths of S": _buckets(wrong, columns[S]),
            "Accuracy by the peak's place, chains at or above the median of S": late,
            "Classes at the median of S": _classes(rows, float(np.nanmedian(columns[S]))),
            "AUROC of a wrong solution that the model only reads": _reader(setting),
        },
        notes=[
            f"I_t = JSD(p_t-1, p_t) + H(p_t) of the {K} likeliest tokens, nats; the weight 1 and "
            "the cuts at thirds are our reading of the paper.",
            "S is a maximum over steps, so longer chains have a larger one: compare with length "
            "and with the prefixes.",
            "Word problems of two and three additions and subtractions, answered greedily; the "
            "paper uses GSM8K and HotpotQA. --full asks the carried GSM8K questions instead.",
        ],
        figure=_figure(prefix, _buckets(wrong, columns[S]), late),
    )


def word_problem(draw: np.random.Generator, *, steps: int, largest: int) -> Item:
    """Something counted that grows and shrinks `steps` times, every number below `largest`."""
    name, who = PEOPLE[int(draw.integers(len(PEOPLE)))]
    thing = THINGS[int(draw.integers(len(THINGS)))]
    held = int(draw.integers(2, largest))
    told = [f"{name} has {held} {thing}."]
    for step in range(steps):
        grows = held < 2 or (held + 1 < largest and bool(draw.integers(2)))
        change = int(draw.integers(1, largest - held if grows else held))
        held += change if grows else -change
        verb = (MORE if grows else LESS)[int(draw.integers(3))]
        told.append(f"{'Then ' + who if step else who.title()} {verb} {change} {thing}.")
    return Item(" ".join([*told, f"How many {thing} does {name} have now?"]), str(held))


def _items(setting: Setting) -> tuple[list[Item], int]:
    """Questions, and how many tokens an answer may have."""
    if not setting.quick:
        return [Item(p.question, p.answer) for p in read_problems(setting)], 256
    draw = np.random.default_rng(setting.seed)
    mix = [(steps, largest) for largest in LARGEST for steps in (2, 3)]
    chosen = [mix[i % len(mix)] for i in range(200)]
    return [word_problem(draw, steps=s, largest=n) for s, n in chosen], 64


def _answer(setting: Setting, items: Sequence[Item], limit: int) -> list[Answered]:
    rows = []
    answers = setting.model.generate(
        [f"{SHOTS}Question: {i.question}\nAnswer: Let's think step by step." for i in items],
        max_new_tokens=limit, stop=["\n\n", "\nQuestion"], fields=Fields(top_k=K),
    )  # fmt: skip
    for item, (trace,) in zip(items, answers, strict=True):
        said = _SAID.findall(trace.scored_text)
        rows.append(Answered(trace, not said or said[0].replace(",", "") != item.answer))
        if len(rows) % 20 == 0:
            setting.say(f"dynamic-instability: {len(rows)} of {len(items)} questions")
    return rows


def _columns(traces: Sequence[Trace]) -> dict[str, Array]:
    """Per trace, higher = expected to be wrong."""
    out: dict[str, list[float]] = {}
    for trace in traces:
        whole = scores.instability_signal(trace, k=K)[trace.scored]
        shift = scores.instability_signal(trace, k=K, lam=0.0)[trace.scored]
        empty = not whole.size
        row = {
            S: float(scores.instability_strength(trace, k=K)),
            "shift alone": float("nan") if empty else float(shift.max()),
            ENTROPY: float("nan") if empty else float((whole - shift).max()),
            "mean entropy": float(scores.mean_entropy(trace)),
            "G-NLL": float(scores.g_nll(trace)),
            "mean NLL": float(scores.mean_nll(trace)),
            "length in tokens": float(trace.n_scored),
        }
        for name, value in row.items():
            out.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in out.items()}


def _added(wrong: Array, columns: Mapping[str, Array], seed: int) -> Finding:
    def gain(y: Array, ours: Array, entropy: Array) -> float:
        return metrics.auroc(y, ours) - metrics.auroc(y, entropy)

    found = metrics.bootstrap(
        gain, wrong, columns[S], columns[ENTROPY], n=1000, seed=seed, stratify=wrong
    )
    return Finding(ADDED, float(found.value), float(found.low), float(found.high), len(wrong))


def _prefixes(rows: Sequence[Answered], wrong: Array, seed: int) -> list[Finding]:
    held = np.array([scores.prefix_instability(r.trace, WINDOWS, k=K) for r in rows])
    return [
        auroc_finding(f"S of the first {w} tokens", wrong, held[:, i], seed=seed)
        for i, w in enumerate(WINDOWS)
    ]


def _finding_of_correlation(columns: Mapping[str, Array]) -> Finding:
    value = float(metrics.pearson(columns[S], columns[ENTROPY]))
    return Finding("correlation of S with its entropy part", value, n=len(columns[S]))


def _share(label: str, wrong: Array) -> dict[str, Any]:
    right = metrics.wilson(int((1 - wrong).sum()), len(wrong))
    shown = f"{right.low:.2f} to {right.high:.2f}" if len(wrong) else ""
    return {"": label, "chains": len(wrong), "accuracy": right.value if len(wrong) else "",
            "95% interval": shown}  # fmt: skip


def _buckets(wrong: Array, strength: Array) -> list[dict[str, Any]]:
    order = np.argsort(strength, kind="stable")
    return [
        _share(f"{strength[part].min():.2f} to {strength[part].max():.2f}", wrong[part])
        for part in np.array_split(order, 5)
        if len(part)
    ]


def _timing(rows: Sequence[Answered], strength: Array) -> list[dict[str, Any]]:
    strong = strength >= np.nanmedian(strength)
    at = np.array([scores.instability_peak(r.trace, k=K).position for r in rows])
    wrong = np.array([r.wrong for r in rows], int)
    thirds = {"early": at <= 1 / 3, "middle": (at > 1 / 3) & (at <= 2 / 3), "late": at > 2 / 3}
    return [_share(name, wrong[strong & inside]) for name, inside in thirds.items()]


def _classes(rows: Sequence[Answered], threshold: float) -> list[dict[str, Any]]:
    counts = Counter((scores.classify_instability(r.trace, threshold, k=K), r.wrong) for r in rows)
    names = dict.fromkeys(name for name, _ in sorted(counts))
    return [{"class": n, "right": counts[n, False], "wrong": counts[n, True]} for n in names]


def _reader(setting: Setting) -> list[dict[str, Any]]:
    """Solutions by other models, one right and one wrong per problem, read and not written."""
    problems = read_problems(setting)
    draw = np.random.default_rng(setting.seed)
    chosen = draw.permutation(len(problems))[: 40 if setting.quick else None]
    texts: dict[bool, list[Text]] = {True: [], False: []}
    for i in chosen:
        for chain in one_right_one_wrong(problems[i], draw):
            told = " " + "\n".join([*chain.steps, f"A: {chain.answer}"])
            texts[chain.right].append(Text.pair(f"Question: {problems[i].question}\nAnswer:", told))
    right, wrong = (
        _columns(list(setting.model.trace(texts[side], fields=Fields(top_k=K))))
        for side in (True, False)
    )
    found = [paired_auroc(n, wrong[n], right[n], seed=setting.seed) for n in right]
    return [
        {"measure": f.name, "AUROC": f.value, "95% interval": f"{f.low:.2f} to {f.high:.2f}"}
        for f in found
    ]


def _judge(
    at: Mapping[str, Finding], found: Mapping[str, Finding], late: Sequence[Mapping[str, Any]]
) -> tuple[Verdict, str]:
    ours, added = at[S], at[ADDED]
    told = (
        f"AUROC of a wrong answer: S {ours.value:.3f}, its entropy part {found[ENTROPY].value:.3f} "
        f"(difference {added.value:+.3f}), length {found['length in tokens'].value:.3f}"
    )
    if (ours.low or 0.0) <= 0.5:
        return "not supported", f"{told}: S does not tell wrong answers beyond its interval."
    if (added.low or 0.0) <= 0.0:
        return "not supported", f"{told}: S adds nothing over the largest entropy."
    early, end = late[0]["accuracy"], late[-1]["accuracy"]
    told += f"; accuracy after early peaks {_percent(early)}, after late ones {_percent(end)}"
    if early == "" or end == "" or early <= end:
        return "inconclusive", f"{told}: the size of the peak tells, its time does not."
    return "supported", f"{told}."


def _percent(share: Any) -> str:
    return f"{share:.0%}" if share != "" else "unknown"


def _one_sided(rows: Sequence[Answered]) -> Outcome:
    wrong = float(np.mean([r.wrong for r in rows]))
    return Outcome(
        "inconclusive",
        f"{wrong:.0%} of the answers are wrong: with one kind of answer nothing can be told apart.",
        findings=[Finding("share of wrong answers", wrong, n=len(rows))],
    )


def _figure(
    prefix: Sequence[Finding],
    buckets: Sequence[Mapping[str, Any]],
    late: Sequence[Mapping[str, Any]],
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.2))
    left, middle, right = figure.subplots(1, 3)
    value, low, high = (np.array([getattr(f, k) for f in prefix]) for k in ("value", "low", "high"))
    left.fill_between(WINDOWS, low, high, color="#4c72b0", alpha=0.25, linewidth=0)
    left.plot(WINDOWS, value, "o-", color="#1f3b66")
    left.axhline(0.5, color="#888888", linewidth=1, linestyle="--")
    left.set_xlabel("first tokens of the chain")
    left.set_ylabel("AUROC of a wrong answer")
    for axes, rows, label in ((middle, buckets, "S, nats"), (right, late, "place of the peak")):
        shown = [r["accuracy"] if r["accuracy"] != "" else 0.0 for r in rows]
        axes.bar(range(len(rows)), shown, color="#4c72b0")
        axes.set_xticks(range(len(rows)), [r[""].replace(" to ", "\n") for r in rows], fontsize=8)
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
