"""CLAPS (arXiv 2012.07280): do pairs made by gradients on the decoder's states help a translator?

A small encoder-decoder learns short English-French sentences with five losses, from the same
weights and batches. Then the pairs themselves: do imposters lose more likelihood than steps of the
same length in random directions, and do distant targets keep it?
"""

from __future__ import annotations

import gzip
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nll.studies._claps_net import (
    Batch,
    Pairs,
    Size,
    batch_of,
    bleu,
    chrf,
    cut,
    shifted,
    split,
    translate,
    translator,
)
from nll.studies._common import COLOURS, seeds_finding
from nll.studies._study import Finding, Outcome, Setting, Verdict, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARMS = ("MLE", "in batch", "random step", "imposter", "CLAPS")
EPS, TAU, BATCH, LR = 3.0, 0.1, 64, 3e-3
LENGTHS = (0.1, 0.3, 1.0, 3.0)


@study(
    "claps",
    title="CLAPS: contrastive learning with adversarial pairs",
    paper="2012.07280",
    claim="A contrastive loss whose hard negative (a short step that ruins the likelihood) and "
    "hard positive (a long one that keeps it) are made by gradients on the decoder's states "
    "improves a sequence-to-sequence model over maximum likelihood and over other negatives.",
    falsifier="Full CLAPS's BLEU is below maximum likelihood's by more than the interval over "
    "seeds, or imposters lose no more likelihood than steps of equal length in random directions.",
)
def claps(setting: Setting) -> Outcome:
    """BLEU, chrF and nll of five losses over seeds; likelihood along the steps."""
    lines = _lines(setting)
    size, epochs = (Size(64, 1), 8) if setting.quick else (Size(128, 2), 40)
    seeds = range(setting.seed, setting.seed + (3 if setting.quick else 5))
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    steps: list[dict[str, Any]] = []
    for seed in seeds:
        held = cut(lines, held=400, train=1600 if setting.quick else None, seed=seed)
        for arm in ARMS:
            net = trained(held, arm, size=size, epochs=epochs, seed=seed)
            runs[arm].append(judged(net, held))
            if arm == "MLE":
                steps.append(mechanism(net, held, seed))
            setting.say(f"claps: seed {seed}, {arm}, BLEU {runs[arm][-1]['BLEU']:.2f}")
    gains = {
        arm: [a["BLEU"] - b["BLEU"] for a, b in zip(runs[arm], runs["MLE"], strict=True)]
        for arm in ARMS[1:]
    }
    losses = [s["imposter"][-1] - s["random"][-1] for s in steps]
    found = [
        seeds_finding("CLAPS: BLEU minus maximum likelihood's", gains["CLAPS"]),
        seeds_finding("nll of imposters minus that of random steps of equal length", losses),
        seeds_finding("KL of distant targets", [s["kl"] for s in steps]),
        seeds_finding("KL of random steps as long as theirs", [s["kl random"] for s in steps]),
        seeds_finding("length of the way to distant targets", [s["distance"] for s in steps]),
        seeds_finding(
            "imposters whose likeliest word is not the target", [s["other"] for s in steps]
        ),
        seeds_finding(
            "of those at a tenth of the length, likeliest word was of rank 2 to 10 before",
            [s["near"] for s in steps],
        ),
    ]  # fmt: skip
    verdict, why = judge(*found[:4])
    return Outcome(
        verdict,
        why,
        findings=found,
        baselines=[
            seeds_finding(f"{arm}: BLEU minus maximum likelihood's", gains[arm])
            for arm in ARMS[1:-1]
        ],
        tables={
            "Held-out sentences, mean over seeds": [
                {"loss": arm, **{k: float(np.mean([r[k] for r in many])) for k in many[0]}}
                for arm, many in runs.items()
            ],
            "nll of the target along a step, first seed": [
                {"length": eps, **{k: steps[0][k][i] for k in ("imposter", "random", "target")}}
                for i, eps in enumerate(LENGTHS)
            ],
            "Likeliest words of imposters, first seed": steps[0]["words"],
        },
        notes=[
            f"{len(held.train)} pairs of very short sentences to learn and {len(held.held)} "
            "English sentences held out (another split each seed), all their translations as "
            f"references; width {size.width}, {size.layers} + {size.layers} layers, {epochs} "
            "epochs.",
            "All losses of a seed begin with the same weights and see the same batches. `random "
            "step` has as negative the target's states moved by the imposter's length in a random "
            "direction; `imposter` has the hard negative only.",
            f"Steps of length {EPS:g} at each position, as in the paper's translation setting; "
            f"the states' median length is {steps[0]['typical']:.2f}.",
            "Intervals are Student's over seeds. T5 and the paper's data are not run here.",
        ],
        figure=_figure(gains, steps[0]),
    )


