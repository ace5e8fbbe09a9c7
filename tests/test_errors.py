"""What is told of another package's error."""

from __future__ import annotations

import pytest

from nll._errors import first_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no such thing\nTry this instead:\n  ..."), "no such thing"),
        (OSError("\n  \nthe disk is gone  \r\nmore"), "the disk is gone  "),
        (RuntimeError(), "RuntimeError"),
        (KeyError(" \n "), "' \\n '"),
        (RuntimeError(" \n "), "RuntimeError"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, told: str) -> None:
    assert first_line(error) == told


def test_a_long_line_is_cut() -> None:
    assert first_line(ValueError("x" * 1000)) == "x" * 300
    assert first_line(ValueError("x" * 1000), most=10) == "x" * 10
    assert first_line(ValueError("No such place. " + "advice " * 100)) == "No such place"
