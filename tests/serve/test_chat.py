"""`/v1/chat/completions` of a toy model with a chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

import nll
from nll.serve._shapes import token_bytes
from nll.testing import ALPHABET, bigram_table
from tests.serve.conftest import Client, running

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}"
    "{% endif %}{{ m.role }}, {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant, {% endif %}"
)
TABLE = bigram_table()


@pytest.fixture(scope="module")
def chat() -> Iterator[Client]:
    model = nll.testing.table_model()
    model.tokenizer.hf.chat_template = TEMPLATE
    with running(model) as client:
        yield client


def ask(client: Client, **fields: object) -> dict:
    body = {"model": "testing:bigram", "messages": [{"role": "user", "content": "hello"}]}
    found = client.post("/v1/chat/completions", {**body, **fields})
    assert found.status == 200, found.body
    return found.json


def test_an_answer_with_its_log_probabilities(chat: Client) -> None:
    found = ask(chat, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2)
    assert found["object"] == "chat.completion"
    (choice,) = found["choices"]
    assert choice["message"]["role"] == "assistant"
    text = choice["message"]["content"]
    content = choice["logprobs"]["content"]
    assert "".join(c["token"] for c in content) == text
    ids = [ALPHABET.index(c) for c in " " + text]
    wanted = [float(TABLE[a, b]) for a, b in pairwise(ids)]
    assert [c["logprob"] for c in content] == pytest.approx(wanted, abs=1e-5)
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]
    assert found["usage"]["prompt_tokens"] == len("user, hello\nassistant, ")


def test_a_stream_says_the_same(chat: Client) -> None:
    how = {"max_tokens": 8, "seed": 5, "n": 2, "logprobs": True, "top_logprobs": 1}
    whole = ask(chat, **how)
    body = {
        "model": "testing:bigram", "messages": [{"role": "user", "content": "hello"}],
        "stream": True, "stream_options": {"include_usage": True}, **how,
    }  # fmt: skip
    events = chat.post("/v1/chat/completions", body).events
    assert events[-1]["usage"] == whole["usage"]
    assert {e["object"] for e in events} == {"chat.completion.chunk"}
    for choice in whole["choices"]:
        mine = [c for e in events for c in e["choices"] if c["index"] == choice["index"]]
        assert mine[0]["delta"]["role"] == "assistant"
        said = "".join(c["delta"].get("content", "") for c in mine)
        assert said == choice["message"]["content"]
        told = [x for c in mine if c["logprobs"] for x in c["logprobs"]["content"]]
        assert told == choice["logprobs"]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["length"]


def test_parts_of_text_and_prompt_logprobs(chat: Client) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    how = {"max_tokens": 2, "temperature": 0, "prompt_logprobs": 0, "return_token_ids": True}
    one = ask(chat, **how)
    two = ask(chat, messages=[{"role": "user", "content": parts}], **how)
    assert one["choices"] == two["choices"]
    assert one["prompt_logprobs"] == two["prompt_logprobs"]
    assert len(one["prompt_logprobs"]) == len(one["prompt_token_ids"])
    assert one["prompt_logprobs"][0] is None


def test_without_a_limit_the_answer_has_the_room_there_is(start: Callable[..., Client]) -> None:
    model = nll.testing.table_model(context=40)
    model.tokenizer.hf.chat_template = TEMPLATE
    found = ask(start(model), temperature=0)
    assert found["usage"]["total_tokens"] in (39, 40)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "bad", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 21},
        {"max_tokens": 0},
        {"tools": []},
        {"prompt_logprobs": 1, "stream": True},
    ],
)
def test_what_cannot_be_obeyed_is_refused(chat: Client, fields: dict) -> None:
    body = {"model": "testing:bigram", "messages": [{"role": "user", "content": "a"}], **fields}
    found = chat.post("/v1/chat/completions", body)
    assert found.status == 400, found.body
    assert found.json["error"]["message"]


def test_a_model_without_a_template_cannot_chat(server: Client) -> None:
    body = {"model": "testing:bigram", "messages": [{"role": "user", "content": "a"}]}
    found = server.post("/v1/chat/completions", body)
    assert found.status == 400
    assert "chat template" in found.json["error"]["message"]


@pytest.mark.parametrize(
    ("piece", "name", "wanted"),
    [
        ("Ãī", "\N{REPLACEMENT CHARACTER}", [0xC3, 0x89]),
        ("<0xE2>", "\N{REPLACEMENT CHARACTER}", [0xE2]),
        ("é", "é", [0xC3, 0xA9]),
        ("\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}", None),
    ],
)
def test_the_bytes_of_a_token(piece: str, name: str, wanted: list[int] | None) -> None:
    class Hf:
        def convert_ids_to_tokens(self, _: int) -> str:
            return piece

    assert token_bytes(Hf(), 0, name) == wanted
