"""Traces as the page reads them: short lists of numbers, strings by their place in one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nll.trace import Array, Trace
from nll.web._text import significant, visible

# Alternatives make up most of the file: the more tokens, the fewer of them each token carries.
_ALTERNATIVES = ((60_000, 10), (200_000, 5))
_FEWEST = 3
# Probabilities of alternatives are sent as whole 1/10,000ths.
_UNIT = 10_000


class Strings:
    """Strings, each held once, in order of first use."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.place.setdefault(visible(text), len(self.place))


def alternatives_kept(tokens: int) -> int:
    """How many alternatives a token carries in a report of this many tokens."""
    return next((k for most, k in _ALTERNATIVES if tokens <= most), _FEWEST)


def packed(trace: Trace, strings: Strings, k: int) -> dict[str, Any]:
    """One text: `s` strings, `l` nll, `h` entropy, `r` rank, `p` prompt tokens, and alternatives.

    `s[t]` is the empty string where token t only goes on with a character that began before it.
    `a[t]` is string, probability (1/10,000ths), string, probability, ... of token t's alternatives
    and `m[t]` the place of token t itself among them, or -1. Null where there is no value.
    """
    out: dict[str, Any] = {
        "s": [strings(s) for s in _token_strings(trace)],
        "l": _floats(trace.nll),
        "p": trace.prompt_tokens,
    }
    if trace.entropy is not None:
        out["h"] = _floats(trace.entropy)
    if trace.rank is not None:
        out["r"] = [r if r > 0 else None for r in trace.rank.tolist()]
    if trace.top_ids is not None and trace.top_logp is not None and trace.top_ids.shape[1]:
        out["a"], out["m"] = _alternatives(trace, trace.top_ids, trace.top_logp, strings, k)
    return out


def repacked(text: dict[str, Any], old: Sequence[str], strings: Strings, k: int) -> dict[str, Any]:
    """What `packed` would have given with these strings and k, of a text packed with a larger k.

    old: the strings it was packed with, by place.
    """

    def moved(place: int) -> int:
        # They have gone through `visible` once, which would escape nothing more.
        return strings.place.setdefault(old[place], len(strings.place))

    out = {**text, "s": [moved(place) for place in text["s"]]}
    if "a" in text:
        out["a"] = [
            [moved(x) if i % 2 == 0 else x for i, x in enumerate(pack[: 2 * k])]
            for pack in text["a"]
        ]
        out["m"] = [place if place < k else -1 for place in text["m"]]
    return out


def nll_histogram(values: Array) -> dict[str, Any] | None:
    """Counts of tokens by nll (n,) in equal bins; the last holds all beyond. None if no token."""
    infinite = int(np.isinf(values).sum())
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    top = max(float(np.quantile(values, 0.998)), 1e-9)
    width = next(w for w in _steps() if top / w <= 48)
    bins = int(top // width) + 1
    place = np.minimum((values // width).astype(np.int64), bins - 1)
    return {
        "width": width,
        "counts": np.bincount(np.maximum(place, 0), minlength=bins).tolist(),
        "beyond": int((values >= bins * width).sum()) + infinite,
        "mean": significant(float(values.mean())),
        "median": significant(float(np.median(values))),
        "q90": significant(float(np.quantile(values, 0.9))),
        "tokens": len(values) + infinite,
    }


def _steps() -> Iterable[float]:
    for power in range(-12, 12):
        for lead in (1, 2, 2.5, 5):
            yield lead * 10.0**power


def _floats(values: Array) -> list[float | str | None]:
    return [significant(x) for x in values.tolist()]


def _token_strings(trace: Trace) -> Iterable[str]:
    """What stands at each token. Characters that several tokens make up stand at the first of them
    and the others have the empty string, so that all together are the text."""
    ids = [] if trace.ids is None else trace.ids.tolist()
    spans = [] if trace.spans is None else trace.spans.tolist()
    upto = 0
    for t in range(len(trace)):
        start, end = spans[t] if spans else (0, 0)
        if start < end:
            yield trace.text[max(start, upto) : end]
            upto = max(upto, end)
        else:
            yield trace.vocab.get(ids[t], f"#{ids[t]}") if ids else f"[{t + 1}]"


def _alternatives(
    trace: Trace, top_ids: Array, top_logp: Array, strings: Strings, k: int
) -> tuple[list[list[int]], list[int]]:
    ids, own = top_ids[:, :k].tolist(), None if trace.ids is None else trace.ids.tolist()
    with np.errstate(over="ignore", invalid="ignore"):
        parts = np.rint(np.exp(top_logp[:, :k].astype(np.float64)) * _UNIT)
    # -1 marks what has no number; such a place is left out.
    parts = np.where(np.isfinite(parts), parts, -1).astype(np.int64).tolist()
    packs: list[list[int]] = []
    places: list[int] = []
    for t, (row, part) in enumerate(zip(ids, parts, strict=True)):
        pack: list[int] = []
        place = -1
        for j, (token, p) in enumerate(zip(row, part, strict=True)):
            if p < 0 or (p == 0 and j >= _FEWEST):
                break
            if own is not None and token == own[t]:
                place = j
            pack += (strings(trace.vocab.get(token, f"#{token}")), p)
        packs.append(pack)
        places.append(place)
    return packs, places
