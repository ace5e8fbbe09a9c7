"""Where in an answer was the model least sure? Scores by segment, and other ways to go on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from nll._bundle import END_TOKENS
from nll._declare import score
from nll._errors import BadInput, MissingField
from nll.scores._common import INF, NO_TOKENS, defined, mean
from nll.trace import Array, Provenance, Trace

# Sentence terminals (Unicode) beyond the first plane: code points, first and last of each run.
_FAR = (
    (0x10A56, 0x10A57), (0x11047, 0x11048), (0x110BE, 0x110C1), (0x11141, 0x11143),
    (0x111C5, 0x111C6), (0x111CD, 0x111CD), (0x111DE, 0x111DF), (0x11238, 0x11239),
    (0x1123B, 0x1123C), (0x112A9, 0x112A9), (0x1144B, 0x1144C), (0x115C2, 0x115C3),
    (0x115C9, 0x115D7), (0x11641, 0x11642), (0x1173C, 0x1173E), (0x11A42, 0x11A43),
    (0x11A9B, 0x11A9C), (0x11C41, 0x11C42), (0x16A6E, 0x16A6F), (0x16AF5, 0x16AF5),
    (0x16B37, 0x16B38), (0x16B44, 0x16B44), (0x1BC9F, 0x1BC9F), (0x1DA88, 0x1DA88),
)  # fmt: skip
# What ends a sentence in the scripts of the world.
SENTENCE: Final = frozenset(chr(c) for low, high in _FAR for c in range(low, high + 1)) | frozenset(
    "!.?։؟۔܀܁܂߹।॥၊။።፧፨᙮᜵᜶᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡。"
)
NAMED: Final = {"sentence": SENTENCE, "line": frozenset("\n")}
Match = Literal["exact", "contains"]


class SegmentScores(NamedTuple):
    """Means over the segments of an answer; nats, higher is less sure."""

    max_nll: float
    mean_nll: float
    max_entropy: float
    mean_entropy: float
    n_segments: int


def segment_scores(
    trace: Trace, separators: str | Iterable[str] = "sentence", *, match: Match = "exact"
) -> SegmentScores:
    """Mean over segments of the largest and the mean nll and entropy of each segment's tokens.

    A segment ends after each token that is a separator; what follows the last one is a segment
    too. separators: `sentence` (what ends one), `line` (exactly "\\n"), one token, or several.
    match: `exact` compares the whole token, with or without the spaces around it; `contains` also
    cuts after a token that has a separator within it. Tokens whose entropy is nan are passed over,
    and segments of such alone. Undefined when no token was scored, or all are passed over. Raises
    MissingField without spans or entropy. Huang et al., arXiv 2307.10236.
    """
    nll, entropy = -trace.values("logp"), trace.values("entropy")
    starts = segment_starts(trace, separators, match=match)
    return SegmentScores(
        *_by_segment(nll, starts), *_by_segment(entropy, starts), n_segments=len(starts)
    )


def segment_starts(
    trace: Trace, separators: str | Iterable[str] = "sentence", *, match: Match = "exact"
) -> Array:
    """(S,) index, among the scored tokens, of each segment's first one; see `segment_scores`."""
    if match not in ("exact", "contains"):
        raise BadInput(f"match must be 'exact' or 'contains', not {match!r}")
    if isinstance(separators, str):
        cuts = NAMED.get(separators, frozenset([separators]))
    else:
        cuts = frozenset(separators)
    return trace.once(("segments", cuts, match), lambda: _starts(trace, cuts, match))


def _starts(trace: Trace, cuts: frozenset[str], match: Match) -> Array:
    at = np.flatnonzero(trace.scored)
    first = trace.field("spans")[at, 0]
    # only the few tokens in which a separator begins need a look
    begins = [m.start() for m in _beginning(cuts).finditer(trace.text)]
    near = np.unique(np.searchsorted(first, begins, side="right") - 1)
    ends = [n for n in near.tolist() if n >= 0 and _cuts(trace.token_text(int(at[n])), cuts, match)]
    starts = np.array([0, *(n + 1 for n in ends)], dtype=np.int64)
    return starts[starts < len(at)]


@cache
def _beginning(cuts: frozenset[str]) -> re.Pattern[str]:
    if "" in cuts:
        raise BadInput("an empty string separates nothing")
    either = "|".join(re.escape(cut) for cut in sorted(cuts))
    return re.compile(f"(?={either})" if cuts else r"(?!)")


