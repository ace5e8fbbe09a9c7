"""The OpenAPI description, and requests made up from it: no answer is a 5xx."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.serve.conftest import Client

EXAMPLES = int(os.environ.get("NLL_SCHEMA_EXAMPLES", "5"))


def test_the_description_names_the_routes(server: Client) -> None:
    described = server.get("/openapi.json").json
    assert set(described["paths"]) == {
        "/v1/completions", "/v1/chat/completions", "/v1/score", "/v1/trace", "/v1/models",
        "/health", "/metrics",
    }  # fmt: skip
    fields = described["components"]["schemas"]["CompletionRequest"]
    assert fields["additionalProperties"] is False
    assert {"echo", "logprobs", "prompt_logprobs", "stream"} <= set(fields["properties"])


def operations(server: Client) -> list[tuple[str, str]]:
    described = server.get("/openapi.json").json["paths"]
    return [(method.upper(), path) for path, ways in described.items() for method in ways]


def made_up(server: Client, examples: int) -> list[str]:
    """What was wrong with the answers to `examples` requests of every kind for every route."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json)
    wrong: list[str] = []
    seen = 0

    def ask(method: str, path: str, body: Any) -> None:
        nonlocal seen
        if isinstance(body, dict):
            # A known name and few tokens, or no example would come as far as the model.
            if isinstance(body.get("model"), str):
                body = {**body, "model": "testing:bigram"}
            for name in ("max_tokens", "max_completion_tokens", "n"):
                if isinstance(body.get(name), int) and body[name] > 8:
                    body = {**body, name: 4}
        found = server.ask(method, path, body)
        seen += 1
        if found.status >= 500:
            wrong.append(f"{method} {path} {body!r}: {found.status} {found.body[:200]!r}")

    def asking(method: str, path: str) -> Any:
        def one(body: Any) -> None:
            ask(method, path, body)

        return one

    how = settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for method, path in operations(server):
        if method == "GET":
            ask(method, path, None)
            continue
        for mode in schemathesis.GenerationMode:
            cases = schema[path][method].as_strategy(generation_mode=mode)
            bodies = cases.map(lambda case: case.body).filter(is_json)
            how(given(bodies)(asking(method, path)))()
    assert seen > 4 * examples
    return wrong


def is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError):
        return False
    return True


def test_22_no_made_up_request_breaks_the_server(server: Client) -> None:
    assert made_up(server, EXAMPLES) == []


@pytest.mark.slow
def test_22_many_made_up_requests(server: Client) -> None:
    assert made_up(server, 300) == []
