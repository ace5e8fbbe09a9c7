"""Negative bias (arXiv 2511.10881, 2408.00137): does the format say "No", or lack of knowledge?"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll import metrics, scores
from nll._bundle import answer_text
from nll._errors import BadText
from nll.models import LanguageModel
from nll.scores import LabelReadout
from nll.studies._common import by_name, interval_figure, read_json_lines
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.tasks import FormatVariant, format_variants, knowledge_of, negative_attention, says
from nll.trace import Array, Fields, Text, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("yes/no", "no/yes", "true/false", "A=yes", "A=no", "don't know", "context")
QUESTIONS, COUNTRIES, HEADS = 50, 50, 16  # in quick mode
SHOTS = {"France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo"}
LEVEL = 1 - 0.05 / (len(FORMATS) - 1)  # for the verdict: six formats are set against one


@study(
    "negative-bias",
    title="Language models that say No: format and knowledge",
    paper="2511.10881",
    claim="In yes/no decisions a language model leans to No; the format of the prompt moves the "
    "lean more than the meaning of the answer, and it is larger where the model lacks knowledge.",
    falsifier="No format that means the same changes the bias (TNR - TPR) beyond its interval, or "
    "the bias on questions the model knows too little of is not above that on those it knows.",
)
def negative_bias(setting: Setting) -> Outcome:
    """StrategyQA in seven formats, capitals by what the model knows, and its attention heads."""
    items = _questions(setting)
    gold = np.array([r["answer"] for r in items], int)
    variants = [_formats(r) for r in items]
    read = {f: _readouts(setting, [v[f] for v in variants]) for f in FORMATS}
    blank = {
        f: _readouts(setting, [_formats({"question": "N/A", "facts": ["N/A"]})[f]]) for f in FORMATS
    }
    odds = {f: np.array([r.log_odds for r in read[f]]) for f in FORMATS}
    biases = [_bias(f"bias, {f}", gold, odds[f], setting.seed) for f in FORMATS]
    effects, wide = _effects(gold, odds, setting.seed)
    known, subsets = _knowledge(setting)
    setting.say("negative-bias: attention")
    heads, attention = _attention(setting, variants, odds["yes/no"])
    verdict, why = _judge(biases, effects, wide, known)
    return Outcome(
        verdict,
        why,
        findings=[*biases, *effects, *known, *attention],
        baselines=[
            *(
                Finding(f"ability without a threshold (AUROC), {f}",
                        float(scores.binary_decision_report(gold, odds[f]).auroc), n=len(gold))
                for f in ("yes/no", "context")
            ),
            Finding("bias of answering No always", 1.0),
            Finding(
                "formats whose lean a content-free question foretells",
                float(np.mean([
                    np.sign(blank[f][0].log_odds) == np.sign(b.value)
                    for f, b in zip(FORMATS, biases, strict=True)
                ])),
                n=len(FORMATS),
            ),
        ],
        tables={
            "StrategyQA by format": [_row(f, gold, read[f], blank[f][0]) for f in FORMATS],
            "After the mean log-odds of one half is taken off the other": [
                _debiased(f, gold, odds[f], setting.seed) for f in FORMATS
            ],
            "Capitals by what the model knows": subsets,
            "Heads that look most at No, and least (yes/no format)": heads,
        },
        notes=[
            "Log-odds of the first words (Yes, No and their like, with and without capital), after "
            "the model's chat template where it has one. Below a coverage of 0.5 they mean little.",
            "Chain of thought and free text are not measured. Half of the questions are yes, so "
            "that no class balance feigns a bias. The verdict compares formats at 99.2%.",
            "Knowledge: one greedy and five drawn answers (T = 0.7) to the open question; correct "
            "or incorrect at four of five. The wrong capital is the model's own where it has one.",
            "The negative attention score follows our reading of arXiv 2408.00137.",
        ],
        figure=_figure([*biases, *effects, *known]),
    )  # fmt: skip


def _questions(setting: Setting) -> list[dict[str, Any]]:
    """As many yes as no, drawn with the seed."""
    held = read_json_lines(setting.file("negative-bias", "strategyqa_dev.jsonl.gz"))
    draw = np.random.default_rng(setting.seed)
    sides = [[r for r in held if bool(r["answer"]) is side] for side in (True, False)]
    each = QUESTIONS // 2 if setting.quick else min(len(s) for s in sides)
    return [side[i] for side in sides for i in draw.permutation(len(side))[:each]]


def _formats(row: Mapping[str, Any]) -> dict[str, FormatVariant]:
    found = format_variants(row["question"], context=" ".join(row["facts"]))
    return {v.name: v for v in found}


def _readouts(setting: Setting, variants: Sequence[FormatVariant]) -> list[LabelReadout]:
    """Label readout of each prompt; a chat turn where the model has a template."""
    chat = _has_template(setting.model)
    texts = []
    words: list[tuple[list[str], list[str]]] = []
    for v in variants:
        sides = [
            [w for w in side if w.startswith(" ") != chat] for side in (v.negative, v.positive)
        ]
        words.append((sides[0], sides[1]))
        texts += [_asked(v.prompt, w, chat) for side in sides for w in side]
    traces = iter(setting.model.trace(texts, fields=Fields()))
    out = []
    for negative, positive in words:
        logp = [[_said(next(traces), w) for w in side] for side in (negative, positive)]
        out.append(scores.label_readout_from_logp(*logp))
    setting.say(f"negative-bias: {len(variants)} prompts, {variants[0].name}")
    return out


def _asked(prompt: str, word: str, chat: bool) -> Text:
    if not chat:
        return Text.pair(prompt, word)
    return Text.chat([{"role": "user", "content": prompt}, {"role": "assistant", "content": word}])


def _said(trace: Trace, word: str) -> float:
    """log p of the word alone, without the end of turn that a template writes behind it."""
    answer = trace.completion
    origin = int(answer.field("spans")[0, 0])
    inside = answer.field("spans")[:, 0] - origin < len(word)
    return min(float(answer.logp[inside].sum()), 0.0)


def _has_template(model: LanguageModel) -> bool:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        next(iter(model.trace([Text.chat(turns)], fields=Fields())))
    except BadText as error:
        if error.reason != "no_chat_template":
            raise
        return False
    return True


def _net(gold: Array, odds: Array) -> float:
    return float(scores.binary_decision_report(gold, odds).negative_bias)


def _interval(
    name: str, statistic: Callable[..., float], gold: Array, *odds: Array, seed: int
) -> tuple[Finding, tuple[float, float]]:
    """A statistic of labels and log-odds with its 95% interval, and the wider one."""
    found, wide = (
        metrics.bootstrap(statistic, gold, *odds, n=600, seed=seed, stratify=gold, level=level)
        for level in (0.95, LEVEL)
    )
    shown = Finding(name, float(found.value), float(found.low), float(found.high), len(gold))
    return shown, (float(wide.low), float(wide.high))


def _bias(name: str, gold: Array, odds: Array, seed: int) -> Finding:
    if len(np.unique(gold)) < 2:
        return Finding(name, float("nan"), n=len(gold))
    return _interval(name, _net, gold, odds, seed=seed)[0]


def _effects(
    gold: Array, odds: Mapping[str, Array], seed: int
) -> tuple[list[Finding], list[tuple[float, float]]]:
    """Bias of yes/no minus that of each other format, question by question."""
    found = [
        _interval(
            f"bias of yes/no minus {f}",
            lambda y, a, b: _net(y, a) - _net(y, b),
            gold, odds["yes/no"], odds[f], seed=seed,
        )
        for f in FORMATS[1:]
    ]  # fmt: skip
    return [f for f, _ in found], [w for _, w in found]


def _row(
    name: str, gold: Array, read: Sequence[LabelReadout], blank: LabelReadout
) -> dict[str, Any]:
    r = scores.binary_decision_report(gold, [x.log_odds for x in read])
    gap = float(r.precision_recall_gap)  # undefined where nothing is answered yes
    return {
        "format": name, "TPR": r.tpr, "TNR": r.tnr, "bias": r.negative_bias,
        "precision - recall": "undefined" if gap != gap else gap, "mean p(No)": r.mean_p_no,
        "coverage": float(np.mean([x.coverage for x in read])), "AUROC": r.auroc, "ties": r.ties,
        "log-odds of a content-free question": blank.log_odds,
    }  # fmt: skip


def _debiased(name: str, gold: Array, odds: Array, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    order = np.concatenate([draw.permutation(np.flatnonzero(gold == side)) for side in (0, 1)])
    fit, test = order[::2], order[1::2]
    threshold = scores.debias_threshold(odds[fit])
    before, after = (
        scores.binary_decision_report(gold[test], odds[test], t) for t in (0.0, threshold)
    )
    return {
        "format": name, "threshold": threshold, "bias before": before.negative_bias,
        "bias after": after.negative_bias, "accuracy before": before.accuracy,
        "accuracy after": after.accuracy, "AUROC": after.auroc,
    }  # fmt: skip


def _knowledge(setting: Setting) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Bias on "Is X the capital of C?" in the subsets of what the model knows."""
    rows = _capitals(setting)
    draw = np.random.default_rng(setting.seed)
    asked: list[tuple[str, int, str]] = []
    for row, (greedy, kind) in zip(rows, _open_answers(setting, rows), strict=True):
        right = row["capitals"].split("|")[0]
        near = [r["capitals"].split("|")[0] for r in rows if r["region"] == row["region"]]
        others = [c for c in near if c != right] or [c for c in SHOTS.values() if c != right]
        own = kind == "incorrect" and greedy and len(greedy.split()) <= 4
        wrong = greedy if own else str(draw.choice(others))
        asked += [
            (f"Is {c} the capital of {row['country']}?", y, kind)
            for c, y in ((right, 1), (wrong, 0))
        ]
    gold, kinds = np.array([y for _, y, _ in asked]), np.array([k for _, _, k in asked])
    # Both orders of the two words, since the one named last is favoured.
    both = [
        _readouts(setting, [{v.name: v for v in format_variants(q)}[f] for q, _, _ in asked])
        for f in ("yes/no", "no/yes")
    ]
    odds = np.mean([[r.log_odds for r in side] for side in both], axis=0)
    found, table = [], []
    for kind in ("correct", "incorrect", "insufficient"):
        rows_of = kinds == kind
        if not rows_of.any():
            table.append({"knowledge": kind, "questions": 0})
            continue
        found.append(_bias(f"bias on capitals, {kind}", gold[rows_of], odds[rows_of], setting.seed))
        r = scores.binary_decision_report(gold[rows_of], odds[rows_of])
        table.append(
            {
                "knowledge": kind, "questions": int(rows_of.sum()) // 2, "TPR": r.tpr, "TNR": r.tnr,
                "bias": r.negative_bias, "mean p(No)": r.mean_p_no, "AUROC": r.auroc,
            }
        )  # fmt: skip
    pick = [kinds == k for k in ("insufficient", "correct")]
    if all(p.sum() >= 4 for p in pick):
        found.append(_difference(gold, odds, pick[0], pick[1], setting.seed))
    return found, table


