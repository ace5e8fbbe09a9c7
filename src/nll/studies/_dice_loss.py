"""Dice loss (arXiv 1911.02855): does a loss shaped like F1 give a better F1 on rare tokens?

Entity tokens in WNUT-17, 5 % of all. F1 is read twice: at the threshold 0.5, as the paper does, and
at the threshold that is best on the development posts, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll.studies import _dice_loss_taggers as taggers
from nll.studies._common import COLOURS
from nll.studies._dice_loss_taggers import CE, COMPARED, EACH, SETS, WEIGHTED, Floats, Posts
from nll.studies._study import Finding, Outcome, Setting, Verdict, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Triple: TypeAlias = tuple[float, float, float]

DRAWS = 2000
MARGIN = 0.02


class Read(NamedTuple):
    """One loss: counts (seeds, posts, 3) of hits, predictions and entity tokens at 0.5 and at the
    tuned threshold, the thresholds (seeds,), F1 on dev at them, and the largest p seen."""

    half: Floats
    tuned: Floats
    thresholds: Floats
    dev: Floats
    most: float


@study(
    "dice-loss",
    title="Dice loss for rare tokens",
    paper="1911.02855",
    claim="Where almost every example is negative, a loss shaped like F1 (dice, Tversky, "
    "self-adjusting dice) gives a better F1 than cross entropy or focal loss.",
    falsifier="Dice over whole batches does not beat cross entropy in F1 at the threshold 0.5, or "
    "cross entropy at a threshold tuned on other posts beats every overlap loss, so tuned, by more "
    "than 2 points.",
)
def dice_loss(setting: Setting) -> Outcome:
    """F1 of a tagger under eleven losses, at 0.5 and at a tuned threshold."""
    data = {part: taggers.read_posts(setting, part) for part in ("train", "dev", "test")}
    share = float(data["train"].y.mean())
    seeds = range(setting.seed, setting.seed + (5 if setting.quick else 3))
    hashed = {k: taggers.features(v) for k, v in data.items()} if setting.quick else {}
    reads = {}
    for name, loss in taggers.losses((1 - share) / share).items():
        runs = []
        for seed in seeds:
            if setting.quick:
                parts = (hashed["dev"], hashed["test"])
                runs.append(taggers.linear(loss, hashed["train"], data["train"].y, parts, seed))
            else:
                chosen = setting.model_name or taggers.ENCODER
                runs.append(taggers.encoder(loss, chosen, data, seed))
        reads[name] = read(runs, data["dev"], data["test"])
        setting.say(f"dice-loss: {name}")
    if not setting.quick:
        setting.loaded.append(setting.model_name or taggers.ENCODER)
    draw = Draws(len(seeds), data["test"].post[-1] + 1, setting.seed)
    best = max((n for n in reads if n not in COMPARED), key=lambda n: reads[n].dev.mean())
    gains = {
        SETS[0]: draw.gain("half", reads[SETS[0]], reads[CE]),
        SETS[1]: draw.gain("half", reads[SETS[1]], reads[CE]),
        "tuned": draw.gain("tuned", reads[best], reads[CE]),
    }
    most = max(f1(reads[n].tuned.sum(1)).mean() for n in reads if n not in COMPARED)
    lead = float(f1(reads[CE].tuned.sum(1)).mean() - most)
    tokens = draw.gain("half", reads[EACH], reads[CE])
    weighted = draw.gain("half", reads[SETS[1]], reads[WEIGHTED])
    verdict, why = _judge(gains[SETS[0]], gains[SETS[1]], lead, tokens[0], weighted)
    pairs = [
        (f"{SETS[0]} minus {CE}, F1 at 0.5", gains[SETS[0]]),
        (f"{SETS[1]} minus {CE}, F1 at 0.5", gains[SETS[1]]),
        (f"{best} (best on dev) minus {CE}, F1 tuned", gains["tuned"]),
        (f"{SETS[1]} minus {CE}, F1 tuned", draw.gain("tuned", reads[SETS[1]], reads[CE])),
        (f"{SETS[1]} minus {WEIGHTED}, F1 at 0.5", weighted),
        (f"{EACH}, minus {CE}, F1 at 0.5", tokens),
    ]
    return Outcome(
        verdict,
        why,
        findings=[Finding(name, *found, n=len(data["test"].words)) for name, found in pairs],
        baselines=[
            *(Finding(f"{name}, F1 at 0.5", *draw.f1("half", reads[name])) for name in COMPARED),
            Finding(f"{CE}, F1 tuned", *draw.f1("tuned", reads[CE])),
            *(Finding(name, value) for name, value in trivial(data["test"]).items()),
        ],
        tables={"Test posts, mean over seeds": [_row(n, r) for n, r in reads.items()]},
        notes=[
            ("A linear tagger on ten hashed features of a word and its neighbours stands in the "
             "place of the paper's BERT with a span head; span F1 is not measured here."
             if setting.quick else
             "Tokens are judged one by one at their first piece, not as spans by a reading head."),
            "Intervals are over test posts and seeds, drawn anew together (95 % bootstrap); a seed "
            "changes the order of the data" + ("." if setting.quick else " and the head's start."),
            "Step size and epochs are the same for all losses and were set before looking at F1; "
            "an overlap loss has smaller gradients, but Adam rescales them.",
            "Smoothing is 1 everywhere; where nothing else is said the denominator is squared.",
        ],
        figure=_figure(reads, draw),
    )  # fmt: skip


def read(runs: Sequence[Sequence[Floats]], dev: Posts, test: Posts) -> Read:
    """What a loss's runs (each: p on dev, p on test) say at both thresholds."""
    thresholds, best = zip(*(tune(p, dev.y) for p, _ in runs), strict=True)
    return Read(
        np.stack([counts(p > 0.5, test) for _, p in runs]),
        np.stack([counts(p >= t, test) for (_, p), t in zip(runs, thresholds, strict=True)]),
        np.array(thresholds),
        np.array(best),
        float(max(p.max() for _, p in runs)),
    )


