"""An API that shows log-probabilities: what is asked of it, and a simulated one around a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.theory._leakage import Array, logprobs_from_bias

START_BIAS = 20.0
OTHERS = 0.1  # nats below certainty at which rounding spoils a value that a bias brought out little
MOST_TRIES = 60


class Answer(NamedTuple):
    """What the endpoint shows: (k,) token ids, most likely first, and their values in nats.

    tokens and values are empty and only `top` speaks when the endpoint reports no values.
    """

    tokens: npt.NDArray[np.int64]
    values: Array
    top: int


class Endpoint(Protocol):
    """Anything that shows values for the next token: `LocalEndpoint`, `HttpEndpoint`, one's own.

    logit_bias: whether a query may add to logits.   max_bias: the largest that it takes.
    queries: asked so far.
    """

    logit_bias: bool
    max_bias: float
    queries: int

    def query(self, context: Any, bias: Mapping[int, float] | None = None) -> Answer:
        """The answer for one context."""
        ...

    def vocabulary(self, context: Any) -> int:
        """V, how many tokens there are."""
        ...


@dataclass
class LocalEndpoint:
    """An API with the given settings around a function from a context to its logits (V,).

    top_k: values shown (None all, 0 none).   logit_bias: whether requests may add to logits.
    decimals: to which values are rounded.   noise: standard deviation added to each value, nats.
    bias_reported: whether the shown tokens and values contain the bias, or it moves only the
    choice (what vendors did in March 2024).   raw: show logits, not log-probabilities.
    seed: of the noise.   max_bias: the largest bias taken.   queries: asked so far.
    """

    model: Callable[[Any], npt.ArrayLike]
    top_k: int | None = None
    logit_bias: bool = False
    decimals: int | None = None
    noise: float = 0.0
    bias_reported: bool = True
    raw: bool = False
    seed: int = 0
    max_bias: float = 1e6
    queries: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if (self.top_k is not None and self.top_k < 0) or not self.noise >= 0:
            raise BadInput("top_k and noise must be 0 or more")
        self._rng = np.random.default_rng(self.seed)
        self._known: tuple[Any, Array, float] | None = None
        self._order: npt.NDArray[np.int64] | None = None

    def query(self, context: Any, bias: Mapping[int, float] | None = None) -> Answer:
        """The answer for one context; BadInput when a bias is given and not allowed."""
        if bias and not self.logit_bias:
            raise BadInput("this endpoint does not take a logit bias")
        if bias and max(map(abs, bias.values())) > self.max_bias:
            raise BadInput(f"this endpoint takes a logit bias of up to {self.max_bias:g}")
        self.queries += 1
        plain, lse = self._read(context)
        k = len(plain) if self.top_k is None else min(self.top_k, len(plain))
        order = self._best(plain, max(k, 1) + len(bias or ()))
        shown, values, top = order[:k], plain[order[:k]], int(order[0])
        if bias:
            moved_order, moved, moved_lse = _biased(plain, order, lse, bias, max(k, 1))
            top = int(moved_order[0])
            if self.bias_reported:
                shown, values, lse = moved_order[:k], moved[:k], moved_lse
        if not self.raw:
            values = values - lse
        if self.noise:
            values = values + self._rng.normal(0.0, self.noise, values.shape)
        if self.decimals is not None:
            values = np.round(values, self.decimals)
        return Answer(shown, values, top)

    def vocabulary(self, context: Any) -> int:
        """V, how many tokens the model gives logits for."""
        return len(self._read(context)[0])

    def logits(self, context: Any) -> Array:
        """(V,) what the model itself says, which only its owner can ask."""
        return self._read(context)[0].copy()

    def _read(self, context: Any) -> tuple[Array, float]:
        """Logits and their normaliser; kept while the same context is asked again."""
        known = self._known
        if known is not None and type(known[0]) is type(context) and known[0] == context:
            return known[1], known[2]
        plain = np.asarray(self.model(context), dtype=np.float64)
        if plain.ndim != 1 or not plain.size:
            raise BadInput(f"the model must give (V,) logits, not {plain.shape}")
        lse = log_sum_exp(plain)
        # Only what cannot change under us may stand for a context.
        fixed = isinstance(context, (int, str, bytes, np.integer))
        self._known = (context, plain, lse) if fixed else None
        self._order = None
        return plain, lse

    def _best(self, plain: Array, count: int) -> npt.NDArray[np.int64]:
        """At least `count` tokens from the most likely on; equal ones by their ids."""
        if self._known is None or self._order is None or len(self._order) < min(count, len(plain)):
            self._order = most_likely(plain, count)
        return self._order


def log_sum_exp(z: Array) -> float:
    """ln sum exp z."""
    top = float(z.max())
    if not math.isfinite(top):
        return top
    return top + math.log(float(np.exp(z - top).sum()))


def most_likely(z: Array, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest values or more, largest first, equal ones by index."""
    if count > len(z) // 4:
        return np.argsort(-z, kind="stable")
    least = np.partition(z, len(z) - count)[len(z) - count]
    some = np.flatnonzero(z >= least)
    best: npt.NDArray[np.int64] = some[np.argsort(-z[some], kind="stable")]
    return best