def _lines(setting: Setting) -> list[list[str]]:
    raw = gzip.decompress(setting.file("claps", "eng-fra.tsv.gz").read_bytes()).decode("utf-8")
    return [line.split("\t") for line in raw.splitlines() if line]


def trained(held: Pairs, arm: str, *, size: Size, epochs: int, seed: int) -> Any:
    """A translator trained with one of ARMS."""
    import torch

    net = translator(held, size, seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
    draw = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(epochs):
            net.train()
            order = draw.permutation(len(held.train))
            for start in range(0, len(order), BATCH):
                part = [held.train[i] for i in order[start : start + BATCH]]
                optimiser.zero_grad()
                loss_of(net, batch_of(part, held.words), arm).backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
    return net


def loss_of(net: Any, given: Batch, arm: str) -> Any:
    """The loss of a batch under one of ARMS."""
    from nll.negatives import adversarial_negative, adversarial_positive
    from nll.objectives import claps_loss, linear_logps, nll_loss, pool_states

    memory = net.encode(given.source)
    hidden = net.states(memory, given.source, shifted(given.labels))
    real, labels = given.labels != -100, given.labels.clamp(min=0)
    logp = _logps(linear_logps, hidden, net.target.weight, labels, real)
    if arm == "MLE":
        return nll_loss(logp, real)
    pool = partial(pool_states, weight=net.projection.weight, bias=net.projection.bias)
    source, target = pool(memory, given.source != 0), pool(hidden, real)
    negative = positive = None
    head = net.target.weight
    if arm == "random step":
        negative = pool(moved(hidden.detach(), real, EPS), real)
    elif arm in ("imposter", "CLAPS"):
        negative = pool(adversarial_negative(hidden, given.labels, head, EPS), real)
    if arm == "CLAPS":
        far = adversarial_positive(
            hidden, given.labels, head, EPS, source=source, pool=pool, tau=TAU, dedupe=True
        )
        positive = pool(far, real)
    return claps_loss(
        logp, source, target, negative, positive, mask=real, labels=given.labels, tau=TAU
    )


def _logps(linear_logps: Any, hidden: Any, weight: Any, labels: Any, real: Any) -> Any:
    """(B, T) log-probs; the library's function shifts by one, these states do not need it."""
    import torch

    pad = torch.nn.functional.pad
    found = linear_logps(pad(hidden, (0, 0, 0, 1)), weight, pad(labels, (1, 0)), pad(real, (1, 0)))
    return found.logp


def moved(hidden: Any, real: Any, eps: float, generator: Any = None) -> Any:
    """(B, T, d) states, the real ones moved by eps in a random direction each."""
    import torch

    step = torch.randn(hidden.shape, generator=generator)
    return hidden + real[..., None] * eps * step / step.norm(dim=-1, keepdim=True)


def judged(net: Any, held: Pairs) -> dict[str, float]:
    """BLEU and chrF of greedy translations, nll per word of the first reference."""
    import torch

    texts = translate(net, held)
    references = [[" ".join(split(f)) for f in many] for _, many in held.held]
    with torch.no_grad():
        nll = float(loss_of(net, _held(held), "MLE"))
    return {"BLEU": bleu(texts, references), "chrF": chrf(texts, references), "nll": nll}


def _held(held: Pairs) -> Batch:
    return batch_of([(e, many[0]) for e, many in held.held], held.words)


def mechanism(net: Any, held: Pairs, seed: int) -> dict[str, Any]:
    """Likelihoods along steps of the held-out targets' states, and what imposters read as."""
    import torch

    from nll.negatives import adversarial_negative, adversarial_positive
    from nll.objectives import pool_states
    from nll.objectives._adversarial import head_kl, head_nll

    given, head = _held(held), net.target.weight
    net.eval()
    with torch.no_grad():
        memory = net.encode(given.source)
        hidden = net.states(memory, given.source, shifted(given.labels))
    real, draw = given.labels != -100, torch.Generator().manual_seed(seed)
    pool = partial(pool_states, weight=net.projection.weight, bias=net.projection.bias)

    def nll(states: Any) -> float:
        return float(head_nll(states, given.labels, head).nanmean())

    far = adversarial_positive(
        hidden, given.labels, head, EPS, source=pool(memory, given.source != 0), pool=pool, tau=TAU
    )
    way = (far - hidden).norm(dim=-1, keepdim=True)
    straight = moved(torch.zeros_like(hidden), real, 1.0, draw)
    moves = [adversarial_negative(hidden, given.labels, head, eps) for eps in LENGTHS]
    before = hidden[real] @ head.T
    first, last = ((m[real] @ head.T).argmax(-1) for m in (moves[1], moves[-1]))
    changed = first != given.labels[real]
    rank = 1 + (before > before.gather(-1, first[:, None])).sum(-1)[changed]
    return {
        "target": [nll(hidden)] * len(LENGTHS),
        "imposter": [nll(m) for m in moves],
        "random": [nll(moved(hidden, real, eps, draw)) for eps in LENGTHS],
        "kl": float(head_kl(hidden, far, given.labels, head).nanmean()),
        "kl random": float(head_kl(hidden, hidden + way * straight, given.labels, head).nanmean()),
        "distance": float(way[real].mean()),
        "other": float((last != given.labels[real]).float().mean()),
        "near": float(((rank >= 2) & (rank <= 10)).float().mean()),
        "typical": float(hidden[real].norm(dim=-1).median()),
        "words": _readable(held, given, moves[1], head),
    }


def _readable(held: Pairs, given: Batch, states: Any, head: Any) -> list[dict[str, str]]:
    words = {i: w for w, i in held.words[1].items()} | {0: "·", 1: "(end)", 2: "?"}
    out = []
    for row in range(5):
        ids = [int(i) for i in given.labels[row] if i != -100]
        likely = (states[row, : len(ids)] @ head.T).argmax(-1).tolist()
        out.append(
            {
                "source": held.held[row][0],
                "target": " ".join(words[i] for i in ids),
                f"imposter, length {LENGTHS[1]:g}": " ".join(words[i] for i in likely),
            }
        )
    return out


def judge(gain: Finding, loss: Finding, kl: Finding, kl_random: Finding) -> tuple[Verdict, str]:
    """The verdict from CLAPS's gain in BLEU and the imposters' loss of likelihood."""
    low, high = (math.nan if x is None else x for x in (gain.low, gain.high))
    least = math.nan if loss.low is None else loss.low
    told = (
        f"BLEU changes by {gain.value:+.2f} [{low:+.2f}, {high:+.2f}] with full CLAPS; "
        f"imposters lose {loss.value:.2f} nats a word more than random steps of equal length; "
        f"distant targets are {kl.value:.2f} nats of KL away, random steps as long "
        f"{kl_random.value:.2f}"
    )
    if not least > 0 or high < 0:
        return "not supported", f"{told}."
    if not low > 0:
        return "inconclusive", f"{told}. The imposters do what they should; a gain is not shown."
    return "supported", f"{told}."


def _figure(gains: dict[str, list[float]], steps: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    for row, values in enumerate(reversed(gains.values())):
        left.plot(values, [row] * len(values), "o", color=COLOURS[2], markersize=4)
        left.plot(np.mean(values), row, "D", color=COLOURS[0])
    left.set_yticks(range(len(gains)), list(reversed(gains)))
    left.axvline(0, color="#888888", linewidth=1, linestyle="--")
    left.set_xlabel("BLEU minus maximum likelihood's (dots: seeds, diamond: mean)")
    for name, colour in (("imposter", COLOURS[1]), ("random", COLOURS[0]), ("target", COLOURS[2])):
        right.plot(LENGTHS, steps[name], "o-", color=colour, markersize=4, label=name)
    right.set(xscale="log", xlabel="length of the step", ylabel="nll of the target, nats a word")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
