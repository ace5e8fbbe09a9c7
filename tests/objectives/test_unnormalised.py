"""MECO, NCE and log Z of energy models (arXiv 2306.07485)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nll._errors import BadInput
from nll.objectives import MecoState, log_partition_is, meco_loss, nce_loss, snl_loss

NOISE = torch.tensor([-1.2, -0.3, 0.4, 1.5], dtype=torch.float64)


def log_p0(theta, x):
    return theta * x - x**2 / 2


def log_q(x, sd: float = 1.0):
    return -((x / sd) ** 2) / 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)


def exact(theta: float) -> float:
    return theta**2 / 2 + 0.5 * math.log(2 * math.pi)


def leaf(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_oracle_log_partition() -> None:
    found = log_partition_is(log_p0(0.5, NOISE), log_q(NOISE))
    assert found.log_z.item() == pytest.approx(1.0903513023, abs=1e-10)
    assert exact(0.5) == pytest.approx(1.0439385332, abs=1e-10)
    w = torch.exp(log_p0(0.5, NOISE) - log_q(NOISE))
    assert found.ess.item() == pytest.approx((w.sum() ** 2 / (w**2).sum()).item())


def test_oracle_two_steps_of_meco() -> None:
    theta, state = leaf(0.0), MecoState()
    x, z = f64(2, 1), NOISE
    loss = meco_loss(log_p0(theta, x), log_p0(theta, z), log_q(z), state, gamma=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(2.1689385332, abs=1e-10)
    assert state.log_u.item() == pytest.approx(0.9189385332, abs=1e-10)
    assert theta.grad.item() == pytest.approx(-1.4, abs=1e-10)
    v = theta.grad.item()
    theta = leaf(0.0 - 0.5 * v)
    assert theta.item() == pytest.approx(0.7)
    x, z = f64(1.5, 2.5), f64(0.9, -0.8, 2.1, -0.1)
    alone = log_partition_is(log_p0(theta, z), log_q(z)).log_z
    assert alone.item() == pytest.approx(1.5778110672, abs=1e-10)
    loss = meco_loss(log_p0(theta, x), log_p0(theta, z), log_q(z), state, gamma=0.3)
    loss.backward()
    assert state.log_u.item() == pytest.approx(1.1656295697, abs=1e-10)
    assert theta.grad.item() == pytest.approx(0.0067916796, abs=1e-10)
    assert loss.item() == pytest.approx(1.8906295697, abs=1e-10)
    v = 0.5 * v + 0.5 * theta.grad.item()
    assert v == pytest.approx(-0.6966041602, abs=1e-10)
    assert theta.item() - 0.5 * v == pytest.approx(1.0483020801, abs=1e-10)


@pytest.mark.parametrize(("nu", "wanted"), [(2, 1.5503500814), (1, 1.1220542525)])
def test_oracle_nce(nu: float, wanted: float) -> None:
    x = f64(2, 1)
    loss = nce_loss(
        log_p0(0.5, x), log_q(x), log_p0(0.5, NOISE), log_q(NOISE), log_z=exact(0.5), nu=nu
    )
    assert loss.item() == pytest.approx(wanted, abs=1e-10)
    if nu == 2:  # twice as much noise as data
        args = (log_p0(0.5, x), log_q(x), log_p0(0.5, NOISE), log_q(NOISE))
        assert nce_loss(*args, log_z=exact(0.5)).item() == pytest.approx(wanted, abs=1e-10)


GRID = torch.linspace(-30, 40, 70_001, dtype=torch.float64)


def population(theta: torch.Tensor, R: float) -> torch.Tensor:
    """The average-of-two NCE of a normalised N(theta, 1), data N(R, 1), noise N(0, 1)."""
    density = torch.exp(log_q(GRID - R)), torch.exp(log_q(GRID))
    g = log_q(GRID - theta) - log_q(GRID)
    step = GRID[1] - GRID[0]
    return (
        0.5
        * step
        * (
            (density[0] * torch.nn.functional.softplus(-g)).sum()
            + (density[1] * torch.nn.functional.softplus(g)).sum()
        )
    )


@pytest.mark.parametrize(
    ("R", "curvature", "slope"),
    [
        (1, 0.2139306202, -0.25),
        (2, 0.1789219592, -0.1360947258),
        (4, 0.0740112794, -0.0651874908),
        (8, 3.95840789e-4, -6.17189190e-4),
    ],
)
def test_oracle_nce_is_flat_where_noise_and_data_lie_apart(R, curvature, slope) -> None:
    theta = leaf(float(R))
    (first,) = torch.autograd.grad(population(theta, R), theta, create_graph=True)
    (second,) = torch.autograd.grad(first, theta)
    assert second.item() == pytest.approx(curvature, rel=1e-6)
    theta = leaf(R - 1.0)
    (first,) = torch.autograd.grad(population(theta, R), theta)
    assert first.item() == pytest.approx(slope, rel=1e-6)


@given(st.floats(-2, 2), st.integers(2, 30), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_gamma_one_is_the_minibatch_log_mean_exp(theta: float, n: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(n, dtype=torch.float64, generator=draw) for _ in range(2))
    mine, plain = leaf(theta), leaf(theta)
    state = MecoState(99.0)
    loss = meco_loss(log_p0(mine, x), log_p0(mine, z), log_q(z), state, gamma=1.0)
    loss.backward()
    other = -log_p0(plain, x).mean() + torch.logsumexp(log_p0(plain, z) - log_q(z), 0)
    other = other - math.log(n)
    other.backward()
    assert loss.item() == pytest.approx(other.item())
    assert mine.grad.item() == pytest.approx(plain.grad.item())


def test_bias_against_the_exact_log_z() -> None:
    """The mean of the estimates lies below log Z by about var(p0/q) / (2 n)."""
    draw = torch.Generator().manual_seed(0)
    theta, n = 1.0, 100
    z = torch.randn(4_000, n, dtype=torch.float64, generator=draw)
    estimates = torch.logsumexp(log_p0(theta, z) - log_q(z), 1) - math.log(n)
    bias = estimates.mean().item() - exact(theta)
    assert bias == pytest.approx(-(math.exp(theta**2) - 1) / (2 * n), rel=0.35)
    w = torch.exp(log_p0(theta, z) - log_q(z) - exact(theta))
    assert w.var().item() == pytest.approx(1.7182818285, rel=0.2)


def test_a_moving_average_has_less_bias_than_one_small_batch() -> None:
    draw = torch.Generator().manual_seed(1)
    state, seen = MecoState(), []
    for _ in range(3_000):
        z = torch.randn(4, dtype=torch.float64, generator=draw)
        meco_loss(f64(0.0), log_p0(1.0, z), log_q(z), state, gamma=0.02)
        seen.append(state.log_u.item())
    single = torch.randn(3_000, 4, dtype=torch.float64, generator=draw)
    plain = (torch.logsumexp(log_p0(1.0, single) - log_q(single), 1) - math.log(4)).mean().item()
    assert abs(sum(seen[300:]) / len(seen[300:]) - exact(1.0)) < 0.2 * abs(plain - exact(1.0))


@given(st.floats(-3, 3), st.floats(-2, 2))
@settings(max_examples=50, deadline=None)
def test_snl_bounds_the_nll_and_is_tight_at_log_z(c: float, theta: float) -> None:
    args = (log_p0(theta, f64(0.3, 1.0)), log_p0(theta, NOISE), log_q(NOISE))
    nll = meco_loss(*args, gamma=1.0).item()
    assert snl_loss(*args, log_z=c).item() >= nll - 1e-12
    log_z = log_partition_is(*args[1:], warn=False).log_z
    assert snl_loss(*args, log_z=log_z).item() == pytest.approx(nll)


def test_weights_far_apart_do_not_underflow() -> None:
    z = f64(0.0, 1.0)
    state = MecoState()
    loss = meco_loss(f64(0.0), -1e4 + z, log_q(z), state, gamma=0.5)
    assert math.isfinite(loss.item())
    meco_loss(f64(0.0), f64(-math.inf, -math.inf), log_q(z), state, gamma=0.5)
    assert math.isfinite(state.log_u.item())


def test_a_first_step_without_mass_leaves_the_average_unset() -> None:
    state = MecoState()
    nowhere = torch.full_like(NOISE, -math.inf)
    assert meco_loss(f64(0.0), nowhere, log_q(NOISE), state).item() == -math.inf
    assert state.log_u is None
    meco_loss(f64(0.0), log_p0(0.5, NOISE), log_q(NOISE), state)
    assert state.log_u.item() == pytest.approx(1.0903513023, abs=1e-9)


def test_few_effective_points_are_warned_of() -> None:
    z = torch.linspace(-1, 1, 50, dtype=torch.float64)
    with pytest.warns(UserWarning, match="effective sample size"):
        log_partition_is(300 * z, log_q(z))


def test_a_checkpoint_of_the_state() -> None:
    state = MecoState()
    assert state.state_dict() == {"log_u": None}
    meco_loss(f64(0.0), log_p0(0.5, NOISE), log_q(NOISE), state)
    other = MecoState()
    other.load_state_dict(state.state_dict())
    args = (f64(1.0), log_p0(0.7, NOISE), log_q(NOISE))
    assert meco_loss(*args, state).item() == meco_loss(*args, other).item()


def test_without_data_the_partition_term_is_left() -> None:
    theta = leaf(0.5)
    loss = meco_loss(f64(), log_p0(theta, NOISE), log_q(NOISE))
    loss.backward()
    assert loss.item() == pytest.approx(1.0903513023, abs=1e-9)
    assert theta.grad.item() != 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: meco_loss(f64(1.0), NOISE, NOISE, gamma=0.0), "gamma must be"),
        (lambda: meco_loss(f64(1.0), f64(), f64()), "not empty"),
        (lambda: meco_loss(f64(1.0), NOISE, NOISE[:2]), "same points"),
        (lambda: nce_loss(f64(1.0), f64(1.0), NOISE, NOISE, nu=0), "nu must be"),
    ],
)
def test_what_cannot_be_is_told(call, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call()


def test_the_state_knows_how_much_of_the_noise_counted() -> None:
    state = MecoState()
    assert math.isnan(state.ess)
    meco_loss(f64(0.0), log_p0(0.5, NOISE), log_q(NOISE), state)
    assert state.ess == pytest.approx(log_partition_is(log_p0(0.5, NOISE), log_q(NOISE)).ess.item())
    meco_loss(f64(0.0), f64(0, -900, -900, -900), log_q(NOISE), state)
    assert state.ess == pytest.approx(1)
