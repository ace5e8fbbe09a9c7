"""A real server on a free port of this machine, with the exact toy model."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import nll
from nll.serve import Limits, create_app
from nll.serve._run import listen


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [x[6:] for x in self.body.decode().split("\n\n") if x.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(x) for x in lines[:-1]]


@dataclass
class Client:
    port: int
    app: Any

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None,
        timeout: float = 120.0,
    ) -> Answer:  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = {"Content-Type": "application/json"} if body is not None else {}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {**sent, **(headers or {})})
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, headers)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)


@contextlib.contextmanager
def running(model: Any = None, **options: Any) -> Iterator[Client]:
    import uvicorn

    app = create_app(model or nll.load("testing:bigram"), **options)
    door = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, http="h11", ws="none", lifespan="on",
        timeout_graceful_shutdown=20,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield Client(door.getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join(120)
        door.close()
        assert not thread.is_alive()


@pytest.fixture(scope="package")
def server() -> Iterator[Client]:
    with running() as client:
        yield client


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    with contextlib.ExitStack() as stack:
        yield lambda *a, **k: stack.enter_context(running(*a, **k))


__all__ = ["Answer", "Client", "Limits", "running"]
