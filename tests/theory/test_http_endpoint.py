"""An audit over HTTP: a small completions server on this machine, and what is refused."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import nll
from nll.theory import HttpEndpoint, LocalEndpoint, ask_row, leakage_audit
from nll.theory._http_endpoint import check_own

H, V, N = 6, 40, 14
rng = np.random.default_rng(3)
W = rng.normal(size=(V, H))


def model(prompt: str) -> np.ndarray:
    return W @ np.random.default_rng(int(prompt)).normal(size=H)


PROMPTS = [str(i) for i in range(N)]


class Server:
    """`/v1/completions` around a LocalEndpoint, with what real servers do beside."""

    def __init__(self, *, names="token_id:{}", chosen_too=False, fail=0, **settings):
        self.endpoint = LocalEndpoint(model, **settings)
        self.names, self.chosen_too, self.fail = names, chosen_too, fail
        self.seen: list[dict] = []
        self.headers: list[dict] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                owner.headers.append(dict(self.headers))
                code, reply = owner.answer(self.path, asked)
                body = json.dumps(reply).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, path, asked):
        self.seen.append(asked)
        if self.fail:
            self.fail -= 1
            return 503, {"error": {"message": "busy"}}
        if path != "/v1/completions" or asked["model"] != "mine":
            return 404, {"error": {"message": f"no model {asked.get('model')}"}}
        bias = {int(t): b for t, b in (asked.get("logit_bias") or {}).items()}
        found = self.endpoint.query(asked["prompt"], bias)
        k = min(asked["logprobs"], len(found.tokens))
        top = {self.name(t): v for t, v in zip(found.tokens[:k], found.values[:k], strict=True)}
        if self.chosen_too:
            top[self.name(found.tokens[-1])] = float(found.values[-1])
        held = {"tokens": [self.name(found.top)], "token_logprobs": [0.0],
                "top_logprobs": [top] if k else None, "text_offset": [0]}  # fmt: skip
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": held}
        if self.names == "silent":
            choice["logprobs"] = None
        return 200, {"id": "1", "object": "text_completion", "created": 0, "model": "mine",
                     "choices": [choice]}  # fmt: skip

    def name(self, token):
        return self.names.format(int(token))

    def open(self, **options) -> HttpEndpoint:
        return HttpEndpoint(self.url, "mine", **({"vocabulary": V} | options))


@pytest.fixture
def serve():
    started: list = []

    def start(**settings) -> Server:
        started.append(Server(**settings))
        return started[-1]

    yield start
    for server in started:
        server.http.shutdown()
        server.http.server_close()
        server.thread.join()


@pytest.fixture
def opened():
    held: list[HttpEndpoint] = []
    yield lambda endpoint: (held.append(endpoint), endpoint)[1]
    for endpoint in held:
        endpoint.close()


def test_an_answer_over_http_is_that_of_the_endpoint(serve, opened):
    server = serve()
    over = opened(server.open(top_k=7)).query("3")
    own = LocalEndpoint(model, top_k=7).query("3")
    np.testing.assert_array_equal(over.tokens, own.tokens)
    np.testing.assert_allclose(over.values, own.values)
    assert over.top == own.top
    asked = server.seen[0]
    assert (asked["logprobs"], asked["max_tokens"], asked["prompt"]) == (7, 1, "3")
    assert asked["return_tokens_as_token_ids"] is True


def test_a_server_that_shows_all_values_leaks_as_a_local_one(serve, opened):
    endpoint = opened(serve().open(top_k=V))
    report = leakage_audit(endpoint, PROMPTS, W=W)
    assert report.leaks == ("dimension", "subspace", "full rows")
    assert report.hidden.dimension == H
    assert report.projection_rms < 1e-9
    assert report.queries == endpoint.queries == N
    assert (
        "local endpoint alone"
        in leakage_audit(
            opened(serve(logit_bias=True).open(top_k=V, logit_bias=True)), PROMPTS
        ).bias_error.reason
    )


def test_a_bias_brings_rows_out_over_http(serve, opened):
    server = serve(logit_bias=True)
    endpoint = opened(server.open(top_k=5, logit_bias=True))
    row = ask_row(endpoint, "4")
    z = model("4")
    np.testing.assert_allclose(row.values, z - np.logaddexp.reduce(z), atol=1e-9)
    assert "logit_bias" not in server.seen[0]
    assert max(max(a["logit_bias"].values()) for a in server.seen[1:]) <= 100
    report = leakage_audit(endpoint, PROMPTS, W=W)
    assert report.hidden.dimension == H
    deaf = opened(serve(logit_bias=True, bias_reported=False).open(top_k=5, logit_bias=True))
    assert leakage_audit(deaf, PROMPTS).leaks == ()


def test_strings_need_ids_and_the_chosen_token_is_no_extra_value(serve, opened):
    server = serve(names="w{}", chosen_too=True)
    with pytest.raises(nll.BadInput, match="give the ids"):
        opened(server.open()).query("1")
    ids = {f"w{i}": i for i in range(V)}
    seen = opened(server.open(token_ids=ids)).query("1")
    np.testing.assert_array_equal(seen.tokens, LocalEndpoint(model, top_k=5).query("1").tokens)
    twice = opened(server.open(token_ids=dict.fromkeys(ids, 0)))
    with pytest.raises(nll.BadInput, match="names a token twice"):
        twice.query("1")
    small = opened(server.open(token_ids=ids, vocabulary=2))
    with pytest.raises(nll.BadInput, match="beyond a vocabulary of 2"):
        small.query("1")


def test_a_busy_server_is_asked_again_and_errors_are_one_line(serve, opened):
    server = serve(fail=1)
    assert opened(server.open(retries=2)).query("1").tokens.size == 5
    assert len(server.seen) == 2
    with pytest.raises(nll.BadInput, match=r"did not answer: .*busy"):
        opened(serve(fail=9).open(retries=0)).query("1")
    wrong = opened(HttpEndpoint(server.url, "other", vocabulary=V, retries=0))
    with pytest.raises(nll.BadInput, match="no model other"):
        wrong.query("1")
    with pytest.raises(nll.BadInput, match="shows no log-probabilities"):
        opened(serve(names="silent").open()).query("1")
    gone = serve()
    gone.http.server_close()
    with pytest.raises(nll.BadInput, match="did not answer"):
        opened(gone.open(retries=0, timeout=2)).query("1")
    with pytest.raises(nll.BadInput, match="without a logit bias"):
        opened(server.open()).query("1", {1: 2.0})


def test_no_key_and_no_proxy_of_the_environment_is_used(serve, opened, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-another-service")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server = serve()
    opened(server.open()).query("1")
    assert "secret" not in json.dumps(server.headers)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://8.8.8.8/v1", "public address"),
        ("http://[2606:4700::1111]/v1", "public address"),
        ("http://0.0.0.0:8000/v1", "public address"),
        ("ftp://localhost/v1", "like http://localhost"),
        ("localhost:8000", "like http://localhost"),
        ("http://no-such-host.invalid/v1", "cannot find"),
    ],
)
def test_only_servers_of_ones_own_are_asked(address, told):
    with pytest.raises(nll.BadInput, match=told):
        HttpEndpoint(address, "m", vocabulary=9)


@pytest.mark.parametrize(
    "address", ["http://localhost:1/v1", "http://10.1.2.3/v1", "http://[::1]:8000/v1"]
)
def test_addresses_of_ones_own_pass(address):
    check_own(address)


def test_bad_arguments():
    with pytest.raises(nll.BadInput, match="2 or more"):
        HttpEndpoint("http://127.0.0.1/v1", "m", vocabulary=1)
