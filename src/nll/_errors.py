"""Every error that nll raises on purpose; the command line prints its one line, exit code 2."""

from __future__ import annotations


class NllError(Exception):
    """Base of the errors that tell a user what was wrong, where, and what to do."""


class BadInput(NllError, ValueError):
    """An argument, a file or a row that cannot be used."""


class BadText(BadInput):
    """A text that cannot be scored; `reason` is its stable code (`empty`, `not_a_string`, ...)."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class MissingField(NllError, LookupError):
    """A score asked for something that the trace does not hold."""


class MissingExtra(NllError, ImportError):
    """An optional package is absent; the message names the extra that brings it."""


class BadModel(NllError, ValueError):
    """A model that cannot be found, loaded safely, or trusted to give exact numbers."""


class BadFile(BadInput):
    """A file that is not what its name says, is damaged, or comes from a newer version."""


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of another package's error, without the advice that follows; of one above
    `most` characters its first sentence; the name of its kind when it says nothing."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= most else lines[0].split(". ")[0][:most]
