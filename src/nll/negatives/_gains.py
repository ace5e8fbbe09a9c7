"""Would unlearning this example help? The gradient of a preference loss in the examples' weights.

By the implicit function theorem at the minimum of the inner (unlearning) problem. Arrays and lists
give arrays of float64, tensors give tensors on their device of their precision, float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from nll._errors import BadInput

Curvature: TypeAlias = Literal["identity", "diag", "cg", "exact"]
Product: TypeAlias = Callable[[Any], Any]
CURVATURES: Final = ("identity", "diag", "cg", "exact")
MOST_RESTARTS: Final = 60


class CGSolution(NamedTuple):
    """x of `(A + damping I) x = b`, and how it was had.

    iterations: of the last start.   residual: |b - (A + damping I) x| / |b|.   damping: the one
    used, larger than the one asked for when A had no positive curvature.
    """

    x: Any
    iterations: int
    residual: float
    damping: float


def alignment_gain(
    grad_outer: Any,
    grads_inner: Any,
    *,
    curvature: Curvature = "identity",
    damping: float | None = None,
    hessian: Any = None,
) -> Any:
    """(n,) gain `g_i = grad J . H^-1 grad l_i`; above 0: forgetting example i lowers J.

    grad_outer: (P,) gradient of the preference loss J, an average over its pairs.   grads_inner:
    (n, P) gradients of the unlearning losses l_i (lower = more forgotten), or anything that yields
    them one by one, of which only one is then held (not with `diag`).
    curvature, what stands for H, the Hessian of the inner objective: `identity`: damping * I;
    `diag`: mean squared inner gradient + damping; `cg`: hessian + damping * I by conjugate
    gradients (hessian: a function v -> H v, or the matrix; 50 iterations to 1e-5, damping raised
    where the curvature is not positive); `exact`: the same by elimination from the (P, P) matrix.
    damping: 1, but 0 with `exact`. One system is solved, then n products are taken. Linear in
    grad J; first order, so recompute it as the model moves. Unit: that of J over that of a weight.
    An example whose gradient is not finite gets nan and does not count in `diag`.
    Raises BadInput on sizes that disagree, a grad J that is not finite, a missing hessian, or an H
    that cannot be inverted. References: U2A, arXiv 2504.06659.

    >>> alignment_gain([-1.375, 1.0], [[1, 0], [0, -1], [1, 1]], damping=2)
    array([-0.6875, -0.5   , -0.1875])
    """
    outer = vector(grad_outer, "grad_outer")
    if curvature not in CURVATURES:
        raise BadInput(f"curvature must be one of {', '.join(CURVATURES)}, not {curvature!r}")
    if (curvature in ("cg", "exact")) != (hessian is not None):
        raise BadInput(
            f"curvature '{curvature}' needs a hessian"
            if hessian is None
            else f"curvature '{curvature}' reads no hessian; use cg or exact"
        )
    if not bool(finite(outer).all()):
        raise BadInput("grad_outer holds a value that is not finite")
    held = _matrix(grads_inner, outer)
    if curvature == "diag" and held is None:
        raise BadInput("curvature 'diag' reads the inner gradients twice; give them as an array")
    added = damping if damping is not None else float(curvature != "exact")
    if not 0 <= added < float("inf"):
        raise BadInput(f"damping must be 0 or positive, not {damping}")
    direction = _solve(outer, held, curvature, added, hessian)
    if held is not None:
        return _products(held, direction)
    each = [_products(like(row, outer)[None], direction)[0] for row in _checked(grads_inner, outer)]
    return like([float(g) for g in each], outer)


def implicit_weight_gradient(
    grad_outer: Any,
    grads_inner: Any,
    *,
    curvature: Curvature = "identity",
    damping: float | None = None,
    hessian: Any = None,
) -> Any:
    """(n,) `dJ / d omega_i = - grad J . H^-1 grad l_i`, minus the gain; arguments as there.

    omega weighs the examples of the inner objective `sum_i omega_i l_i + lam |theta - theta0|^2`,
    whose Hessian H is 2 lam I where the l_i are linear.
    References: U2A, arXiv 2504.06659.
    """
    return -alignment_gain(
        grad_outer, grads_inner, curvature=curvature, damping=damping, hessian=hessian
    )


def conjugate_gradient(
    matrix: Any, b: Any, *, tol: float = 1e-5, max_iter: int = 50, damping: float = 0.0
) -> CGSolution:
    """Solve `(A + damping I) x = b` for a symmetric A that is only multiplied with.

    matrix: a function v -> A v, or A itself (P, P).   b: (P,).   Ends when the residual is below
    tol |b|, or after max_iter iterations. Where a direction of no positive curvature turns up,
    damping is raised until there is none on the way.
    Raises BadInput on a matrix that gives values which are not finite, or options out of range.

    >>> found = conjugate_gradient([[4, 1], [1, 3]], [1, 2])
    >>> found.x.round(6).tolist(), found.iterations
    ([0.090909, 0.636364], 2)
    """
    right = vector(b, "b")
    if tol < 0 or max_iter < 1 or damping < 0:
        raise BadInput("conjugate gradients need tol >= 0, max_iter >= 1 and damping >= 0")
    product: Product = matrix if callable(matrix) else _multiply(matrix, right)
    for _ in range(MOST_RESTARTS):
        found = _descend(product, right, tol, max_iter, damping)
        if isinstance(found, CGSolution):
            return found
        damping = max(2 * damping, found)
    raise BadInput(f"the curvature is not positive even with damping {damping:g}")


def _descend(
    product: Product, b: Any, tol: float, max_iter: int, damping: float
) -> CGSolution | float:
    """The solution, or the damping with which to try again."""
    x, residual = b * 0, b
    step, squared, size = residual, float(residual @ residual), float(b @ b)
    done = 0
    while done < max_iter and squared > tol * tol * size:
        moved = product(step) + damping * step
        length, curved = float(step @ step), float(step @ moved)
        if curved != curved:
            raise BadInput("the matrix gave a value that is not finite")
        if curved <= 0:
            scale = float(moved @ moved) ** 0.5 / length**0.5
            raised: float = max(-2 * curved / length, 1e-3 * scale, 1e-6)
            return raised
        rate = squared / curved
        x, residual = x + rate * step, residual - rate * moved
        before, squared = squared, float(residual @ residual)
        step = residual + (squared / before) * step
        done += 1
    return CGSolution(x, done, (squared / size) ** 0.5 if size else 0.0, damping)


def hessian_vector_product(loss: Any, params: Any, vector: Any) -> Any:
    """(P,) product of the Hessian of a loss with a vector, by differentiating twice.

    loss: a scalar tensor that depends on params, or a function of params that gives one.
    params: a tensor, or tensors in a fixed order, P numbers in all.   vector: (P,) numbers, or as
    many tensors of the shapes of params.
    A parameter that the loss does not depend on, or only linearly, has a row of zeros.
    Raises BadInput when the sizes disagree or the loss is no scalar.
    """
    import torch

    single = isinstance(params, torch.Tensor)
    held = [params] if single else list(params)
    if callable(loss):  # a plain point is as good as a parameter there
        held = [p if p.requires_grad else p.detach().clone().requires_grad_() for p in held]
    value = loss(held[0] if single else held) if callable(loss) else loss
    if isinstance(vector, Sequence) and any(isinstance(v, torch.Tensor) for v in vector):
        shapes = [tuple(v.shape) for v in vector]
        if shapes != [tuple(p.shape) for p in held]:
            raise BadInput(f"vector has tensors of shapes {shapes}, params others")
        vector = torch.cat([v.reshape(-1) for v in vector])
    vector = torch.as_tensor(vector, device=held[0].device)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise BadInput("the loss must be one number, a tensor that depends on params")
    sizes = [p.numel() for p in held]
    if vector.shape != (sum(sizes),):
        raise BadInput(f"vector has shape {tuple(vector.shape)}, params hold {sum(sizes)} numbers")
    first = torch.autograd.grad(value, held, create_graph=True, allow_unused=True)
    along = [
        (g * v.reshape(p.shape).to(g)).sum()
        for g, p, v in zip(first, held, vector.split(sizes), strict=True)
        if g is not None and g.requires_grad
    ]
    second: Sequence[Any] = [None] * len(held)
    if along:
        second = torch.autograd.grad(torch.stack(along).sum(), held, allow_unused=True)
    flat = [torch.zeros_like(p) if s is None else s for p, s in zip(held, second, strict=True)]
    return torch.cat([f.reshape(-1) for f in flat]).detach()


def is_tensor(values: Any) -> bool:
    """Whether this is a torch tensor, told without loading torch."""
    return any(c.__module__ == "torch" and c.__name__ == "Tensor" for c in type(values).__mro__)


def like(values: Any, model: Any) -> Any:
    """The values as a tensor or an array, whichever the model is, in its precision."""
    if is_tensor(model):
        import torch

        return torch.as_tensor(values, dtype=model.dtype, device=model.device)
    return np.asarray(values, dtype=np.float64)


def vector(values: Any, name: str) -> Any:
    """(N,) floats without a gradient: an array of float64, or a tensor. Raises BadInput."""
    if is_tensor(values):
        found = values.detach()
        if not found.is_floating_point():
            found = found.double()
        elif found.dtype.itemsize < 4:  # sums of products in half precision lose the sign
            found = found.float()
    else:
        try:
            found = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise BadInput(f"{name} must hold numbers only") from None
    if found.ndim != 1:
        raise BadInput(f"{name} must be one row of numbers, not of shape {tuple(found.shape)}")
    return found


def finite(values: Any) -> Any:
    """Which entries are finite, in the kind of the values."""
    return values.isfinite() if is_tensor(values) else np.isfinite(values)


def _matrix(grads: Any, outer: Any) -> Any:
    """The inner gradients as (n, P), or None where they come one by one."""
    if not (is_tensor(grads) or isinstance(grads, np.ndarray | Sequence)):
        return None
    if isinstance(grads, Sequence):
        rows = [like(row, outer) for row in _checked(grads, outer)]
        if not rows:
            return like(np.zeros((0, len(outer))), outer)
        if is_tensor(outer):
            import torch

            return torch.stack(rows).detach()
        return np.stack(rows)
    found = like(grads.detach() if is_tensor(grads) else grads, outer)
    if found.ndim == 2 and not found.shape[0]:
        return like(np.zeros((0, len(outer))), outer)
    if found.ndim != 2 or found.shape[1] != len(outer):
        raise BadInput(
            f"grads_inner has shape {tuple(found.shape)}; with grad_outer of {len(outer)} numbers "
            f"it must be (examples, {len(outer)})"
        )
    return found


def _checked(rows: Iterable[Any], outer: Any) -> Iterable[Any]:
    for i, row in enumerate(rows):
        found = vector(row, f"inner gradient {i}")
        if len(found) != len(outer):
            raise BadInput(f"inner gradient {i} has {len(found)} numbers, grad_outer {len(outer)}")
        yield found


def _solve(outer: Any, held: Any, curvature: Curvature, damping: float, hessian: Any) -> Any:
    if curvature == "cg":
        return conjugate_gradient(hessian, outer, damping=damping).x
    if curvature == "exact":
        return _eliminate(hessian, outer, damping)
    scale = outer * 0 + damping
    if curvature == "diag":
        fine = held[finite(held).all(-1)]
        scale = scale + (fine * fine).sum(0) / max(1, len(fine))
    if not bool((scale > 0).all()):
        raise BadInput("this curvature is 0 in some direction; give a damping above 0")
    return outer / scale


def _eliminate(hessian: Any, outer: Any, damping: float) -> Any:
    matrix = like(hessian, outer)
    size = len(outer)
    if tuple(matrix.shape) != (size, size):
        raise BadInput(f"hessian has shape {tuple(matrix.shape)}, grad_outer {size} numbers")
    matrix = matrix + damping * like(np.eye(size), outer)
    if is_tensor(matrix):
        import torch

        found, failed = torch.linalg.solve_ex(matrix, outer)
        fine = not int(failed) and bool(found.isfinite().all())
    else:
        fine = bool(size == 0 or np.linalg.cond(matrix) < 1 / np.finfo(float).eps)
        found = np.linalg.solve(matrix, outer) if fine else outer
    if not fine:
        raise BadInput("the hessian cannot be inverted; give a damping above 0")
    return found


def _products(rows: Any, direction: Any) -> Any:
    """(n,) products; nan for rows that are not finite, whatever they are multiplied with."""
    out = rows @ direction
    out[~finite(rows).all(-1)] = float("nan")
    return out


def _multiply(matrix: Any, b: Any) -> Product:
    held = like(matrix, b)
    if tuple(held.shape) != (len(b), len(b)):
        raise BadInput(f"the matrix has shape {tuple(held.shape)}, b {len(b)} numbers")
    return lambda v: held @ v
