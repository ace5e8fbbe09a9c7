"""MECO (arXiv 2306.07485): the exact nll of an energy model by a moving log Z, against NCE.

Where the noise covers the data, where it does not, on a plane and on images of digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nll import metrics
from nll.studies import _meco_models as models
from nll.studies._common import COLOURS, seeds_finding
from nll.studies._meco_models import METHODS, Floats, Walk
from nll.studies._study import Finding, Outcome, Setting, Verdict, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

STEPS, WALKERS = 2000, 20
WIDE = {"fitted noise": 1.0, "noise twice as wide": 2.0}
TIE, WORSE = 0.05, 0.1


class Size(NamedTuple):
    """Seeds and updates of panels B and C, points of data, width of the networks."""

    seeds: int = 3
    updates: int = 900
    points: int = 4000
    hidden: int = 64
    digit_updates: int = 600


FULL = Size(seeds=10, updates=5000, points=50_000, hidden=128, digit_updates=3000)


@study(
    "compositional-nll",
    title="MECO: the nll of unnormalised models without noise contrast",
    paper="2306.07485",
    claim="Minimising the true nll by stochastic compositional optimisation converges faster than "
    "noise-contrastive estimation, and gives better densities and better detection of images "
    "from elsewhere.",
    falsifier="Where the noise covers the data, noise-contrastive estimation comes within 5 % of a "
    "Gaussian's mean before MECO; or MECO's test nll on the plane is more than 0.1 nats worse.",
)
def compositional_nll(setting: Setting) -> Outcome:
    """Steps to a Gaussian's mean; test nll on a plane; AUROC of strange digits."""
    size = Size() if setting.quick else FULL
    walks = {
        (mean, sd, method): models.gaussian_mean(method, mean, sd, WALKERS, STEPS, setting.seed)
        for mean, sd in models.rows()
        for method in ("MECO", "NCE")
    }
    setting.say("compositional-nll: Gaussian means")
    plane, truth = density(setting, size)
    strange = detection(setting, size)
    covered = [(mean, sd) for mean, sd in models.rows() if sd == mean]
    speed = [speedup(walks[m, s, "MECO"], walks[m, s, "NCE"], m, setting.seed) for m, s in covered]
    gaps = {
        noise: seeds_finding(
            f"MECO minus NCE, test nll, {noise}",
            [a[-1] - b[-1] for a, b in zip(of["MECO"], of["NCE"], strict=True)],
        )
        for noise, of in plane.items()
    }
    better = {
        kind: seeds_finding(
            f"MECO minus NCE, AUROC of {kind}",
            [a[kind] - b[kind] for a, b in zip(strange["MECO"], strange["NCE"], strict=True)],
        )
        for kind in KINDS
    }
    strayed = [
        f"{m:g}" for m, s in covered if stays(walks[m, s, "MECO"], m) < WALKERS
    ]  # fmt: skip
    verdict, why = _judge(speed, list(gaps.values()), list(better.values()), strayed)
    return Outcome(
        verdict,
        why,
        findings=[*speed, *gaps.values(), *better.values()],
        baselines=[
            *(
                seeds_finding(f"the noise itself, test nll, {noise}", [r[0] for r in of["noise"]])
                for noise, of in plane.items()
            ),
            Finding("true entropy on the plane", truth),
            *(
                seeds_finding(f"the noise itself, AUROC of {kind}",
                           [r[kind] for r in strange["noise"]], share=True)
                for kind in KINDS
            ),
        ],
        tables={
            f"Mean of a Gaussian, {WALKERS} seeds, {STEPS} steps of {models.BATCH} points": [
                _row(mean, sd, method, walk) for (mean, sd, method), walk in walks.items()
            ],
            "Eight Gaussians on a circle, test nll in nats, log Z on a grid, mean of seeds": [
                {"noise": noise, "method": name}
                | {f"{step} updates": float(np.mean([r[i] for r in runs]))
                   for i, step in enumerate(_looks(size))}
                for noise, of in plane.items() for name, runs in of.items() if name != "noise"
            ],
            "Digits 0-4 against others, mean of seeds": [
                {"model": name} | {k: float(np.mean([r[k] for r in runs])) for k in runs[0]}
                for name, runs in strange.items()
            ],
        },
        notes=[
            "'reached' is the first step within 5 % of the mean, which a run may leave again; "
            "'stay' counts the seeds that are there at the last step.",
            "ESS: share of noise points that count, in the last tenth of the steps. Near 1/64 one "
            "point carries all of log Z, MECO's moving average is far too small and theta runs "
            "away; then no number of the method means anything.",
            "Energies on the plane and on digits are f(x) + log q(x), the form in which noise and "
            "model overlap from the start; no network is compared without it.",
            "NCE learns its constant and sees one noise point for each datum.",
            "On digits the update is chosen by nll on held-out digits with log Z from the noise, "
            "for all methods alike.",
            "Images of digits stand for the paper's CIFAR-10; generation and FID are not measured.",
        ],
        figure=_figure(walks, plane, _looks(size), truth),
    )  # fmt: skip


