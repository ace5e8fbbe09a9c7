"""Gains of U2A: the sheet's numbers, central differences, laws, and what cannot be solved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from nll import BadInput
from nll.negatives import (
    alignment_gain,
    conjugate_gradient,
    hessian_vector_product,
    implicit_weight_gradient,
)

G = np.array([[1.0, 0], [0, -1], [1, 1]])
GRAD_J = np.array([-1.375, 1])
X = torch.tensor([[1, 0.5], [-0.5, 1], [0.8, -1.2]], dtype=torch.float64)
Y = torch.tensor([1.0, 0, 1], dtype=torch.float64)
START = torch.tensor([0.2, -0.1], dtype=torch.float64)
WEIGHTS = torch.tensor([0.05, 0.04, 0.03], dtype=torch.float64)
X_OUT = torch.tensor([[0.3, 0.9], [-1, 0.4]], dtype=torch.float64)
Y_OUT = torch.tensor([1.0, 0], dtype=torch.float64)


def logp(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid((2 * y - 1) * (x @ theta))


def inner(theta: torch.Tensor, weights: torch.Tensor = WEIGHTS) -> torch.Tensor:
    return (weights * logp(theta, X, Y)).sum() + 0.1 * (theta - START).square().sum()


def outer(theta: torch.Tensor) -> torch.Tensor:
    return -logp(theta, X_OUT, Y_OUT).mean()


def minimum(weights: torch.Tensor = WEIGHTS) -> torch.Tensor:
    def of(theta: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(theta, requires_grad=True)
        value = inner(at, weights)
        value.backward()
        return value.item(), at.grad.numpy()

    found = minimize(of, START.numpy(), jac=True, method="BFGS", options={"gtol": 1e-13})
    return torch.tensor(found.x)


@pytest.fixture(scope="module")
def logistic() -> dict[str, torch.Tensor]:
    theta = minimum()
    at = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(outer(at), at)
    each = torch.stack(
        [torch.autograd.grad(loss, at, retain_graph=True)[0] for loss in logp(at, X, Y)]
    )
    hessian = torch.autograd.functional.hessian(inner, theta)
    return {"theta": theta, "slope": slope, "each": each, "hessian": hessian}


def test_linear_oracle():
    weights = np.array([0.5, 0.25, 0.25])
    theta = -(weights @ G) / 2
    assert theta.tolist() == [-0.375, 0]
    away = theta - [1, -1]
    assert 0.5 * away @ away == 1.4453125
    assert away.tolist() == GRAD_J.tolist()
    want = [0.6875, 0.5, 0.1875]
    assert implicit_weight_gradient(GRAD_J, G, damping=2).tolist() == want
    exact = implicit_weight_gradient(GRAD_J, G, curvature="exact", hessian=2 * np.eye(2))
    np.testing.assert_allclose(exact, want, rtol=1e-15)

    def value(w: np.ndarray) -> float:
        gap = -(w @ G) / 2 - [1, -1]
        return float(0.5 * gap @ gap)

    for i in range(3):
        step = 1e-5 * np.eye(3)[i]
        slope = (value(weights + step) - value(weights - step)) / 2e-5
        assert slope == pytest.approx(want[i], abs=1e-9)


def test_logistic_oracle(logistic):
    theta, slope, each, hessian = (logistic[k] for k in ("theta", "slope", "each", "hessian"))
    np.testing.assert_allclose(theta, [-0.03992019, 0.03258352], atol=1e-8)
    assert outer(theta).item() == pytest.approx(0.7022423501, abs=1e-9)
    np.testing.assert_allclose(slope, [-0.33096708, -0.12040121], atol=1e-8)
    np.testing.assert_allclose(torch.linalg.eigvalsh(hessian), [0.17186828, 0.18443719], atol=1e-8)
    want = [1.07621443, 0.14652218, 0.36546242]
    exact = implicit_weight_gradient(slope, each, curvature="exact", hessian=hessian)
    assert isinstance(exact, torch.Tensor)
    np.testing.assert_allclose(exact, want, atol=1e-7)
    solved = implicit_weight_gradient(
        slope, each, curvature="cg", hessian=lambda v: hessian @ v, damping=0
    )
    np.testing.assert_allclose(solved, want, atol=1e-7)
    near = implicit_weight_gradient(slope, each, damping=0.2)
    np.testing.assert_allclose(near, [0.98947202, 0.11566612, 0.31140743], atol=1e-8)


def test_the_implicit_gradient_is_that_of_solving_again(logistic):
    exact = implicit_weight_gradient(
        logistic["slope"], logistic["each"], curvature="exact", hessian=logistic["hessian"]
    )
    for i in range(3):
        step = 1e-4 * torch.eye(3, dtype=torch.float64)[i]
        up, down = (outer(minimum(WEIGHTS + s)).item() for s in (step, -step))
        assert (up - down) / 2e-4 == pytest.approx(exact[i].item(), abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
def test_a_step_moves_j_by_minus_eta_gain(logistic, scale):
    eta = 0.1 * scale
    gains = alignment_gain(logistic["slope"], logistic["each"])
    for g, way in zip(gains, logistic["each"], strict=True):
        moved = outer(logistic["theta"] - eta * way) - outer(logistic["theta"])
        assert moved.item() == pytest.approx(-eta * g.item(), rel=0.5 * scale)


grads = st.integers(0, 2**32 - 1).map(lambda s: np.random.default_rng(s).normal(size=(6, 5)))


@given(grads, st.floats(-3, 3), st.sampled_from(["identity", "cg", "exact"]))
@settings(deadline=None, max_examples=40)
def test_gains_are_linear(drawn, c, curvature):
    first, second, each = drawn[0], drawn[1], drawn[2:]
    hessian = {} if curvature == "identity" else {"hessian": drawn.T @ drawn + np.eye(5)}
    more = {"curvature": curvature, "damping": 0.5, **hessian}
    parts = [alignment_gain(x, each, **more) for x in (first, second)]
    np.testing.assert_allclose(
        alignment_gain(first + c * second, each, **more), parts[0] + c * parts[1], atol=2e-3
    )
    np.testing.assert_allclose(
        alignment_gain(first, c * each, **more), c * parts[0], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("curvature", ["identity", "diag", "cg", "exact"])
def test_arrays_lists_and_tensors_agree(curvature):
    draw = np.random.default_rng(0)
    outer_grad, each, root = draw.normal(size=4), draw.normal(size=(3, 4)), draw.normal(size=(4, 4))
    more = {"curvature": curvature, "damping": 0.3}
    hessian = root @ root.T
    if curvature in ("cg", "exact"):
        more["hessian"] = hessian
    want = alignment_gain(outer_grad, each, **more)
    whole = {"identity": np.zeros((4, 4)), "diag": np.diag((each**2).mean(0))}
    matrix = whole.get(curvature, hessian) + 0.3 * np.eye(4)
    np.testing.assert_allclose(want, each @ np.linalg.solve(matrix, outer_grad), rtol=1e-4)
    listed = alignment_gain(outer_grad.tolist(), each.tolist(), **more)
    np.testing.assert_array_equal(listed, want)
    found = alignment_gain(torch.tensor(outer_grad), torch.tensor(each), **more)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, want, rtol=1e-12)
    if curvature != "diag":
        np.testing.assert_allclose(
            alignment_gain(outer_grad, (row for row in each), **more), want, rtol=1e-12
        )


@pytest.mark.parametrize("curvature", ["identity", "diag"])
def test_a_gradient_that_is_not_finite_costs_only_its_example(curvature):
    each = np.array([[1.0, 2], [np.nan, 1], [3, -1], [np.inf, 0]])
    found = alignment_gain([1, 1], each, curvature=curvature)
    assert np.isnan(found[[1, 3]]).all()
    kept = alignment_gain([1, 1], each[[0, 2]], curvature=curvature)
    np.testing.assert_array_equal(found[[0, 2]], kept)


@pytest.mark.parametrize("none", [[], np.zeros((0, 2)), iter([])])
def test_no_examples_have_no_gains(none):
    assert alignment_gain([1.0, 2.0], none).shape == (0,)
    assert alignment_gain(torch.ones(2), []).shape == (0,)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (dict(curvature="fisher"), "curvature must be one of"),
        (dict(curvature="cg"), "needs a hessian"),
        (dict(hessian=np.eye(2)), "reads no hessian"),
        (dict(damping=-1), "damping"),
        (dict(damping=0), "damping above 0"),
        (dict(curvature="exact", hessian=np.ones((2, 2))), "cannot be inverted"),
        (dict(curvature="exact", hessian=np.eye(3)), "hessian has shape"),
        (dict(curvature="cg", hessian=lambda v: v * np.nan), "not finite"),
        (dict(grad_outer=[np.nan, 1]), "not finite"),
        (dict(grads_inner=[[1.0, 2, 3]]), "grad_outer 2"),
        (dict(grads_inner=np.ones((2, 3))), "must be"),
        (dict(grads_inner=iter([[1.0, 2]]), curvature="diag"), "twice"),
        (dict(grad_outer=[[1.0, 2]]), "one row"),
    ],
)
def test_refusals(given_, message):
    call = {"grad_outer": [1.0, 2.0], "grads_inner": [[1.0, 2.0]], **given_}
    with pytest.raises(BadInput, match=message):
        alignment_gain(call.pop("grad_outer"), call.pop("grads_inner"), **call)


def test_conjugate_gradient_oracle():
    found = conjugate_gradient([[4, 1], [1, 3]], [1, 2])
    np.testing.assert_allclose(found.x, [0.09090909, 0.63636364], atol=1e-8)
    assert (found.iterations, found.damping) == (2, 0)
    assert found.residual <= 1e-5
    assert conjugate_gradient([[4, 1], [1, 3]], [1, 2], max_iter=1).residual > 1e-2
    nothing = conjugate_gradient([[4, 1], [1, 3]], [0, 0])
    assert (nothing.x.tolist(), nothing.iterations, nothing.residual) == ([0, 0], 0, 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_conjugate_gradient_solves_in_as_many_steps_as_dimensions(seed, size):
    draw = np.random.default_rng(seed)
    root, b = draw.normal(size=(size, size)), draw.normal(size=size)
    matrix = root @ root.T + np.eye(size)
    found = conjugate_gradient(lambda v: matrix @ v, b, tol=1e-9)
    assert found.iterations <= size + 2
    np.testing.assert_allclose(matrix @ found.x, b, atol=1e-7)


@pytest.mark.parametrize("matrix", [-np.eye(2), np.diag([1.0, -5]), np.zeros((2, 2))])
def test_damping_rises_until_the_curvature_is_positive(matrix):
    found = conjugate_gradient(matrix, [1, 1])
    assert found.damping > 0
    np.testing.assert_allclose((matrix + found.damping * np.eye(2)) @ found.x, [1, 1], atol=1e-4)
    assert found.x @ [1, 1] > 0


def test_hessian_vector_product():
    theta = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([1.0, 2], dtype=torch.float64)
    whole = torch.autograd.functional.hessian(inner, theta.detach())
    for loss in (inner, inner(theta)):
        np.testing.assert_allclose(hessian_vector_product(loss, theta, v), whole @ v, rtol=1e-12)
    plain = hessian_vector_product(inner, theta.detach(), v.numpy())
    np.testing.assert_allclose(plain, whole @ v, rtol=1e-12)
    spare = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    longer = torch.tensor([1.0, 2, 5], dtype=torch.float64)
    found = hessian_vector_product(lambda p: inner(p[0]), [theta, spare], longer)
    np.testing.assert_allclose(found[:2], whole @ v, rtol=1e-12)
    assert found[2] == 0
    assert hessian_vector_product(3 * theta.sum(), theta, v).tolist() == [0, 0]
    with pytest.raises(BadInput, match="params hold 2"):
        hessian_vector_product(inner, theta, longer)
    with pytest.raises(BadInput, match="one number"):
        hessian_vector_product(lambda p: p * 2, theta, v)


def test_half_precision_gradients_are_multiplied_in_float32() -> None:
    outer, inner = torch.full((3000,), 0.3).bfloat16(), torch.full((1, 3000), 0.7).bfloat16()
    found = alignment_gain(outer, inner)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx((inner.double() @ outer.double()).item(), rel=1e-6)


def test_a_hessian_is_multiplied_with_tensors_of_the_shapes_of_the_parameters() -> None:
    a, b = torch.ones(2, 2, requires_grad=True), torch.ones(3, requires_grad=True)
    loss = (a.square().sum() * b.sum()) + b.pow(3).sum()
    v = [torch.arange(4.0).reshape(2, 2), torch.arange(3.0)]
    flat = hessian_vector_product(loss, [a, b], torch.cat([v[0].reshape(-1), v[1]]))
    again = (a.square().sum() * b.sum()) + b.pow(3).sum()
    assert torch.equal(hessian_vector_product(again, [a, b], v), flat)
    with pytest.raises(BadInput, match="tensors of shapes"):
        hessian_vector_product(lambda p: p[0].sum(), [a, b], [v[1], v[0]])
