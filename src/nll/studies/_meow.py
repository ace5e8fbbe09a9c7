"""MEOW (arXiv 2409.11844): can a model forget by learning false answers instead?

A small language model learns TOFU's answers by heart. Then it is tuned on false ones to some of the
questions, chosen by how well it can already continue them, beside gradient ascent and NPO.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll import metrics
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.studies._tofu_student import (
    LEARN_LR,
    Pair,
    Rows,
    Student,
    learn,
    parts,
    step,
    student,
    texts_of,
    tofu_rows,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats: TypeAlias = npt.NDArray[np.float64]

TRAINING, SELECTED, TARGETS = 3, 2, 8  # of five false answers; the other two are for evaluation
STEPS, SEEDS, BATCH = 60, 3, 8
MEOW = ("MEOW, largest", "MEOW, smallest", "MEOW, random")
METHODS = (*MEOW, "GA", "NPO", "refusals")


class After(NamedTuple):
    """A model's memory of the forget and retain answers; nll in nats per token."""

    forget_nll: float
    memo: float
    truth_ratio: float
    retain_nll: float
    retain_accuracy: float


@study(
    "meow",
    title="MEOW: forgetting by learning false answers",
    paper="2409.11844",
    claim="Fine-tuning on false answers, chosen among several by how well the model can already "
    "continue them, makes it forget the true ones while what it should keep stays.",
    falsifier="MEOW leaves MEMO of the true answers within 10% of what it was, or raises the nll "
    "of retained answers more than NPO does in as many steps.",
)
def meow(setting: Setting) -> Outcome:
    """MEMO of true and false answers, MEMO against accuracy, and five ways to forget."""
    forget, retain = tofu_rows(setting)
    if setting.quick:
        forget, retain = forget[:20], retain[:60]
    who = student(
        setting, [*texts_of([*forget, *retain]), *refusals(setting)], layers=2, seed=setting.seed
    )
    true = [(r["question"], r["answer"]) for r in forget]
    kept = [(r["question"], r["answer"]) for r in retain]
    nll = learn(
        who, [*true, *kept], epochs=80 if setting.quick else 10, enough=0.3, seed=setting.seed,
        lr=LEARN_LR if setting.quick else 2e-5, say=lambda m: setting.say(f"meow: learning, {m}"),
    )  # fmt: skip
    own = memo(setting, who, true)
    false = [memo(setting, who, [(r["question"], r["perturbed_answer"][j]) for r in forget])
             for j in range(TRAINING)]  # fmt: skip
    setting.say("meow: MEMO of true and false answers")
    inverted = np.column_stack(false)
    start = look(setting, who, forget, kept)
    runs: dict[str, list[After]] = {name: [] for name in METHODS}
    for seed in range(setting.seed, setting.seed + SEEDS):
        for name in METHODS:
            net = unlearn(setting, who, forget, inverted, name, seed=seed)
            runs[name].append(look(setting, net, forget, kept))
        setting.say(f"meow: unlearned in {len(METHODS)} ways, seed {seed}")
    accuracy = who.accuracy(true)
    above = _mean("items whose true answer has MEMO above every false one",
                  (own > inverted.max(1)).astype(float))  # fmt: skip
    verdict, why = judge(start, runs, above)
    return Outcome(
        verdict,
        why,
        findings=[
            _mean("MEMO of the true answer before", own),
            _mean("MEMO of false answers before", inverted.mean(1)),
            above,
            _rank("MEMO and memorization accuracy of true answers, Spearman", own, accuracy),
            *(
                _mean(f"{name}: MEMO of true answers lowered by", _lowered(start, many))
                for name, many in runs.items()
                if name in (MEOW[0], "GA", "NPO")
            ),
            *(
                _mean(f"{name}: rise of the retain nll", _risen(start, many))
                for name, many in runs.items()
                if name in (MEOW[0], "GA", "NPO")
            ),
            _mean(
                "MEMO after, smallest minus largest",
                np.array([b.memo - a.memo for a, b in zip(runs[MEOW[0]], runs[MEOW[1]],
                                                          strict=True)]),
            ),
        ],
        baselines=[
            _mean("refusals: MEMO of true answers lowered by", _lowered(start, runs["refusals"])),
            _mean("refusals: rise of the retain nll", _risen(start, runs["refusals"])),
            _rank(
                "MEMO and minus the nll of true answers, Spearman", own, -who.nll(true)
            ),
        ],
        tables={
            f"After {STEPS} steps, mean of {SEEDS} seeds": [
                _row("start", [start]), *(_row(name, many) for name, many in runs.items())
            ]
        },
        notes=[
            f"The model knew its answers to {nll:.2f} nats per token; it is a Llama of two "
            "layers that knows nothing else, so the 7B claims are not tested here.",
            f"MEMO: ROUGE-1 precision with stemming, a cut every {how(setting)['window']} "
            "characters. Inverted facts are three of TOFU's five perturbed answers, two of them "
            "selected; truth ratios are over the other two. No method sees the retain rows.",
            "Models tuned in this way state falsehoods about (here invented) people.",
            "Intervals: bootstrap over items, or over three seeds (95%).",
        ],
        figure=_figure(own, inverted, accuracy, start, runs),
    )  # fmt: skip


