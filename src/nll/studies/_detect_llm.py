"""DetectLLM (arXiv 2306.05540): does LRR find machine text better than the plain likelihood?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from nll import metrics, scores
from nll.studies._common import auroc_finding, by_name, interval_figure, read_pairs, read_table
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Fields, Text, Trace

ONE_PASS = {
    "log p": scores.log_likelihood,
    "-rank": scores.rank_score,
    "-log rank": scores.log_rank_score,
    "entropy": scores.entropy_score,
    "LRR": scores.lrr,
    "Fast-DetectGPT (self)": scores.fast_detect_gpt,
    "GLTR top 10": scores.gltr_fraction,
}
WHITE = "white box"
SETS = ("xsum_gpt2-xl", "xsum_gpt-3.5-turbo", "xsum_gpt-4")
MORE_SETS = ("squad_gpt2-xl", "pubmed_gpt-4")
LENGTHS = (25, 50, 100, 200)
# Our names of the scores that the authors of Fast-DetectGPT published, with GPT-Neo-2.7B scoring.
PUBLISHED = {
    "log_likelihood": "log p",
    "neg_rank": "-rank",
    "neg_log_rank": "-log rank",
    "entropy": "entropy",
    "lrr": "LRR",
    "fast_detectgpt_gpt-j-6B": "Fast-DetectGPT (self)",
}
Row: TypeAlias = Mapping[str, Any]


@study(
    "detect-llm",
    title="DetectLLM: log-rank statistics find machine text",
    paper="2306.05540",
    claim="LRR, the ratio of log-likelihood to log-rank, tells machine text from human text better "
    "than the log-likelihood, the rank or the log-rank alone, when the model that wrote it scores.",
    falsifier="LRR does not beat log p where the scoring model wrote the text (white box).",
)
def detect_llm(setting: Setting) -> Outcome:
    """Own samples against human continuations, and the published pairs by larger models."""
    rows = read_pairs(setting)
    white, human = _white_box(setting, rows)
    panels: dict[str, list[Finding]] = {WHITE: _panel(human, white, setting.seed)}
    sets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sets[row["set"]].append(row)
    lengths: list[dict[str, Any]] = []
    agreement: list[dict[str, Any]] = []
    for name in SETS if setting.quick else (*SETS, *MORE_SETS):
        part = sets[name][: 60 if setting.quick else None]
        traces = list(setting.model.trace([r["text"] for r in part], fields=Fields()))
        setting.say(f"detect-llm: {name} scored")
        split: dict[int, list[Trace]] = {0: [], 1: []}
        for r, t in zip(part, traces, strict=True):
            split[r["label"]].append(t)
        panels[name] = _panel(split[0], split[1], setting.seed)
        lengths += _by_length(name, split[0], split[1])
        agreement += _agreement(setting, name, part, traces)
    changed = _perturbed(setting, sets[SETS[0]])
    verdict, why = _judge(by_name(panels[WHITE]))
    return Outcome(
        verdict,
        why,
        findings=sorted(panels[WHITE], key=lambda f: f.name != "LRR"),
        baselines=[_length(human, white)],
        tables={
            "AUROC on every set (the model under study is a surrogate scorer of the last three)": [
                {"set": name, **{f.name: f.value for f in panel}} for name, panel in panels.items()
            ],
            f"AUROC with perturbations, {SETS[0]} (unigram filler, not DetectGPT's T5)": changed,
            "AUROC by length, of the texts that are that long": lengths,
            "Rank correlation with the published scores of GPT-Neo-2.7B": agreement,
        },
        notes=[
            "Entropy is scored as the paper does (higher = machine); below 0.5 the reverse holds.",
            "White box: temperature 1 samples of the model under study from 30-token prompts, "
            "against the human continuations of the same prompts, equally long.",
            "NPR and DetectGPT replace spans by draws of the set's own tokens; their numbers are "
            "not those of the papers, which ask a T5-3B to fill the spans.",
            "Published Fast-DetectGPT scores have GPT-J as the reference; ours have none.",
        ],
        figure=interval_figure(panels[WHITE], "AUROC of machine text, white box", chance=0.5),
    )


def _white_box(
    setting: Setting, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Trace], list[Trace]]:
    """Traces of own continuations and of the human ones after the same 30 tokens."""
    model = setting.model
    human = [r["text"] for r in rows if r["label"] == 0 and r["set"] == "xsum_gpt2-xl"]
    length = 80 if setting.quick else 150
    own: list[Trace] = []
    theirs: list[Text] = []
    for trace in model.trace(human[: 40 if setting.quick else 150], fields=Fields()):
        if len(trace) < 30 + length:
            continue
        cut, end = int(trace.field("spans")[30, 0]), int(trace.field("spans")[29 + length, 1])
        prompt = trace.text[:cut]
        theirs.append(Text.pair(prompt, trace.text[cut:end]))
        ((answer,),) = model.generate(
            [prompt],
            max_new_tokens=length,
            temperature=1.0,
            seed=setting.seed + len(own),
            fields=Fields(),
        )
        own.append(answer)
        if len(own) % 10 == 0:
            setting.say(f"detect-llm: {len(own)} texts written")
    return own, list(model.trace(theirs, fields=Fields()))


def _perturbed(setting: Setting, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """NPR and DetectGPT with one and with ten perturbations, beside log p and log rank."""
    words = 50 if setting.quick else None
    part = rows[: 2 * (20 if setting.quick else 50)]
    texts = [" ".join(r["text"].split()[:words]) for r in part]
    own = list(setting.model.trace(texts, fields=Fields()))
    filler = scores.unigram_filler(own, seed=setting.seed)
    changed = [
        scores.perturb_spans(text, filler, n=10, seed=setting.seed + i)
        for i, text in enumerate(texts)
    ]
    flat = iter(setting.model.trace([c for row in changed for c in row], fields=Fields()))
    around = [[next(flat) for _ in row] for row in changed]
    setting.say("detect-llm: perturbed texts scored")
    label = [r["label"] for r in part]
    found = [
        auroc_finding("log p", label, [scores.log_likelihood(t) for t in own]),
        auroc_finding("-log rank", label, [scores.log_rank_score(t) for t in own]),
    ]
    for n in (1, 10):
        pairs = [(t, a[:n]) for t, a in zip(own, around, strict=True)]
        told = f"{n} perturbation{'s' * (n > 1)}"
        detect = [scores.perturbation_discrepancy(t, a) for t, a in pairs]
        found += [
            auroc_finding(f"NPR, {told}", label, [scores.npr(t, a) for t, a in pairs]),
            auroc_finding(f"DetectGPT, {told}", label, detect),
        ]
    return [
        {"score": f.name, "AUROC": f.value, "from": f.low, "to": f.high, "n": f.n} for f in found
    ]


def _by_length(name: str, human: Sequence[Trace], machine: Sequence[Trace]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for tokens in LENGTHS:
        sides = [[_start(t, tokens) for t in s if len(t) >= tokens] for s in (human, machine)]
        label = [0] * len(sides[0]) + [1] * len(sides[1])
        if not 0 < sum(label) < len(label):
            continue
        found = {
            score: metrics.auroc(label, [of(t) for t in (*sides[0], *sides[1])])
            for score, of in ONE_PASS.items()
        }
        out.append({"set": name, "tokens": tokens, "n": len(label), **found})
    return out


def _start(t: Trace, tokens: int) -> Trace:
    """What the scores read, of the first tokens alone."""
    kept = {k: t.field(k)[:tokens] for k in ("logp", "entropy", "varentropy", "rank")}
    return Trace(kept["logp"], kept["entropy"], kept["varentropy"], kept["rank"])


def _agreement(
    setting: Setting, name: str, rows: Sequence[Row], traces: Sequence[Trace]
) -> list[dict[str, Any]]:
    source = "the result files of baoguangsheng/fast-detect-gpt, a row a pair"
    path = setting.file("detect-llm", "reference_scores_gpt-neo-2.7B.tsv", source=source)
    published = {
        (r["score"], int(r["pair"]), side): float(r[word])
        for r in read_table(path, delimiter="\t")
        if r["set"] == name
        for side, word in enumerate(("human", "machine"))
    }
    if not published:
        return []
    found: dict[str, Any] = {"set": name, "n": len(rows)}
    for theirs, ours in PUBLISHED.items():
        known = [published[theirs, int(r["pair"]), r["label"]] for r in rows]
        found[ours] = metrics.spearman(known, [ONE_PASS[ours](t) for t in traces])
    return [found]


def _panel(human: Sequence[Trace], machine: Sequence[Trace], seed: int) -> list[Finding]:
    label = np.array([0] * len(human) + [1] * len(machine))
    traces = [*human, *machine]
    return [
        auroc_finding(name, label, [score(t) for t in traces], seed=seed)
        for name, score in ONE_PASS.items()
    ]


def _length(human: Sequence[Trace], machine: Sequence[Trace]) -> Finding:
    label = [0] * len(human) + [1] * len(machine)
    return auroc_finding("length in tokens", label, [t.n_scored for t in (*human, *machine)])


def _judge(at: Mapping[str, Finding]) -> tuple[Verdict, str]:
    lrr, logp, rank = at["LRR"], at["log p"], at["-log rank"]
    told = f"white box: LRR {lrr.value:.3f}, log p {logp.value:.3f}, log rank {rank.value:.3f}"
    if lrr.value <= logp.value:
        return "not supported", f"{told}: LRR does not beat log p."
    if (lrr.low or 0) <= logp.value:
        return "inconclusive", f"{told}: LRR is ahead, but within its interval."
    return "supported", f"{told}: LRR beats log p beyond its interval."
