"""The compositional-nll study's models: a Gaussian mean, and energies on a plane and on digits."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float64]

RATE, BATCH, GAMMA, MOMENTUM = 0.05, 64, 0.1, 0.3
MODES, RADIUS, SPREAD = 8, 3.0, 0.3
METHODS = ("MECO", "minibatch", "NCE", "SNL")
LOG_2PI = math.log(2 * math.pi)


class Walk(NamedTuple):
    """theta (steps, seeds) on its way, and the share of effective noise points at each step."""

    theta: Floats
    ess: Floats


def gaussian_mean(method: str, mean: float, sd: float, seeds: int, steps: int, seed: int) -> Walk:
    """SGD on log p0 = theta x - x^2 / 2 with data N(mean, 1), noise N(0, sd^2), many seeds at once.

    MECO keeps its two moving averages, NCE (one noise point a datum) learns its constant c.
    """
    rng = np.random.default_rng(seed)
    theta, c = np.zeros(seeds), np.full(seeds, 0.5 * LOG_2PI)
    log_u: Floats | None = None
    v: Floats | None = None
    path, share = np.empty((steps, seeds)), np.empty((steps, seeds))
    for step in range(steps):
        x = mean + rng.standard_normal((BATCH, seeds))
        n = sd * rng.standard_normal((BATCH, seeds))
        gap = theta * n - n**2 / 2 - log_normal(n, sd)
        share[step] = np.exp(2 * log_sum(gap) - log_sum(2 * gap)) / BATCH
        if method == "MECO":
            log_u, grad = meco_gradient(x, n, gap, log_u)
            v = grad if v is None else (1 - MOMENTUM) * v + MOMENTUM * grad
            theta = theta - RATE * v
        else:
            slope, slope_c = nce_gradient(theta, c, x, n, sd)
            theta, c = theta - RATE * slope, c - RATE * slope_c
        path[step] = theta
    return Walk(path, share)


def meco_gradient(x: Floats, n: Floats, gap: Floats, log_u: Floats | None) -> tuple[Floats, Floats]:
    """log u after a step and the gradient in theta; x, n, gap: (batch, seeds)."""
    seen = log_sum(gap) - math.log(len(gap))
    if log_u is None:
        log_u = seen
    else:
        log_u = np.logaddexp(log_u + math.log1p(-GAMMA), seen + math.log(GAMMA))
    return log_u, (np.exp(gap - log_u) * n).mean(0) - x.mean(0)


def nce_gradient(
    theta: Floats, c: Floats, x: Floats, n: Floats, sd: float
) -> tuple[Floats, Floats]:
    """Gradients in theta and in c of NCE with one noise point for each datum."""
    right = sigmoid(-(theta * x - x**2 / 2 - c - log_normal(x, sd)))
    wrong = sigmoid(theta * n - n**2 / 2 - c - log_normal(n, sd))
    return (wrong * n).mean(0) - (right * x).mean(0), right.mean(0) - wrong.mean(0)


def reached(path: Floats, mean: float) -> Floats:
    """(seeds,) the first step within 5 % of the mean, nan where there is none."""
    inside = np.abs(path - mean) < 0.05 * mean
    return np.where(inside.any(0), inside.argmax(0) + 1.0, np.nan)


def log_normal(x: Floats, sd: float) -> Floats:
    """log density of N(0, sd^2)."""
    out: Floats = -((x / sd) ** 2) / 2 - math.log(sd) - 0.5 * LOG_2PI
    return out


def log_sum(z: Floats) -> Floats:
    """log sum exp over the first axis."""
    out: Floats = np.logaddexp.reduce(z, axis=0)
    return out


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e^-z) without overflow."""
    out: Floats = np.exp(-np.logaddexp(0, -z))
    return out


