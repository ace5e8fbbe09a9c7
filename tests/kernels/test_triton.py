"""The Triton row kernel against its torch twin and the float64 oracle, in Triton's interpreter."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nll import NllError
from nll.kernels import _row_kernel, _torch_rows, _triton, moments, reference, visit_logits

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel runs on CPU tensors, statement by statement."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("NLL_ROW_KERNEL", "triton")
    monkeypatch.setattr(_triton, "_BLOCK", 64)  # several blocks even for a small vocabulary
    for held in (_triton._kernel, _triton.trouble):
        held.cache_clear()
    yield
    for held in (_triton._kernel, _triton.trouble):
        held.cache_clear()


def rows(V: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain rows and hard ones: ties, -inf, nan, +inf, one certain token, no label."""
    draw = torch.Generator().manual_seed(V)
    z = torch.randn(9, V, generator=draw) * 4
    y = torch.randint(0, V, (9,), generator=draw)
    z[1] = z[1].round()
    z[2, : V // 2] = -math.inf
    z[3, V - 1] = math.nan
    z[4, 0] = math.inf
    z[5] = -math.inf
    z[6, V // 3] = 300.0
    z[7] = torch.linspace(-50, 50, V)  # the maximum moves in every block
    y[8] = -1
    return z, y


@needs_triton
@pytest.mark.parametrize("V", [1, 2, 63, 64, 65, 257, 1000])
@pytest.mark.parametrize("k", [0, 5])
def test_it_equals_the_twin(interpreted, V, k):
    z, y = rows(V)
    ours, theirs = _triton.row_stats(z, y, min(k, V)), _torch_rows.row_stats(z, y, min(k, V))
    for name, a, b in zip(ours._fields, ours, theirs, strict=True):
        assert a.dtype == b.dtype, name
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5, equal_nan=True, msg=name)
    for name in ("rank", "ties", "finite", "top_ids"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@needs_triton
def test_it_meets_the_oracle_and_the_bounds(interpreted):
    draw = torch.Generator().manual_seed(3)
    z, y = torch.randn(12, 700, generator=draw) * 3, torch.arange(12)
    got, wanted = _triton.row_stats(z, y, 4), reference.stats(z.numpy(), y.numpy(), k=4)
    for name in ("logp", "entropy", "varentropy", "lse", "kl_uniform", "top_logp"):
        np.testing.assert_allclose(getattr(got, name), wanted[name], atol=2e-5, rtol=1e-5)
    for name in ("rank", "ties", "top_ids"):
        np.testing.assert_array_equal(getattr(got, name), wanted[name])
    assert (got.logp <= 0).all()
    assert ((got.entropy >= 0) & (got.entropy <= math.log(700))).all()
    assert ((got.rank >= 1) & (got.rank <= 700)).all()


@needs_triton
def test_it_serves_a_visit_when_asked_for(interpreted, monkeypatch):
    calls = []
    real = _triton.row_stats
    monkeypatch.setattr(_triton, "row_stats", lambda *a: calls.append(1) or real(*a))
    z, y = torch.randn(5, 200), torch.arange(5)
    ours = visit_logits(z, y, [moments])
    assert calls
    monkeypatch.setenv("NLL_ROW_KERNEL", "torch")
    calls.clear()
    theirs = visit_logits(z, y, [moments])
    assert not calls
    torch.testing.assert_close(ours["entropy"], theirs["entropy"], rtol=2e-5, atol=2e-5)


def test_wrong_numbers_are_found_before_use(monkeypatch):
    """The check at first use, with a kernel that is wrong by one rank."""
    monkeypatch.setattr(_triton, "find_spec", lambda name: object())
    right = _torch_rows.row_stats

    def wrong(z, targets, k):
        found = right(z, targets, k)
        return found._replace(rank=found.rank + 1)

    _triton.trouble.cache_clear()
    monkeypatch.setattr(_triton, "row_stats", wrong)
    assert _triton.trouble(torch.device("cpu")) == "its rank differs from the torch twin's"
    with pytest.raises(NllError, match="cannot be used: its rank differs"):
        _triton.need(torch.device("cpu"))
    _triton.trouble.cache_clear()
    monkeypatch.setattr(_triton, "row_stats", right)
    assert _triton.trouble(torch.device("cpu")) is None
    _triton.trouble.cache_clear()


def test_a_gpu_without_a_working_kernel_is_told_once(monkeypatch):
    gpu = SimpleNamespace(is_cuda=True, device="cuda:0", shape=(1, 2), is_contiguous=lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("NLL_ROW_KERNEL", "auto")
    monkeypatch.setattr(_triton, "trouble", lambda device: "no such compiler")
    monkeypatch.setattr(_row_kernel, "_told", [])
    with pytest.warns(UserWarning, match="torch row kernel is used on cuda:0: no such compiler"):
        assert not _row_kernel._on_triton(gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not _row_kernel._on_triton(gpu)
    monkeypatch.setattr(_triton, "trouble", lambda device: None)
    assert _row_kernel._on_triton(gpu)
    monkeypatch.setenv("NLL_ROW_KERNEL", "torch")
    assert not _row_kernel._on_triton(gpu)


def test_cpu_tensors_are_left_to_the_other_kernels(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("NLL_ROW_KERNEL", "triton")
    assert not _row_kernel._on_triton(torch.zeros(2, 3))