def how(setting: Setting) -> dict[str, int]:
    """Characters between cuts, and tokens of a continuation: fewer cuts and tokens when quick."""
    return {"window": 20, "most": 32} if setting.quick else {"window": 5, "most": 200}


def memo(setting: Setting, who: Student, rows: Sequence[Pair]) -> Floats:
    """(n,) MEMO of each answer."""
    from nll.negatives import memo_scores

    size = how(setting)
    generate = partial(who.continuations, most=size["most"])
    return np.array([m.mean for m in memo_scores(rows, generate, window=size["window"])])


def look(setting: Setting, who: Student, forget: Rows, kept: Sequence[Pair]) -> After:
    """What the student still knows."""
    true = [(r["question"], r["answer"]) for r in forget]
    right = who.nll([(r["question"], r["paraphrased_answer"]) for r in forget])
    wrong = [
        who.nll([(r["question"], r["perturbed_answer"][j]) for r in forget])
        for j in range(TRAINING, 5)
    ]
    ratios = metrics.truth_ratio(right, np.column_stack(wrong))
    return After(
        float(who.nll(true).mean()),
        float(memo(setting, who, true).mean()),
        float(metrics.mean_truth_ratio(ratios, of="forget")),
        float(who.nll(kept).mean()),
        float(who.accuracy(kept).mean()),
    )


def refusals(setting: Setting) -> list[str]:
    """TOFU's lines that say `I don't know` in a hundred ways."""
    raw = gzip.decompress(setting.file("npo", "idontknow.txt.gz").read_bytes())
    return [line for line in raw.decode("utf-8").splitlines() if line.strip()]


def unlearn(
    setting: Setting, start: Student, forget: Rows, inverted: Floats, name: str, *, seed: int
) -> Student:
    """A copy of the student after STEPS updates on the forget questions alone."""
    import torch

    from nll import objectives as o

    who, draw = start.copy(), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(
        who.net.parameters(), lr=3e-4 if setting.quick else 1e-5, weight_decay=0.01
    )
    rows = material(setting, forget, inverted, name, seed)
    ref = start.fixed(rows) if name == "NPO" else None
    sums: dict[str, Any] = {"token_reduction": "sum"}
    done = 0
    while done < STEPS:
        for part in list(parts(draw.permutation(len(rows)), BATCH))[: STEPS - done]:
            logp, mask = who.logps([rows[i] for i in part])
            if name == "GA":
                loss = o.ga_loss(logp, mask, **sums)
            elif ref is not None:
                loss = o.npo_loss(logp.where(mask, 0.0).sum(-1), ref[part], beta=0.1)
            else:
                loss = o.meow_loss(logp, mask)
            step(optimiser, loss)
            done += 1
    return who


