"""Likelihood ratio for OOD (arXiv 2404.08679): does tuned-against-base tell foreign inputs?"""

from __future__ import annotations

import numpy as np

from nll import scores
from nll.models import LanguageModel
from nll.studies._common import auroc_finding, by_name, interval_figure, read_table
from nll.studies._study import Finding, Outcome, Setting, Verdict, study
from nll.trace import Array, Fields, Trace

FOREIGN = ("GetWeather", "BookRestaurant")


@study(
    "llm-ood-ratio",
    title="A fine-tuned model and its base as an out-of-distribution detector",
    paper="2404.08679",
    claim="The log-likelihood ratio between a pretrained model and its fine-tuned version tells "
    "out-of-distribution inputs better than the fine-tuned likelihood alone.",
    falsifier="The normalised likelihood NLH is at least as good as the ratio NLR after training, "
    "or length alone explains NLR's AUROC.",
)
def llm_ood_ratio(setting: Setting) -> Outcome:
    """SNIPS: tune on five intents, detect the other two, before and after an epoch."""
    from nll.training import finetune_causal

    table = read_table(setting.file("llm-ood-ratio", "snips.tsv.gz"), delimiter="\t")
    train = [r["text"] for r in table if r["split"] == "train" and r["intent"] not in FOREIGN]
    test = [r for r in table if r["split"] == "test"]
    draw = np.random.default_rng(setting.seed)
    train = [train[i] for i in draw.permutation(len(train))[: 480 if setting.quick else None]]
    test = [test[i] for i in draw.permutation(len(test))[: 420 if setting.quick else None]]
    foreign = np.array([r["intent"] in FOREIGN for r in test], int)
    texts = [r["text"].strip() for r in test]

    base = setting.model
    before = _traces(base, texts)
    setting.say("llm-ood-ratio: tuning")
    tuned = finetune_causal(base, train, lr=5e-5, batch_size=16, seed=setting.seed)
    after = _traces(tuned, texts)

    found = [
        auroc_finding(name, foreign, values, seed=setting.seed)
        for name, values in {
            "NLR": _each(scores.likelihood_ratio, before, after, normalise=True),
            "LR": _each(scores.likelihood_ratio, before, after, normalise=False),
            "LH": _each(scores.negative_likelihood, after, normalise=False),
            "NLH": _each(scores.negative_likelihood, after, normalise=True),
        }.items()
    ]
    bases = [
        auroc_finding("length in tokens", foreign, [t.n_scored for t in before]),
        auroc_finding("NLH before tuning", foreign, _each(scores.mean_nll, before)),
        auroc_finding("LR before tuning", foreign, _each(scores.likelihood_ratio, before, before)),
    ]
    verdict, why = _judge(found, bases)
    return Outcome(
        verdict,
        why,
        findings=found,
        baselines=bases,
        notes=[
            "One near-OOD set (SNIPS) and, by default, a 135M model with all weights tuned for "
            "one epoch; the paper tunes 7B and 13B models with LoRA on seven sets."
        ],
        figure=interval_figure([*found, *bases], "AUROC of out-of-distribution", chance=0.5),
    )


def _traces(model: LanguageModel, texts: list[str]) -> list[Trace]:
    return list(model.trace(texts, fields=Fields()))


def _each(score: object, *columns: list[Trace], **options: object) -> Array:
    return np.array([score(*row, **options) for row in zip(*columns, strict=True)])  # type: ignore[operator]


def _judge(found: list[Finding], bases: list[Finding]) -> tuple[Verdict, str]:
    at = by_name([*found, *bases])
    nlr, nlh, length = at["NLR"], at["NLH"], at["length in tokens"]
    told = f"NLR {nlr.value:.3f}, NLH {nlh.value:.3f}, length {length.value:.3f}"
    if nlh.value >= nlr.value or max(length.value, 1 - length.value) >= nlr.value:
        return "not supported", f"{told}: the ratio adds nothing to likelihood or length."
    if (nlh.high or 1.0) >= (nlr.low or 0.0):
        return "inconclusive", f"{told}: the intervals of ratio and likelihood overlap."
    return "supported", f"{told}: the ratio is above likelihood and length beyond their intervals."
