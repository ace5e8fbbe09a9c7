"""Do two sources say the same of the same texts? Differences token by token, by place in the text.

Tokens are matched by the characters that they stand for, never by number: two sources may cut a
text differently, and then only the tokens that both have are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nll._errors import BadInput
from nll.models._capabilities import capabilities
from nll.models._protocol import LanguageModel
from nll.trace import OPTIONAL, PER_TOKEN, Array, Fields, Rejected, Text, TextLike, Trace

_COMPARED = ("logp", "entropy", "varentropy", "rank", "ties", "kl_uniform", "top_logp")


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """How far one field of two sources is apart: over `compared` tokens, in the field's unit."""

    field: str
    compared: int
    largest: float
    mean: float


@dataclass(frozen=True, slots=True)
class Worst:
    """The token whose log p differs most: which text (from 0), where in it, and both values."""

    text: int
    start: int
    end: int
    token: str
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Parity:
    """A certificate: what two sources said of the same texts, and how far it is apart.

    texts: compared texts.   tokens: those that both sources have and score; `only_a`, `only_b` are
    scored by one alone.   largest, mean: of |log p(a) - log p(b)| per token, nats, nan when no
    token could be compared.   per_text: the largest |difference| of a text's summed log p.
    fields: the same for every field that both hold.   missing_a, missing_b: fields that the other
    holds.   rejected_a, rejected_b: texts that only the other could score, with the reason.
    """

    a: str
    b: str
    texts: int
    tokens: int
    only_a: int
    only_b: int
    largest: float
    mean: float
    per_text: float
    worst: Worst | None
    fields: tuple[FieldDifference, ...]
    missing_a: tuple[str, ...]
    missing_b: tuple[str, ...]
    rejected_a: tuple[Rejected, ...] = ()
    rejected_b: tuple[Rejected, ...] = ()

    def within(self, tolerance: float) -> bool:
        """Whether every text was scored by both, every token by both, and log p agrees.

        False when nothing was compared.
        """
        whole = not (self.only_a or self.only_b or self.rejected_a or self.rejected_b)
        return whole and self.tokens > 0 and self.largest <= tolerance

    def to_json(self) -> dict[str, Any]:
        """As JSON values; nan is null."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def parity(
    a: LanguageModel,
    b: LanguageModel,
    texts: Iterable[TextLike],
    *,
    fields: Fields | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Parity:
    """Score the same texts with both models and compare them token by token.

    fields: what to ask both for beside the usual (default: the top 5 where both give them).
    Raises BadInput for no texts, and what either model raises for a model that cannot score at all.
    """
    held = list(texts)
    if not held:
        raise BadInput("parity needs at least one text")
    fields = Fields(top_k=5) if fields is None else fields
    rejected: tuple[list[Rejected], list[Rejected]] = ([], [])
    found = []
    for model, refused in zip((a, b), rejected, strict=True):
        found.append(dict(_numbered(model, held, fields, refused)))
        tick(len(held))
    names = [str(m.identity.get("model", m)) for m in (a, b)]
    return compare(found[0], found[1], names=(names[0], names[1]), rejected=rejected)


def _numbered(
    model: LanguageModel, texts: Sequence[TextLike], fields: Fields, refused: list[Rejected]
) -> Iterator[tuple[int, Trace]]:
    """(which text, its trace): the ids are replaced by numbers for the time of the run."""
    marked: list[Any] = []
    for i, value in enumerate(texts):
        text = Text.of(value)
        marked.append(Text(text.text, text.prompt, text.messages, id=str(i)))
    top = capabilities(model).top_k
    if top is not None and top < fields.top_k:
        fields = Fields(top, fields.betas, fields.boundary, fields.hidden, fields.kl_uniform)
    for trace in model.trace(marked, fields=fields, on_reject=refused.append):
        yield int(str(trace.id)), trace


def compare(
    a: dict[int, Trace],
    b: dict[int, Trace],
    *,
    names: tuple[str, str] = ("a", "b"),
    rejected: tuple[Sequence[Rejected], Sequence[Rejected]] = ((), ()),
) -> Parity:
    """The certificate of traces by number of their text; those of one source alone are rejected.

    Raises BadInput when two traces of one number are of different texts.
    """
    both = sorted(a.keys() & b.keys())
    differences: dict[str, list[Array]] = {name: [] for name in _COMPARED}
    only_a = only_b = tokens = 0
    sums, worst, largest = [], None, -math.inf
    for number in both:
        x, y = a[number], b[number]
        if x.text != y.text:
            raise BadInput(f"text {number} is not the same text in both sources")
        rows_x, rows_y = _matched(x, y)
        only_a += x.n_scored - len(rows_x)
        only_b += y.n_scored - len(rows_y)
        tokens += len(rows_x)
        for name in _COMPARED:
            p, q = getattr(x, name), getattr(y, name)
            if p is not None and q is not None:
                differences[name].append(_apart(p[rows_x], q[rows_y]))
        apart = differences["logp"][-1]
        sums.append(float(_apart(_total(x), _total(y))[0]))
        if len(apart) and apart.max() > largest:
            t, largest = int(apart.argmax()), float(apart.max())
            worst = _worst(number, x, y, int(rows_x[t]), int(rows_y[t]))
    logp = _joined(differences["logp"])
    return Parity(
        *names, len(both), tokens, only_a, only_b,
        largest=float(logp.max()) if len(logp) else math.nan,
        mean=float(logp.mean()) if len(logp) else math.nan,
        per_text=_largest(sums),
        worst=worst,
        fields=tuple(
            FieldDifference(name, len(d), float(d.max()), float(d.mean()))
            for name, parts in differences.items()
            if len(d := _joined(parts))
        ),
        missing_a=_missing(a, b, both), missing_b=_missing(b, a, both),
        rejected_a=_alone(rejected[0], b), rejected_b=_alone(rejected[1], a),
    )  # fmt: skip


def _total(trace: Trace) -> Array:
    return np.array([trace.values("logp").sum()])


def _largest(values: Sequence[float]) -> float:
    return float(max(values)) if values else math.nan


def _joined(parts: Sequence[Array]) -> Array:
    """All differences that exist as one array."""
    flat = np.concatenate([p.ravel() for p in parts]) if parts else np.empty(0)
    known: Array = flat[~np.isnan(flat)]
    return known


def _matched(x: Trace, y: Trace) -> tuple[Array, Array]:
    """Rows of the scored tokens that stand for the same characters, in both.

    Of several tokens that share one character, the first is matched with the first, and so on.
    """
    p, q = _places(x), _places(y)
    common = [place for place in p if place in q]
    return (
        np.array([p[c] for c in common], np.int64),
        np.array([q[c] for c in common], np.int64),
    )


def _places(trace: Trace) -> dict[tuple[int, int, int], int]:
    out: dict[tuple[int, int, int], int] = {}
    spans = trace.field("spans")
    for t in np.flatnonzero(trace.scored):
        start, end, nth = int(spans[t, 0]), int(spans[t, 1]), 0
        while (start, end, nth) in out:
            nth += 1
        out[start, end, nth] = int(t)
    return out


def _apart(p: Array, q: Array) -> Array:
    """|p - q|; 0 where both are the same infinity, nan where either is not known."""
    x, y = p.astype(np.float64), q.astype(np.float64)
    if p.dtype.kind == "i":
        x, y = np.where(x < 0, np.nan, x), np.where(y < 0, np.nan, y)
    if x.ndim == 2:
        width = min(x.shape[1], y.shape[1])
        x, y = x[:, :width], y[:, :width]
    with np.errstate(invalid="ignore"):
        apart: Array = np.where(x == y, 0.0, np.abs(x - y))
    return apart


def _worst(number: int, x: Trace, y: Trace, t: int, u: int) -> Worst:
    start, end = (int(v) for v in x.field("spans")[t])
    return Worst(number, start, end, x.token_text(t), float(x.logp[t]), float(y.logp[u]))


def _missing(
    mine: dict[int, Trace], other: dict[int, Trace], both: Sequence[int]
) -> tuple[str, ...]:
    """Fields that the other source holds and this one does not."""
    names = (*PER_TOKEN, "ids", *OPTIONAL)
    return tuple(
        name
        for name in names
        if any(getattr(mine[n], name) is None and getattr(other[n], name) is not None for n in both)
    )


def _alone(refused: Sequence[Rejected], other: dict[int, Trace]) -> tuple[Rejected, ...]:
    """Texts that were refused here and scored there."""
    return tuple(r for r in refused if r.index in other)
