"""How long a client waits: what the server asks for, else doubling with jitter (check 19)."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nll.models import Retry
from nll.models._retry import LONGEST_WAIT, Gate, may_pass, seconds_of

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        (formatdate(NOW + 7, usegmt=True), 7.0),
        (formatdate(NOW - 7, usegmt=True), 0.0),
    ],
)
def test_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header, NOW) == seconds


@given(st.text(max_size=30))
def test_fuzz_any_header_is_read(header: str) -> None:
    found = seconds_of(header, NOW)
    assert found is None or found >= 0


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_waits_double_up_to_a_cap_with_jitter(chance: float) -> None:
    retry = Retry(base=0.5, cap=30.0, chance=lambda: chance)
    waits = [retry.wait(n) for n in range(1, 11)]
    whole = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert waits == [w * (0.5 + 0.5 * chance) for w in whole]
    assert retry.wait(10_000) <= 30


def test_what_the_server_asks_for_is_obeyed_up_to_two_minutes() -> None:
    retry = Retry(base=0.5, chance=lambda: 1.0)
    assert 7 <= retry.wait(1, "7") <= 7.1
    assert LONGEST_WAIT <= retry.wait(1, "86400") <= LONGEST_WAIT + 0.1
    assert retry.wait(5, "0") < 0.1, "0 means now"


def test_which_statuses_may_pass() -> None:
    assert all(may_pass(s) for s in (408, 409, 429, 500, 502, 503, 504, 529))
    assert not any(may_pass(s) for s in (400, 401, 403, 404, 413, 422))


def test_one_that_has_to_wait_holds_back_all() -> None:
    clock = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    gate = Gate(Retry(sleep=sleep, clock=lambda: clock[0]))
    gate.pass_()
    assert slept == []
    gate.close(3.0)
    gate.close(1.0)
    gate.pass_()
    assert slept == [3.0]
