"""One visit per block of rows: every statistic is taken while the logits lie in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from nll._errors import BadInput
from nll.kernels._head import Head
from nll.kernels._row_kernel import row_lse, row_stats
from nll.kernels._torch_rows import RowStats

Reducer: TypeAlias = Callable[["Block"], Mapping[str, Tensor]]

MAX_WIDTH = 16384
_CPU_BUDGET = 64 << 20
_GPU_BUDGET = 1 << 30


class Block:
    """The logits of some rows, and what several reducers share about them.

    logits: (R, V) float32; read only.   targets: (R,) int64, -1 for no label.
    rows: (R, d) hidden states, or None when logits were given.
    reference: (R, V2) float32 logits of the second model, or None.
    """

    def __init__(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        k: int = 0,
        rows: Tensor | None = None,
        reference: Tensor | None = None,
    ):
        self.logits = logits
        self.targets = targets
        self.rows = rows
        self.reference = reference
        self._k = k
        self._log_powers: dict[float, Tensor] = {}

    @cached_property
    def stats(self) -> RowStats:
        """All statistics of one pass over the logits, taken at the first use."""
        return row_stats(self.logits, self.targets, self._k)

    def log_power(self, beta: float) -> Tensor:
        """(R,) float64 ln sum_v exp(beta (z_v - max z)), kept for the next reducer."""
        if beta not in self._log_powers:
            self._log_powers[beta] = row_lse(self.logits, self.stats.max, beta)
        return self._log_powers[beta]


def block_rows_for(vocab_size: int, device: torch.device, models: int = 1) -> int:
    """Rows per block: budget / (8 V), at least 64; logits then take half the budget or less."""
    cpu = device.type == "cpu"
    budget, most = (_CPU_BUDGET, 256) if cpu else (_GPU_BUDGET, 1024)
    return max(64, min(most, budget // (8 * vocab_size * models)))


@torch.no_grad()
def visit(
    rows: Tensor,
    targets: Tensor,
    head: Head,
    reducers: Sequence[Reducer],
    *,
    reference: tuple[Tensor, Head] | None = None,
    block_rows: int | None = None,
) -> dict[str, Tensor]:
    """Run all reducers over (N, d) hidden states in blocks; the (N, V) logits never exist.

    rows: (N, d), any float dtype, as they enter the unembedding.   targets: (N,) int64, the id that
    each row predicts, -1 for none.   reference: hidden states (N, d2) of the same positions under a
    second model, and its head.   block_rows: most rows per block; memory is R V 4 bytes a model.
    Returns the reducers' keys, each (N,) or (N, small), on the device of the head.
    Raises BadInput when shapes disagree, a target is outside the vocabulary, or a reducer returns
    something as wide as the vocabulary.
    """
    _check(rows.shape[0], targets, head.vocab_size)
    size = block_rows or block_rows_for(
        head.vocab_size, head.weight.device, 1 if reference is None else 2
    )
    room = _Room(head, size, rows)
    targets = targets.to(head.weight.device)
    second = None
    if reference is not None:
        if len(reference[0]) != len(rows):
            raise BadInput(f"{len(reference[0])} reference rows for {len(rows)} rows")
        second = _Room(reference[1], size, reference[0])

    def blocks() -> Iterator[Block]:
        k = _most_wanted(reducers)
        for a, b in _cuts(len(rows), size):
            yield Block(
                room.logits(a, b), targets[a:b], k=k, rows=rows[a:b],
                reference=None if second is None else second.logits(a, b),
            )  # fmt: skip

    return _collect(blocks(), reducers, len(rows), head.weight.device)


@torch.no_grad()
def visit_logits(
    logits: Tensor,
    targets: Tensor,
    reducers: Sequence[Reducer],
    *,
    reference: Tensor | None = None,
    block_rows: int | None = None,
) -> dict[str, Tensor]:
    """As `visit`, for (N, V) logits that exist already (a generation step); none is changed."""
    if logits.dim() != 2:
        raise BadInput(f"logits must be (rows, vocabulary), not {tuple(logits.shape)}")
    _check(logits.shape[0], targets, logits.shape[1])
    if reference is not None and len(reference) != len(logits):
        raise BadInput(f"{len(reference)} reference rows for {len(logits)} rows")
    size = block_rows or block_rows_for(logits.shape[1], logits.device)
    targets = targets.to(logits.device)

    def blocks() -> Iterator[Block]:
        k = _most_wanted(reducers)
        for a, b in _cuts(len(logits), size):
            yield Block(
                logits[a:b].float().contiguous(), targets[a:b], k=k,
                reference=None if reference is None else reference[a:b].float().contiguous(),
            )  # fmt: skip

    return _collect(blocks(), reducers, len(logits), logits.device)


class _Room:
    """One buffer of logits, used again by every block: fresh memory costs more than the sums."""

    def __init__(self, head: Head, size: int, rows: Tensor):
        self.head, self.rows = head, rows
        shape = (min(size, len(rows)), head.vocab_size)
        self.buffer = torch.empty(shape, dtype=torch.float32, device=head.weight.device)

    def logits(self, a: int, b: int) -> Tensor:
        return self.head.logits(self.rows[a:b], out=self.buffer[: b - a])


def _cuts(n: int, size: int) -> Iterator[tuple[int, int]]:
    # equal blocks, since a last one of few rows multiplies slowly; an empty input is one empty
    # block, so that the keys and widths are known
    blocks = max(1, -(-n // size))
    for i in range(blocks):
        yield n * i // blocks, n * (i + 1) // blocks


def _most_wanted(reducers: Sequence[Reducer]) -> int:
    return max((int(getattr(r, "k", 0)) for r in reducers), default=0)


def _check(n: int, targets: Tensor, vocab_size: int) -> None:
    if targets.shape != (n,) or targets.dtype != torch.int64:
        raise BadInput(f"targets must be ({n},) int64, not {tuple(targets.shape)} {targets.dtype}")
    if n and not (int(targets.min()) >= -1 and int(targets.max()) < vocab_size):
        raise BadInput(
            f"targets span {int(targets.min())} to {int(targets.max())}, but must be -1 (no label) "
            f"or below the vocabulary's {vocab_size}"
        )


def _collect(
    blocks: Iterator[Block], reducers: Sequence[Reducer], n: int, device: torch.device
) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    at = 0
    for block in blocks:
        size = len(block.logits)
        for reducer in reducers:
            for key, value in reducer(block).items():
                if key not in out:
                    _check_width(key, value, block)
                    out[key] = torch.empty((n, *value.shape[1:]), dtype=value.dtype, device=device)
                out[key][at : at + size] = value
        at += size
    return out


def _check_width(key: str, value: Tensor, block: Block) -> None:
    size, V = block.logits.shape
    width = value.shape[1] if value.dim() == 2 else 1
    whole = width >= V and V > 1024
    if value.dim() not in (1, 2) or len(value) != size or width > MAX_WIDTH or whole:
        raise BadInput(
            f"a reducer returned {key} of shape {tuple(value.shape)} for {size} rows; it must be "
            f"(rows,) or (rows, small), never as wide as the vocabulary ({V})"
        )
