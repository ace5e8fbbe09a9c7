"""The compiled CPU row kernel: built once with the system's C compiler, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_dir
from torch import Tensor

from nll._errors import BadInput, NllError
from nll.kernels import _torch_rows as twin
from nll.kernels import _triton
from nll.kernels._torch_rows import RowStats

# Without -ffast-math: nan and -inf must keep their meaning.
_FLAGS = (
    "-O3", "-march=native", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-shared", "-fPIC",
)  # fmt: skip
_COMPILERS = ("cc", "gcc", "clang")
_MAX_K = 64
_MAX_V = 1 << 20
_REALS = ("max", "log_s", "lse", "logp", "entropy", "varentropy", "kl_uniform")
_COUNTS = ("rank", "ties", "finite")
_ROWS_A_THREAD = 4


def row_stats(z: Tensor, targets: Tensor, k: int) -> RowStats:
    """As the torch twin (`_torch_rows.row_stats`), compiled where that is possible."""
    k = min(k, z.shape[1])
    if _on_triton(z):
        return _triton.row_stats(z, targets, k)
    library = _library() if _fits(z) and k <= _MAX_K else None
    if library is None:
        return twin.row_stats(z, targets, k)
    return _compiled_row_stats(library, z, targets.contiguous(), k)


def _compiled_row_stats(library: ctypes.CDLL, z: Tensor, targets: Tensor, k: int) -> RowStats:
    R, V = z.shape
    real = torch.empty(R, len(_REALS), dtype=torch.float64)
    count = torch.empty(R, len(_COUNTS), dtype=torch.int32)
    ids, top = torch.empty(R, k, dtype=torch.int32), torch.empty(R, k)

    def some(a: int, b: int) -> None:
        library.nll_row_stats(
            _at(z, a), b - a, V, _at(targets, a), k, _at(real, a), _at(count, a), _at(ids, a),
            _at(top, a),
        )  # fmt: skip

    _in_threads(some, R)
    return RowStats(
        **{name: real[:, j] for j, name in enumerate(_REALS)},
        **{name: count[:, j] for j, name in enumerate(_COUNTS)},
        top_ids=ids,
        top_logp=top,
    )


def row_lse(z: Tensor, shift: Tensor, beta: float, add: Tensor | None = None) -> Tensor:
    """(R,) float64 ln sum_v exp(beta (z_v - shift) + add_v), beta >= 0; add is (V,) float32."""
    library = _library() if _fits(z) else None
    if library is None:
        return twin.row_lse(z, shift, beta, add)
    shift = shift.to(torch.float64).contiguous()
    out = torch.empty(len(z), dtype=torch.float64)
    plus = None if add is None else _at(add, 0)

    def some(a: int, b: int) -> None:
        library.nll_row_lse(_at(z, a), b - a, z.shape[1], _at(shift, a), beta, plus, _at(out, a))

    _in_threads(some, len(z))
    return out


def row_kernel() -> str:
    """`c` when the compiled kernel serves CPU tensors here, else `torch` (same results, slower).

    The environment variable NLL_ROW_KERNEL chooses: `auto` (default; C on a CPU, Triton on a GPU,
    where they work), `torch`, or `c` or `triton`, which make it an error when that one fails.
    """
    return "torch" if _library() is None else "c"


def _on_triton(z: Tensor) -> bool:
    choice = os.environ.get("NLL_ROW_KERNEL", "auto")
    if choice not in ("auto", "triton") or not _triton.serves(z):
        return False
    if choice == "triton":
        _triton.need(z.device)
        return True
    if not z.is_cuda:
        return False
    why = _triton.trouble(z.device)
    if why is not None and not _told:
        _told.append(why)
        warnings.warn(f"the torch row kernel is used on {z.device}: {why}", stacklevel=2)
    return why is None


_told: list[str] = []


def _fits(z: Tensor) -> bool:
    return z.device.type == "cpu" and z.is_contiguous() and z.shape[1] <= _MAX_V


def _at(x: Tensor, row: int) -> int:
    return x.data_ptr() + row * x.stride(0) * x.element_size()


def _in_threads(some: Callable[[int, int], None], rows: int) -> None:
    n = min(torch.get_num_threads(), -(-rows // _ROWS_A_THREAD))
    if n <= 1:
        return some(0, rows)
    cuts = [rows * i // n for i in range(n + 1)]
    waiting = [_pool(n - 1).submit(some, a, b) for a, b in pairwise(cuts[1:])]
    some(cuts[0], cuts[1])
    for one in waiting:
        one.result()
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="nll-rows")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _pool.cache_clear())  # threads do not survive a fork


def _library() -> ctypes.CDLL | None:
    choice = os.environ.get("NLL_ROW_KERNEL", "auto")
    if choice == "torch":
        return None
    if choice not in ("auto", "c", "triton"):
        raise BadInput(f"NLL_ROW_KERNEL must be triton, auto, c or torch, not '{choice}'")
    found = _load()
    if isinstance(found, str):
        if choice == "c":
            raise NllError(f"NLL_ROW_KERNEL=c, but the row kernel cannot be used: {found}")
        return None
    return found


@cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    compiler = next((c for c in _COMPILERS if shutil.which(c)), None)
    if compiler is None:
        return f"no C compiler ({', '.join(_COMPILERS)}) was found"
    try:
        library = _open(_build(compiler, Path(user_cache_dir("nll")) / "kernels"))
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return f"{compiler}: {detail.strip()}"
    return library if _agrees(library) else f"{compiler}: its results differ from the torch twin's"


def _agrees(library: ctypes.CDLL) -> bool:
    """A miscompiled kernel would be silently wrong: compare with the twin on a small block."""
    z = torch.arange(2 * 1003).remainder(601).mul(0.03).view(2, -1).contiguous()
    z[0, 5] = -torch.inf
    targets = torch.tensor([7, 900])
    ours, theirs = _compiled_row_stats(library, z, targets, 9), twin.row_stats(z, targets, 9)
    return all(
        torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-5)
        for a, b in zip(ours, theirs, strict=True)
    )


def _build(compiler: str, folder: Path) -> Path:
    """Compile into `folder` unless it is there; the name says for which source, flags and CPU."""
    source = Path(__file__).with_name("row_stats.c")
    key = hashlib.sha256(source.read_bytes())
    key.update("\0".join((compiler, *_FLAGS, platform.machine(), _cpu())).encode())
    target = folder / f"row_stats-{key.hexdigest()[:24]}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(f"{target}.lock"):
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=folder) as room:
            built = Path(room) / target.name
            subprocess.run(
                [compiler, *_FLAGS, "-o", str(built), str(source), "-lm"],
                check=True, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            built.replace(target)
    return target


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, long = ctypes.c_void_p, ctypes.c_long
    library.nll_row_stats.argtypes = [
        pointer, long, long, pointer, ctypes.c_int, pointer, pointer, pointer, pointer,
    ]  # fmt: skip
    library.nll_row_stats.restype = None
    library.nll_row_lse.argtypes = [
        pointer, long, long, pointer, ctypes.c_float, pointer, pointer,
    ]  # fmt: skip
    library.nll_row_lse.restype = None
    return library


def _cpu() -> str:
    """What -march=native looked at: a cache folder may be shared by machines that differ."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = info.read_text(errors="replace").split("\n\n", 1)[0].splitlines()
    kept = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(kept))
