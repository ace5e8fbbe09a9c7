"""Reading one chunk ahead changes no result and no order, and leaves no thread behind."""

from __future__ import annotations

import threading

import pytest

from nll import BadInput, BadText
from nll.models import _engine
from nll.models._ahead import ahead
from nll.trace import same

from .tiny import tiny


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(_engine, "FIRST_CHUNK", 100)
    monkeypatch.setattr(_engine, "LARGEST_CHUNK", 200)


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("nll-ahead")}


TEXTS = [f"{a}{b} is one text of many" for a in "abcdefghijklmnopqrst" for b in "abcdefghij"]


def test_texts_in_memory_and_a_stream_give_the_same_traces() -> None:
    model = tiny("llama")
    held, streamed = list(model.trace(TEXTS)), list(model.trace(iter(TEXTS)))
    assert [t.text for t in held] == TEXTS
    assert all(same(a, b) for a, b in zip(held, streamed, strict=True))
    assert not threads()


def test_the_thread_ends_when_the_caller_stops_early() -> None:
    traces = tiny("llama").trace(TEXTS)
    next(traces)
    assert threads()
    traces.close()
    assert not threads()


def test_rejections_come_in_this_thread_and_between_the_same_traces() -> None:
    texts = [*TEXTS[:60], "", *TEXTS[60:120], "", *TEXTS[120:], ""]

    def events(given) -> list[object]:
        seen: list[object] = []

        def refuse(rejected) -> None:
            assert threading.current_thread() is threading.main_thread()
            seen.append(rejected.index)

        for trace in tiny("llama").trace(given, on_reject=refuse):
            seen.append(trace.text)
        return seen

    assert events(texts) == events(iter(texts))
    assert [e for e in events(texts) if isinstance(e, int)] == [60, 121, 202]


@pytest.mark.parametrize("wrong", ["", 5])
def test_an_error_comes_after_the_traces_before_it(wrong) -> None:
    def until_the_error(given) -> tuple[int, str]:
        count = 0
        traces = tiny("llama").trace(given)
        try:
            for _ in traces:
                count += 1
        except (BadText, BadInput) as error:
            return count, str(error)
        pytest.fail("no error came")

    texts = [*TEXTS, wrong]
    assert until_the_error(texts) == until_the_error(iter(texts))
    assert until_the_error(texts)[0] > 0
    assert not threads()


def test_an_error_in_on_reject_ends_the_run() -> None:
    def refuse(rejected) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        list(tiny("llama").trace(["", *TEXTS], on_reject=refuse))
    assert not threads()


def test_two_runs_of_one_model_do_not_disturb_each_other() -> None:
    model = tiny("llama")
    for a, b in zip(model.trace(TEXTS), model.trace(TEXTS), strict=True):
        assert same(a, b)


def test_only_one_item_is_made_ahead() -> None:
    made: list[int] = []

    def source():
        for i in range(5):
            made.append(i)
            yield i

    items = ahead(source())
    assert next(items) == 0
    items.close()  # waits for the item under way
    assert made == [0, 1]
