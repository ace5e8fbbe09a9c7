"""The MECO study: its hand-written gradients are the library's, its densities true ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nll.objectives import MecoState, meco_loss, nce_loss
from nll.studies import Finding, Setting
from nll.studies import _compositional_nll as inner
from nll.studies import _meco_models as models


def points(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2 + rng.standard_normal((5, 3)), 1.5 * rng.standard_normal((5, 3))


def log_p0(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return theta * x - x**2 / 2


def test_gradients_are_those_of_the_objectives() -> None:
    x, n = points()
    theta, c = np.array([0.2, -0.4, 1.0]), np.array([0.9, 0.5, 1.3])
    gap = theta * n - n**2 / 2 - models.log_normal(n, 1.5)
    log_u, first = models.meco_gradient(x, n, gap, None)
    log_u, second = models.meco_gradient(x[::-1], n[:4], 2 * gap[:4], log_u)
    slope, slope_c = models.nce_gradient(theta, c, x, n, 1.5)
    for i in range(3):
        at = torch.tensor(theta[i], requires_grad=True)
        z = torch.tensor(c[i], requires_grad=True)
        tx, tn = torch.tensor(x[:, i]), torch.tensor(n[:, i])
        q = torch.tensor(models.log_normal(n[:, i], 1.5))
        state = MecoState()
        loss = meco_loss(log_p0(at, tx), log_p0(at, tn), q, state, gamma=models.GAMMA)
        (grad,) = torch.autograd.grad(loss, at)
        assert first[i] == pytest.approx(grad.item())
        moved = torch.tensor(2 * gap[:4, i]) + q[:4]
        own = log_p0(at, tn[:4])
        loss = meco_loss(
            log_p0(at, tx), own - own.detach() + moved, q[:4], state, gamma=models.GAMMA
        )
        (grad,) = torch.autograd.grad(loss, at)
        assert second[i] == pytest.approx(grad.item())
        assert log_u[i] == pytest.approx(state.log_u.item())
        own_q = torch.tensor(models.log_normal(x[:, i], 1.5))
        loss = nce_loss(log_p0(at, tx), own_q, log_p0(at, tn), q, log_z=z)
        found = torch.autograd.grad(loss, (at, z))
        assert [slope[i], slope_c[i]] == pytest.approx([g.item() for g in found])


def test_walks_come_to_the_mean_and_say_when() -> None:
    walk = models.gaussian_mean("MECO", 2.0, 2.0, seeds=4, steps=300, seed=0)
    assert walk.theta[-1] == pytest.approx([2] * 4, abs=0.15)
    first = models.reached(walk.theta, 2.0)
    assert ((first > 30) & (first < 250)).all()
    assert ((walk.ess > 1 / models.BATCH - 1e-9) & (walk.ess <= 1)).all()
    assert np.isnan(models.reached(np.zeros((5, 2)), 1.0)).all()
    same = models.gaussian_mean("MECO", 2.0, 2.0, seeds=4, steps=300, seed=0)
    assert (same.theta == walk.theta).all()


def test_what_never_arrives_is_a_lower_bound() -> None:
    quick = models.Walk(np.array([[0.0] * 3, [2.0] * 3, [2.0] * 3, [2.0] * 3]), np.ones((4, 3)))
    never = models.Walk(np.zeros((4, 3)), np.ones((4, 3)))
    found = inner.speedup(quick, never, 2.0, 0)
    assert (found.value, found.low, found.high) == (2, 2, 2)
    assert "at least" in found.name
    assert (inner.stays(quick, 2.0), inner.stays(never, 2.0)) == (3, 0)


def test_the_plane_s_density_integrates_to_one() -> None:
    at = np.linspace(-6, 6, 301)
    grid = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
    mass = np.exp(models.circle_log_density(grid)).sum() * (at[1] - at[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-6)
    draws = models.circle(50_000, np.random.default_rng(0))
    assert -models.circle_log_density(draws).mean() == pytest.approx(2.509, abs=0.02)


def test_log_z_of_a_known_model_and_every_method_s_fit() -> None:
    data = torch.from_numpy(models.circle(300, np.random.default_rng(0))).float()
    q = models.Noise(data)
    model = models.Tilted(q, 2, 8)
    with torch.no_grad():
        for p in model.f.parameters():
            p.zero_()
        model.f[-1].bias.fill_(0.7)
        assert models.grid_log_z(model) == pytest.approx(0.7, abs=1e-3)
    for method in models.METHODS:
        seen = models.fit(
            method, data, q, updates=60, hidden=16, rate=1e-2,
            looks={u: lambda m: models.grid_log_z(m, cells=60) - float(m.log_p0(data).mean())
                   for u in (1, 60)},
        )  # fmt: skip
        assert seen[1] < seen[0] - 0.005


def test_digits_are_apart_and_whitened() -> None:
    held = models.digits(0)
    assert [len(p) for p in held] == [540, 180, 181, 896, 181]
    assert held.train.std(0).numpy() == pytest.approx(np.ones(20), abs=0.01)
    assert not torch.equal(held.shuffled, held.test)
    assert torch.equal(models.digits(0).test, held.test)


def test_a_whole_run_of_toy_size(monkeypatch) -> None:
    monkeypatch.setattr(inner, "STEPS", 300)
    monkeypatch.setattr(inner, "WALKERS", 3)
    toy = inner.Size(seeds=2, updates=20, points=200, hidden=8, digit_updates=20)
    monkeypatch.setattr(inner, "Size", lambda: toy)
    monkeypatch.setattr(inner, "_looks", lambda _: (5, 10, 20))
    outcome = inner.compositional_nll(Setting())
    first, plane, digits = outcome.tables.values()
    assert len(first) == 16
    assert len(plane) == 8
    assert [r["model"] for r in digits] == ["noise", *models.METHODS]
    assert all(math.isfinite(f.value) for f in (*outcome.findings, *outcome.baselines))
    assert outcome.figure is not None


def finding(value: float, half: float = 0.01) -> Finding:
    return Finding("x", value, value - half, value + half, 3)


@pytest.mark.parametrize(
    ("speed", "gap", "gain", "strayed", "verdict"),
    [
        (3.0, -0.1, 0.1, [], "supported"),
        (0.9, -0.1, 0.1, [], "not supported"),
        (3.0, 0.2, 0.1, [], "not supported"),
        (3.0, 0.0, 0.1, [], "inconclusive"),
        (3.0, -0.1, 0.0, [], "inconclusive"),
        (3.0, -0.1, 0.1, ["16"], "inconclusive"),
    ],
)
def test_verdicts(speed, gap, gain, strayed, verdict: str) -> None:
    found, _ = inner._judge([finding(speed)], [finding(gap)], [finding(gain)], strayed)
    assert found == verdict