class Noise:
    """A Gaussian fitted to points (n, d), its standard deviations `wide` times as large."""

    def __init__(self, points: Tensor, wide: float = 1.0):
        import torch

        centre = points.mean(0)
        covariance = torch.cov(points.T) * wide**2
        self._normal = torch.distributions.MultivariateNormal(centre, covariance)

    def sample(self, n: int) -> Tensor:
        """(n, d)."""
        out: Tensor = self._normal.sample((n,))
        return out

    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) nats."""
        out: Tensor = self._normal.log_prob(x)  # type: ignore[no-untyped-call]
        return out


class Tilted:
    """log p0 = f(x) + log q(x), f a small network: energies that the noise keeps in bounds."""

    def __init__(self, noise: Noise, d: int, hidden: int):
        import torch
        from torch import nn

        self.noise = noise
        self.f = nn.Sequential(
            nn.Linear(d, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip
        self.c = torch.zeros((), requires_grad=True)

    def log_p0(self, x: Tensor) -> Tensor:
        """(n,) nats."""
        out: Tensor = self.f(x)[:, 0] + self.noise.log_prob(x)
        return out


def fit(
    method: str, data: Tensor, noise: Noise, *, updates: int, looks: Any, hidden: int = 64,
    batch: int = 256, rate: float = 3e-3, decay: float = 0.0, seed: int = 0,
) -> list[Any]:  # fmt: skip
    """Adam on one of METHODS; `looks` maps numbers of updates to functions of the model."""
    import torch

    from nll.objectives import MecoState, meco_loss, nce_loss, snl_loss

    torch.manual_seed(seed)
    model, state = Tilted(noise, data.shape[1], hidden), MecoState()
    optimizer = torch.optim.AdamW([*model.f.parameters(), model.c], lr=rate, weight_decay=decay)
    found = []
    for step in range(1, updates + 1):
        x = data[torch.randint(len(data), (batch,))]
        n = noise.sample(batch)
        log_q = noise.log_prob(n)
        own, other = model.log_p0(x), model.log_p0(n)
        if method == "NCE":
            loss = nce_loss(own, noise.log_prob(x), other, log_q, log_z=model.c)
        elif method == "SNL":
            loss = snl_loss(own, other, log_q, log_z=model.c)
        else:
            # From 1 to 0.1 over the first tenth: a young average is mostly wrong.
            warm = max(GAMMA, 1 - (1 - GAMMA) * step / (0.1 * updates))
            loss = meco_loss(own, other, log_q, state, gamma=warm if method == "MECO" else 1.0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in looks:
            with torch.no_grad():
                found.append(looks[step](model))
    return found


def circle(n: int, rng: np.random.Generator) -> Floats:
    """(n, 2) draws of eight Gaussians on a circle."""
    turn = 2 * math.pi * rng.integers(0, MODES, n) / MODES
    centre = RADIUS * np.stack([np.cos(turn), np.sin(turn)], 1)
    out: Floats = centre + SPREAD * rng.standard_normal((n, 2))
    return out


def circle_log_density(x: Floats) -> Floats:
    """(n,) the true log density of `circle`."""
    turn = 2 * math.pi * np.arange(MODES) / MODES
    centre = RADIUS * np.stack([np.cos(turn), np.sin(turn)], 1)
    far = ((x[None] - centre[:, None]) ** 2).sum(-1)
    out: Floats = log_sum(-far / (2 * SPREAD**2)) - math.log(MODES * 2 * math.pi * SPREAD**2)
    return out


def grid_log_z(model: Tilted, edge: float = 12.0, cells: int = 240) -> float:
    """log of the integral of p0 over a square, by the midpoint rule."""
    import torch

    at = (torch.arange(cells) + 0.5) * (2 * edge / cells) - edge
    points = torch.cartesian_prod(at, at)
    log_p0 = model.log_p0(points).double()
    return float(torch.logsumexp(log_p0, 0)) + 2 * math.log(2 * edge / cells)


class Digits(NamedTuple):
    """Digits 0-4 to train on, to choose the step on and to test; digits 5-9 and shuffled ones."""

    train: Tensor
    held: Tensor
    test: Tensor
    others: Tensor
    shuffled: Tensor


def digits(seed: int, components: int = 20) -> Digits:
    """scikit-learn's digits in their first principal components, each with variance 1."""
    import torch
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    low = x[y < 5][rng.permutation(int((y < 5).sum()))]
    train, held, test = np.split(low, [int(0.6 * len(low)), int(0.8 * len(low))])
    mean = train.mean(0)
    _, s, axes = np.linalg.svd(train - mean, full_matrices=False)
    scale = s[:components] / math.sqrt(len(train))
    order = rng.permuted(np.tile(np.arange(x.shape[1]), (len(test), 1)), axis=1)
    shuffled = np.take_along_axis(test, order, axis=1)
    parts = ((p - mean) @ axes[:components].T / scale for p in (train, held, test, x[y >= 5],
                                                                shuffled))  # fmt: skip
    return Digits(*(torch.from_numpy(p).float() for p in parts))


def every(step: int, updates: int) -> range:
    """Numbers of updates at which to look."""
    return range(step, updates + 1, step)


def rows() -> list[tuple[float, float]]:
    """(mean, noise sd) of panel A: noise that covers the data, and noise that does not."""
    return list(itertools.chain.from_iterable(((r, r), (r, 1.0)) for r in (2.0, 4.0, 8.0, 16.0)))
