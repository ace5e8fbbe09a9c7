"""Min-K% Prob (arXiv 2310.16789): does it tell texts that were trained on, with true labels?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from nll import metrics, scores
from nll.models import LanguageModel
from nll.studies._common import auroc_finding, by_name, interval_figure, read_pairs
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Fields, Trace

WORDS = 48
SWEEP = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
WIKIMIA = "iamgroot42/mimir, the non-members of WikiMIA-128 as JSON lines with text"


@study(
    "min-k-prob",
    title="Min-K% Prob: was this text in the training data?",
    paper="2310.16789",
    claim="The mean log-probability of a text's least likely tokens tells members from "
    "non-members of the training data better than the loss.",
    falsifier="The base model's AUROC leaves 0.5 beyond its interval (a leak in the split), or no "
    "score rises with training; Min-K% below the loss speaks against the claim.",
)
def min_k_prob(setting: Setting) -> Outcome:
    """Train on half of a set of human texts, then tell that half from the other."""
    from nll.training import finetune_causal

    texts = _texts(setting)
    half = len(texts) // 2
    member = np.array([1] * half + [0] * half)
    base = setting.model
    before = list(base.trace(texts, fields=Fields()))
    findings: list[Finding] = []
    start = [auroc_finding("loss, before training", member, [scores.loss_score(t) for t in before])]
    model: LanguageModel = base
    after: list[Trace] = []
    for epoch in range(1, 4):
        model = finetune_causal(model, texts[:half], lr=2e-5, batch_size=10, seed=epoch)
        setting.say(f"min-k-prob: {epoch} of 3 epochs")
        after = list(model.trace(texts, fields=Fields()))
        findings += _findings(epoch, member, after, before)
    blind = metrics.blind_baseline(texts, member, seed=setting.seed).auroc
    words = Finding("blind bag of words", blind.value, blind.low, blind.high, len(texts))
    warning = _dates(setting)
    verdict, why = _judge(findings, start[0])
    last = [f for f in findings if f.name.endswith("3 epochs")]
    return Outcome(
        verdict,
        why,
        findings=[*last, *(f for f in findings if f not in last)],
        baselines=[*start, words],
        tables={
            "AUROC by K after 3 epochs (K = 100% is the loss)": _sweep(member, after),
            "No test of membership: events of 2023 against older encyclopedia text": warning,
        },
        notes=[
            "Members were trained on for one to three epochs with a small learning rate; the "
            "paper speaks of pretraining data, for which a public model has no true labels here.",
            "The reference score has the very model before training, which no auditor has.",
            "The last table shows what dates alone do: the words, which never ask the model, tell "
            "the two sources apart. A benchmark built that way does not measure membership.",
        ],
        figure=interval_figure([*last, *start], "AUROC of a member, after 3 epochs", chance=0.5),
    )


def _texts(setting: Setting) -> list[str]:
    rows = read_pairs(setting)
    human = [r["text"].split() for r in rows if r["label"] == 0 and r["set"].endswith("gpt2-xl")]
    long = [" ".join(words[:WORDS]) for words in human if len(words) >= WORDS]
    order = np.random.default_rng(setting.seed).permutation(len(long))
    count = 200 if setting.quick else 2 * (len(long) // 2)
    return [long[i] for i in order[:count]]


def _findings(
    epoch: int, member: np.ndarray, after: list[Trace], before: list[Trace]
) -> list[Finding]:
    values = {
        "loss": [scores.loss_score(t) for t in after],
        "Min-20%": [scores.min_k_prob(t) for t in after],
        "Min-K%++ 20%": [scores.min_k_plus_plus(t) for t in after],
        "zlib": [scores.zlib_score(t) for t in after],
        "reference (base)": [
            scores.reference_score(a, b) for a, b in zip(after, before, strict=True)
        ],
    }
    label = f"{epoch} epoch{'s' * (epoch > 1)}"
    return [auroc_finding(f"{name}, {label}", member, v) for name, v in values.items()]


def _sweep(member: np.ndarray, traces: list[Trace]) -> list[dict[str, Any]]:
    rows = []
    for k in SWEEP:
        plain = [scores.min_k_prob(t, k=k) for t in traces]
        plus = [scores.min_k_plus_plus(t, k=k) for t in traces]
        rows.append(
            {
                "K": f"{k:.0%}",
                "Min-K%": metrics.auroc(member, plain),
                "Min-K%++": metrics.auroc(member, plus),
            }
        )
    return rows


def _dates(setting: Setting) -> list[dict[str, Any]]:
    """The blind baseline beside the scores where membership is replaced by a date."""
    path = setting.file("min-k-prob", "wikimia128_nonmembers.jsonl", source=WIKIMIA)
    new = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    old = [
        " ".join(row["text"].split()[:128])
        for row in read_pairs(setting)
        if row["label"] == 0 and row["set"].startswith("squad") and len(row["text"].split()) >= 128
    ]
    count = min(len(old), len(new))
    old, new = old[:count], new[:count]
    blind = metrics.blind_baseline(old + new, [1] * count + [0] * count, seed=setting.seed).auroc
    words = Finding("blind bag of words", blind.value, blind.low, blind.high, 2 * count)
    few = min(count, 40) if setting.quick else count
    traces = list(setting.model.trace([*old[:few], *new[:few]], fields=Fields()))
    label = [1] * few + [0] * few
    found = [
        auroc_finding("loss", label, [scores.loss_score(t) for t in traces]),
        auroc_finding("Min-20%", label, [scores.min_k_prob(t) for t in traces]),
        auroc_finding("Min-K%++ 20%", label, [scores.min_k_plus_plus(t) for t in traces]),
        auroc_finding("zlib", label, [scores.zlib_score(t) for t in traces]),
    ]
    return [
        {"score": f.name, "AUROC of the older text": f.value, "from": f.low, "to": f.high, "n": f.n}
        for f in [words, *found]
    ]


def _judge(found: list[Finding], start: Finding) -> tuple[Verdict, str]:
    at = by_name(found)
    loss, min_k = at["loss, 3 epochs"], at["Min-20%, 3 epochs"]
    plus = at["Min-K%++ 20%, 3 epochs"]
    told = f"after 3 epochs: loss {loss.value:.3f}, Min-20% {min_k.value:.3f}, "
    told += f"Min-K%++ {plus.value:.3f}; before training {start.value:.3f}"
    if not (start.low or 0) <= 0.5 <= (start.high or 1):
        return "inconclusive", f"{told}: the split leaks, the untrained model is not at chance."
    if min_k.value > (loss.high or 1):
        return "supported", f"{told}: Min-K% is above the loss beyond its interval."
    if min_k.value < (loss.low or 0):
        return "not supported", f"{told}: Min-K% is below the loss beyond its interval."
    return "inconclusive", f"{told}: Min-K% and the loss do not differ beyond the interval."
