"""Who is let in and how much is taken (reliability checks 20 and 22)."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

import nll
from nll.serve import Limits
from nll.serve._guard import Guard
from nll.serve._metrics import Metrics
from nll.serve._run import allowed_hosts, check_access, listen
from tests.serve.conftest import Client

TOKEN = "planted-secret-4711"
SCORE = {"texts": ["the end"], "scores": ["mean_nll"]}


def raw(port: int, data: bytes, *, wait: float = 10.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as s:
        s.sendall(data)
        out = b""
        while True:
            try:
                part = s.recv(65_536)
            except (TimeoutError, ConnectionResetError):
                return out
            if not part:
                return out
            out += part


def head(**headers: str) -> bytes:
    lines = [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
    return ("POST /v1/score HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()


class TestBody:
    @pytest.fixture
    def small(self, start: Callable[..., Client]) -> Client:
        return start(limits=Limits(body_bytes=1_000, body_seconds=1.0))

    def sized(self, n: int) -> bytes:
        frame = len(json.dumps({"texts": [""], "scores": ["mean_nll"]}))
        return json.dumps({"texts": ["a" * (n - frame)], "scores": ["mean_nll"]}).encode()

    def test_22_the_limit_is_exact(self, small: Client) -> None:
        assert small.post("/v1/score", self.sized(1_000)).status == 200
        found = small.post("/v1/score", self.sized(1_001))
        assert found.status == 413
        assert found.json["error"]["code"] == "too_large"

    def test_22_without_content_length_what_arrives_is_counted(self, small: Client) -> None:
        body = self.sized(1_001)
        chunks = (
            b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:600], body[600:])) + b"0\r\n\r\n"
        )
        start = head(
            Host="127.0.0.1", Content_Type="application/json", Transfer_Encoding="chunked"
        )  # fmt: skip
        assert b" 413 " in raw(small.port, start + chunks).split(b"\r\n")[0]

    def test_22_a_body_without_end_is_not_kept(self, small: Client) -> None:
        start = head(
            Host="127.0.0.1", Content_Type="application/json", Transfer_Encoding="chunked"
        )  # fmt: skip
        with socket.create_connection(("127.0.0.1", small.port), timeout=10) as s:
            s.sendall(start)
            sent = 0
            try:
                while sent < 50_000_000:
                    s.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                    sent += 65_536
            except (ConnectionResetError, BrokenPipeError):
                pass
        assert sent < 50_000_000

    def test_22_a_false_content_length(self, small: Client) -> None:
        body = self.sized(500)
        kind = {"Host": "127.0.0.1", "Content_Type": "application/json"}
        more = raw(small.port, head(**kind, Content_Length=str(len(body) + 100)) + body)
        assert b" 408 " in more.split(b"\r\n")[0]
        huge = raw(small.port, head(**kind, Content_Length="99999999999999999999999") + body)
        assert huge.split(b"\r\n")[0].split()[1] in (b"400", b"413")
        less = raw(small.port, head(**kind, Content_Length="10", Connection="close") + body)
        assert less.split(b"\r\n")[0].split()[1] == b"400"
        assert small.post("/v1/score", SCORE).status == 200

    def test_a_body_that_does_not_arrive(self, small: Client) -> None:
        start = head(Host="127.0.0.1", Content_Type="application/json", Content_Length="100")
        began = time.monotonic()
        assert b" 408 " in raw(small.port, start + b'{"te').split(b"\r\n")[0]
        assert time.monotonic() - began < 8


class TestToken:
    @pytest.fixture
    def locked(self, start: Callable[..., Client]) -> Client:
        return start(token=TOKEN)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer \xe9"},
            {"Cookie": f"token={TOKEN}"},
        ],
    )
    def test_22_no_or_wrong_token(self, locked: Client, headers: dict[str, str]) -> None:
        for path in ("/v1/score", "/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            method, body = ("POST", SCORE) if path == "/v1/score" else ("GET", None)
            found = locked.ask(method, path, body, headers)
            assert found.status == 401, path
            assert found.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in found.body.decode()

    def test_the_right_token(self, locked: Client) -> None:
        for kind in ("Bearer", "bearer"):
            assert locked.post("/v1/score", SCORE, Authorization=f"{kind} {TOKEN}").status == 200

    def test_health_and_page_are_open_and_hold_nothing(self, locked: Client) -> None:
        for path in ("/health", "/"):
            found = locked.get(path)
            assert found.status == 200
            assert TOKEN not in found.body.decode()

    def test_it_is_compared_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import nll.serve._guard as guard

        seen = []
        monkeypatch.setattr(
            guard.hmac, "compare_digest", lambda a, b: seen.append((a, b)) or a == b
        )
        g = Guard(None, token="abcdefgh", hosts=(), limits=Limits(), metrics=Metrics(), routes=())
        assert not g._allowed({"authorization": ["Bearer x"]})
        assert g._allowed({"authorization": ["Bearer abcdefgh"]})
        assert seen == [(b"x", b"abcdefgh"), (b"abcdefgh", b"abcdefgh")]

    def test_20_the_token_is_in_no_log(
        self, locked: Client, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("planted failure")

        locked.app.state.served.model.trace_encoded = broken
        found = locked.post("/v1/score", SCORE, Authorization=f"Bearer {TOKEN}")
        assert found.status == 500
        assert set(found.json["error"]) == {"message", "type", "param", "code"}
        assert "planted" not in found.body.decode()
        logged, until = "", time.monotonic() + 20
        while "planted failure" not in logged and time.monotonic() < until:
            out = capfd.readouterr()
            logged += out.out + out.err + caplog.text
        assert "planted failure" in logged
        assert TOKEN not in logged


class TestOrigin:
    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", ""],
    )
    def test_22_a_foreign_host(self, server: Client, host: str) -> None:
        found = server.ask("POST", "/v1/score", SCORE, {"Host": host})
        assert found.status == 403
        assert server.ask("GET", "/health", headers={"Host": host}).status == 403

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:8000"])
    def test_names_of_this_machine(self, server: Client, host: str) -> None:
        assert server.ask("GET", "/health", headers={"Host": host}).status == 200

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"]
    )
    def test_22_a_foreign_origin(self, server: Client, origin: str) -> None:
        found = server.post("/v1/score", SCORE, Origin=origin)
        assert found.status == 403
        assert found.json["error"]["code"] == "bad_origin"

    def test_its_own_origin_but_no_cors(self, server: Client) -> None:
        found = server.post("/v1/score", SCORE, Origin=f"http://127.0.0.1:{server.port}")
        assert found.status == 200
        assert not [h for h in found.headers if h.startswith("access-control")]
        asked = server.ask("OPTIONS", "/v1/score", headers={"Origin": "https://evil.example"})
        assert asked.status == 403

    def test_22_only_json(self, server: Client) -> None:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            found = server.ask("POST", "/v1/score", b"{}", {"Content-Type": kind})
            assert found.status == 415
        kind = "Application/JSON; charset=utf-8"
        body = json.dumps(SCORE).encode()
        assert server.ask("POST", "/v1/score", body, {"Content-Type": kind}).status == 200

    def test_which_names_a_server_answers_to(self) -> None:
        assert "*" not in allowed_hosts("127.0.0.1")
        assert allowed_hosts("0.0.0.0", ["Box.local"]) >= {"*", "box.local", "localhost"}
        guard = Guard(
            None, token=None, hosts=allowed_hosts("0.0.0.0"), limits=Limits(), metrics=Metrics(),
            routes=(),
        )  # fmt: skip
        assert guard._known("192.168.0.7:8000")
        assert not guard._known("evil.example")


class TestQueue:
    def test_22_fifty_at_once(self, server: Client) -> None:
        wanted = server.post("/v1/score", SCORE).json["data"]
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            found = list(pool.map(lambda _: server.post("/v1/score", SCORE), range(200)))
        assert {f.status for f in found} == {200}
        for f in found:
            value = f.json["data"][0]["scores"]["mean_nll"]
            assert value == pytest.approx(wanted[0]["scores"]["mean_nll"], abs=1e-5)

    def test_a_full_queue_says_when_to_come_back(self, start: Callable[..., Client]) -> None:
        client = start(limits=Limits(queue_texts=4))
        served = client.app.state.served
        gate, inner = threading.Event(), served.model.trace_encoded

        def slow(chunk, **options):
            gate.wait(60)
            return inner(chunk, **options)

        served.model.trace_encoded = slow
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            waiting = [pool.submit(client.post, "/v1/score", SCORE) for _ in range(12)]
            refused = [f.result() for f in concurrent.futures.as_completed(waiting[:]) if (
                gate.set() if sum(w.done() for w in waiting) >= 8 else None) or True]  # fmt: skip
        counts = [f.status for f in refused]
        assert counts.count(429) == 8
        assert counts.count(200) == 4
        for f in refused:
            if f.status == 429:
                assert 1 <= int(f.headers["retry-after"]) <= 60
                assert f.json["error"]["type"] == "rate_limit_error"
        assert client.post("/v1/score", SCORE).status == 200
        assert served.worker.waiting == 0

    def test_a_request_that_takes_too_long(self, start: Callable[..., Client]) -> None:
        client = start(limits=Limits(request_seconds=0.2))
        served = client.app.state.served
        inner = served.model.trace_encoded

        def slow(chunk, **options):
            time.sleep(0.6)
            return inner(chunk, **options)

        served.model.trace_encoded = slow
        found = client.post("/v1/score", SCORE)
        assert found.status == 504
        assert found.json["error"]["code"] == "timeout"

    def test_scoring_goes_on_beside_a_long_answer(self, start: Callable[..., Client]) -> None:
        client = start()
        done = threading.Event()

        def long() -> None:
            body = {"model": "testing:bigram", "prompt": "a", "max_tokens": 1_000, "temperature": 1}
            assert client.post("/v1/completions", {**body, "n": 4, "seed": 1}).status == 200
            done.set()

        thread = threading.Thread(target=long)
        thread.start()
        while client.app.state.served.worker.waiting == 0:
            time.sleep(0.001)
        for _ in range(3):
            assert client.post("/v1/score", SCORE).status == 200
            assert not done.is_set()
        thread.join()

    def test_who_leaves_takes_the_work_along(self, start: Callable[..., Client]) -> None:
        client = start()
        served = client.app.state.served
        for stream in (True, False):
            body = json.dumps(
                {"model": "testing:bigram", "prompt": "a", "max_tokens": 2_048, "n": 8,
                 "temperature": 1, "stream": stream}
            ).encode()  # fmt: skip
            with socket.create_connection(("127.0.0.1", client.port)) as s:
                start_line = head(
                    Host="127.0.0.1", Content_Type="application/json", Content_Length=str(len(body))
                ).replace(b"/v1/score", b"/v1/completions")
                s.sendall(start_line + body)
                while served.worker.waiting == 0:
                    time.sleep(0.001)
            began = time.monotonic()
            while served.worker.waiting:
                time.sleep(0.001)
                assert time.monotonic() - began < 20
        assert client.post("/v1/score", SCORE).status == 200


class TestService:
    def test_models_health_and_metrics(self, server: Client) -> None:
        (model,) = server.get("/v1/models").json["data"]
        assert model["id"] == "testing:bigram"
        assert model["object"] == "model"
        assert server.get("/health").json == {"status": "ok"}
        server.post("/v1/score", SCORE)
        server.get("/private/../path")
        text = server.get("/metrics").body.decode()
        assert 'nll_requests_total{route="/v1/score",status="200"}' in text
        assert "nll_batch_texts_count" in text
        assert "private" not in text

    @pytest.mark.parametrize(
        "path",
        ["/../../etc/passwd", "/static/../../_app.py", "/static/%2e%2e/%2e%2e/_app.py",
         "/static/..%2f..%2fpyproject.toml", "//etc/passwd", "/static//etc/passwd", "/static/"],
    )  # fmt: skip
    def test_22_no_path_leads_to_a_file(self, server: Client, path: str) -> None:
        found = server.get(path)
        assert found.status == 404
        assert found.json["error"]["message"]

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"texts": [NaN]}', b"1" * 5_000,
         b"[" * 100_000, b'{"texts": ["a"], "texts": "b"}'],
    )  # fmt: skip
    def test_bodies_that_are_no_request(self, server: Client, body: bytes) -> None:
        found = server.post("/v1/score", body)
        assert found.status == 400, found.body
        assert set(found.json["error"]) == {"message", "type", "param", "code"}

    def test_method_not_allowed(self, server: Client) -> None:
        assert server.get("/v1/score").status == 405

    def test_every_answer_forbids_guessing_and_keeping(self, server: Client) -> None:
        for path in ("/", "/health", "/nowhere"):
            headers = server.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"

    def test_22_other_machines_only_with_a_token(self) -> None:
        with pytest.raises(nll.BadInput, match="other machines"):
            check_access("0.0.0.0", None)
        check_access("0.0.0.0", "long-enough-token")
        check_access("::1", None)
        for token in ("", "short", "with space in it", "ünïcödë-token"):
            with pytest.raises(nll.BadInput, match="token"):
                check_access("127.0.0.1", token)

    def test_a_port_that_is_taken(self) -> None:
        door = listen("127.0.0.1", 0)
        with door, pytest.raises(nll.BadInput, match="cannot listen"):
            listen("127.0.0.1", door.getsockname()[1])


def test_the_command_finishes_what_it_took() -> None:
    """SIGTERM in the middle of a streamed answer: it comes to its end, then the process."""
    command = [sys.executable, "-m", "nll", "serve", "-m", "testing:bigram", "--port", "0"]
    environment = {**os.environ, "NLL_TOKEN": TOKEN}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        port = int(line.strip().rpartition(":")[2])
        assert "http://127.0.0.1" in line
        body = json.dumps({
            "model": "testing:bigram", "prompt": "a", "max_tokens": 200, "temperature": 1, "n": 2,
            "stream": True, "seed": 1,
        }).encode()  # fmt: skip
        start = head(
            Host="127.0.0.1", Content_Type="application/json", Content_Length=str(len(body)),
            Authorization=f"Bearer {TOKEN}",
        ).replace(b"/v1/score", b"/v1/completions")  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
            s.sendall(start + body)
            out = s.recv(1)
            process.terminate()
            while part := s.recv(65_536):
                out += part
        assert b"[DONE]" in out
        assert process.wait(60) == 143
        rest = process.stderr.read()
    assert TOKEN not in line + rest
    assert "Traceback" not in rest


def test_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import nll.serve._run as run

    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(nll.MissingExtra, match=r'pip install "nll\[serve\]"'):
        run.check_extra()
