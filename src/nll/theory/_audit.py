"""The audit: what an endpoint of one's own, or rows collected from it, gives away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.theory._endpoint import AskedRow, Endpoint, LocalEndpoint, ask_row
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
    logprob_by_bisection,
    logprobs_from_bias,
    output_subspace,
)

FEWEST = 8  # columns seen in all rows, below which nothing is read off them
BISECTED = 5
CLOSES = {
    "dimension": "fewer decimals, noise, or no values at all hide it",
    "subspace": "noise, or values of the top few tokens only, hide it",
    "full rows": "values of the top few tokens only, and no logit bias in them, close it",
    "single values": "refuse a logit bias; rounding and noise do not touch the choice it moves",
}


class LeakageReport(NamedTuple):
    """What an endpoint gave away.

    hidden: the dimension (its `dimension` is None when it stayed hidden), None without rows.
    held_out: share of held-out rows outside the found image; nan without one.   projection_rms:
    error of the recovered W; nan when W was not given or nothing was found.   queries, rows: asked,
    and full rows got.   bias_error: largest error of log-probabilities recovered by bias, in nats;
    nan when not tried.   unseen_tv: mean total variation that the shown values leave open (0 full
    rows, 1 no values).   columns: tokens looked at in each row.   per_row: queries for all V values
    of one context; nan when they cannot be had.   by_choice: whether only the choice moved under a
    bias, so that values came by bisection.
    """

    hidden: HiddenDimension | None
    held_out: float
    projection_rms: float
    queries: int
    rows: int
    bias_error: float
    unseen_tv: float
    columns: int = 0
    per_row: float = math.nan
    by_choice: bool = False

    @property
    def leaks(self) -> tuple[str, ...]:
        """Of `dimension`, `subspace`, `full rows`, `single values`, what could be had."""
        found = self.hidden is not None and self.hidden.dimension is not None
        kinds = {
            "dimension": found,
            "subspace": self.held_out < 0.05,
            "full rows": self.rows > 0,
            "single values": self.by_choice and self.bias_error < 1e-3,
        }
        return tuple(name for name, held in kinds.items() if held)

    @property
    def queries_per_row(self) -> float:
        """Requests spent for one row of the tokens looked at; nan when there was none."""
        return self.queries / self.rows if self.rows else Undefined("no full row was had")

    def lines(self) -> list[str]:
        """The report in plain words, with what would close each leak."""
        if not self.leaks:
            why = self.hidden.reason if self.hidden else "no full row can be had"
            return [f"nothing found: {why}"]
        out = [f"leaks {name}: {CLOSES[name]}" for name in self.leaks]
        if self.hidden is not None:
            size = self.hidden.dimension
            found = f"hidden size {size} (gap {self.hidden.gap:.3g})"
            out.insert(0, found if size else f"hidden size not found: {self.hidden.reason}")
        if self.per_row == self.per_row:
            out.append(f"{1000 * self.per_row:.0f} queries for 1,000 full rows")
        return out


def leakage_audit(
    endpoint_or_logits: Endpoint | npt.ArrayLike,
    contexts: Iterable[Any] = (),
    *,
    W: npt.ArrayLike | None = None,
    window: tuple[int, int] | None = None,
    tokens: npt.ArrayLike | None = None,
    bias_tokens: int = 100,
    tick: Callable[[int], None] = lambda _: None,
) -> LeakageReport:
    """What one's own endpoint, or rows already collected from it, gives away.

    endpoint_or_logits: an endpoint with `contexts` to ask (repeated ones once), or (n, V) logits or
    log-probabilities. More contexts than the hidden size are needed, 1.3 to 2 times as many are
    good; up to a tenth of the rows is held out to test the image, never so many that the rest does
    not span it.   W: (V, h) the true projection, for its error.   window: see `hidden_dimension`.
    tokens: the columns to look at, more than the hidden size; by default all, which costs
    (V - k) / (k - 1) queries a row where k values are shown and a bias brings out the rest, and
    about 2 V where one value is. Tokens at -inf in a row, such as padding, are left out.
    bias_tokens: how many tokens of the first context the exact recovery by bias is tried on, where
    the endpoint is local and knows the truth.   tick: hears 1 after each context.
    Raises BadInput without rows or contexts.
    """
    if not hasattr(endpoint_or_logits, "query"):
        q = answers(endpoint_or_logits)
        hidden, held_out, rms = _read_off(q, None if W is None else answers(W), window)
        nothing = Undefined("the bias route was not tried")
        n, v = q.shape
        return LeakageReport(hidden, held_out, rms, n, n, nothing, 0.0, v, 1.0)
    endpoint = cast(Endpoint, endpoint_or_logits)
    asked = _once(contexts)
    if not asked:
        raise BadInput("an audit of an endpoint needs contexts to ask")
    before = endpoint.queries
    wanted = None if tokens is None else np.unique(np.asarray(tokens, np.int64))
    got = _ask(endpoint, asked, wanted, tick)
    spent = endpoint.queries - before
    error, choice, each = _bias_error(endpoint, asked[0], bias_tokens)
    size = endpoint.vocabulary(asked[0])
    table = np.stack([r.values for r in got])
    common = np.isfinite(table).all(axis=0)  # without what is hidden, and padding at -inf
    shown = max(r.shown for r in got)
    whole = not np.isnan(table).any() and (shown >= size or got[0].by_bias)
    unseen = 0.0 if whole else float(np.mean([_unseen(r, size) for r in got]))
    per_row: float = Undefined("a full row cannot be had")
    if whole:
        per_row = _for_a_row(size, shown, (spent - len(got)) / table.size)
    elif choice:
        per_row = each * (size - 1)
    full = len(got) if whole else 0
    if common.sum() < FEWEST and not whole:
        none = Undefined("no full row can be had")
        return LeakageReport(
            None, none, none, spent, full, error, unseen, int(common.sum()), per_row, choice
        )
    true = None
    if W is not None:
        given = np.asarray(W)
        if given.ndim != 2 or len(given) != size:
            raise BadInput(f"W must be ({size}, hidden size), not {given.shape}")
        true = answers(given[common] if wanted is None else given[wanted[common]])
    hidden, held_out, rms = _read_off(table[:, common], true, window)
    return LeakageReport(
        hidden, held_out, rms, spent, full, error, unseen, int(common.sum()), per_row, choice
    )


def _once(contexts: Iterable[Any]) -> list[Any]:
    """Contexts without repetitions, which would pass for rows of their own under noise."""
    out: dict[Any, Any] = {}
    for i, context in enumerate(contexts):
        plain = isinstance(context, (int, str, bytes, np.integer))
        out.setdefault(context if plain else (i, "unlike any other"), context)
    return list(out.values())


def _ask(
    endpoint: Endpoint,
    contexts: Sequence[Any],
    tokens: npt.NDArray[np.int64] | None,
    tick: Callable[[int], None],
) -> list[AskedRow]:
    """Every context's row; whether a bias helps is settled by the first."""
    got: list[AskedRow] = []
    for context in contexts:
        helps = not got or got[0].by_bias
        got.append(ask_row(endpoint, context, tokens=tokens, use_bias=helps))
        tick(1)
    return got


