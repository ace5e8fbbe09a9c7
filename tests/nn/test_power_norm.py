"""PowerNorm (arXiv 2003.07845)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

import nll
from nll._errors import BadInput
from nll.nn import GroupScale, MaskedBatchNorm, PowerNorm, PowerNormV, batch_statistics_drift


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


X1 = f64([[1, -2], [0.5, 1], [-1.5, 0], [2, 3]])
X2 = f64([[0.2, 1], [-1, 2], [3, -1], [0, 0.5]])
G1 = f64([[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6], [0.7, 0.8]])
G2 = f64([[1, 0], [0, 1], [-1, 1], [0.5, 0.5]])


def layer(**options) -> PowerNorm:
    made = PowerNorm(2, dtype=torch.float64, **options)
    with torch.no_grad():
        made.weight.copy_(f64([1.5, 0.5]))
        made.bias.copy_(f64([0.1, -0.2]))
    return made


def step(made: PowerNorm, x: torch.Tensor, g: torch.Tensor, mask=None):
    leaf = x.clone().requires_grad_()
    made.zero_grad()
    y = made(leaf, mask)
    y.backward(g)
    return y.detach(), leaf.grad


def close(found, wanted, atol=1e-9) -> None:
    torch.testing.assert_close(found, f64(wanted), atol=atol, rtol=0)


def test_oracle_pn_v() -> None:
    made = layer(running=False)
    y, dx = step(made, X1, G1)
    close(y, [[1.1954421938, -0.7345217202], [0.6477210969, 0.0672608601],
              [-1.5431632908, -0.2], [2.2908843877, 0.6017825803]])  # fmt: skip
    close(dx, [[0.0219093113, 0.1450842051], [-0.3724501122, 0.0610883275],
               [0.6791734591, -0.1603565161], [0.5915397194, 0.0763606385]])  # fmt: skip
    close(made.weight.grad, [0.4381768775, 1.2828521285])
    close(made.bias.grad, [1, 0.8])


@pytest.mark.parametrize("scale", ["running", "batch"])
def test_oracle_two_steps(scale: str) -> None:
    made = layer(warmup=0, backward_scale=scale)
    y, dx = step(made, X1, G1)
    close(y[0], [1.5999925001, -1.199995])
    if scale == "running":
        close(dx, [[0.14999925, 0.0999995], [-0.44999775, 0.199999],
                   [0.74999625, -0.2999985], [1.04999475, 0.399998]])  # fmt: skip
    close(made.weight.grad, [0.599997, 2.3999880001])
    close(made.psi2, [1.0875, 1.25])
    close(made.nu, [0.0224998875, 0.02999985])
    y, dx = step(made, X2, G2)
    close(y, [[0.3876766582, 0.2472118067], [-1.3383832912, 0.6944236133],
              [4.4151498736, -0.6472118067], [0.1, 0.0236059033]])  # fmt: skip
    wanted = {
        "running": [[1.4342454189, -0.023999688], [0.0206893615, 0.3992124306],
                    [-1.5004513756, 0.4712114947], [0.7191916456, 0.2116060593]],
        "batch": [[0.9440660392, -0.0214659907], [0.013618397, 0.3570667386],
                  [-0.9876449097, 0.4214647107], [0.4733948593, 0.1892663647]],
    }  # fmt: skip
    close(dx, wanted[scale])
    close(made.psi2, [1.22975, 1.28125])
    close(made.nu, [-0.0833799726, 0.0402252677])


def test_oracle_warmup() -> None:
    made = layer(warmup=2, backward_scale="batch")
    for x, g, psi2 in (
        (X1, G1, [1.875, 3.5]),
        (X2, G2, [1.9385, 3.30625]),
        (X1, G2, [1.93215, 3.325625]),
    ):
        y, _ = step(made, x, g)
        close(made.psi2, psi2)
    close(y[0], [1.1773510424, -0.7499605005])


def test_pn_v_has_the_gradient_of_its_formula() -> None:
    made = layer(running=False)
    assert torch.autograd.gradcheck(lambda x: made(x), X1.clone().requires_grad_())


def test_at_rest_pn_has_the_gradient_of_pn_v() -> None:
    exact = layer(running=False)
    _, wanted = step(exact, X1, G1)
    made = layer(warmup=0)
    psi2 = X1.square().mean(0)
    xh = X1 / (psi2 + 1e-5).sqrt()
    made.psi2.copy_(psi2)
    made.nu.copy_((G1 * made.weight.detach() * xh).mean(0))
    _, dx = step(made, X1, G1)
    torch.testing.assert_close(dx, wanted)


def test_padding_is_in_nothing() -> None:
    padded = torch.cat([X1, f64([[50, float("nan")]])])
    mask = torch.tensor([1, 1, 1, 1, 0])
    alone, with_padding = layer(warmup=0), layer(warmup=0)
    y, dx = step(alone, X1, G1)
    y_padded, dx_padded = step(with_padding, padded, torch.cat([G1, f64([[7, 7]])]), mask)
    torch.testing.assert_close(y_padded[:4], y)
    torch.testing.assert_close(dx_padded[:4], dx)
    assert dx_padded[4].tolist() == [0, 0]
    for name in ("psi2", "nu"):
        torch.testing.assert_close(getattr(with_padding, name), getattr(alone, name))


def test_all_padding_touches_nothing() -> None:
    made = layer(warmup=0)
    assert torch.equal(made(X1, torch.zeros(4)), X1)
    assert made.steps == 0
    close(made.psi2, [1, 1])


def test_one_token_and_a_dead_channel() -> None:
    made = layer(running=False)
    assert made(f64([[2, 0]])).isfinite().all()
    close(made(f64([[0, 1], [0, 2]]))[:, 0].detach(), [0.1, 0.1])


def test_evaluation_moves_nothing_and_reads_what_was_learned() -> None:
    made = layer(warmup=0)
    step(made, X1, G1)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    made.eval()
    y, _ = step(made, X2, G2)
    root = (before["psi2"] + 1e-5).sqrt()
    torch.testing.assert_close(y, f64([1.5, 0.5]) * X2 / root + f64([0.1, -0.2]))
    with torch.no_grad():
        made.train()
        made(X2)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())


def test_a_recomputation_is_no_step() -> None:
    plain, again = layer(warmup=0), layer(warmup=0)
    for x, g in ((X1, G1), (X2, G2)):
        y, dx = step(plain, x, g)
        leaf = x.clone().requires_grad_()
        out = checkpoint(again, leaf, use_reentrant=False)
        out.backward(g)
        torch.testing.assert_close(out.detach(), y)
        torch.testing.assert_close(leaf.grad, dx)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in again.state_dict().items())


def test_a_reentrant_checkpoint_is_refused() -> None:
    out = checkpoint(layer(warmup=0), X1.clone().requires_grad_(), use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        out.sum().backward()


def test_outliers_do_not_make_the_correction_diverge() -> None:
    made = layer(warmup=0, alpha=0.999999)
    for _ in range(50):
        step(made, 30 * X1, G1)
    assert made.nu.abs().max() < 100
    assert made.clamped > 0


def test_initialise_sets_the_running_mean() -> None:
    made = layer(warmup=0)
    made.initialise(torch.cat([X1, X1 * 99]), torch.tensor([1] * 4 + [0] * 4))
    close(made.psi2, [1.875, 3.5])
    assert made.steps == 0


@given(st.integers(0, 99), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_order_of_tokens_and_scale(seed: int, factor: float) -> None:
    x = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    turn = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    a, b, c = (PowerNormV(4, dtype=torch.float64, eps=0.0) for _ in range(3))
    torch.testing.assert_close(a(x)[:, turn], b(x[:, turn]))
    torch.testing.assert_close(a(x), c(factor * x))


def test_group_scale() -> None:
    x = torch.randn(3, 5, 8)
    found = GroupScale(8, 2)(x)
    torch.testing.assert_close(found.unflatten(-1, (2, 4)).square().mean(-1), torch.ones(3, 5, 2),
                               atol=1e-3, rtol=0)  # fmt: skip
    made = PowerNorm(8, groups=2, running=False)
    torch.testing.assert_close(made(x), PowerNormV(8)(found))


def test_half_precision_keeps_its_statistics_in_float32() -> None:
    made = PowerNorm(4, running=False)
    y = made(200 * torch.ones(70_000, 4, dtype=torch.float16))
    assert y.dtype == torch.float16
    assert y.isfinite().all()
    assert made.psi2.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_cast_to_half_precision_keeps_wide_statistics(dtype) -> None:
    made = PowerNorm(2, warmup=0, groups=1).to(dtype)
    assert made.weight.dtype == dtype
    assert made.psi2.dtype == made.nu.dtype == torch.float32
    plain = PowerNorm(2, warmup=0).to(dtype)
    plain(torch.full((4, 2), 2000.0, dtype=dtype))
    close(plain.psi2.double(), [400000.9, 400000.9], atol=1 if dtype == torch.float16 else 3000)
    assert made.double().psi2.dtype == torch.float64


def test_groups_of_large_half_numbers_are_scaled() -> None:
    found = GroupScale(2, 1)(torch.full((1, 2), 2000.0, dtype=torch.float16))
    assert found.dtype == torch.float16
    assert found.tolist() == [[1, 1]]
    drift = batch_statistics_drift(torch.full((3, 2), 2000.0).half(), PowerNorm(2))
    assert drift["quadratic_mean"] == pytest.approx(4e6 - 1)


def test_masked_batch_norm_is_batch_norm_on_the_real_tokens() -> None:
    x, mask = torch.randn(3, 4, 5), torch.rand(3, 4) < 0.7
    mine, plain = MaskedBatchNorm(5), torch.nn.BatchNorm1d(5)
    torch.testing.assert_close(mine(x, mask)[mask], plain(x[mask]))
    torch.testing.assert_close(mine.running_mean, plain.running_mean)
    torch.testing.assert_close(mine(x), plain(x.reshape(-1, 5)).reshape(3, 4, 5))
    assert torch.equal(mine(x, mask)[~mask], x[~mask])


def test_masked_batch_norm_leaves_a_single_token_alone() -> None:
    made, x = MaskedBatchNorm(2), torch.tensor([[[1.0, 2.0]]])
    assert torch.equal(made(x), x)
    assert torch.equal(made(x, torch.ones(1, 1)), x)
    assert int(made.num_batches_tracked) == 0


def test_drift() -> None:
    made = layer()
    made.psi2.copy_(f64([1.0, 7.0]))
    assert batch_statistics_drift(X1, made) == {"quadratic_mean": pytest.approx((0.875 + 0.5) / 2)}
    norm = MaskedBatchNorm(2, dtype=torch.float64)
    norm.running_mean.copy_(f64([0.0, 0.0]))
    norm.running_var.copy_(f64([4.0, 4.0]))
    found = batch_statistics_drift(X1, norm)
    assert found["mean"] == pytest.approx(0.25)
    assert set(found) == {"mean", "variance"}
    with pytest.raises(BadInput, match="no real token"):
        batch_statistics_drift(X1, made, torch.zeros(4))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PowerNorm(4, alpha=1.0), "alpha must be"),
        (lambda: PowerNorm(4, warmup=-1), "warmup"),
        (lambda: PowerNorm(4, backward_scale="both"), "backward_scale"),
        (lambda: PowerNorm(4, groups=3), "3 groups"),
        (lambda: PowerNorm(4)(torch.ones(2, 3)), "channels"),
        (lambda: PowerNorm(3)(torch.ones(2, 3), torch.ones(3)), "mask has shape"),
        (lambda: MaskedBatchNorm(3)(torch.ones(2, 3), torch.ones(3)), "mask has shape"),
    ],
)
def test_what_cannot_be_is_told(call, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call()


def test_the_room_is_reached_from_the_top() -> None:
    assert nll.nn.PowerNorm is PowerNorm