def material(setting: Setting, forget: Rows, inverted: Floats, name: str, seed: int) -> list[Pair]:
    """The answers that a method trains on: true ones, selected false ones, or refusals."""
    from nll.negatives import meow_targets, select_inverted_facts

    if name in ("GA", "NPO"):
        return [(r["question"], r["answer"]) for r in forget]
    if name == "refusals":
        lines = refusals(setting)
        draw = np.random.default_rng(seed)
        return [(r["question"], lines[i]) for r in forget
                for i in draw.integers(0, len(lines), TARGETS)]  # fmt: skip
    rows = []
    for i, (row, scores) in enumerate(zip(forget, inverted, strict=True)):
        way: Any = name.removeprefix("MEOW, ")
        chosen = select_inverted_facts(scores.tolist(), SELECTED, way, seed=1000 * seed + i)
        targets = meow_targets(row["perturbed_answer"][:TRAINING], chosen, TARGETS)
        rows += [(row["question"], target) for target in targets]
    return rows


def judge(start: After, runs: Mapping[str, Sequence[After]], above: Finding) -> tuple[Verdict, str]:
    """The falsifier first, then what the claim expects beyond it."""
    less = float(_lowered(start, runs[MEOW[0]]).mean())
    own, npo, ga = (float(_risen(start, runs[n]).mean()) for n in (MEOW[0], "NPO", "GA"))
    told = (
        f"MEOW lowers MEMO of the true answers by {less:.0%} and raises the retain nll by "
        f"{own:.2f} nats per token, NPO by {npo:.2f}, gradient ascent by {ga:.2f}; before, the "
        f"true answer had the highest MEMO in {above.value:.0%} of the items"
    )
    if less < 0.1 or own > npo:
        return "not supported", f"{told}."
    if less >= 0.5 and own < 0.3 and ga > own and above.value >= 0.8:
        return "supported", f"{told}."
    return "inconclusive", f"{told}: not in all as the claim expects."


def _lowered(start: After, many: Sequence[After]) -> Floats:
    return np.array([1 - a.memo / start.memo for a in many])


def _risen(start: After, many: Sequence[After]) -> Floats:
    return np.array([a.retain_nll - start.retain_nll for a in many])


def _row(name: str, many: Sequence[After]) -> dict[str, float | str]:
    values = np.mean([list(a) for a in many], axis=0)
    names = ("forget nll", "MEMO of true answers", "truth ratio", "retain nll", "retain accuracy")
    return {"method": name, **dict(zip(names, map(float, values), strict=True))}


def _rank(name: str, x: Floats, y: Floats) -> Finding:
    from scipy.stats import spearmanr

    return _interval(name, lambda a, b: float(spearmanr(a, b).statistic), x, y)


def _mean(name: str, values: Floats) -> Finding:
    return _interval(name, np.mean, values)


def _interval(name: str, what: Callable[..., Any], *values: Floats) -> Finding:
    found = metrics.bootstrap(what, *values, n=1000, seed=0)
    n = len(values[0])
    return Finding(name, float(found.value), float(found.low), float(found.high), n)


def _figure(
    own: Floats,
    inverted: Floats,
    accuracy: Floats,
    start: After,
    runs: Mapping[str, Sequence[After]],
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6))
    left, middle, right = figure.subplots(1, 3)
    left.scatter(inverted.max(1), own, s=14, color="#1f3b66")
    left.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
    left.set(xlabel="highest MEMO of a false answer", ylabel="MEMO of the true answer")
    middle.scatter(accuracy, own, s=14, color="#1f3b66")
    middle.set(xlabel="memorization accuracy", ylabel="MEMO of the true answer")
    for i, (name, many) in enumerate(runs.items()):
        memos, nlls = [a.memo for a in many], [a.retain_nll for a in many]
        right.plot(nlls, memos, "o", color=f"C{i}", alpha=0.7, label=name)
    right.plot(start.retain_nll, start.memo, "*", color="black", markersize=10, label="start")
    right.set(xlabel="retain nll, nats per token", ylabel="MEMO of the true answers")
    right.set(xscale="log")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
