"""Several continuations of one prompt, for every model that can trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from nll.models._protocol import DEFAULT_FIELDS
from nll.trace import Array, Fields, Text, Trace


class _Traces(Protocol):
    def trace(self, texts: Iterable[Any], *, fields: Fields = ...) -> Iterator[Trace]: ...


class Continues:
    """`continuations` and `options` from a model's own `trace`."""

    def continuations(
        self: _Traces,
        prompt: str,
        continuations: Sequence[str],
        *,
        fields: Fields = DEFAULT_FIELDS,
    ) -> list[Trace]:
        """Traces of several continuations of one prompt, which a local model reads once."""
        return list(self.trace([Text.pair(prompt, c) for c in continuations], fields=fields))

    def options(self: _Traces, prompt: str, continuations: Sequence[str]) -> Array:
        """(n,) log p(continuation | prompt), nats, float64."""
        pairs = [Text.pair(prompt, c) for c in continuations]
        return np.array([t.values("logp").sum() for t in self.trace(pairs, fields=Fields())])