def _cuts(token: str, cuts: frozenset[str], match: Match) -> bool:
    if match == "contains":
        return any(cut in token for cut in cuts)
    return token in cuts or token.strip() in cuts


def _by_segment(values: Array, starts: Array) -> tuple[float, float]:
    if not len(starts):
        return NO_TOKENS, NO_TOKENS
    sizes = np.diff(np.append(starts, len(values)))
    held = ~np.isnan(values)
    if not held.any():
        return defined(np.nan), defined(np.nan)
    if not held.all():
        segment = np.repeat(np.arange(len(starts)), sizes)[held]
        values, starts = values[held], np.flatnonzero(np.diff(segment, prepend=-1))
        sizes = np.diff(np.append(starts, len(values)))
    largest = mean(np.maximum.reduceat(values, starts))
    return largest, mean(np.add.reduceat(values, starts) / sizes)


@score(
    higher_means="uncertain",
    reads=("logp", "spans"),
    unit="nats",
    range=(0.0, INF),
    paper="2307.10236",
    question="uncertainty",
)
def segment_max_nll(
    trace: Trace, *, separators: str | Sequence[str] = "sentence", match: Match = "exact"
) -> float:
    """Mean over segments of the largest nll of a token, in nats (the paper's "Max Prob").

    Segments as in `segment_scores`. Undefined when no token was scored.
    """
    starts = segment_starts(trace, separators, match=match)
    return _by_segment(-trace.values("logp"), starts)[0]


@score(
    higher_means="uncertain",
    reads=("logp", "spans"),
    unit="nats",
    range=(0.0, INF),
    paper="2307.10236",
    question="uncertainty",
)
def segment_mean_nll(
    trace: Trace, *, separators: str | Sequence[str] = "sentence", match: Match = "exact"
) -> float:
    """Mean over segments of the mean nll of a token, in nats (the paper's "Average Prob").

    Segments as in `segment_scores`. Undefined when no token was scored.
    """
    starts = segment_starts(trace, separators, match=match)
    return _by_segment(-trace.values("logp"), starts)[1]


@score(
    higher_means="uncertain",
    reads=("entropy", "spans"),
    unit="nats",
    range=(0.0, INF),
    paper="2307.10236",
    question="uncertainty",
)
def segment_max_entropy(
    trace: Trace, *, separators: str | Sequence[str] = "sentence", match: Match = "exact"
) -> float:
    """Mean over segments of the largest entropy before a token, in nats (the paper's "Max Ent").

    Segments as in `segment_scores`. Undefined when no token was scored.
    """
    starts = segment_starts(trace, separators, match=match)
    return _by_segment(trace.values("entropy"), starts)[0]


@score(
    higher_means="uncertain",
    reads=("entropy", "spans"),
    unit="nats",
    range=(0.0, INF),
    paper="2307.10236",
    question="uncertainty",
)
def segment_mean_entropy(
    trace: Trace, *, separators: str | Sequence[str] = "sentence", match: Match = "exact"
) -> float:
    """Mean over segments of the mean entropy before a token, in nats (the paper's "Average Ent").

    Segments as in `segment_scores`. Undefined when no token was scored.
    """
    starts = segment_starts(trace, separators, match=match)
    return _by_segment(trace.values("entropy"), starts)[1]


class PerturbationPoints(NamedTuple):
    """Positions (0-based) at which to perturb an answer."""

    max_entropy: int
    min_entropy: int
    max_rise: int


def perturbation_points(entropy: npt.ArrayLike) -> PerturbationPoints:
    """Where the (T,) entropies of an answer are largest, smallest, and just rose the most.

    The first of equals; nan (nothing predicted) is passed over. Without a pair of neighbours to
    rise between, the rise is where the largest is. Raises BadInput when there is no entropy at
    all. Huang et al., arXiv 2307.10236.
    """
    values = np.asarray(entropy, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).all():
        raise BadInput("perturbation points need the entropy (T,) of at least one token")
    largest, smallest = int(np.nanargmax(values)), int(np.nanargmin(values))
    rise = np.diff(values)
    highest = largest if np.isnan(rise).all() else 1 + int(np.nanargmax(rise))
    return PerturbationPoints(largest, smallest, highest)


class Perturbed(NamedTuple):
    """Answers that leave the greedy one at a token.

    texts: the answers, likeliest alternative first.   ids: the alternative tokens.
    exact: whether the model read the kept tokens and the alternative back as those very tokens.
    """

    texts: list[str]
    ids: list[int]
    exact: list[bool]


