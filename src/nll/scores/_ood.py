"""Is this text foreign to what a model was fine-tuned on? Higher means foreign.

Sums grow with length, means do not; with foreign texts longer or shorter than the others the two
can disagree, so look at both and at length alone.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from nll._declare import Undefined, score
from nll._errors import BadInput
from nll.scores._common import INF, NO_TOKENS, known, mean, total
from nll.trace import Trace

Pair: TypeAlias = tuple[Trace | float, Trace | float]


@score(
    higher_means="foreign",
    reads=("logp",),
    unit="nats",
    range=(-INF, INF),
    paper="2404.08679",
    question="ood",
)
def likelihood_ratio(
    trace: Trace,
    reference: Trace,
    *,
    normalise: bool = False,
    finetuned: Literal["reference", "trace"] = "reference",
) -> float:
    """LR, log p_pretrained(x) - log p_finetuned(x), or with `normalise` NLR, the same per token.

    trace: under the pretrained model.   reference: the same text under its fine-tuned version.
    finetuned: which of the two it is; "trace" where the second model is the one before tuning.
    Note the direction: elsewhere the ratio is often the other way round. Nats. Of models with
    different tokenizers only the sums compare. Undefined when no token was scored, the models score
    different parts of the text, split it differently (normalised), or both find it impossible.
    Raises BadInput for traces of different texts.
    """
    if finetuned not in ("reference", "trace"):
        raise BadInput(f"finetuned is 'reference' or 'trace', not {finetuned!r}")
    if trace.text and reference.text and trace.text != reference.text:
        raise BadInput("the two traces are of different texts")
    n, m = trace.n_scored, reference.n_scored
    if not n or not m:
        return NO_TOKENS
    if normalise and n != m:
        return Undefined("the two models split the text differently, so only the sums compare")
    if _start(trace) != _start(reference):
        return Undefined("the two models score different parts of the text (one of them has a BOS)")
    if _same_pieces(trace, reference) and not np.array_equal(trace.scored, reference.scored):
        return Undefined("a token inside the text has a value under one of the models only")
    sums = float(trace.values("logp").sum()), float(reference.values("logp").sum())
    difference = known(sums[0] - sums[1], "the text is impossible to both models")
    if isinstance(difference, Undefined):
        return difference
    ratio = difference / n if normalise else difference
    return ratio if finetuned == "reference" else 0.0 - ratio


def _same_pieces(trace: Trace, reference: Trace) -> bool:
    """Whether both split the text into the same tokens, as far as the traces can tell."""
    if len(trace) != len(reference):
        return False
    for name in ("spans", "ids"):
        mine, other = getattr(trace, name), getattr(reference, name)
        if mine is not None and other is not None:
            return np.array_equal(mine, other)
    return True


def _start(trace: Trace) -> int:
    """Where scoring starts: a character, or the token's number in a trace without spans."""
    first = int(np.flatnonzero(trace.scored)[0])
    return first if trace.spans is None else int(trace.spans[first, 0])


@score(
    higher_means="foreign",
    reads=("logp",),
    unit="nats",
    range=(0.0, INF),
    paper="2404.08679",
    question="ood",
)
def negative_likelihood(trace: Trace, *, normalise: bool = False) -> float:
    """LH, minus the log-likelihood under the fine-tuned model; with `normalise` NLH, per token.

    The baseline of `likelihood_ratio`. Nats. Undefined when no token was scored.
    """
    nll = -trace.values("logp")
    return mean(nll) if normalise else total(nll)


def qa_ratio(
    q: Pair | None = None,
    a: Pair | None = None,
    qa: Pair | None = None,
    *,
    form: Literal["q", "a", "qa", "a|q"] = "a|q",
) -> float:
    """The likelihood ratio of a question, its answer, both, or the answer given the question.

    q, a, qa: (under the pretrained, under the fine-tuned model) of the text of the question, of the
    answer, of both: traces, or summed log-likelihoods in nats. Only those that `form` needs:
    `a|q` is S_qa - S_q. Higher means foreign (arXiv 2404.08679). Raises BadInput without them.
    """
    needs = {"q": (q,), "a": (a,), "qa": (qa,), "a|q": (qa, q)}.get(form)
    if needs is None:
        raise BadInput(f"form must be q, a, qa or a|q, not {form!r}")
    found: list[float] = []
    for pair in needs:
        if pair is None:
            raise BadInput(f"form '{form}' needs " + ("qa and q" if form == "a|q" else form))
        ratio = _ratio(*pair)
        if isinstance(ratio, Undefined):
            return ratio
        found.append(ratio)
    whole = found[0] - sum(found[1:])
    return known(whole, "a text is impossible to one of the models")


def _ratio(pretrained: Trace | float, finetuned: Trace | float) -> float:
    if isinstance(pretrained, Trace) and isinstance(finetuned, Trace):
        return likelihood_ratio(pretrained, finetuned)
    if isinstance(pretrained, Trace) or isinstance(finetuned, Trace):
        raise BadInput("give two traces or two sums, not one of each")
    return known(float(pretrained) - float(finetuned), "the text is impossible to both models")
