"""When a request is sent again, and how long to wait before: pure rules and a shared gate."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

# What may go away by itself; everything else is tried exactly once.
AGAIN = frozenset({408, 409, 429})
LONGEST_WAIT = 120.0
UNAVAILABLE = "unavailable"  # the reason of a row that another run may well score


@dataclass(frozen=True, slots=True)
class Retry:
    """The policy: at most `attempts` tries, waits that double from `base` to `cap` seconds.

    malformed: tries of a request whose answers arrive but cannot be used, since those cost money.
    sleep, clock, chance: to be replaced in tests.
    """

    attempts: int = 8
    base: float = 0.5
    cap: float = 30.0
    malformed: int = 3
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random

    def wait(self, failures: int, retry_after: str | None = None) -> float:
        """Seconds to wait after this many failures in a row.

        What the server asks for is obeyed, up to two minutes, with a little added so that not all
        callers return in the same moment; without it the wait is drawn between half and all of the
        doubling time.
        """
        asked = seconds_of(retry_after, self.clock())
        if asked is not None:
            return min(asked, LONGEST_WAIT) + 0.1 * self.base * self.chance()
        whole = min(self.cap, self.base * 2.0 ** min(failures - 1, 30))
        return whole * (0.5 + 0.5 * self.chance())


def may_pass(status: int) -> bool:
    """Whether a request answered with this status is worth another try."""
    return status in AGAIN or status >= 500


def seconds_of(retry_after: str | None, now: float) -> float | None:
    """What a Retry-After header asks for: seconds or a date; None when it says nothing usable."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


@dataclass(slots=True)
class Gate:
    """Holds all callers back for as long as the server asked one of them to wait."""

    retry: Retry
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_(self) -> None:
        """Return when nobody has to wait any more."""
        while True:
            with self._lock:
                left = self._until - self.retry.clock()
            if left <= 0:
                return
            self.retry.sleep(min(left, LONGEST_WAIT))

    def close(self, seconds: float) -> None:
        """Hold everybody back for this long from now on."""
        with self._lock:
            self._until = max(self._until, self.retry.clock() + seconds)
