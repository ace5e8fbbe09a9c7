"""Payloads of servers: read right, or refused with a reason, whatever stands in them (check 19)."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll.models._remote_payload import (
    BadAnswer,
    read_chat,
    read_completion,
)
from nll.testing import FAULTS, FaultyServer
from nll.testing._faulty_server import spoil


def completion(**logprobs: object) -> dict:
    held = {"tokens": ["a", "b"], "token_logprobs": [None, -1.5], **logprobs}
    return {"model": "m", "choices": [{"index": 0, "text": "ab", "logprobs": held}]}


def test_a_completion_is_read() -> None:
    top = [None, {"b": -1.5, "c": -0.25}]
    (answer,) = read_completion(completion(top_logprobs=top, text_offset=[0, 1]))
    assert (answer.text, answer.model) == ("ab", "m")
    a, b = answer.pieces
    assert math.isnan(a.logp)
    assert (b.logp, b.raw, b.offset) == (-1.5, b"b", 1)
    assert [(c.string, c.logp) for c in b.top] == [("c", -0.25), ("b", -1.5)]


def test_a_chat_is_read_with_its_bytes() -> None:
    half = {"token": "\\xc3", "logprob": -1, "bytes": [0xC3], "top_logprobs": []}
    body = {
        "model": "m",
        "choices": [{"message": {"content": "é"}, "logprobs": {"content": [half]}}],
    }
    (answer,) = read_chat(body)
    assert answer.pieces[0].raw == b"\xc3"


def test_prompt_logprobs_of_vllm_are_read_with_ids_and_ranks() -> None:
    entry = {
        "7": {"logprob": -4.0, "rank": 9, "decoded_token": "b"},
        "3": {"logprob": -0.5, "rank": 1, "decoded_token": "c"},
    }
    choice = {"index": 0, "text": "x", "prompt_logprobs": [None, entry], "logprobs": None}
    (answer,) = read_completion({"choices": [choice]})
    first, second = answer.echoed
    assert math.isnan(first.logp)
    assert (second.string, second.logp, second.id, second.rank) == ("b", -4.0, 7, 9)
    assert [c.id for c in second.top] == [3], "the own token is not among the likeliest"


def test_openai_writes_bytes_that_are_no_character_as_text() -> None:
    (answer,) = read_completion(completion(tokens=["bytes:\\xe2\\x82", "bytes:\\xac"]))
    assert [p.raw for p in answer.pieces] == [b"\xe2\x82", b"\xac"]


@pytest.mark.parametrize("unknown", [None, float("nan"), -9999.0])
def test_check_08_what_a_server_does_not_know_is_nan(unknown: float | None) -> None:
    (answer,) = read_completion(completion(token_logprobs=[None, unknown]))
    assert math.isnan(answer.pieces[1].logp)


def test_an_impossible_token_stays_impossible() -> None:
    body = json.loads(json.dumps(completion(token_logprobs=[None, -math.inf])))
    assert read_completion(body)[0].pieces[1].logp == -math.inf


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "bad_answer"),
        ([], "bad_answer"),
        ({}, "bad_answer"),
        ({"choices": []}, "bad_answer"),
        ({"choices": [{"text": "ab", "logprobs": None}]}, "no_logprobs"),
        ({"choices": [{"index": 0, "text": "a"}] * 2}, "duplicated"),
        ({"choices": [{"index": 1, "text": "a", "logprobs": {}}]}, "bad_answer"),
        (completion(tokens=["a"]), "misaligned"),
        (completion(text_offset=[0]), "misaligned"),
        (completion(token_logprobs=[None, 0.5]), "positive_logprob"),
        (completion(token_logprobs=[None, "x"]), "bad_answer"),
        (completion(token_logprobs=[None, True]), "bad_answer"),
        (completion(token_logprobs=[None, 10**400]), "bad_answer"),
        (completion(tokens=["a", 7]), "bad_answer"),
        (completion(top_logprobs=[None, {"b": [1]}]), "bad_answer"),
    ],
)
def test_what_does_not_add_up_is_refused(body: object, reason: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read_completion(body)
    assert caught.value.reason == reason
    assert "\n" not in caught.value.detail


def test_choices_are_ordered_by_index() -> None:
    one, two = (
        completion()["choices"][0] | {"index": i, "text": t} for i, t in ((0, "x"), (1, "y"))
    )
    found = read_completion({"choices": [two, one]}, n=2)
    assert [a.text for a in found] == ["x", "y"]


KEYS = [
    "choices", "logprobs", "tokens", "token_logprobs", "top_logprobs", "text_offset", "content",
    "text", "index", "message", "prompt_logprobs", "logprob", "token", "bytes", "rank",
    "decoded_token", "model", "finish_reason", "ids", "prompt_token_ids", "1", "x",
]  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["", "a", "é", "\ufffd", "bytes:\\xe2", "bytes:\\xzz", "token_id:3", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(JSON, st.integers(1, 3))
def test_fuzz_any_json_is_read_or_refused(body: object, n: int) -> None:
    for read in (read_completion, read_chat):
        try:
            answers = read(body, n=n)
        except BadAnswer:
            continue
        check_laws(answers, n)


def check_laws(answers: list, n: int) -> None:
    assert len(answers) == n
    for answer in answers:
        for piece in (*answer.pieces, *answer.echoed):
            assert math.isnan(piece.logp) or piece.logp <= 0
            values = [c.logp for c in piece.top]
            assert values == sorted(values, reverse=True)


@st.composite
def damaged(draw: st.DrawFn) -> dict:
    """A right answer with one value anywhere in it replaced, or one entry gone."""
    server = FaultyServer(prompt_logprobs=True)
    body = {"model": "table", "prompt": "abc", "echo": True, "logprobs": 3, "max_tokens": 2}
    answer = server.answer(body | {"prompt_logprobs": 3, "temperature": 0}, False)
    answer = spoil(answer, draw(st.sampled_from(FAULTS)))
    at: object = answer
    while True:
        inner = list(at) if isinstance(at, dict) else list(range(len(at)))  # type: ignore[call-overload]
        key = draw(st.sampled_from(inner))
        below = at[key]  # type: ignore[index]
        if isinstance(below, dict | list) and below and draw(st.booleans()):
            at = below
            continue
        if draw(st.booleans()):
            at[key] = draw(JSON)  # type: ignore[index]
        else:
            del at[key]  # type: ignore[attr-defined]
        return answer


@settings(max_examples=300, deadline=None)
@given(damaged())
def test_fuzz_damaged_answers_are_read_or_refused(body: dict) -> None:
    try:
        answers = read_completion(body)
    except BadAnswer:
        return
    check_laws(answers, 1)