KINDS = ("digits 5-9", "shuffled digits")


def _looks(size: Size) -> tuple[int, ...]:
    return (100, 300, size.updates)


def speedup(ours: Walk, other: Walk, mean: float, seed: int) -> Finding:
    """Steps of NCE over steps of MECO, medians over seeds; a run that never arrives counts as the
    last step, so that the ratio is then a lower bound."""
    a, b = (np.nan_to_num(models.reached(w.theta, mean), nan=len(w.theta)) for w in (ours, other))
    found = metrics.bootstrap(_ratio, a, b, n=1000, seed=seed)
    late = " at least" if np.isnan(models.reached(other.theta, mean)).any() else ""
    return Finding(
        f"steps of NCE over steps of MECO{late}, mean {mean:g}, noise sd {mean:g}",
        float(found.value), float(found.low), float(found.high), len(a),
    )  # fmt: skip


def _ratio(a: Floats, b: Floats) -> float:
    return float(np.median(b) / np.median(a))


def stays(walk: Walk, mean: float) -> int:
    """Seeds within 5 % of the mean at the last step."""
    return int((np.abs(walk.theta[-1] - mean) < 0.05 * mean).sum())


def density(setting: Setting, size: Size) -> tuple[dict[str, dict[str, list[list[float]]]], float]:
    """Panel B: test nll at the looks by noise, method and seed; and the true entropy."""
    import torch

    truth = float(-models.circle_log_density(
        models.circle(200_000, np.random.default_rng(setting.seed))).mean())  # fmt: skip
    out: dict[str, dict[str, list[list[float]]]] = {
        noise: {name: [] for name in (*METHODS, "noise")} for noise in WIDE
    }
    for seed in range(setting.seed, setting.seed + size.seeds):
        rng = np.random.default_rng(seed)
        data, test = (
            torch.from_numpy(models.circle(n, rng)).float() for n in (size.points, size.points)
        )

        def nll(model: Any, test: Tensor = test) -> float:
            return models.grid_log_z(model) - float(model.log_p0(test).mean())

        for noise, wide in WIDE.items():
            q = models.Noise(data, wide)
            out[noise]["noise"].append([-float(q.log_prob(test).mean())])
            for method in METHODS:
                looks = dict.fromkeys(_looks(size), nll)
                out[noise][method].append(
                    models.fit(method, data, q, updates=size.updates, looks=looks, seed=seed,
                               hidden=size.hidden)
                )  # fmt: skip
        setting.say(f"compositional-nll: plane, seed {seed}")
    return out, truth


