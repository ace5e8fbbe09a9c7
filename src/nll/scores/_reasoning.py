"""Does a chain of reasoning lead to the answer? Its conditional entropy after each step."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.scores._common import known
from nll.trace import Array, Fields, Trace

Reduction: TypeAlias = Literal["mean", "sum", "first_token"]
HEAD = "Question: {question}\nAnswer:"
CUE = "\nThe answer is"


class Utility(NamedTuple):
    """What the steps did to a curve H_0..H_K, in nats; positive means that they were useful.

    delta: (K,) H_{k-1} - H_k.   total: H_0 - H_K.   slope: least squares of H_k on k, below 0 when
    useful; undefined for K = 0.   relative: total / H_0; undefined when H_0 is 0.
    monotone_share: share of steps with H_k < H_{k-1}; undefined for K = 0.
    An answer that is impossible somewhere (nll inf) leaves what it touches inf or undefined.
    """

    delta: Array
    total: float
    slope: float
    relative: float
    monotone_share: float


class StepUtilities(NamedTuple):
    """Entropy and cross-entropy of an answer after 0..K steps, and what the steps did to them.

    entropy, nll: (K + 1,) of the answer; the first can be low while the second is high, when the
    model is sure of another answer.   entropy_utility, nll_utility: see `Utility`.
    mentions: (K,) which steps contain the answer, so that it stands in the context after them.
    dropped: (K + 1,) how many of the first steps did not fit into the model's window.
    """

    entropy: Array
    nll: Array
    entropy_utility: Utility
    nll_utility: Utility
    mentions: tuple[bool, ...]
    dropped: tuple[int, ...]


class _Continues(Protocol):
    def continuations(
        self, prompt: str, continuations: Sequence[str], *, fields: Fields = ...
    ) -> list[Trace]: ...


def reasoning_utility(H: npt.ArrayLike) -> Utility:
    """Step by step and in all, how far a curve H_0..H_K of conditional entropies falls.

    H: (K + 1,) nats. Raises BadInput when it is empty or no vector. arXiv 2508.20395.
    """
    curve = np.asarray(H, dtype=np.float64)
    if curve.ndim != 1 or not curve.size:
        raise BadInput(f"a curve H_0..H_K (K + 1,) is needed, not an array {curve.shape}")
    with np.errstate(invalid="ignore"):
        delta = curve[:-1] - curve[1:]
    first, last, ends = float(curve[0]), float(curve[-1]), "the curve is not finite at its ends"
    total = known(first - last if delta.size else 0.0, ends)
    relative = known(total / first, ends) if first else Undefined("H_0 is 0")
    if not delta.size:
        none = Undefined("there are no steps")
        return Utility(delta, total, none, relative, none)
    slope: float = Undefined("a curve that is not finite everywhere has no slope")
    if np.isfinite(curve).all():
        k = np.arange(curve.size) - (curve.size - 1) / 2
        slope = float((k * (curve - curve.mean())).sum() / (k * k).sum())
    falls = float((curve[1:] < curve[:-1]).mean())
    share = Undefined("the curve is nan after some step") if np.isnan(curve).any() else falls
    return Utility(delta, total, slope, relative, share)


def early_stop_step(H: npt.ArrayLike, tau: float) -> int | None:
    """The first k at which H_k is at most tau nats, so that no further step is needed; or None."""
    below = np.flatnonzero(np.asarray(H, dtype=np.float64) <= tau)
    return int(below[0]) if below.size else None


def answer_entropy(traces: Sequence[Trace], *, reduction: Reduction = "mean") -> Array:
    """(K + 1,) full-vocabulary entropy of an answer's tokens in each context, nats.

    traces: one per context, of which only the answer is scored (`answer_traces`).
    reduction: `mean` over the tokens, their `sum`, or the `first_token` alone. An answer without a
    scored token raises BadInput.
    """
    return np.array([_reduced(t.values("entropy"), reduction) for t in traces])


def answer_nll(traces: Sequence[Trace], *, reduction: Reduction = "mean") -> Array:
    """(K + 1,) negative log-likelihood of the given answer in each context; as `answer_entropy`."""
    return np.array([_reduced(-t.values("logp"), reduction) for t in traces])


def _reduced(values: Array, reduction: str) -> float:
    if reduction not in ("mean", "sum", "first_token"):
        raise BadInput(f"reduction must be 'mean', 'sum' or 'first_token', not {reduction!r}")
    if not values.size:
        raise BadInput("the answer has no scored token")
    if reduction == "first_token":
        return float(values[0])
    return float(values.sum()) / (values.size if reduction == "mean" else 1)


def answer_traces(
    model: _Continues,
    question: str,
    steps: Sequence[str],
    answer: str,
    *,
    head: str = HEAD,
    joint: str = "\n",
    cue: str = CUE,
    fields: Fields | None = None,
) -> list[Trace]:
    """K + 1 traces of the answer: after the question and its first 0, 1, ..., K reasoning steps.

    The model reads head + steps, each behind `joint`, + cue + " " + answer; the question is read
    once. In each trace only the tokens of the answer are scored. A chain that is too long for the
    model's window loses its first steps, never the question.
    Raises BadInput for an empty answer, for one whose first token begins before it, and for a
    question that does not fit into the window by itself.
    """
    return [t for t, _ in _traced(model, question, steps, answer, head, joint, cue, fields)]


def _traced(
    model: _Continues,
    question: str,
    steps: Sequence[str],
    answer: str,
    head: str,
    joint: str,
    cue: str,
    fields: Fields | None,
) -> list[tuple[Trace, int]]:
    if not answer.strip():
        raise BadInput("the answer is empty; there is nothing whose entropy could fall")
    if isinstance(steps, str):
        raise BadInput(
            "steps must be a list of texts; nll.scores.split_steps(text, by='line') makes one"
        )
    prompt, end = head.format(question=question), f"{cue} {answer.strip()}"
    asked = fields or Fields()

    def text(first: int, last: int) -> str:
        return "".join(joint + step.strip() for step in steps[first:last]) + end

    whole = model.continuations(prompt, [text(0, k) for k in range(len(steps) + 1)], fields=asked)
    out = []
    for k, trace in enumerate(whole):
        first = 0
        while trace.provenance.window is not None:
            if first == k:
                raise BadInput(
                    f"the question and the answer alone exceed the model's window of "
                    f"{trace.provenance.window} tokens"
                )
            first += 1
            (trace,) = model.continuations(prompt, [text(first, k)], fields=asked)
        out.append((_only_answer(trace, answer.strip()), first))
    return out


def _only_answer(trace: Trace, answer: str) -> Trace:
    """The trace with everything before its last characters, the answer, as prompt."""
    at = len(trace.text) - len(answer)
    ends = trace.field("spans")[:, 1]
    first = int(np.count_nonzero(ends <= at))
    if first < len(trace) and trace.text[int(trace.field("spans")[first, 0]) : at].strip():
        raise BadInput(
            f"the token before the answer {answer!r} reaches into it; end the cue with white space "
            "or punctuation that the tokenizer cuts at"
        )
    return dataclasses.replace(trace, prompt_tokens=max(first, trace.prompt_tokens))


def conditional_answer_entropy(
    model: _Continues,
    question: str,
    steps: Sequence[str],
    answer: str,
    *,
    reduction: Reduction = "mean",
    head: str = HEAD,
    joint: str = "\n",
    cue: str = CUE,
) -> Array:
    """(K + 1,) H_k: the model's entropy over the answer's tokens after k steps, nats.

    Options as in `answer_traces` and `answer_entropy`. arXiv 2508.20395.
    """
    held = answer_traces(model, question, steps, answer, head=head, joint=joint, cue=cue)
    return answer_entropy(held, reduction=reduction)


def conditional_answer_nll(
    model: _Continues,
    question: str,
    steps: Sequence[str],
    answer: str,
    *,
    reduction: Reduction = "mean",
    head: str = HEAD,
    joint: str = "\n",
    cue: str = CUE,
) -> Array:
    """(K + 1,) N_k: negative log-likelihood of the given answer after k steps, nats.

    The cross-entropy twin of `conditional_answer_entropy`.
    """
    held = answer_traces(model, question, steps, answer, head=head, joint=joint, cue=cue)
    return answer_nll(held, reduction=reduction)


def step_utilities(
    model: _Continues,
    question: str,
    steps: Sequence[str],
    answer: str,
    *,
    reduction: Reduction = "mean",
    drop_answer_mentions: bool = False,
    head: str = HEAD,
    joint: str = "\n",
    cue: str = CUE,
) -> StepUtilities:
    """How each reasoning step changes the model's entropy over the answer, and the answer's nll.

    answer: the reference answer, or, without labels, the chain's own (which any chain makes
    likely at its end). drop_answer_mentions: take the utilities over the contexts before the first
    step that contains the answer. Other options as in `answer_traces` and `answer_entropy`.
    """
    held = _traced(model, question, steps, answer, head, joint, cue, None)
    traces = [t for t, _ in held]
    H, N = answer_entropy(traces, reduction=reduction), answer_nll(traces, reduction=reduction)
    mentions = answer_mentions(steps, answer)
    upto = mentions.index(True) + 1 if drop_answer_mentions and True in mentions else len(H)
    return StepUtilities(
        entropy=H, nll=N, entropy_utility=reasoning_utility(H[:upto]),
        nll_utility=reasoning_utility(N[:upto]), mentions=mentions,
        dropped=tuple(n for _, n in held),
    )  # fmt: skip


def answer_mentions(steps: Sequence[str], answer: str) -> tuple[bool, ...]:
    """(K,) which steps contain the answer as whole words: "18" is in "so 18.", not in "18,000"."""
    # digits in groups of three are one number, whose parts are no words
    before, behind = r"(?<![\w.])(?!(?<=\d,)\d{3}(?!\d))", r"(?!\w|\.\d|,\d{3}(?!\d))"
    pattern = re.compile(before + re.escape(answer.strip()) + behind, re.IGNORECASE)
    return tuple(bool(pattern.search(step)) for step in steps)
