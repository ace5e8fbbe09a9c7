"""Does surprisal at another temperature fit reading times better, and through which words?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nll import metrics, scores
from nll._errors import BadInput
from nll.trace import Array, Fields, Trace

TEMPERATURES: Final = (
    1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 4.0,
    4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0, 10.0,
)  # fmt: skip
SURPRISAL, PIECES = "word surprisal", "word pieces"


class TemperatureSweep(NamedTuple):
    """How much word surprisal adds to a model of reading times, temperature by temperature.

    temperatures: (G,).   delta: (G,) gain in log-likelihood per row, nats; nan where undefined.
    best: the temperature of the largest gain, nan without one.   gain: delta there over delta at
    temperature 1, minus 1; nan when 1 is not among the temperatures.   n: rows each fit rests on.
    """

    temperatures: Array
    delta: Array
    best: float
    gain: float
    n: int


def sweep_fields(temperatures: Sequence[float] = TEMPERATURES, *, boundary: bool = False) -> Fields:
    """What the traces of a sweep must hold: `model.trace(texts, fields=sweep_fields())`."""
    asked = (1.0 / t for t in temperatures if t != 1.0 and (boundary or np.isfinite(t)))
    return Fields(betas=tuple(asked), boundary=boundary)


def temperature_sweep(
    traces: Sequence[Trace],
    table: Mapping[str, npt.ArrayLike] | Any,
    baseline: str | Sequence[str] = (),
    temperatures: Sequence[float] = TEMPERATURES,
    *,
    boundary: Literal["sum", "corrected"] = "sum",
    rescale: Literal["all", "several", "one"] = "all",
    control_pieces: bool = False,
    words: Sequence[Sequence[str]] | None = None,
    response: str = "rt",
    spillover: int = 2,
    group: str | None = None,
    weights: str | npt.ArrayLike | None = None,
    keep: npt.ArrayLike | None = None,
) -> TemperatureSweep:
    """Fit reading times by word surprisal at each temperature; see `delta_log_likelihood`.

    traces: the texts in reading order, made with `sweep_fields(temperatures)`.   table: one row
    for each of their words, in the same order, with the reading times and the columns of the
    baseline.   words: of each text, where they are not what whitespace separates.
    boundary: as in `word_surprisal`.   rescale: only the words of `several` tokens, or of `one`,
    take the temperature; the others stay at 1.   control_pieces: put the number of tokens of a word
    (and of the words before it) into the baseline, which a temperature slides surprisal towards.
    response, spillover, group, weights, keep: as in `delta_log_likelihood`; `group` should name the
    column of the text, or lags reach from one text into the one before.

    Raises BadInput when the table has another number of rows than the texts have words, for a
    temperature <= 0, and as `delta_log_likelihood`; MissingField when a trace lacks a temperature.
    References: Liu et al., arXiv 2311.09325.
    """
    if rescale not in ("all", "several", "one"):
        raise BadInput(f"rescale must be 'all', 'several' or 'one', not {rescale!r}")
    if not len(temperatures):
        raise BadInput("a sweep needs a temperature")
    split = [None] * len(traces) if words is None else list(words)
    if len(split) != len(traces):
        raise BadInput(f"{len(split)} lists of words for {len(traces)} texts")
    pieces = _joined([scores.word_pieces(t, words=w) for t, w in zip(traces, split, strict=True)])

    def surprisal(temperature: float) -> Array:
        return _joined([
            scores.word_surprisal(t, words=w, temperature=temperature, boundary=boundary)
            for t, w in zip(traces, split, strict=True)
        ])  # fmt: skip

    kept_at_1 = {"all": np.zeros(len(pieces), bool), "several": pieces < 2, "one": pieces > 1}
    plain = surprisal(1.0) if rescale != "all" else None
    lagged = [PIECES, *(f"{PIECES}@{lag}" for lag in range(1, spillover + 1))]
    terms = [baseline] if isinstance(baseline, str) else list(baseline)
    found = []
    for temperature in temperatures:
        scaled = surprisal(temperature)
        if plain is not None:
            scaled = np.where(kept_at_1[rescale], plain, scaled)
        columns = _Extended(table, {SURPRISAL: scaled, PIECES: pieces})
        found.append(metrics.delta_log_likelihood(
            columns, SURPRISAL, [*terms, *(lagged if control_pieces else [])], spillover, weights,
            response=response, group=group, keep=keep,
        ))  # fmt: skip
    delta = np.array(found, float)
    at, first = np.array(temperatures, float), list(temperatures)
    best = float("nan") if np.isnan(delta).all() else float(at[np.nanargmax(delta)])
    base = delta[first.index(1.0)] if 1.0 in first else np.nan
    gain = np.nanmax(delta) / base - 1 if best == best and base else np.nan
    n = max(int(getattr(d, "n", 0)) for d in found)
    return TemperatureSweep(at, delta, best, float(gain), n)


class _Extended:
    """A table with further columns."""

    def __init__(self, table: Any, more: Mapping[str, Array]):
        self._table, self._more = table, more

    def __getitem__(self, name: str) -> Any:
        return self._more[name] if name in self._more else self._table[name]


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0)