class _Generates(Protocol):
    def generate(
        self, prompts: Iterable[str], *, max_new_tokens: int, stop: Sequence[str]
    ) -> Iterator[list[Trace]]: ...


@runtime_checkable
class _GoesOn(_Generates, Protocol):
    @property
    def provenance(self) -> Provenance: ...

    def continue_ids(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop: Sequence[str]
    ) -> Iterator[list[Trace]]: ...


def perturb(
    model: _Generates,
    prompt: str,
    trace: Trace,
    point: int,
    n_alternatives: int = 4,
    *,
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    suffix_only: bool = False,
    end: Sequence[str] = END_TOKENS,
) -> Perturbed:
    """Replace token `point` of a greedy answer by each next likely token and decode on greedily.

    trace: the answer's trace with top_k of n_alternatives + 1 or more.   point: counted from the
    first token of the answer (`perturbation_points(trace.completion.entropy)`).
    max_new_tokens: how long a whole answer may be; by default as long as the given one where that
    was cut off (finish reason `length`), else 64.
    suffix_only: leave out what stands before the point, as the paper's code does.
    end: strings of end-of-text tokens, which are no part of what an answer says; as an alternative
    one gives the kept part alone.

    A local model goes on from the answer's own tokens. Another one continues text, so that the
    alternative is written out and tokenised again; so does a local one when the answer came from
    another tokenizer, or after another prompt. `exact` tells where that gave other tokens. Raises
    BadInput for a point outside the answer, MissingField without enough candidates.
    Huang et al., arXiv 2307.10236.
    """
    answer = trace.completion
    if not 0 <= point < len(answer):
        raise BadInput(f"point {point} is outside the answer of {len(answer)} tokens")
    if n_alternatives < 1:
        raise BadInput(f"n_alternatives must be 1 or more, not {n_alternatives}")
    chosen = answer.field("ids")
    others = [int(i) for i in answer.field("top_ids")[point] if i >= 0 and i != chosen[point]]
    if len(others) < n_alternatives:
        raise MissingField(
            f"{n_alternatives} alternatives need the {n_alternatives + 1} likeliest tokens; trace "
            f"the answer with top_k={n_alternatives + 1}"
        )
    others = others[:n_alternatives]
    kept = answer.text[: int(answer.field("spans")[point, 0])]
    cut_off = trace.provenance.finish_reason == "length"
    whole = (len(answer) if cut_off else 64) if max_new_tokens is None else max_new_tokens
    pieces = [_written(answer, other) for other in others]
    # what ends the answer by itself is not continued
    texts = [kept if piece in end else _before(stop, kept + piece) for piece in pieces]
    exact = [True] * len(others)
    open_ = [i for i, piece in enumerate(pieces) if texts[i] == kept + piece and piece not in end]
    if whole > point + 1 and open_:
        limit: dict[str, Any] = {"max_new_tokens": whole - point - 1, "stop": stop}
        if _same_tokens(model, prompt, trace):
            read = trace.field("ids")[: trace.prompt_tokens + point].tolist()
            went_on = model.continue_ids([[*read, others[i]] for i in open_], **limit)
        else:
            went_on = model.generate([prompt + texts[i] for i in open_], **limit)
        for i, (trace_on,) in zip(open_, went_on, strict=True):
            seen, meant = trace_on.field("ids")[: trace_on.prompt_tokens], [*chosen[:point]]
            meant.append(others[i])
            exact[i] = list(seen[len(seen) - len(meant) :]) == meant
            texts[i] += _unended(trace_on.completion.text, end)
    if suffix_only:
        texts = [text[len(kept) :] for text in texts]
    return Perturbed(texts, others, exact)


def _same_tokens(model: _Generates, prompt: str, trace: Trace) -> TypeGuard[_GoesOn]:
    """Whether the model can go on from the trace's tokens."""
    start = len(trace.text) - len(trace.completion.text)
    return (
        isinstance(model, _GoesOn)
        and model.provenance.tokenizer == trace.provenance.tokenizer
        and trace.text[:start] == prompt
    )


def _unended(text: str, end: Sequence[str]) -> str:
    found = [e for e in end if e and text.endswith(e)]
    return text.removesuffix(max(found, key=len)) if found else text


def _before(stop: Sequence[str], text: str) -> str:
    cuts = [text.find(s) for s in stop if s in text]
    return text[: min(cuts)] if cuts else text


def _written(trace: Trace, token: int) -> str:
    if token not in trace.vocab:
        raise MissingField(f"this trace does not hold the string of token {token}")
    return trace.vocab[token]
