"""`/v1/completions` against the known table of the toy model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import nll
from nll.testing import ALPHABET, bigram_table
from tests.serve.conftest import Client

MODEL = "testing:bigram"
TABLE = bigram_table()


def truth(text: str) -> list[float | None]:
    ids = [ALPHABET.index(c) for c in text]
    return [None, *(float(TABLE[a, b]) for a, b in pairwise(ids))]


def complete(server: Client, **fields: object) -> dict:
    found = server.post("/v1/completions", {"model": MODEL, **fields})
    assert found.status == 200, found.body
    return found.json


def test_echo_with_logprobs_is_the_table(server: Client) -> None:
    found = complete(server, prompt="a cab", echo=True, logprobs=3, max_tokens=0)
    (choice,) = found["choices"]
    assert choice["text"] == "a cab"
    held = choice["logprobs"]
    assert held["tokens"] == list("a cab")
    assert held["text_offset"] == [0, 1, 2, 3, 4]
    assert held["token_logprobs"][0] is None
    assert held["top_logprobs"][0] is None
    assert held["token_logprobs"][1:] == pytest.approx(truth("a cab")[1:], abs=1e-5)
    for token, own, row, before in zip(
        held["tokens"][1:], held["token_logprobs"][1:], held["top_logprobs"][1:], "a ca",
        strict=True,
    ):  # fmt: skip
        best = np.sort(TABLE[ALPHABET.index(before)])[::-1][:3]
        assert row[token] == own
        assert 3 <= len(row) <= 4
        assert sorted(row.values(), reverse=True)[:3] == pytest.approx(list(best), abs=1e-5)
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_one_position_late_would_be_seen() -> None:
    right, late = truth("a cab")[1:-1], truth("a cab")[2:]
    assert max(abs(a - b) for a, b in zip(right, late, strict=True)) > 1


def test_strings_token_ids_and_lists_are_read_alike(server: Client) -> None:
    ids = [ALPHABET.index(c) for c in "the end"]
    same = {"echo": True, "logprobs": 0, "max_tokens": 0}
    one = complete(server, prompt="the end", **same)["choices"][0]["logprobs"]
    for prompt in (ids, ["the end", "x y"], [ids, ids[:2]]):
        choices = complete(server, prompt=prompt, **same)["choices"]
        assert choices[0]["logprobs"] == one
        assert [c["index"] for c in choices] == list(range(len(choices)))


def test_greedy_continues_with_the_likeliest(server: Client) -> None:
    found = complete(server, prompt="a", max_tokens=5, temperature=0, logprobs=1)
    (choice,) = found["choices"]
    at, wanted = ALPHABET.index("a"), []
    for _ in range(5):
        at = int(TABLE[at].argmax())
        wanted.append(at)
    assert choice["text"] == "".join(ALPHABET[i] for i in wanted)
    assert choice["logprobs"]["tokens"] == list(choice["text"])
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(
        truth("a" + choice["text"])[1:], abs=1e-5
    )


def test_echo_and_answer_are_one_text(server: Client) -> None:
    found = complete(server, prompt="ab", max_tokens=3, temperature=0, echo=True, logprobs=2)
    (choice,) = found["choices"]
    assert choice["text"].startswith("ab")
    assert len(choice["text"]) == 5
    held = choice["logprobs"]
    assert held["text_offset"] == [0, 1, 2, 3, 4]
    assert held["token_logprobs"][1:] == pytest.approx(truth(choice["text"])[1:], abs=1e-5)


def test_prompt_logprobs_have_vllms_shape(server: Client) -> None:
    found = complete(server, prompt="ab", max_tokens=1, temperature=0, prompt_logprobs=2)
    first, second = found["choices"][0]["prompt_logprobs"]
    assert first is None
    b = ALPHABET.index("b")
    own = second[str(b)]
    row = TABLE[ALPHABET.index("a")]
    assert next(iter(second)) == str(b)
    assert own["logprob"] == pytest.approx(row[b], abs=1e-5)
    assert own["rank"] == 1 + int((row > row[b]).sum())
    assert own["decoded_token"] == "b"
    assert {int(i) for i in second} == {b, *np.argsort(-row)[:2].tolist()}


def test_a_seed_draws_the_same_and_others_differ(server: Client) -> None:
    how = {"prompt": "the ", "max_tokens": 30, "n": 2, "temperature": 1.0}
    one = complete(server, seed=7, **how)["choices"]
    again = complete(server, seed=7, **how)["choices"]
    other = complete(server, seed=8, **how)["choices"]
    assert [c["text"] for c in one] == [c["text"] for c in again]
    assert one[0]["text"] != one[1]["text"]
    assert [c["text"] for c in one] != [c["text"] for c in other]


def test_a_stop_string_is_not_part_of_the_answer(server: Client) -> None:
    whole = complete(server, prompt="a", max_tokens=12, temperature=0)["choices"][0]["text"]
    stop = whole[2:4]
    cut = whole.index(stop)
    for stream in (False, True):
        fields = {
            "prompt": "a", "max_tokens": 12, "temperature": 0, "stop": stop, "logprobs": 1
        }  # fmt: skip
        if stream:
            found = server.post("/v1/completions", {"model": MODEL, "stream": True, **fields})
            choices = [c for e in found.events for c in e["choices"]]
            text = "".join(c["text"] for c in choices)
            tokens = [t for c in choices for t in c["logprobs"]["tokens"]]
            reason = choices[-1]["finish_reason"]
        else:
            (choice,) = complete(server, **fields)["choices"]
            text, reason = choice["text"], choice["finish_reason"]
            tokens = choice["logprobs"]["tokens"]
        assert text == whole[:cut]
        assert reason == "stop"
        assert "".join(tokens) == text


def test_an_end_token_ends_the_answer_and_is_not_its_text(server: Client) -> None:
    table = np.full((len(ALPHABET) + 1,) * 2, -30.0)
    table[:, ALPHABET.index("b")] = 0.0
    table[ALPHABET.index("b"), :] = -30.0
    table[ALPHABET.index("b"), 0] = 0.0
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    from tests.serve.conftest import running

    with running(nll.testing.table_model(table)) as client:
        found = complete(client, prompt="a", max_tokens=9, temperature=0, logprobs=0)
    (choice,) = found["choices"]
    assert choice["text"] == "b"
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["tokens"]) == 2
    assert found["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_is_the_answer_in_pieces(server: Client, echo: bool) -> None:
    how = {
        "prompt": ["the ", "a "], "max_tokens": 8, "n": 2, "seed": 3, "logprobs": 2, "echo": echo
    }  # fmt: skip
    whole = complete(server, **how)
    found = server.post(
        "/v1/completions",
        {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, **how},
    )
    assert found.headers["content-type"].startswith("text/event-stream")
    events = found.events
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    for i, choice in enumerate(whole["choices"]):
        mine = [c for e in events for c in e["choices"] if c["index"] == i]
        assert len(mine) > 5
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [x for c in mine for x in c["logprobs"][name]] == choice["logprobs"][name], name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, None),
        ({"prompt": []}, None),
        ({"prompt": [10_000]}, None),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1_000_000}, "max_tokens"),
        ({"prompt": "a" * 4_090, "max_tokens": 100}, "max_tokens"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt": "a", "n": 17}, "n"),
        ({"prompt": "a", "n": 2, "temperature": 0}, "n"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 4}, None),
        ({"prompt": "a", "logit_bias": {"3": 1.0}}, None),
        ({"prompt": "a", "frequency_penalty": 0.5}, None),
        ({"prompt": "a", "unheard_of": 1}, "unheard_of"),
        ({"prompt": "a", "stop": ""}, None),
        ({"prompt": "a", "seed": "x"}, "seed"),
        ({"prompt": "\ud800"}, None),
        ({"prompt": {"a": 1}}, None),
        ({}, "prompt"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(server: Client, fields: dict, param: str | None) -> None:
    found = server.post("/v1/completions", {"model": MODEL, **fields})
    assert found.status == 400, found.body
    error = found.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param


def test_only_the_served_names_are_models(server: Client) -> None:
    for name in ("other", "../../etc/passwd", "SmolLM2-135M-Instruct", ""):
        found = server.post("/v1/completions", {"model": name, "prompt": "a"})
        assert found.status == 404
        assert found.json["error"]["code"] == "model_not_found"


def test_a_failure_in_the_middle_ends_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model breaks at the third token: an error event, not a connection that hangs."""
    from nll.models._continue import Continued
    from tests.serve.conftest import running

    step, count = Continued.step, [0]

    def breaking(self, tokens):
        count[0] += 1
        if count[0] == 3:
            raise RuntimeError("planted failure")
        step(self, tokens)

    with running() as client:
        monkeypatch.setattr(Continued, "step", breaking)
        body = {"model": MODEL, "prompt": "a", "max_tokens": 9, "temperature": 0}
        events = client.post("/v1/completions", {**body, "stream": True}).events
        assert len(events) == 4
        assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
        assert "planted" not in str(events)
        count[0] = 0
        assert client.post("/v1/completions", body).status == 500
        assert client.post("/v1/completions", body).status == 200
