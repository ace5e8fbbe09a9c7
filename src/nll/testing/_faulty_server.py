"""An OpenAI-compatible server on loopback whose numbers are a table's, and which fails on order."""

from __future__ import annotations

import json
import math
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast

import numpy as np

from nll.testing._table_model import ALPHABET, UNKNOWN, bigram_table, characters
from nll.trace import Array

# What may be ordered for one request; a number or date goes behind a colon, as in 429:2 or slow:1.
FAULTS = (
    "reset", "truncated", "not_json", "slow", "400", "401", "403", "404", "408", "409", "429",
    "429:date", "500", "502", "503", "wrong_model", "no_logprobs", "fewer", "null", "late",
    "values_late", "base10", "zeros", "positive", "duplicated", "other_text",
)  # fmt: skip


@dataclass
class FaultyServer:
    """`with FaultyServer() as server:` then `nll.load(server.url)`.

    table: (V, V) next-character log-probs as in `bigram_table`.   model: the name it gives itself.
    faults: for each prompt, what goes wrong at its first request, its second, and so on; then it is
    answered rightly.   always: what goes wrong at every request.   Faults: see `FAULTS`.
    token: the key that it demands.   echo, prompt_logprobs, completions: whether it knows them.
    top: most alternatives it gives, more are refused.   reads_only: whether max_tokens=0 is fine.
    endless: whether max_tokens=0 means no end, and echo_late: whether a text that was sent is told
    one token late, both as in llama-cpp-python's server.   repeats: what a greedy answer's repeated
    tokens lose.
    bos: whether a BOS stands before a text.   tempered: whether its log-probs are those of the
    distribution after temperature.   delay: seconds before each answer.
    asked: the bodies it was sent, in order.   answered: how often each prompt was answered rightly.
    """

    table: Array = field(default_factory=bigram_table)
    model: str = "table"
    faults: Mapping[str, Sequence[str]] = field(default_factory=dict)
    always: str | None = None
    token: str | None = None
    echo: bool = True
    prompt_logprobs: bool = False
    completions: bool = True
    top: int = 50
    reads_only: bool = True
    endless: bool = False
    echo_late: bool = False
    repeats: float = 0.0
    bos: bool = False
    tempered: bool = False
    delay: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The address to give to `nll.load`."""
        if self._server is None:
            raise RuntimeError("the server runs within `with FaultyServer() as server:`")
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FaultyServer:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def fault(self, prompt: str) -> str | None:
        """What is to go wrong with this request, which is now counted."""
        with self._lock:
            ordered = self.faults.get(prompt, ())
            number = self.seen[prompt]
            self.seen[prompt] += 1
        return ordered[number] if number < len(ordered) else self.always

    def answer(self, body: Mapping[str, Any], chat: bool) -> dict[str, Any]:
        """The right answer to a request."""
        prompt = prompt_of(body)
        ids = characters(prompt)
        start = [1] if self.bos else []
        heat = float(body.get("temperature", 1.0))
        if self.tempered and heat not in (0.0, 1.0):
            hot = self.table / heat
            hot = hot - np.log(np.exp(hot).sum(-1, keepdims=True))
            cold = {"temperature": 1.0, "logprobs": body.get("logprobs")}
            return replace(self, table=hot, tempered=False).answer({**body, **cold}, chat)
        n, asked = int(body.get("n") or 1), body.get("max_tokens")
        limit = 16 if asked is None else int(asked)
        if self.endless and not limit:
            limit = 400
        stop = tuple(body.get("stop") or ())
        draw = np.random.default_rng(body.get("seed"))
        choices = []
        for index in range(n):
            heat = float(body.get("temperature", 1.0))
            new = self._continue(start + ids, limit, heat, draw, stop)
            choices.append(self._choice(index, body, prompt, ids, new, chat))
        return {
            "id": "x", "object": "chat.completion" if chat else "text_completion",
            "model": self.model, "choices": choices,
            "usage": {"prompt_tokens": len(ids), "completion_tokens": limit * n},
        }  # fmt: skip

    def _continue(
        self, ids: list[int], limit: int, temperature: float, draw: np.random.Generator,
        stop: tuple[str, ...],
    ) -> list[int]:  # fmt: skip
        out: list[int] = []
        last = ids[-1] if ids else 1
        for _ in range(limit):
            row = self.table[last]
            if temperature == 0:
                seen = np.isin(np.arange(len(row)), [*ids, *out])
                last = int(np.argmax(row - self.repeats * seen))
            else:
                p = np.exp(row / temperature)
                last = int(draw.choice(len(row), p=p / p.sum()))
            out.append(last)
            if any(s in "".join(map(_string, out)) for s in stop):
                break
        return out

    def _choice(
        self, index: int, body: Mapping[str, Any], prompt: str, ids: list[int], new: list[int],
        chat: bool,
    ) -> dict[str, Any]:  # fmt: skip
        text = "".join(map(_string, new))
        text = text[
            : min((text.find(s) for s in body.get("stop") or () if s in text), default=None)
        ]
        if chat:
            most = int(body.get("top_logprobs") or 0)
            content = [
                {"token": _string(i), "logprob": float(row[i]), "bytes": list(_string(i).encode()),
                 "top_logprobs": [{"token": _string(j), "logprob": float(row[j])}
                                  for j in _best(row, most)]}
                for i, row in self._rows(ids, new)
            ]  # fmt: skip
            message = {"role": "assistant", "content": text}
            held: object = {"content": content} if body.get("logprobs") else None
            return {"index": index, "message": message, "logprobs": held, "finish_reason": "length"}
        echo, k = bool(body.get("echo")), body.get("logprobs")
        choice: dict[str, Any] = {"index": index, "text": (prompt if echo else "") + text}
        choice |= {"finish_reason": "length", "logprobs": None}
        if k is not None:
            given, told = ([], ids + new) if echo else (ids, new)
            held = self._legacy(given, told, int(k), len(prompt) if not echo else 0)
            choice["logprobs"] = _spoiled(held, "late") if echo and self.echo_late else held
        if body.get("prompt_logprobs") is not None:
            k = int(body["prompt_logprobs"])
            choice["prompt_logprobs"] = [
                None if row is None else
                {str(j): {"logprob": float(row[j]), "rank": 1 + int((row > row[j]).sum()),
                          "decoded_token": _string(j)} for j in dict.fromkeys([i, *_best(row, k)])}
                for i, row in self._rows([], ids)
            ]  # fmt: skip
            if body.get("return_token_ids"):
                choice["prompt_token_ids"] = ids
        return choice

    def _rows(self, given: list[int], told: list[int]) -> list[tuple[int, Any]]:
        """(token, the table's row that predicts it) for the tokens told, None for the first."""
        before = [1 if self.bos else -1, *given, *told][-len(told) - 1 : -1] if told else []
        return [
            (i, None if b < 0 else self.table[b]) for i, b in zip(told, before, strict=True)
        ]  # fmt: skip

    def _legacy(self, given: list[int], told: list[int], k: int, at: int) -> dict[str, Any]:
        rows = self._rows(given, told)
        return {
            "tokens": [_string(i) for i, _ in rows],
            "token_logprobs": [None if row is None else float(row[i]) for i, row in rows],
            "top_logprobs": [
                None if row is None else {_string(j): float(row[j]) for j in _best(row, k)}
                for _, row in rows
            ],
            "text_offset": [at + t for t in range(len(rows))],
        }


def _string(i: int) -> str:
    return ALPHABET[i] if i < len(ALPHABET) else UNKNOWN


def _best(row: Array, k: int) -> list[int]:
    return [int(j) for j in np.argsort(-row, kind="stable")[:k]]


def prompt_of(body: Mapping[str, Any]) -> str:
    """The prompt of a completion, or the last message of a chat."""
    return str(body["messages"][-1]["content"] if "messages" in body else body.get("prompt", ""))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error here; anything else is told as usual."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultyServer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self._refuses_key():
            return
        self._send(200, {"object": "list", "data": [{"id": self.owner.model, "object": "model"}]})

    def do_POST(self) -> None:
        owner = self.owner
        length = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(length)
        if len(raw) < length:
            self.close_connection = True  # the client was killed while it was asking
            return
        body = cast(dict[str, Any], json.loads(raw))
        with owner._lock:
            owner.asked.append(body)
            owner._now += 1
            owner.most_at_once = max(owner.most_at_once, owner._now)
        try:
            if owner.delay:
                time.sleep(owner.delay)
            if not self._refuses_key():
                self._answer(body, chat=self.path.endswith("/chat/completions"))
        finally:
            with owner._lock:
                owner._now -= 1

    def _refuses_key(self) -> bool:
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        if self.owner.token is None or key == self.owner.token:
            return False
        # As hosted servers do, it repeats the key that it was given.
        self._send(401, {"error": {"message": f"Incorrect API key provided: {key}"}})
        return True

    def _answer(self, body: dict[str, Any], chat: bool) -> None:
        owner, prompt = self.owner, prompt_of(body)
        refusal = _refusal(owner, body, chat)
        if refusal is not None:
            self._send(*refusal)
            return
        fault = owner.fault(prompt)
        name, _, rest = (fault or "").partition(":")
        if name == "reset":
            self._reset()
            return
        if name == "slow":
            time.sleep(float(rest))
            name = ""
        if name.isdigit():
            self._send(int(name), {"error": {"message": f"fault {fault}"}}, _retry_after(rest))
            return
        answer = spoil(owner.answer(body, chat), name)
        data = json.dumps(answer).encode()
        if name == "truncated":
            data = data[: len(data) // 2]
        if name == "not_json":
            data = b"<html>Bad gateway</html>"
        if not name:
            with owner._lock:
                owner.answered[prompt] += 1
        self._send(200, data)

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def _send(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            for key, value in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client has gone


def _retry_after(rest: str) -> dict[str, str]:
    kind, _, seconds = rest.rpartition(":")
    if kind == "date":
        return {"retry-after": formatdate(math.ceil(time.time() + float(seconds)), usegmt=True)}
    return {"retry-after": rest} if rest else {}


def _refusal(
    owner: FaultyServer, body: Mapping[str, Any], chat: bool
) -> tuple[int, dict[str, Any]] | None:
    """What the server does not know or allow, as its error."""

    def error(status: int, message: str) -> tuple[int, dict[str, Any]]:
        return status, {"error": {"message": message}}

    if not chat and not owner.completions:
        return error(404, "this is a chat model")
    if body.get("model") != owner.model:
        return error(404, f"the model {body.get('model')!r} does not exist")
    if body.get("echo") and not owner.echo:
        return error(400, "echo is not supported")
    if "prompt_logprobs" in body and not owner.prompt_logprobs:
        return error(400, "unknown field prompt_logprobs")
    asked = [body.get("logprobs") if not chat else 0, body.get("top_logprobs")]
    if any(k is not None and int(k) > owner.top for k in [*asked, body.get("prompt_logprobs")]):
        return error(400, f"at most {owner.top} log-probs")
    if body.get("max_tokens") == 0 and not owner.reads_only:
        return error(400, "max_tokens must be at least 1")
    return None


def spoil(answer: dict[str, Any], fault: str) -> dict[str, Any]:
    """The answer with one of the soft faults in it; others leave it as it is."""
    if fault == "wrong_model":
        answer["model"] = "another"
    if fault == "duplicated":
        answer["choices"] *= 2
    for choice in answer["choices"]:
        held = choice.get("logprobs")
        if fault == "no_logprobs":
            choice["logprobs"] = None
        elif held is not None and "tokens" in held:
            choice["logprobs"] = _spoiled(held, fault)
        if fault == "other_text" and "text" in choice:
            choice["logprobs"]["tokens"] = ["z" for _ in choice["logprobs"]["tokens"]]
    return answer


def _spoiled(held: dict[str, Any], fault: str) -> dict[str, Any]:
    values, top = held["token_logprobs"], held["top_logprobs"]
    if fault == "fewer":
        return {**held, "token_logprobs": values[:-1]}
    if fault == "null" and len(values) > 1:
        return {**held, "token_logprobs": [*values[:-1], None]}
    if fault == "late":
        return {**held, "token_logprobs": [None, *values[:-1]], "top_logprobs": [None, *top[:-1]]}
    if fault == "values_late":
        return {**held, "token_logprobs": [None, *values[:-1]]}
    changes: dict[str, Callable[[float], float]] = {
        "base10": lambda v: v / math.log(10), "zeros": lambda _: 0.0, "positive": lambda v: -v,
    }  # fmt: skip
    change = changes.get(fault)
    if change is None:
        return held
    return {
        **held,
        "token_logprobs": [v if v is None else change(v) for v in values],
        "top_logprobs": [t and {s: change(v) for s, v in t.items()} for t in top],
    }
