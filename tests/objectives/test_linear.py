"""Log-probs from hidden states equal those from logits, in value and in every gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nll._errors import BadInput
from nll.objectives import linear_logps, token_logps
from tests.objectives.cases import normal

HEADS = [
    {},
    {"bias": True},
    {"scale": 0.25},
    {"softcap": 3.0},
    {"bias": True, "scale": 1.7, "softcap": 2.0},
]


def batch(dtype: torch.dtype, B: int = 2, T: int = 5, d: int = 6, V: int = 11) -> dict[str, Any]:
    labels = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(5))
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, 2] = mask[-1, -1] = False
    return {
        "hidden": normal(1, B, T, d).to(dtype), "weight": normal(2, V, d).to(dtype),
        "bias": normal(3, V).to(dtype), "labels": labels, "mask": mask,
    }  # fmt: skip


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None = None,
          scale: float = 1, softcap: float | None = None, **options: Any) -> Tensor:  # fmt: skip
    z = hidden @ weight.T
    z = (z if bias is None else z + bias) * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return token_logps(z, labels, mask, **options).logp


def both(data: dict[str, Any], frozen: tuple[str, ...] = (), **options: Any) -> list[dict]:
    """Values and gradients of the fused way and of the plain way, with uneven upstream."""
    out = []
    for fused in (True, False):
        tensors = {
            n: data[n].clone().requires_grad_(n not in frozen)
            for n in ("hidden", "weight", "bias") if n != "bias" or options.get("bias")
        }  # fmt: skip
        rest = {
            n: v
            for n, v in options.items()
            if n != "bias" and (fused or n not in ("tile", "kept_bytes"))
        }
        arguments = {**tensors, "labels": data["labels"], "mask": data["mask"], **rest}
        logp = linear_logps(**arguments).logp if fused else plain(**arguments)
        upstream = torch.linspace(-1, 1, logp.numel(), dtype=logp.dtype).reshape(logp.shape)
        (logp * upstream).sum().backward()
        slopes = {n: t.grad for n, t in tensors.items() if n not in frozen}
        out.append({"logp": logp.detach(), **slopes})
        assert all(tensors[n].grad is None for n in frozen if n in tensors)
    return out


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tile", [None, (1, 1), (3, 4), (2, 11), (64, 5)])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias"), ("hidden",)])
def test_equals_the_plain_way(
    head: dict[str, Any], tile: tuple[int, int] | None, frozen: tuple[str, ...]
) -> None:
    for kept in (0, 3 * 11 * 8, None):
        ours, theirs = both(batch(torch.float64), frozen, tile=tile, kept_bytes=kept, **head)
        for name in theirs:
            assert torch.allclose(ours[name], theirs[name], rtol=1e-11, atol=1e-12), (name, kept)


def test_exact_at_a_real_size() -> None:
    for frozen, kept in (((), 0), ((), 10 << 20), (("weight",), 0)):
        data = batch(torch.float32, B=3, T=500, d=32, V=5000)
        data["weight"] *= 0.5
        ours, theirs = both(data, frozen, kept_bytes=kept)
        for name in theirs:
            scale = theirs[name].abs().max()
            assert (ours[name] - theirs[name]).abs().max() <= 1e-5 * max(1, scale), name


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_against_finite_differences(head: dict[str, Any], frozen: bool) -> None:
    data = batch(torch.float64)
    bias = data["bias"].requires_grad_(not frozen) if head.get("bias") else None
    data["weight"].requires_grad_(not frozen)
    rest = {n: v for n, v in head.items() if n != "bias"}

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear_logps(hidden, weight, data["labels"], data["mask"], bias=bias,
                            tile=(3, 4), kept_bytes=3 * 11 * 8, **rest).logp  # fmt: skip

    assert torch.autograd.gradcheck(loss, (data["hidden"].requires_grad_(), data["weight"], bias))


@given(
    rows=st.integers(0, 7), d=st.integers(1, 5), V=st.integers(1, 9), seed=st.integers(0, 99),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape(rows: int, d: int, V: int, seed: int, tile: tuple[int, int]) -> None:
    hidden, weight = normal(seed, rows, d), normal(seed + 1, V, d)
    labels = torch.randint(V, (rows,), generator=torch.Generator().manual_seed(seed))
    ours = linear_logps(hidden, weight, labels, shift=False, tile=tile).logp
    assert torch.allclose(ours, token_logps(hidden @ weight.T, labels, shift=False).logp)


@pytest.mark.parametrize("frozen", [(), ("weight",)])
def test_rows_that_do_not_count_spoil_nothing(frozen: tuple[str, ...]) -> None:
    data = batch(torch.float64)
    clean = both(data, frozen)[0]
    data["hidden"][:, -1] = math.nan
    data["hidden"][0, 1] = math.inf
    dirty = both(data, frozen)[0]
    assert all(torch.equal(clean[name], dirty[name]) for name in clean)
    assert (dirty["hidden"][0, 1] == 0).all()


def test_nothing_counts() -> None:
    data = batch(torch.float64)
    data["mask"][:] = False
    ours = both(data)[0]
    assert all((value == 0).all() for value in ours.values())


def test_forbidden_tokens() -> None:
    """A bias of -inf over a whole tile takes its tokens out of the sum."""
    data = batch(torch.float64, V=9)
    data["bias"][:4] = -math.inf
    data["labels"] = data["labels"].clamp(min=4)
    for kept in (0, 4 * 9 * 8):
        ours, theirs = both(data, ("bias",), bias=True, tile=(3, 2), kept_bytes=kept)
        for name in ours:
            assert torch.allclose(ours[name], theirs[name], rtol=1e-11, atol=1e-12), name


@pytest.mark.parametrize("scale", [1e-30, 1e4])
def test_extreme_logits(scale: float) -> None:
    for frozen in ((), ("weight",)):
        ours, theirs = both(batch(torch.float64), frozen, scale=scale, tile=(3, 4))
        assert torch.allclose(ours["logp"], theirs["logp"], rtol=1e-11)
        assert torch.allclose(ours["hidden"], theirs["hidden"], rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("frozen", [(), ("weight",)])
@pytest.mark.parametrize("kept", [0, 9 * 300 * 4, None])
def test_half_precision_is_no_worse_than_the_plain_way(
    frozen: tuple[str, ...], kept: int | None
) -> None:
    data = batch(torch.bfloat16, T=40, d=16, V=300)
    exact = both({n: v.double() if v.is_floating_point() else v for n, v in data.items()}, frozen)
    ours, theirs = both(data, frozen, kept_bytes=kept)
    assert ours["logp"].dtype == torch.float32
    for name in ours:
        own, other = ((x[name].double() - exact[1][name]).abs().max() for x in (ours, theirs))
        assert own <= other * 1.5 + 1e-3, name


def test_autocast_lowers_the_products() -> None:
    data = batch(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = both(data)
    for name in ours:
        assert torch.allclose(ours[name].float(), theirs[name].float(), rtol=0.05, atol=0.1)
    assert ours["weight"].dtype == torch.float32


def test_no_tensor_wider_than_a_tile() -> None:
    """The largest tensor made in training is the tile, or the weight's own gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(o.numel() for o in (out if isinstance(out, tuple) else (out,))
                         if isinstance(o, Tensor))  # fmt: skip
            return out

    N, V, d = 300, 2000, 4
    labels = torch.randint(V, (N,), generator=torch.Generator().manual_seed(0))
    for frozen in (True, False):
        hidden = normal(0, N, d).requires_grad_()
        weight = normal(1, V, d).requires_grad_(not frozen)
        with Watch():
            logp = linear_logps(
                hidden, weight, labels, shift=False, tile=(32, 128), kept_bytes=16 * V * 8
            ).logp
            logp.sum().backward()
        assert max(sizes) <= max(16 * 32 * 128, V * d) < N * V
        with Watch():
            plain(hidden, weight, labels, labels >= 0, shift=False).sum().backward()
        assert max(sizes) == N * V
        sizes.clear()


def test_a_second_backward_pass_finds_the_same() -> None:
    data = batch(torch.float64)
    hidden, weight = data["hidden"].requires_grad_(), data["weight"].requires_grad_()
    logp = linear_logps(hidden, weight, data["labels"], kept_bytes=3 * 11 * 8).logp.sum()
    first = torch.autograd.grad(logp, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(logp, (hidden, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(11, 5)}, r"\(V, d\)"),
        ({"labels": torch.zeros(2, 4).long()}, r"labels \(2, 4\)"),
        ({"bias": torch.zeros(10).double()}, r"the bias has shape \(10,\), the vocabulary 11"),
        ({"weight": torch.zeros(11, 6)}, "share a dtype"),
        ({"softcap": 0.0}, "softcap must be positive"),
        ({"tile": (0, 4)}, "tile must be"),
        ({"labels": torch.full((2, 5), 11)}, "the vocabulary has 11"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    data = {**batch(torch.float64), "mask": None, "bias": None, **change}
    with pytest.raises(BadInput, match=message):
        linear_logps(**data)