def tune(p: Floats, y: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The threshold (p >= it) of the best F1, and that F1."""
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(y[order])
    score = 2 * hits / (np.arange(1, len(p) + 1) + y.sum())
    # Equal p cannot be told apart: only the last of them is a threshold.
    last = np.append(np.diff(p[order]) != 0, True)
    at = int(np.argmax(np.where(last, score, -1.0)))
    return float(p[order][at]), float(score[at])


def counts(chosen: npt.NDArray[np.bool_], posts: Posts) -> Floats:
    """(posts, 3): hits, predictions, entity tokens."""
    columns = (chosen & (posts.y > 0), chosen, posts.y)
    return np.stack([np.bincount(posts.post, weights=c) for c in columns], axis=1)


def f1(total: Floats) -> Floats:
    """F1 of summed counts (..., 3)."""
    below = total[..., 1] + total[..., 2]
    out: Floats = 2 * total[..., 0] / np.where(below > 0, below, 1)
    return out


class Draws:
    """The same resamples of posts and seeds for all losses, so that differences are paired."""

    def __init__(self, seeds: int, posts: int, seed: int):
        rng = np.random.default_rng(seed)
        self.posts = rng.multinomial(posts, np.full(posts, 1 / posts), DRAWS).astype(float)
        self.seeds = rng.integers(0, seeds, (DRAWS, seeds))

    def _each(self, held: Floats) -> Floats:
        """(draws,) mean F1 of the drawn seeds on the drawn posts."""
        per_seed = f1(np.einsum("dp,spk->dsk", self.posts, held, optimize=True))
        out: Floats = np.take_along_axis(per_seed, self.seeds, axis=1).mean(1)
        return out

    def f1(self, at: str, one: Read) -> Triple:
        """Mean F1 of the seeds with its interval; at: `half` or `tuned`."""
        held = getattr(one, at)
        return _interval(float(f1(held.sum(1)).mean()), self._each(held))

    def gain(self, at: str, one: Read, other: Read) -> Triple:
        """F1 of one minus F1 of the other, with its interval."""
        a, b = getattr(one, at), getattr(other, at)
        value = float(f1(a.sum(1)).mean() - f1(b.sum(1)).mean())
        return _interval(value, self._each(a) - self._each(b))


def _interval(value: float, draws: Floats) -> Triple:
    low, high = np.quantile(draws, [0.025, 0.975])
    return value, float(low), float(high)


def trivial(test: Posts) -> Mapping[str, float]:
    """F1 of rules that learn nothing."""
    first = np.append(True, np.diff(test.post) != 0)
    capital = np.array([w[:1].isupper() for w in test.words])
    rules = {
        "every token an entity, F1": np.ones(len(first), bool),
        "capital letter, not the first of its post, F1": capital & ~first,
    }
    return {name: float(f1(counts(rule, test).sum(0))) for name, rule in rules.items()}


def _row(name: str, held: Read) -> dict[str, float | str]:
    half, tuned = held.half.sum(1), held.tuned.sum(1)
    return {
        "loss": name,
        "F1 at 0.5": float(f1(half).mean()),
        "precision": float((half[:, 0] / np.maximum(half[:, 1], 1)).mean()),
        "recall": float((half[:, 0] / half[:, 2]).mean()),
        "F1 tuned": float(f1(tuned).mean()),
        "threshold": float(held.thresholds.mean()),
        "F1 on dev, tuned": float(held.dev.mean()),
        "largest p": held.most,
    }


def _judge(
    squared: Triple, straight: Triple, lead: float, tokens: float, weighted: Triple
) -> tuple[Verdict, str]:
    told = (
        f"at 0.5 dice over whole batches is {100 * squared[0]:+.1f} (squared denominator) and "
        f"{100 * straight[0]:+.1f} (linear) F1 points from cross entropy; at tuned thresholds the "
        f"best overlap loss is {-100 * lead:+.1f} points from it. Dice of each token alone, the "
        f"form that the paper writes, is {100 * tokens:+.1f} at 0.5, and weighted cross entropy "
        + ("is not told apart from" if weighted[1] <= 0 <= weighted[2] else
           "is behind" if weighted[0] > 0 else "is ahead of")
        + " the linear form there"
    )  # fmt: skip
    if lead > MARGIN or min(squared[0], straight[0]) <= 0:
        return "not supported", f"{told}."
    if min(squared[1], straight[1]) <= 0:
        return "inconclusive", f"{told}. An interval of the whole-batch gains reaches 0."
    if lead >= 0:
        return "inconclusive", f"{told}. What is gained is a threshold."
    return "supported", f"{told}."


def _figure(reads: Mapping[str, Read], draw: Draws) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 0.42 * len(reads)))
    axes = figure.add_subplot()
    for row, (name, held) in enumerate(reversed(list(reads.items()))):
        for at, label, colour, lift in (
            ("half", "at 0.5", COLOURS[1], 0.12),
            ("tuned", "at the threshold tuned on dev", COLOURS[0], -0.12),
        ):
            value, low, high = draw.f1(at, held)
            axes.plot([low, high], [row + lift] * 2, color=colour, linewidth=1.5)
            axes.plot(value, row + lift, "o", color=colour, markersize=5,
                      label=label if name == CE else None)  # fmt: skip
    axes.set_yticks(range(len(reads)), list(reads)[::-1])
    axes.set_xlabel("F1 of entity tokens, test posts")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
