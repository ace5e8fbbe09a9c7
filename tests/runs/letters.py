"""A model of the simplest kind for tests of runs: surprisal is the place in the alphabet.

It needs no torch, is exact, and can be slow on purpose. It writes the id of every text it reads to
LETTERS_LOG and waits LETTERS_DELAY seconds for each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nll import BadText, Fields, Provenance, Rejected, Text, Trace
from nll.models._protocol import DEFAULT_FIELDS


class Letters:
    def __init__(self, **identity: str):
        self.identity: Mapping[str, str] = {"model": "letters", "dtype": "float32", **identity}

    def trace(
        self,
        texts: Iterable[Any],
        *,
        fields: Fields = DEFAULT_FIELDS,
        reference: Any = None,
        stride: int | None = None,
        on_reject: Callable[[Rejected], None] | None = None,
    ) -> Iterator[Trace]:
        log, delay = os.environ.get("LETTERS_LOG"), float(os.environ.get("LETTERS_DELAY", "0"))
        for i, value in enumerate(texts):
            text = Text.of(value)
            if log:
                with open(log, "a") as file:
                    file.write(f"{text.id}\n")
            time.sleep(delay)
            if "\N{OBJECT REPLACEMENT CHARACTER}" in text.text:
                error = Rejected(i, "no_tokens", "the text has no tokens", text.id)
                if on_reject is None:
                    raise BadText(error.reason, error.detail)
                on_reject(error)
                continue
            yield self._one(text, fields)

    def _one(self, text: Text, fields: Fields) -> Trace:
        whole = (text.prompt or "") + text.text
        code = np.array([ord(c) for c in whole])
        logp = (-(code % 26 + 1) / 10).astype(np.float32)
        logp[0] = np.nan
        n, k = len(code), fields.top_k
        return Trace(
            logp,
            entropy=np.where(np.isnan(logp), np.nan, 2).astype(np.float32),
            varentropy=np.where(np.isnan(logp), np.nan, 1).astype(np.float32),
            rank=np.where(np.isnan(logp), -1, code % 26 + 1),
            ties=np.where(np.isnan(logp), -1, 0),
            ids=code,
            spans=np.stack([np.arange(n), np.arange(n) + 1], 1),
            text=whole,
            prompt_tokens=len(text.prompt or ""),
            top_ids=np.tile(np.arange(k), (n, 1)),
            top_logp=np.zeros((n, k), np.float32) - 3,
            betas=fields.betas,
            lse_at=np.zeros((n, len(fields.betas)), np.float32) if fields.betas else None,
            vocab={int(c): chr(c) for c in {*code}} | {i: f"top{i}" for i in range(k)},
            provenance=Provenance(model="letters", dtype=self.identity["dtype"], vocab_size=26),
            id=text.id,
        )

    def generate(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    continuations = options = generate


def load(name: str | None = None, **options: Any) -> Letters:
    return Letters(name=str(name), dtype=str(options.get("dtype")))