def detection(setting: Setting, size: Size) -> dict[str, list[dict[str, float]]]:
    """Panel C: AUROC of -log p0 by method and seed, with nll and ESS of the chosen update."""
    out: dict[str, list[dict[str, float]]] = {name: [] for name in ("noise", *METHODS)}
    for seed in range(setting.seed, setting.seed + size.seeds):
        held = models.digits(seed)
        q = models.Noise(held.train)
        n = q.sample(5000)
        out["noise"].append(_strangeness(held, q.log_prob)
                            | {"test nll": -float(q.log_prob(held.test).mean()),
                               "ESS share": 1.0})  # fmt: skip
        for method in METHODS:

            def look(model: Any, held: models.Digits = held, n: Tensor = n) -> dict[str, float]:
                from nll.objectives import log_partition_is

                z = log_partition_is(model.log_p0(n), model.noise.log_prob(n), warn=False)
                return _strangeness(held, model.log_p0) | {
                    "test nll": float(z.log_z - model.log_p0(held.test).mean()),
                    "ESS share": float(z.ess) / len(n),
                    "chosen by": float(z.log_z - model.log_p0(held.held).mean()),
                }

            looks = dict.fromkeys(models.every(size.digit_updates // 20, size.digit_updates), look)
            seen = models.fit(method, held.train, q, updates=size.digit_updates, looks=looks,
                              hidden=size.hidden, rate=1e-3, decay=0.01, seed=seed)  # fmt: skip
            best = min(seen, key=lambda found: found["chosen by"])
            out[method].append({k: v for k, v in best.items() if k != "chosen by"})
        setting.say(f"compositional-nll: digits, seed {seed}")
    return out


def _strangeness(held: models.Digits, log_p0: Any) -> dict[str, float]:
    known = -log_p0(held.test).double().numpy()
    found = {}
    for kind, points in zip(KINDS, (held.others, held.shuffled), strict=True):
        score = np.concatenate([known, -log_p0(points).double().numpy()])
        label = np.repeat([0, 1], [len(known), len(points)])
        found[kind] = float(metrics.auroc(label, score))
    return found


def _row(mean: float, sd: float, method: str, walk: Walk) -> dict[str, float | str]:
    first = models.reached(walk.theta, mean)
    never = int(np.isnan(first).sum())
    return {
        "mean": mean,
        "noise sd": sd,
        "method": method,
        "reached at step, median": "" if never > len(first) / 2 else float(np.nanmedian(first)),
        "reach": len(first) - never,
        "stay": stays(walk, mean),
        "theta at the end": float(np.median(walk.theta[-1])),
        "ESS share": float(walk.ess[-len(walk.ess) // 10 :].mean()),
    }


def _judge(
    speed: Sequence[Finding],
    density: Sequence[Finding],
    strange: Sequence[Finding],
    strayed: Sequence[str],
) -> tuple[Verdict, str]:
    slowest, gap = min(f.value for f in speed), max(f.value for f in density)
    told = (
        f"where the noise covers the data NCE takes {slowest:.1f} times MECO's steps or more; on "
        f"the plane MECO is at worst {gap:+.3f} nats from NCE; AUROC differs by "
        + " and ".join(f"{f.value:+.3f}" for f in strange)
    )
    if strayed:
        told += f". At a mean of {', '.join(strayed)} MECO does not stay where it arrived"
    if slowest < 1 or gap > WORSE:
        return "not supported", f"{told}."
    ahead = all(f.high is not None and f.high < 0 for f in density) and all(
        f.low is not None and f.low > 0 for f in strange
    )
    if not ahead:
        tied = " (a tie)" if all(abs(f.value) < TIE for f in density) else ""
        return "inconclusive", (
            f"{told}. Faster on a Gaussian's mean, but densities{tied} and detection are not shown "
            "to be better."
        )
    if strayed:
        return "inconclusive", f"{told}: ahead, but not stable."
    return "supported", f"{told}."


def _figure(
    walks: Mapping[tuple[float, float, str], Walk],
    plane: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    looks: Sequence[int],
    truth: float,
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6))
    covered, bare, right = figure.subplots(1, 3)
    for (mean, sd, method), walk in walks.items():
        colour = COLOURS[1] if method == "NCE" else COLOURS[0]
        style = {2.0: "-", 4.0: "--", 8.0: "-.", 16.0: ":"}[mean]
        axes = covered if sd == mean else bare
        path = np.median(walk.theta, axis=1) / mean
        axes.plot(np.arange(1, len(path) + 1), path, style, color=colour, linewidth=1.3,
                  label=f"{method}, mean {mean:g}")  # fmt: skip
    for axes, title in ((covered, "noise sd = mean"), (bare, "noise sd 1")):
        axes.axhline(1, color="#888888", linewidth=0.8)
        axes.set(xlabel="step", title=title, xscale="log")
    covered.set(ylabel="theta / mean, median of seeds", ylim=(0, 2.2))
    bare.set(yscale="symlog", ylim=(0, None))
    covered.legend(frameon=False, fontsize=6.5)
    wide = len(METHODS)
    for i, noise in enumerate(plane):
        for j, method in enumerate(METHODS):
            values = [r[-1] for r in plane[noise][method]]
            at = i + (j - (wide - 1) / 2) * 0.18
            right.plot([at] * len(values), values, "o", color=COLOURS[j], markersize=4,
                       label=method if i == 0 else None)  # fmt: skip
    right.axhline(truth, color="#888888", linewidth=0.8, linestyle="--")
    right.set_xticks(range(len(plane)), list(plane))
    right.set(xlim=(-0.6, len(plane) - 0.4), ylabel="test nll, nats (dashed: the truth)",
              title=f"the plane, {looks[-1]} updates")  # fmt: skip
    right.legend(frameon=False, fontsize=8)
    for axes in (covered, bare, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
