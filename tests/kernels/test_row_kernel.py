"""Building, finding and doing without the compiled kernel."""

import os
import subprocess
import sys

import pytest
import torch

from nll import BadInput, NllError
from nll.kernels import _row_kernel, moments, row_kernel, visit_logits

Z, Y = torch.randn(64, 300), torch.arange(64)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No library loaded yet, and an empty cache folder."""
    monkeypatch.setattr(_row_kernel, "user_cache_dir", lambda _: str(tmp_path))
    _row_kernel._load.cache_clear()
    yield tmp_path / "kernels"
    _row_kernel._load.cache_clear()


def test_the_choice_is_obeyed(kernel):
    assert row_kernel() == kernel


def test_an_unknown_choice_is_told(monkeypatch):
    monkeypatch.setenv("NLL_ROW_KERNEL", "fortran")
    with pytest.raises(BadInput, match="auto, c or torch"):
        visit_logits(Z, Y, [moments])


@pytest.mark.parametrize("broken", ["no compiler", "failing compiler", "no folder"])
def test_without_a_compiled_kernel_the_twin_serves(fresh, monkeypatch, tmp_path, broken):
    if broken == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif broken == "failing compiler":
        (tmp_path / "cc").write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
        (tmp_path / "cc").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    else:
        fresh.write_text("a file where the folder should be")
    monkeypatch.setenv("NLL_ROW_KERNEL", "auto")
    assert row_kernel() == "torch"
    assert visit_logits(Z, Y, [moments])["logp"].shape == (64,)
    monkeypatch.setenv("NLL_ROW_KERNEL", "c")
    with pytest.raises(NllError, match="cannot be used"):
        row_kernel()


def test_a_kernel_with_wrong_numbers_is_not_used(fresh, monkeypatch, compiled):
    _row_kernel._library()
    right = _row_kernel.twin.row_stats

    def other(z, targets, k):
        return right(z + torch.arange(z.shape[1]) % 2, targets, k)

    monkeypatch.setattr(_row_kernel.twin, "row_stats", other)
    _row_kernel._load.cache_clear()
    with pytest.raises(NllError, match="differ from the torch twin"):
        row_kernel()


def test_it_is_built_once_and_leaves_nothing_else(fresh, compiled):
    assert row_kernel() == "c"
    (built,) = fresh.glob("*.so")
    stamp = built.stat().st_mtime_ns
    _row_kernel._load.cache_clear()
    assert row_kernel() == "c"
    assert built.stat().st_mtime_ns == stamp
    assert {p.suffix for p in fresh.iterdir()} <= {".so", ".lock"}


def test_threads_give_the_same_bits(kernel):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = visit_logits(Z, Y, [moments])
        torch.set_num_threads(3)
        three = visit_logits(Z, Y, [moments])
    finally:
        torch.set_num_threads(before)
    for name in one:
        assert torch.equal(one[name], three[name])


def test_a_forked_process_starts_its_own_threads(compiled):
    code = (
        "import os, torch\n"
        "from nll.kernels import moments, visit_logits\n"
        "torch.set_num_threads(2)\n"
        "z, y = torch.randn(64, 300), torch.arange(64)\n"
        "before = visit_logits(z, y, [moments])['logp']\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    from nll.kernels._row_kernel import row_stats\n"
        "    os._exit(int(not torch.equal(row_stats(z, y, 0).logp.float(), before)))\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
