"""Texts with some spans of words replaced, for the scores that compare a text with such ones.

The filler is the caller's: a T5 as in DetectGPT, or `unigram_filler`, which needs no second model
and whose numbers are not DetectGPT's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from nll._errors import BadInput, BadText
from nll.trace import Trace

Filler: TypeAlias = Callable[[Sequence[str]], Sequence[str]]
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_MASK = "\x00"


def perturb_spans(
    text: str,
    filler: Filler,
    *,
    n: int = 1,
    span_length: int = 2,
    share: float = 0.3,
    buffer: int = 1,
    seed: int = 0,
    max_tries: int = 10,
) -> list[str]:
    """n copies of the text, each with its own random spans of words replaced by the filler.

    Of the words (what single spaces separate) floor(share * words / (span_length + 2 * buffer))
    spans of span_length words are masked, none within `buffer` words of another, as in DetectGPT
    (arXiv 2301.11305) and NPR (arXiv 2306.05540); a span never runs past the end.

    filler: takes texts with the masks `<extra_id_0>`, `<extra_id_1>`, ... and returns them filled;
    one that comes back empty or with a mask left is masked anew and tried again, `max_tries` times
    in all, then left out, so that fewer than n texts may come back. A T5's raw answers become
    filled texts by `fill_spans`.
    Raises BadText when the text has too few words for one span (`too_short`) or a mask (`mask`).
    """
    if n < 1 or span_length < 1 or buffer < 0 or max_tries < 1 or not 0 < share <= 1:
        raise BadInput(
            "n, span_length and max_tries must be 1 or more, buffer 0 or more, share in (0, 1]"
        )
    if _SENTINEL.search(text) or _MASK in text:
        raise BadText("mask", "the text holds a mask itself, so its spans cannot be masked")
    words = text.split(" ")
    spans = math.floor(share * len(words) / (span_length + 2 * buffer) + 1e-9)
    if spans < 1:
        raise BadText(
            "too_short", f"the text has {len(words)} words, too few to replace a span of them"
        )
    rng = np.random.default_rng(seed)
    done = [""] * n
    for _ in range(max_tries):
        open_ = [i for i in range(n) if not done[i]]
        if not open_:
            break
        masked = [_masked(words, spans, span_length, buffer, rng) for _ in open_]
        filled = list(filler(masked))
        if len(filled) != len(masked):
            raise BadInput(f"the filler returned {len(filled)} texts for {len(masked)}")
        for i, result in zip(open_, filled, strict=True):
            done[i] = "" if _SENTINEL.search(result) else result
    return [result for result in done if result]


def _masked(
    words: Sequence[str], spans: int, length: int, buffer: int, rng: np.random.Generator
) -> str:
    held = list(words)
    for _ in range(spans):
        free = [
            start
            for start in range(len(held) - length)
            if _MASK not in held[max(0, start - buffer) : start + length + buffer]
        ]
        if not free:
            raise BadInput("so many spans do not fit into the text; lower share or buffer")
        start = free[int(rng.integers(len(free)))]
        held[start : start + length] = [_MASK]
    numbers = iter(range(spans))
    return " ".join(f"<extra_id_{next(numbers)}>" if w == _MASK else w for w in held)


def fill_spans(masked: str, answer: str) -> str:
    """A masked text with the fills of a T5's answer `<extra_id_0> fill <extra_id_1> fill ...`.

    Empty, the sign for another try, when the answer lacks a fill for one of the masks.
    """
    answer = answer.replace("<pad>", "").replace("</s>", "")
    parts = _SENTINEL.split(answer)
    # split keeps the numbers: [before, "0", fill, "1", fill, ..., "n", after]; the last is no fill.
    fills = [fill.strip() for fill in parts[2:-1:2]]
    masks = [int(m) for m in _SENTINEL.findall(masked)]
    if any(number >= len(fills) for number in masks):
        return ""
    return _SENTINEL.sub(lambda m: fills[int(m[1])], masked)


def unigram_filler(traces: Iterable[Trace], *, tokens: int = 2, seed: int = 0) -> Filler:
    """A filler that replaces each mask by `tokens` draws from how often tokens occur in the traces.

    It works on the scoring model's own vocabulary and needs no other model; what it yields is
    cruder than a language model's fills, so scores that use it must say so. The same texts get
    different fills each time they are asked for; a filler made anew starts anew.
    Raises BadInput when the traces hold no token with a visible text.
    """
    counts: dict[str, int] = {}
    for trace in traces:
        for t in range(len(trace)):
            piece = trace.token_text(t)
            if piece.strip() and "\N{REPLACEMENT CHARACTER}" not in piece:
                counts[piece] = counts.get(piece, 0) + 1
    if not counts:
        raise BadInput("a unigram filler needs traces that hold tokens with their texts")
    pieces, weight = list(counts), np.array(list(counts.values()), float)
    rng = np.random.default_rng(seed)

    def fill(_: re.Match[str]) -> str:
        drawn = rng.choice(len(pieces), size=tokens, p=weight / weight.sum())
        return "".join(pieces[i] for i in drawn).strip()

    return lambda texts: [_SENTINEL.sub(fill, text) for text in texts]