def _read_off(
    q: Array, W: Array | None, window: tuple[int, int] | None
) -> tuple[HiddenDimension, float, float]:
    """Dimension, held-out residual and projection error of rows of (m,) values."""
    q = centred(distinct_rows(q))
    hidden = hidden_dimension(q, window=window)
    if hidden.dimension is None:
        nothing = Undefined("no dimension was found")
        return hidden, nothing, nothing
    n, h = len(q), hidden.dimension
    out = min(max(1, n // 10), n - h)
    held_out: float = Undefined("too few rows to hold one out")
    if out > 0:
        held_out = image_residual(q[n - out :], output_subspace(q[: n - out], h))
    rms: float = Undefined("the true projection was not given")
    if W is not None:
        rms = align_projection(output_subspace(q, h), W - W.mean(axis=0)).rms
    return hidden, held_out, rms


def _for_a_row(size: int, shown: int, each: float) -> float:
    """Queries for all values of a context; `each` is what a value took where one is shown."""
    if shown >= size:
        return 1.0
    return 1.0 + math.ceil((size - shown) / (shown - 1) if shown > 1 else (size - 1) * each)


def _unseen(row: AskedRow, size: int) -> float:
    if not row.shown:
        return 1.0
    if not np.isfinite(row.visible).all():
        return 0.0  # the least likely of those shown is impossible, and so are the others
    return identified_set_tv(row.visible, size)


def _bias_error(endpoint: Endpoint, context: Any, tokens: int) -> tuple[float, bool, int]:
    """Largest error of values got by bias one at a time; by choice alone? queries for each."""
    if not endpoint.logit_bias:
        return Undefined("the endpoint takes no bias"), False, 0
    if not isinstance(endpoint, LocalEndpoint):
        return Undefined("the truth is known of a local endpoint alone"), False, 0
    z = endpoint.logits(context)
    true = z - np.logaddexp.reduce(z)
    if endpoint.top_k == 0 or not endpoint.bias_reported:
        return _by_choice(endpoint, context, true)
    if endpoint.raw:
        return Undefined("reported values are no log-probabilities"), False, 0
    worst, possible = 0.0, np.flatnonzero(np.isfinite(true))
    for at in np.linspace(0, len(possible) - 1, min(tokens, len(possible)), dtype=np.int64):
        token = int(possible[at])
        # level with the most likely, where it is exactest, and above it, so that it is shown
        bias = float(true.max() - true[token]) + 0.1
        if bias > endpoint.max_bias:
            why = f"a bias of {endpoint.max_bias:g} does not bring a token up"
            return Undefined(why), False, 0
        seen = endpoint.query(context, {token: bias})
        shown = seen.values[seen.tokens == token]
        if not shown.size or shown[0] >= 0:
            why = "a biased token's log-probability is hidden, or noise lifts it above 0"
            return Undefined(why), False, 0
        recovered = logprobs_from_bias(shown, bias)
        worst = max(worst, float(abs(recovered[0] - true[token])))
    return worst, False, 1


def _by_choice(endpoint: LocalEndpoint, context: Any, true: Array) -> tuple[float, bool, int]:
    worst, before = 0.0, endpoint.queries
    some = np.linspace(0, len(true) - 1, min(BISECTED, len(true)), dtype=np.int64)
    high = min(1000.0, endpoint.max_bias)
    for token in map(int, some):
        if true.max() - true[token] > high:
            return Undefined(f"a bias of {high:g} does not bring a token up"), False, 0

        def top(bias: float, token: int = token) -> int:
            return endpoint.query(context, {token: bias}).top

        found = logprob_by_bisection(top, token, high=high, tolerance=1e-6)
        worst = max(worst, abs(found - float(true[token] - true.max())))
    return worst, True, math.ceil((endpoint.queries - before) / len(some))


def mitigation_table(
    model: Callable[[Any], npt.ArrayLike],
    contexts: Sequence[Any],
    settings: Sequence[Mapping[str, Any]],
    *,
    W: npt.ArrayLike | None = None,
    window: tuple[int, int] | None = None,
    tokens: npt.ArrayLike | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> list[tuple[Mapping[str, Any], LeakageReport]]:
    """The audit under each of several settings of `LocalEndpoint`: what hides what."""
    out = []
    for given in settings:
        endpoint = LocalEndpoint(model, **given)
        found = leakage_audit(endpoint, contexts, W=W, window=window, tokens=tokens, tick=tick)
        out.append((given, found))
    return out
