"""Which reasoning trace is most natural to a student model? Means that do not reward long steps.

A step's first tokens choose the branch and are improbable; a trace with long steps dilutes them, so
its mean log-probability rises with the step length alone. A document is a trace and its steps as
token spans; `skip` tokens at the head of each step are set apart (the paper says 1, its code 2).
Likelihood says nothing of whether an answer is right: keep that filter separate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined, score
from nll._errors import BadInput
from nll.scores._common import INF, NO_TOKENS, defined, mean
from nll.trace import Array, Fields, Trace

Spans: TypeAlias = npt.ArrayLike

LAST_BLANK = 0x3000  # the highest code of a white-space character
SENTENCE = r"(\. |\? )"
LINE = r"(\n+)"
_BY: Final = {"line": r"\n+", "blank-line": r"\n\s*\n\s*", "sentence": r"(?<=[.!?])\s+"}
NO_HEADLESS = Undefined("every scored token is at the head of a step")


def split_steps(
    text: str,
    pattern: str = SENTENCE,
    *,
    by: Literal["line", "sentence", "blank-line"] | Callable[[str], Sequence[str]] | None = None,
) -> list[str]:
    r"""Steps of a text, each with the separator that ends it; joined they are the text again.

    pattern: regular expression of separators; the default is the paper's, `LINE` splits at line
    ends. Note that "Mr. " ends a step too. Source: arXiv 2604.06834.
    by: give the steps without surrounding white space and empty ones instead, cut at each `line`,
    `blank-line`, `sentence` (white space after . ! ?), or by a function (arXiv 2508.20395).

    >>> split_steps("We add 2. Then? Yes. Done")
    ['We add 2. ', 'Then? ', 'Yes. ', 'Done']
    >>> split_steps("2 + 2 = 4\n\n4 + 1 = 5\n", by="line")
    ['2 + 2 = 4', '4 + 1 = 5']
    """
    if by is not None:
        if isinstance(by, str) and by not in _BY:
            raise BadInput(f"by must be {', '.join(_BY)} or a function, not {by!r}")
        parts = re.split(_BY[by], text) if isinstance(by, str) else by(text)
        return [part.strip() for part in parts if part.strip()]
    ends = [m.end() for m in re.finditer(pattern, text) if m.end() > m.start()]
    cuts = [0, *ends, len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if b > a]


def step_spans(
    trace: Trace,
    text: str | None = None,
    *,
    pattern: str = SENTENCE,
    splitter: Callable[[str], Sequence[str]] | None = None,
) -> Array:
    """(S, 2) first and past-the-end token of each step of the trace's answer, by character offsets.

    A token belongs to the step of its first character that is no white space; tokens without a
    character (special ones) in front of a step or behind it are in none. A step that holds no
    token's start has no span.
    text: the answer, when it is to be checked against the trace's.   splitter: instead of
    `pattern`, a function from a text to its steps. Raises BadInput when the text is another one, or
    the steps joined are not the text.
    """
    answer = trace.scored_text
    if text is not None and text != answer:
        raise BadInput("this text is not the trace's answer (its text without the prompt)")
    steps = split_steps(answer, pattern) if splitter is None else list(splitter(answer))
    if "".join(steps) != answer:
        raise BadInput("the steps joined are not the text; a splitter must keep every character")
    first, n = trace.prompt_tokens, len(trace)
    if first == n:
        return np.zeros((0, 2), dtype=np.int64)
    offsets = trace.field("spans")[first:]
    origin = int(offsets[0, 0]) if first else 0
    ends = np.cumsum([len(step) for step in steps])
    solid = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    step_of = np.searchsorted(ends, _meets(answer, offsets[solid] - origin), side="right")
    change = np.flatnonzero(np.diff(step_of))
    starts = solid[np.append(0, change + 1)] if solid.size else solid
    stops = solid[np.append(change, len(solid) - 1)] + 1 if solid.size else solid
    return np.stack([starts, stops], axis=1) + first


def _meets(text: str, spans: Array) -> Array:
    """(N,) each span's first character that is no white space; its last one where all are."""
    start, end = spans[:, 0], np.minimum(spans[:, 1], len(text))
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    solid = np.append(np.flatnonzero(~_blanks()[np.minimum(codes, LAST_BLANK + 1)]), len(text))
    first = solid[np.minimum(np.searchsorted(solid, start), len(solid) - 1)]
    found: Array = np.where(first < end, first, np.maximum(end - 1, start))
    return found


@cache
def _blanks() -> Array:
    """Whether a character is white space, by its code."""
    return np.array([chr(code).isspace() for code in range(LAST_BLANK + 2)])


class StepParts(NamedTuple):
    """A document taken apart: means in nats (nan when empty), and how it is made of steps.

    all_mean: of all tokens.   first: of the heads.   other: of the rest.   share: of heads, F.
    step_length: tokens per step.   step_means: (S,) of each step's log-probabilities.
    """

    all_mean: float
    first: float
    other: float
    share: float
    step_length: float
    step_means: Array


def step_parts(trace: Trace, spans: Spans, skip: int = 1) -> StepParts:
    """The means of heads and other tokens, their share, and each step's mean.

    Tokens without a log-probability, and those of the prompt, are left out of means but count in
    lengths. Raises BadInput for spans that overlap or leave the trace, or skip < 1.
    """
    steps = _checked(spans, len(trace))
    if skip < 1:
        raise BadInput(f"skip is the number of head tokens of a step, 1 or more, not {skip}")
    logp = np.where(trace.scored, trace.logp, np.nan).astype(np.float64)
    sizes = steps[:, 1] - steps[:, 0]
    n = int(sizes.sum())
    place = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within its step
    chosen = logp[np.repeat(steps[:, 0], sizes) + place]
    head = place < skip
    return StepParts(
        all_mean=mean(_held(chosen)),
        first=mean(_held(chosen[head])),
        other=mean(_held(chosen[~head])),
        share=np.count_nonzero(head) / n if n else Undefined("the document has no token"),
        step_length=n / len(steps) if len(steps) else Undefined("the document has no step"),
        step_means=_means(logp, steps),
    )