def _biased(
    plain: Array,
    order: npt.NDArray[np.int64],
    lse: float,
    bias: Mapping[int, float],
    k: int,
) -> tuple[npt.NDArray[np.int64], Array, float]:
    """The k most likely tokens under a bias, their logits, and the normaliser.

    They are among the biased tokens and the first k + (number biased) of the plain order.
    """
    at, amount = np.array(list(bias), np.int64), np.array(list(bias.values()), np.float64)
    among = np.union1d(order[: k + len(at)], at)
    moved = plain[among]
    moved[np.searchsorted(among, at)] += amount
    best = np.argsort(-moved, kind="stable")[:k]
    if (amount > 0).all():
        # ln(e^b - 1) = b + ln(1 - e^-b): what each biased token adds to the sum.
        added = plain[at] + amount + np.log(-np.expm1(-amount))
        total = float(np.logaddexp(lse, np.logaddexp.reduce(added)))
    else:
        whole = plain.copy()
        whole[at] += amount
        total = log_sum_exp(whole)
    return among[best], moved[best], total


class AskedRow(NamedTuple):
    """What could be had of one context's row.

    values: (m,) in nats, nan where they stay hidden.   shown: values in a plain answer.
    visible: (shown,) those values.   by_bias: whether a bias brought some of them out.
    """

    values: Array
    shown: int
    visible: Array
    by_bias: bool


def ask_row(
    endpoint: Endpoint,
    context: Any,
    *,
    tokens: npt.ArrayLike | None = None,
    bias: float = START_BIAS,
    use_bias: bool = True,
) -> AskedRow:
    """A context's values for the given tokens (default all), as far as an endpoint shows them.

    Those of the plain answer first; the others, where a bias is taken and `use_bias`, by the bias
    route of arXiv 2403.06634: k - 1 tokens a query beside one reference token that is biased too,
    ln p = ln p^B - ln p_r^B + ln p_r. The bias is doubled while it leaves a token hidden. Where one
    value is shown, a token a query by ln p = ln p^B - logaddexp(B + ln(1 - p^B), ln p^B), with a
    bias that leaves the others some of the probability: two queries a token, or a few more.
    """
    first = endpoint.query(context)
    size, k = endpoint.vocabulary(context), len(first.tokens)
    wanted = np.arange(size) if tokens is None else np.asarray(tokens, np.int64)
    if wanted.ndim != 1 or (wanted < 0).any() or (wanted >= size).any():
        raise BadInput(f"tokens must be ids below {size}")
    row = np.full(size, np.nan)
    row[first.tokens] = first.values
    left = wanted[np.isnan(row[wanted])]
    found = len(left) > 0 and use_bias and endpoint.logit_bias and k > 0
    if found and k == 1:
        for token in left.tolist():
            alone = _alone(endpoint, context, token, float(first.values[0]), bias)
            if alone is None:
                found = False
                break
            row[token] = alone
    elif found:
        reference, true = int(first.tokens[0]), float(first.values[0])
        spread = min(bias, endpoint.max_bias)
        for batch in np.array_split(left, math.ceil(len(left) / (k - 1))):
            enough = _by_bias(endpoint, context, batch, reference, true, spread, row)
            if enough is None:
                found = False
                break
            spread = enough
    return AskedRow(row[wanted], k, first.values, found)


def _by_bias(
    endpoint: Endpoint,
    context: Any,
    batch: npt.NDArray[np.int64],
    reference: int,
    true: float,
    spread: float,
    row: Array,
) -> float | None:
    """Write a batch of tokens into `row`; the bias that sufficed, None when none does."""
    chosen = [reference, *batch.tolist()]
    while True:
        seen = endpoint.query(context, dict.fromkeys(chosen, spread))
        value = dict(zip(seen.tokens.tolist(), seen.values.tolist(), strict=True))
        if all(t in value for t in chosen):
            row[batch] = [value[t] - value[reference] + true for t in chosen[1:]]
            return spread
        if spread >= endpoint.max_bias:
            return None
        spread = min(2 * spread, endpoint.max_bias)


def _alone(
    endpoint: Endpoint, context: Any, token: int, most_likely: float, bias: float
) -> float | None:
    """One token's own value where a single one is shown; None when no bias brings it out."""
    raw = bool(getattr(endpoint, "raw", False))
    hidden, shown, spread = 0.0, math.inf, min(bias, endpoint.max_bias)
    for _ in range(MOST_TRIES):
        seen = endpoint.query(context, {token: spread})
        values = seen.values[seen.tokens == token]
        level = math.nan
        if not values.size:
            if spread >= endpoint.max_bias:
                return None
            hidden = spread
        elif raw:
            return float(values[0]) - spread
        else:
            value = float(values[0])
            if value < 0:
                found = float(logprobs_from_bias([value], spread)[0])
                if value <= -OTHERS:
                    return found
                level = most_likely - found  # the bias that makes it as likely as the first
            shown = spread
        middle = (hidden + shown) / 2 if shown < math.inf else min(2 * spread, endpoint.max_bias)
        spread = level if hidden < level < shown else middle
    return None
