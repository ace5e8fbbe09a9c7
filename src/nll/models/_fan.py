"""Many requests under way at once, their results in the order of the questions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

A = TypeVar("A")
B = TypeVar("B")
_Task: TypeAlias = "tuple[A, Future[B]] | None"


def fan(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[Future[B]]:
    """One finished future per item, in order; at most `workers` calls run at a time.

    Items are read in the caller's thread, a few ahead. The threads are daemons: a process that is
    told to stop need not wait for a server, or for the minute that it asked for.
    """
    tasks: SimpleQueue[tuple[A, Future[B]] | None] = SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        while (task := tasks.get()) is not None:
            item, box = task
            if stopped.is_set():
                continue
            try:
                box.set_result(function(item))
            except BaseException as error:  # noqa: BLE001  handed to whoever reads the future
                box.set_exception(error)

    waiting: deque[Future[B]] = deque()
    started = 0
    try:
        for item in items:
            box: Future[B] = Future()
            waiting.append(box)
            tasks.put((item, box))
            if started < workers:
                threading.Thread(target=work, name="nll-request", daemon=True).start()
                started += 1
            # A slow answer must not leave the others idle.
            while len(waiting) >= 4 * workers or (waiting and waiting[0].done()):
                yield _finished(waiting.popleft())
        while waiting:
            yield _finished(waiting.popleft())
    finally:
        stopped.set()
        for _ in range(started):
            tasks.put(None)


def _finished(box: Future[B]) -> Future[B]:
    box.exception()
    return box
