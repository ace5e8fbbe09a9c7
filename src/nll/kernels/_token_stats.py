"""The convenient form: hidden states in, numpy arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nll.kernels._head import Head
from nll.kernels._reducers import hidden, reducers_for
from nll.kernels._visit import visit
from nll.trace import Array, Fields


def token_stats(
    rows: Tensor | Array,
    head: Head | Tensor | Array,
    targets: Tensor | Array | Sequence[int],
    *,
    fields: Fields = Fields(),  # noqa: B008  frozen
    boundary_ids: Sequence[int] | None = None,
    reference: tuple[Tensor | Array, Head | Tensor | Array] | None = None,
    block_rows: int | None = None,
) -> dict[str, Array]:
    """Per-token statistics of (N, d) hidden states under an unembedding, in bounded memory.

    rows: (N, d).   head: a Head, or its (V, d) weight.   targets: (N,) ids, -1 for no label (then
    logp is nan, rank and ties -1).   reference: states and head of a second model.
    Returns logp, entropy, varentropy, lse (float32, nats), rank, ties (int32), each (N,), and what
    `fields` asks for beyond them; see the reducers.

    Example:
        >>> import numpy as np
        >>> stats = token_stats(np.eye(2), np.zeros((4, 2)), [0, 3])
        >>> stats["logp"].round(4).tolist(), stats["rank"].tolist()
        ([-1.3863, -1.3863], [1, 1])
    """
    other = None if reference is None else (_tensor(reference[0]), _head(reference[1]))
    reducers = reducers_for(fields, boundary_ids=boundary_ids, with_reference=reference is not None)
    if fields.hidden:
        reducers.append(hidden)
    out = visit(
        _tensor(rows),
        torch.as_tensor(targets, dtype=torch.int64),
        _head(head),
        reducers,
        reference=other,
        block_rows=block_rows,
    )
    return {key: value.cpu().numpy() for key, value in out.items()}


def _tensor(x: Tensor | Array) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=torch.float32)


def _head(head: Head | Tensor | Array) -> Head:
    return head if isinstance(head, Head) else Head(_tensor(head))
