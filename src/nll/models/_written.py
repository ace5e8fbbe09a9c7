"""An answer of an engine that writes in this process, and the trace that it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nll.models._encode import Encoded, piece_spans
from nll.models._how import How
from nll.trace import PAST_END, Array, Provenance, Trace


@dataclass(slots=True)
class Answer:
    """One answer as it grows, with what is known of each of its tokens."""

    prompt: int
    greedy: bool
    tokens: list[int] = field(default_factory=list)
    values: dict[str, list[Array]] = field(default_factory=dict)
    ended: bool = False

    def add(self, token: int, values: dict[str, Array]) -> None:
        """One more token and its values."""
        self.tokens.append(token)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


def stopped(hf: Any, tokens: list[int], stop: tuple[str, ...]) -> bool:
    """Whether what these tokens write holds one of the strings."""
    if not stop:
        return False
    text = hf.decode(tokens, clean_up_tokenization_spaces=False)
    return any(s in text for s in stop)


def written(
    prompt: Encoded, answer: Answer, how: How, seed: tuple[int, int],
    *, hf: Any, strings: Callable[[Array], dict[int, str]], provenance: Provenance,
) -> Trace:  # fmt: skip
    """An answer with its prompt, of whose tokens nothing is known but that they were read.

    hf: a tokenizer with `decode`.   strings: what token ids stand for.   seed: of its draws.
    """
    fields = how.fields
    tokens, pieces, reason = _finish(hf, answer.tokens, answer.ended, how.stop)
    held: dict[str, Any] = {
        k: _after(np.stack(v)[: len(tokens)], len(prompt.ids), past_end=k in PAST_END)
        for k, v in answer.values.items()
    }
    ids = np.concatenate([prompt.ids, np.array(tokens, np.int64)])
    spans = np.concatenate([
        prompt.spans, np.asarray(pieces, np.int32).reshape(-1, 2) + len(prompt.text)
    ])  # fmt: skip
    known = np.concatenate([ids, held["top_ids"].ravel()] if fields.top_k else [ids])
    return Trace(
        ids=ids, spans=spans, betas=fields.betas, prompt_tokens=len(prompt.ids),
        text=prompt.text + hf.decode(tokens, clean_up_tokenization_spaces=False),
        vocab=strings(known[known >= 0]),
        provenance=dataclasses.replace(
            provenance, kind=prompt.kind, finish_reason=reason,
            decoding="greedy" if answer.greedy else "sampled",
            sampling={} if answer.greedy else {**how.sampling, "seed": list(seed)},
        ),
        **held,
    )  # fmt: skip


def _finish(
    hf: Any, tokens: list[int], ended: bool, stop: tuple[str, ...]
) -> tuple[list[int], Sequence[tuple[int, int]], str]:
    """Tokens kept, their spans in the decoded answer, and why it ended.

    Tokens from the first that touches a stop string on are dropped, and a partial one with them.
    """
    text, spans = piece_spans(hf, tokens)
    cuts = [text.find(s) for s in stop if s in text]
    if cuts:
        keep = sum(end <= min(cuts) for _, end in spans)
        return tokens[:keep], spans[:keep], "stop"
    return tokens, spans, "stop" if ended else "length"


def _after(values: Array, prompt: int, *, past_end: bool) -> Array:
    """The answer's values behind a prompt of which nothing is known."""
    empty = np.nan if values.dtype.kind == "f" else -1
    head = np.full((prompt, *values.shape[1:]), empty, values.dtype)
    parts = [head, values]
    if past_end:  # nothing was computed behind a generated answer
        parts.append(np.full_like(values[:1], np.nan))
    return np.concatenate(parts)