def _means(logp: Array, steps: Array) -> Array:
    """(S,) mean of what is known in each step; nan where nothing is."""
    known = np.append(~np.isnan(logp), False)  # one more, so that a step may end at the end
    edges = steps.ravel()
    sums = np.add.reduceat(np.where(known, np.append(logp, 0.0), 0.0), edges)[::2]
    counts = np.add.reduceat(known.astype(np.int64), edges)[::2]
    out: Array = np.full(len(steps), np.nan)
    np.divide(sums, counts, out=out, where=counts > 0)
    out += 0.0  # no negative zeros
    return out


def _held(values: Array) -> Array:
    return values[~np.isnan(values)]


def _checked(spans: Spans, n: int) -> Array:
    steps = np.asarray(spans, dtype=np.int64)
    steps = steps.reshape(0, 2) if steps.size == 0 else steps
    if steps.ndim != 2 or steps.shape[1] != 2:
        raise BadInput(f"spans must be (S, 2) token positions, not {steps.shape}")
    flat = steps.ravel()
    fine = (np.diff(flat) >= 0).all() and (steps[:, 0] < steps[:, 1]).all()
    if flat.size and not (fine and flat[0] >= 0 and flat[-1] <= n):
        raise BadInput(f"spans must be non-empty, in order, apart, and within the {n} tokens")
    return steps


@score(
    higher_means="natural",
    reads=("logp",),
    unit="nats",
    range=(-INF, 0.0),
    paper="2604.06834",
    question="selection",
)
def mean_logp(trace: Trace) -> float:
    """Mean log-probability of all tokens, nats: the baseline that prefers long steps.

    Perplexity gives the same order. Undefined when no token was scored. Source: arXiv 2604.06834.
    """
    return mean(trace.values("logp"))


@score(
    higher_means="uncertain",
    reads=("top_logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2604.06834",
    question="selection",
    fields=lambda k, **_: Fields(top_k=k),
)
def top_k_entropy(trace: Trace, *, k: int = 5) -> float:
    """Mean entropy of the renormalised k most likely tokens, nats: the paper's entropy baseline.

    Not the entropy of the full distribution (`mean_entropy`), and never above ln k. Undefined when
    no token was scored. Raises BadInput for k < 1, or when the trace keeps fewer than k tokens and
    its vocabulary is larger. Source: arXiv 2604.06834.
    """
    if k < 1:
        raise BadInput(f"k must be 1 or more, not {k}")
    if not trace.n_scored:
        return NO_TOKENS
    kept = trace.field("top_logp")
    if kept.shape[1] < min(k, trace.provenance.vocab_size or k):
        raise BadInput(f"the trace keeps {kept.shape[1]} tokens a position; trace with top_k={k}")
    logp = kept[:, :k][trace.scored_part].T.astype(np.float64)
    mass = np.exp(logp)
    whole = mass.sum(axis=0)
    terms = np.multiply(mass, logp, out=np.zeros_like(mass), where=mass > 0).sum(axis=0)
    return defined(max(float((np.log(whole) - terms / whole).mean()), 0.0))


def local_logp(step_means: npt.ArrayLike) -> float:
    """Mean over steps of each step's mean log-probability, nats: every step counts alike.

    step_means: (S,); nan entries, steps without a scored token, are left out. Undefined when none
    is left. Source: arXiv 2604.06834.
    """
    return mean(_held(np.asarray(step_means, dtype=np.float64).ravel()))


def aslec_drop(trace: Trace, spans: Spans, skip: int = 1) -> float:
    """ASLEC-DROP: mean log-probability without the first `skip` tokens of each step, nats.

    Higher is more natural. spans: (S, 2) token positions of the steps (`step_spans`). Undefined
    when nothing is left, where the paper's code returns 0, its best score.
    Source: arXiv 2604.06834.
    """
    parts = step_parts(trace, spans, skip)
    if parts.all_mean != parts.all_mean:
        return NO_TOKENS
    return NO_HEADLESS if parts.other != parts.other else parts.other


@score(
    higher_means="natural",
    reads=("logp", "spans"),
    unit="nats",
    range=(-INF, 0.0),
    paper="2604.06834",
    question="selection",
)
def step_drop(trace: Trace, *, skip: int = 1, pattern: str = SENTENCE) -> float:
    """`aslec_drop` over the steps that `pattern` finds in the trace's own text, nats.

    Undefined when no token was scored, or all are heads. Source: arXiv 2604.06834.
    """
    if not trace.n_scored:
        return NO_TOKENS
    return aslec_drop(trace, _found_steps(trace, pattern), skip)


@score(
    higher_means="natural",
    reads=("logp", "spans"),
    unit="nats",
    range=(-INF, 0.0),
    paper="2604.06834",
    question="selection",
)
def step_logp(trace: Trace, *, pattern: str = SENTENCE) -> float:
    """`local_logp` over the steps that `pattern` finds in the trace's own text, nats.

    With the trace's full context, where the paper's baseline gives each step a short one. Undefined
    when no token was scored. Source: arXiv 2604.06834.
    """
    if not trace.n_scored:
        return NO_TOKENS
    return local_logp(step_parts(trace, _found_steps(trace, pattern)).step_means)


def _found_steps(trace: Trace, pattern: str) -> Array:
    return trace.once(("steps", pattern), lambda: step_spans(trace, pattern=pattern))
