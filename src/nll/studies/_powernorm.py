"""PowerNorm (arXiv 2003.07845): do a batch's statistics drift in a language model, and does a
running quadratic mean mend it? Small character models that differ in their normalisation alone.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nll.studies import _powernorm_lm as lm
from nll.studies._common import COLOURS, seeds_finding
from nll.studies._powernorm_lm import BN, LEAKFREE, LN, PN, Size, Text, Trained
from nll.studies._study import Finding, Outcome, Setting, Verdict, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL = Size(
    layers=6, width=512, heads=8, context=256, batch=64, updates=20_000, warmup=2_000, lr=5e-4
)


@study(
    "powernorm",
    title="PowerNorm: normalising by a running quadratic mean",
    paper="2003.07845",
    claim="In language models the mean and variance of a batch lie far from their running values, "
    "so batch normalisation is worse than layer normalisation; PowerNorm's running quadratic mean "
    "drifts less, and a model with it has a lower test loss than with either.",
    falsifier="PowerNorm's test loss is above batch normalisation's, or PowerNorm diverges at its "
    "default settings.",
)
def powernorm(setting: Setting) -> Outcome:
    """Test nll of seven normalisations at equal updates; drift of their statistics."""
    text = material(setting)
    size = Size() if setting.quick else FULL
    seeds = range(setting.seed, setting.seed + (3 if setting.quick else 5))
    held: dict[str, list[Trained]] = {name: [] for name in lm.arms(size)}
    for seed in seeds:
        for name, runs in held.items():
            runs.append(lm.train(name, text, size, seed, place=_place(setting)))
            setting.say(f"powernorm: {name}, seed {seed}: {runs[-1].nll:.3f}")
    trivial = counted(text)
    drift = {
        "BatchNorm, mean": _late(held[BN], "mean"),
        "BatchNorm, variance": _late(held[BN], "variance"),
        "PowerNorm, quadratic mean": _late(held[PN], "quadratic_mean"),
    }
    gaps = {
        other: seeds_finding(
            f"{PN} minus {other}, test nll",
            [a.nll - b.nll for a, b in zip(held[PN], held[other], strict=True)],
        )
        for other in (BN, LN, "RMSNorm", LEAKFREE)
    }
    worst = max(r.nll for r in held[PN])
    diverged = not worst < trivial["characters alone, test nll"]
    verdict, why = _judge(
        gaps[BN], gaps[LN], diverged, {k: float(np.mean(v)) for k, v in drift.items()}
    )
    return Outcome(
        verdict,
        why,
        findings=[
            *gaps.values(),
            *(seeds_finding(f"drift at the end: {k}", v) for k, v in drift.items()),
            seeds_finding(
                "drift at the end: BatchNorm's variance minus PowerNorm's quadratic mean",
                [a - b for a, b in zip(drift["BatchNorm, variance"],
                                       drift["PowerNorm, quadratic mean"], strict=True)],
            ),
        ],
        baselines=[
            *(seeds_finding(f"{n}, test nll", [r.nll for r in held[n]]) for n in (LN, "RMSNorm")),
            *(Finding(name, value) for name, value in trivial.items()),
            *(Finding(f"drift of independent Gaussian values: {k}", v)
              for k, v in independent(size, setting.seed).items()),
        ],
        tables={
            "Test nll, nats per character, mean of seeds": [_row(n, r) for n, r in held.items()]
        },
        notes=[
            f"Causal models of {size.layers} layers, width {size.width}, {size.context} "
            f"characters, {size.updates} updates of {size.batch * size.context} characters, step "
            f"size {size.lr:g}; the paper's word-level and translation models are not tested here.",
            "Intervals are t intervals over seeds; arms of a seed share start and batches.",
            "Drift: |batch - running| over the running standard deviation (mean) or value (others),"
            " mean over channels, layers and the last quarter of training. The running values of "
            "both forget a tenth at each step; PowerNorm sees channels after GroupScale, "
            "BatchNorm as they are.",
            f"PowerNorm's warm-up is the step size's, {size.warmup} updates, as in the paper's "
            "models. Then, as in BatchNorm and PN-V at all times, a batch's statistics hold later "
            f"characters of the same text; '{LEAKFREE}' starts from one pass and has no warm-up.",
            "'batch statistics' are the nll with statistics of the test texts themselves: below "
            "the first column where the model lives on them, and no honest likelihood.",
        ],
        figure=_figure(held),
    )  # fmt: skip


def material(setting: Setting) -> Text:
    """Nine tenths of the validation text to train on, its rest and other articles to test."""
    valid, other = (
        gzip.decompress(setting.file("powernorm", f"wikitext2.{n}.txt.gz").read_bytes()).decode()
        for n in ("valid", "test-head")
    )
    cut = len(valid) * 9 // 10
    return lm.encode(valid[:cut], valid[cut:], other)


def counted(text: Text) -> dict[str, float]:
    """Test nll of counts of characters and of pairs, one added to each."""
    v = text.vocabulary
    single = np.bincount(text.train, minlength=v) + 1.0
    pairs = np.bincount(text.train[:-1] * v + text.train[1:], minlength=v * v).reshape(v, v) + 1.0
    at, before = text.test[1:], text.test[:-1]
    return {
        "characters alone, test nll": float(-np.log(single / single.sum())[at].mean()),
        "pairs of characters, test nll": float(
            -np.log(pairs / pairs.sum(1, keepdims=True))[before, at].mean()
        ),
    }


def independent(size: Size, seed: int, steps: int = 60) -> dict[str, float]:
    """Drift of batches of independent values of one Gaussian, as many as characters in a batch."""
    import torch

    from nll.nn import MaskedBatchNorm, PowerNormV, batch_statistics_drift

    draw = torch.Generator().manual_seed(seed)
    layers = (MaskedBatchNorm(size.width), PowerNormV(size.width, warmup=0))
    found: dict[str, list[float]] = {}
    for step in range(steps):
        x = torch.randn(size.batch * size.context, size.width, generator=draw)
        for layer in layers:
            if step >= steps // 2:
                for key, value in batch_statistics_drift(x, layer).items():
                    found.setdefault(key.replace("_", " "), []).append(value)
            layer(x)
    return {k: float(np.mean(v)) for k, v in found.items()}


def _place(setting: Setting) -> str:
    import torch

    return "cuda" if not setting.quick and torch.cuda.is_available() else "cpu"


def _late(runs: Sequence[Trained], key: str) -> list[float]:
    return [float(r.drift[key][-max(len(r.drift[key]) // 4, 1) :].mean()) for r in runs]


def _row(name: str, runs: Sequence[Trained]) -> dict[str, float | str]:
    return {
        "normalisation": name,
        "test": float(np.mean([r.nll for r in runs])),
        "lowest seed": min(r.nll for r in runs),
        "highest seed": max(r.nll for r in runs),
        "other articles": float(np.mean([r.other for r in runs])),
        "batch statistics": float(np.mean([r.own for r in runs])),
        "batch statistics, single texts": float(np.mean([r.own_single for r in runs])),
    }


def _judge(
    batch: Finding, layer: Finding, diverged: bool, drift: Mapping[str, float]
) -> tuple[Verdict, str]:
    mean, variance, quadratic = (
        drift[k] for k in ("BatchNorm, mean", "BatchNorm, variance", "PowerNorm, quadratic mean")
    )
    told = (
        f"PowerNorm's test nll is {batch.value:+.3f} nats from batch normalisation's and "
        f"{layer.value:+.3f} from layer normalisation's; at the end of training the drift of batch "
        f"normalisation's mean is {mean:.3f}, of its variance {variance:.3f}, of PowerNorm's "
        f"quadratic mean {quadratic:.3f}"
    )
    if diverged:
        return "not supported", f"PowerNorm diverged: {told}."
    low, high = (math.nan if x is None else x for x in (batch.low, batch.high))
    if batch.value > 0:
        return "not supported", f"{told}."
    if not high < 0:
        return "inconclusive", f"{told}: the first difference is within what seeds differ by."
    if layer.high is None or not layer.high < 0:
        return "inconclusive", (
            f"{told}: better than batch normalisation [{low:.3f}, {high:.3f}], but not shown to be "
            "better than layer normalisation."
        )
    if quadratic >= variance:
        return "inconclusive", f"{told}: lower losses, but no calmer statistics."
    return "supported", f"{told}."


def _figure(held: Mapping[str, Sequence[Trained]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8))
    left, right = figure.subplots(1, 2)
    names = list(held)[::-1]
    for row, name in enumerate(names):
        values = [r.nll for r in held[name]]
        left.plot(values, [row] * len(values), "o", color=COLOURS[2], markersize=4)
        left.plot(np.mean(values), row, "o", color=COLOURS[0])
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("test nll, nats per character (grey: each seed)")
    for i, (name, key, label) in enumerate(
        (
            (BN, "mean", "BatchNorm, mean"),
            (BN, "variance", "BatchNorm, variance"),
            (PN, "quadratic_mean", "PowerNorm, quadratic mean"),
        )
    ):
        path = np.mean([r.drift[key].mean(1) for r in held[name]], axis=0)
        right.plot(10 * np.arange(1, len(path) + 1), path, color=COLOURS[(1, 2, 0)[i]], label=label)
    right.set(xlabel="update", ylabel="distance from the running value", yscale="log")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
