"""A simulated API around one's own model, and the audit of what it leaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.theory._leakage import (
    Array,
    HiddenDimension,
    align_projection,
    answers,
    centred,
    distinct_rows,
    hidden_dimension,
    identified_set_tv,
    image_residual,
    logprobs_from_bias,
    output_subspace,
)


class Answer(NamedTuple):
    """What the endpoint shows: (k,) token ids, most likely first, and their values in nats.

    tokens and values are empty and only `top` speaks when the endpoint reports no values.
    """

    tokens: npt.NDArray[np.int64]
    values: Array
    top: int


@dataclass
class LocalEndpoint:
    """An API with the given settings around a function from a context to its logits (V,).

    top_k: values shown (None all, 0 none).   logit_bias: whether requests may add to logits.
    bias_reported: whether the shown values contain the bias, or it only moves the choice.
    decimals: to which values are rounded.   noise: standard deviation added to each value, nats.
    raw: show logits, not log-probabilities.   seed: of the noise.   queries: asked so far.
    """

    model: Callable[[Any], npt.ArrayLike]
    top_k: int | None = None
    logit_bias: bool = False
    bias_reported: bool = True
    decimals: int | None = None
    noise: float = 0.0
    raw: bool = False
    seed: int = 0
    queries: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if (self.top_k is not None and self.top_k < 0) or not self.noise >= 0:
            raise BadInput("top_k and noise must be 0 or more")
        self._rng = np.random.default_rng(self.seed)

    def query(self, context: Any, bias: Mapping[int, float] | None = None) -> Answer:
        """The answer for one context; BadInput when a bias is given and not allowed."""
        if bias and not self.logit_bias:
            raise BadInput("this endpoint does not take a logit bias")
        self.queries += 1
        plain = np.asarray(self.model(context), dtype=np.float64)
        if plain.ndim != 1:
            raise BadInput(f"the model must give (V,) logits, not {plain.shape}")
        moved = plain.copy()
        for token, amount in (bias or {}).items():
            moved[token] += amount
        shown = moved if self.bias_reported else plain
        if not self.raw:
            shown = shown - np.logaddexp.reduce(shown)
        if self.noise:
            shown = shown + self._rng.normal(0.0, self.noise, shown.shape)
        if self.decimals is not None:
            shown = np.round(shown, self.decimals)
        k = len(plain) if self.top_k is None else min(self.top_k, len(plain))
        order = np.argsort(-moved, kind="stable")
        return Answer(order[:k], shown[order[:k]], int(order[0]))

    def row(self, context: Any, *, bias: float = 20.0) -> Array | None:
        """(V,) full row of values for a context, or None where the settings hide it.

        Directly when everything is shown, else by the bias route, k - 1 tokens a query beside one
        reference token that is biased too; the values are then log-probabilities (logits if raw).
        """
        first = self.query(context)
        size = self.vocabulary(context)
        k = len(first.tokens)
        out = np.full(size, np.nan)
        out[first.tokens] = first.values
        if k == size:
            return out
        if k < 2 or not self.logit_bias or not self.bias_reported:
            return None
        reference = int(first.tokens[0])
        left = np.flatnonzero(np.isnan(out))
        spread = bias
        for batch in np.array_split(left, math.ceil(len(left) / (k - 1))):
            while True:
                chosen = {int(t): spread for t in (reference, *batch)}
                seen = self.query(context, chosen)
                value = dict(zip(seen.tokens.tolist(), seen.values.tolist(), strict=True))
                if all(t in value for t in chosen):
                    break
                spread *= 2
                if spread > 1e6:
                    return None
            if self.raw:
                out[batch] = [value[int(t)] - spread for t in batch]
                continue
            shown = [value[int(t)] - value[reference] for t in batch]
            out[batch] = np.asarray(shown) + first.values[0]
        return out

    def vocabulary(self, context: Any) -> int:
        """V, how many tokens the model gives logits for."""
        return len(np.asarray(self.model(context)))


class LeakageReport(NamedTuple):
    """What an endpoint gave away.

    hidden: the dimension (its `dimension` is None when it stayed hidden).   held_out: share of
    held-out rows outside the found image; nan without one.   projection_rms: error of the recovered
    W; nan when W was not given or nothing was found.   queries, rows: asked, and full rows got.
    bias_error: largest error of log-probabilities recovered by bias; nan when not tried.
    unseen_tv: mean total variation that the shown values leave open (0 full rows, 1 no values).
    """

    hidden: HiddenDimension | None
    held_out: float
    projection_rms: float
    queries: int
    rows: int
    bias_error: float
    unseen_tv: float

    @property
    def leaks(self) -> tuple[str, ...]:
        """Of `dimension`, `subspace`, `full rows`, what could be had."""
        found = self.hidden is not None and self.hidden.dimension is not None
        kinds = {"dimension": found, "subspace": self.held_out < 0.05, "full rows": self.rows > 0}
        return tuple(name for name, held in kinds.items() if held)

    @property
    def queries_per_row(self) -> float:
        """Requests for one full row; nan when there was none."""
        return self.queries / self.rows if self.rows else Undefined("no full row was had")

    def lines(self) -> list[str]:
        """The report in plain words, with what would close each leak."""
        closes = {
            "dimension": "fewer decimals, noise, or no values at all hide it",
            "subspace": "noise, or values of the top few tokens only, hide it",
            "full rows": "refuse a logit bias, or leave it out of reported values",
        }
        if not self.leaks:
            why = self.hidden.reason if self.hidden else "no full row can be had"
            return [f"nothing found: {why}"]
        out = [f"leaks {name}: {closes[name]}" for name in self.leaks]
        if self.hidden is not None:
            size = self.hidden.dimension
            found = f"hidden size {size} (gap {self.hidden.gap:.3g})"
            out.insert(0, found if size else f"hidden size not found: {self.hidden.reason}")
        if self.rows:
            out.append(f"{1000 * self.queries_per_row:.0f} queries for 1,000 full rows")
        return out


def leakage_audit(
    endpoint_or_logits: LocalEndpoint | npt.ArrayLike,
    contexts: Iterable[Any] = (),
    *,
    W: npt.ArrayLike | None = None,
    window: tuple[int, int] | None = None,
    bias_tokens: int = 100,
) -> LeakageReport:
    """What one's own endpoint, or rows already collected from it, gives away.

    endpoint_or_logits: a `LocalEndpoint` with `contexts` to ask, or (n, V) logits or
    log-probabilities. A tenth of the rows is held out.   W: (V, h) the true projection, for its
    error.   window: see `hidden_dimension`.   bias_tokens: how many tokens of the first context the
    exact recovery by bias is tried on. Raises BadInput without rows or contexts.
    """
    bias_error: float = Undefined("the bias route was not tried")
    unseen = 0.0
    if isinstance(endpoint_or_logits, LocalEndpoint):
        endpoint, asked = endpoint_or_logits, list(contexts)
        if not asked:
            raise BadInput("an audit of an endpoint needs contexts to ask")
        before = endpoint.queries
        got = [endpoint.row(c) for c in asked]
        queries = endpoint.queries - before
        held = [r for r in got if r is not None]
        unseen = float(np.mean([_unseen(endpoint, c) for c in asked])) if not held else 0.0
        if endpoint.logit_bias:
            bias_error = _bias_error(endpoint, asked[0], bias_tokens)
        if not held:
            nothing = Undefined("no full row can be had")
            return LeakageReport(None, nothing, nothing, queries, 0, bias_error, unseen)
        q = answers(held)
    else:
        q = answers(endpoint_or_logits)
        queries = len(q)
    rows = len(q)
    q = centred(distinct_rows(q))
    out = len(q) // 10
    kept, tested = q[: len(q) - out], q[len(q) - out :]
    hidden = hidden_dimension(kept, window=window)
    held_out: float = Undefined("no dimension was found")
    rms: float = held_out
    if hidden.dimension is not None:
        subspace = output_subspace(kept, hidden.dimension)
        held_out = (
            image_residual(tested, subspace) if out else Undefined("too few rows to hold one out")
        )
        rms = Undefined("the true projection was not given")
        if W is not None:
            true = answers(W)
            rms = align_projection(subspace, true - true.mean(axis=0)).rms
    return LeakageReport(hidden, held_out, rms, queries, rows, bias_error, unseen)


def _unseen(endpoint: LocalEndpoint, context: Any) -> float:
    values = endpoint.query(context).values
    return identified_set_tv(values, endpoint.vocabulary(context)) if len(values) else 1.0


def _bias_error(endpoint: LocalEndpoint, context: Any, tokens: int) -> float:
    """Largest error of log-probabilities recovered exactly from biased answers, one at a time."""
    if endpoint.raw or not endpoint.bias_reported:
        return Undefined("reported values are no log-probabilities that hold the bias")
    z = np.asarray(endpoint.model(context), dtype=np.float64)
    true = z - np.logaddexp.reduce(z)
    worst = 0.0
    for token in np.linspace(0, len(z) - 1, min(tokens, len(z)), dtype=np.int64):
        bias = float(true.max() - true[token])  # level with the most likely, where it is exactest
        seen = endpoint.query(context, {int(token): bias})
        shown = seen.values[seen.tokens == token]
        if not shown.size or shown[0] >= 0:
            return Undefined(
                "a biased token's log-probability is hidden, or noise lifts it above 0"
            )
        recovered = logprobs_from_bias(shown, bias)
        worst = max(worst, float(abs(recovered[0] - true[token])))
    return worst


def mitigation_table(
    model: Callable[[Any], npt.ArrayLike],
    contexts: Sequence[Any],
    settings: Sequence[Mapping[str, Any]],
    *,
    window: tuple[int, int] | None = None,
) -> list[tuple[Mapping[str, Any], LeakageReport]]:
    """The audit under each of several settings of `LocalEndpoint`: what hides what."""
    return [
        (given, leakage_audit(LocalEndpoint(model, **given), contexts, window=window))
        for given in settings
    ]