def _difference(gold: Array, odds: Array, one: Array, other: Array, seed: int) -> Finding:
    """Bias where `one` minus bias where `other`; labels and subsets keep their counts."""
    keep = one | other
    strata = 2 * one[keep].astype(int) + gold[keep]

    def gap(y: Array, x: Array, s: Array) -> float:
        return _net(y[s >= 2], x[s >= 2]) - _net(y[s < 2], x[s < 2])

    found = metrics.bootstrap(
        gap, gold[keep], odds[keep], strata, n=600, seed=seed, stratify=strata
    )
    name = "bias on capitals, insufficient minus correct"
    return Finding(name, float(found.value), float(found.low), float(found.high), int(keep.sum()))


def _capitals(setting: Setting) -> list[dict[str, str]]:
    with gzip.open(setting.file("g-nll", "capitals.csv.gz"), "rt", encoding="utf-8") as file:
        table = [r for r in csv.DictReader(file) if r["country"] not in SHOTS]
    order = np.random.default_rng(setting.seed).permutation(len(table))
    return [table[i] for i in order[: COUNTRIES if setting.quick else None]]


def _open_answers(setting: Setting, rows: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """The greedy answer to the open question, and what it and five drawn ones say is known."""
    shots = "".join(f"Q: What is the capital of {c}?\nA: {a}\n" for c, a in SHOTS.items())
    prompts = [f"{shots}Q: What is the capital of {r['country']}?\nA:" for r in rows]
    asked: dict[str, Any] = {"max_new_tokens": 7, "stop": ("\n",), "fields": Fields()}
    greedy = setting.model.generate(prompts, **asked)
    drawn = setting.model.generate(prompts, n=5, temperature=0.7, seed=setting.seed, **asked)
    for row, (one,), many in zip(rows, greedy, drawn, strict=True):
        said = [answer_text(t).rstrip(".").strip() for t in (one, *many)]
        names = row["capitals"].split("|")
        right = next((n for n in names if says(said[0], n)), names[0])
        yield said[0], knowledge_of(said[0], said[1:], right)


def _attention(
    setting: Setting, variants: Sequence[Mapping[str, FormatVariant]], odds: Array
) -> tuple[list[dict[str, Any]], list[Finding]]:
    count = min(HEADS if setting.quick else 40, len(variants))
    at = np.random.default_rng(setting.seed).permutation(len(variants))[:count]
    chat = _has_template(setting.model)
    prompts = [_asked(variants[i]["yes/no"].prompt, "Yes", chat) for i in at]
    found = negative_attention(setting.model, prompts)
    ranked = scores.rank_negative_heads(found)
    total = np.nansum(found, axis=(1, 2))
    mean = metrics.bootstrap(lambda x: float(np.mean(x)), total / found[0].size, seed=setting.seed)
    name = "negative attention score, mean over heads"
    shown = [*ranked[:5], *ranked[-2:]]
    return [{"layer": h.layer, "head": h.head, "score": h.score} for h in shown], [
        Finding(name, float(mean.value), float(mean.low), float(mean.high), count),
        Finding("negative attention score, rank correlation with the log-odds",
                float(metrics.spearman(total, odds[at])), n=count),
    ]  # fmt: skip


def _judge(
    biases: Sequence[Finding],
    effects: Sequence[Finding],
    wide: Sequence[tuple[float, float]],
    known: Sequence[Finding],
) -> tuple[Verdict, str]:
    moved = [f.name for f, (low, high) in zip(effects, wide, strict=True) if low > 0 or high < 0]
    plain = biases[0]
    gap = by_name(known).get("bias on capitals, insufficient minus correct")
    told = (
        f"bias in yes/no {plain.value:+.2f}; {len(moved)} of {len(effects)} other formats change "
        f"it beyond the interval"
    )
    if not moved:
        return "not supported", f"{told}: the format does not move the bias."
    if gap is None or gap.low is None:
        return "inconclusive", f"{told}; too few capitals in a subset to compare what is known."
    told += f"; insufficient minus correct knowledge {gap.value:+.2f}"
    if gap.value <= 0:
        return "not supported", f"{told}: no more bias where knowledge is lacking."
    if gap.low <= 0:
        return "inconclusive", f"{told}: the format part holds, the interval of the latter has 0."
    return "supported", f"{told}: both parts hold beyond their intervals."


def _figure(found: Sequence[Finding]) -> Figure:
    return interval_figure(found, "TNR - TPR (above 0: leans to No)", chance=0.0)
