"""DetectLLM (arXiv 2306.05540): does LRR find machine text better than the plain likelihood?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nll import scores
from nll.studies._common import auroc_finding, by_name, interval_figure, read_pairs
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
    sets: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        sets[row["set"]].append(row)
    for name in ("xsum_gpt2-xl", "xsum_gpt-3.5-turbo", "xsum_gpt-4"):
        part = sets[name][: 60 if setting.quick else None]
        traces = list(setting.model.trace([r["text"] for r in part], fields=Fields()))
        setting.say(f"detect-llm: {name} scored")
        split: dict[int, list[Trace]] = {0: [], 1: []}
        for r, t in zip(part, traces, strict=True):
            split[r["label"]].append(t)
        panels[name] = _panel(split[0], split[1], setting.seed)
    verdict, why = _judge(by_name(panels[WHITE]))
    return Outcome(
        verdict,
        why,
        findings=sorted(panels[WHITE], key=lambda f: f.name != "LRR"),
        baselines=[_length(human, white)],
        tables={
            "AUROC on every set (the model under study is a surrogate scorer of the last three)": [
                {"set": name, **{f.name: f.value for f in panel}} for name, panel in panels.items()
            ]
        },
        notes=[
            "Entropy is scored as the paper does (higher = machine); below 0.5 the reverse holds.",
            "White box: temperature 1 samples of the model under study from 30-token prompts, "
            "against the human continuations of the same prompts, equally long.",
            "Perturbation scores (NPR, DetectGPT) are not part of this study.",
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
