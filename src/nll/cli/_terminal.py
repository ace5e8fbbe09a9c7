"""What the commands say on standard error, progress, and signals."""

from __future__ import annotations

import contextlib
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from types import FrameType


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; a BaseException, so that nothing takes it for an error to handle."""

    def __init__(self, number: int):
        super().__init__(number)
        self.exit_code = 128 + number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it the first SIGINT or SIGTERM raises Interrupted; more of them do not disturb the
    tidying up."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        for n in numbers:
            signal.signal(n, signal.SIG_IGN)
        raise Interrupted(number)

    before = {n: signal.signal(n, stop) for n in numbers}
    try:
        yield
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def plain(text: str) -> str:
    """The text without anything that a terminal obeys: controls, escapes, direction marks."""
    return "".join(
        " " if c in "\n\r\t" else "" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c
        for c in text
    )


def say(line: str) -> None:
    """One line on standard error."""
    encoding = sys.stderr.encoding or "utf-8"
    shown = f"nll: {plain(line)}\n".encode(encoding, "replace").decode(encoding)
    sys.stderr.write(shown)
    sys.stderr.flush()


@contextlib.contextmanager
def progress(
    what: str = "texts",
) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """(say, tick): a count of the texts (or whatever else) done, on a terminal only."""
    if not sys.stderr.isatty():
        yield say, lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:.0f} {task.fields[what]}, {task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate="loading", what=what)

        def tick(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} a second" if speed else "starting")

        def above(line: str) -> None:
            bar.console.print(plain(f"nll: {line}"), markup=False, highlight=False)

        yield above, tick
