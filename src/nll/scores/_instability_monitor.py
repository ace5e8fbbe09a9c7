"""The instability signal while an answer is being written, for an early warning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nll._declare import Undefined
from nll._errors import BadInput
from nll.scores._instability import instability_signal
from nll.trace import Array, Trace


class InstabilityMonitor:
    """`instability_signal` step by step: give it each step's candidates as they come.

    It holds the step before and the largest value so far, nothing else.
    k, lam: as in `instability_signal`. arXiv 2602.02863.

    >>> monitor = InstabilityMonitor(k=2)
    >>> for p in ([0.5, 0.5], [0.9, 0.1]):
    ...     print(round(monitor.update([5, 6], np.log(p)), 3))
    0.693
    0.427
    >>> (monitor.peak, round(monitor.strength, 3))
    (1, 0.693)
    """

    def __init__(self, *, k: int | None = 50, lam: float = 1.0):
        self._k, self._lam = k, lam
        self._before: tuple[Array, Array] | None = None
        self.steps = 0
        self.peak: int | None = None
        self.strength: float = Undefined("no step was given")

    def update(self, ids: npt.ArrayLike, logp: npt.ArrayLike) -> float:
        """The signal of the next step, nats, from its (k,) candidates and their log-probabilities.

        Raises BadInput unless both are vectors of one length, 1 or more.
        """
        now = np.asarray(ids, np.int64), np.asarray(logp, np.float64)
        if now[0].ndim != 1 or now[0].shape != now[1].shape or not now[0].size:
            raise BadInput(
                f"ids and logp must be vectors alike, not {now[0].shape}, {now[1].shape}"
            )
        steps = [now] if self._before is None else [self._before, now]
        width = max(len(i) for i, _ in steps)
        trace = Trace(
            logp=np.zeros(len(steps)),
            top_ids=np.stack(
                [np.pad(i, (0, width - len(i)), constant_values=-1) for i, _ in steps]
            ),
            top_logp=np.stack(
                [np.pad(p, (0, width - len(p)), constant_values=np.nan) for _, p in steps]
            ),
        )
        value = float(instability_signal(trace, k=self._k, lam=self._lam)[-1])
        self._before = now
        self.steps += 1
        if self.peak is None or value > self.strength:
            self.peak, self.strength = self.steps, value
        return value
