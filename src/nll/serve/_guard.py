"""Who may ask, and how much: the checks in front of every route, on what really arrives."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias

from nll.serve._limits import Limits
from nll.serve._metrics import Metrics
from nll.serve._wire import ApiError

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

# Without a token one may see that the server lives, and the page, which holds nothing of it.
OPEN = ("/health", "/")
OPEN_FOLDER = "/static/"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """ASGI middleware. Refuses with 401, 403, 408, 413, 415 or 429 before anything is parsed.

    hosts: names by which the server may be called; `*` in it stands for any IP address.
    """

    def __init__(
        self, app: App, *, token: str | None, hosts: Collection[str], limits: Limits,
        metrics: Metrics, routes: Collection[str],
    ):  # fmt: skip
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else token.encode()
        self._hosts = {h.lower() for h in hosts}
        self._routes = set(routes)
        self._running = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        route = path if path in self._routes else "other"
        if path.startswith(OPEN_FOLDER):
            route = OPEN_FOLDER
        began, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_SAFE]
            await send(message)

        self._running += 1
        self._metrics.running.set(self._running)
        try:
            headers = _headers(scope)
            self._check(path, scope["method"], headers)
            body = await self._body(headers, receive)
            await self._serve(scope, body, receive, counted)
        except ApiError as error:
            await _refuse(counted, error)
        except _Gone:
            status = 499
        finally:
            self._running -= 1
            self._metrics.running.set(self._running)
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def _check(self, path: str, method: str, headers: dict[str, list[str]]) -> None:
        host = headers.get("host", [""])[0]
        if not self._known(host):
            raise ApiError(
                403, "this server is not to be called by that name (see --allow-host)", "bad_host"
            )
        for origin in headers.get("origin", []):
            if origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
                raise ApiError(403, "pages of other origins may not use this server", "bad_origin")
        if self._running > self._limits.connections:
            raise ApiError(429, "too many requests at once; try again", "too_many_requests")
        free = path in OPEN or path.startswith(OPEN_FOLDER)
        if self._token is not None and not free and not self._allowed(headers):
            raise ApiError(401, "a valid token is needed: Authorization: Bearer TOKEN", "bad_token")
        if method == "POST":
            kind = headers.get("content-type", [""])[0].split(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "send application/json", "unsupported_media_type")

    def _known(self, host: str) -> bool:
        name = host.lower()
        name = name[: name.rfind("]") + 1] if name.startswith("[") else name.split(":")[0]
        name = name.strip("[]")
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        # A page can make its own name mean this machine, but not an address.
        return "*" in self._hosts

    def _allowed(self, headers: dict[str, list[str]]) -> bool:
        given = headers.get("authorization", [])
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        sent = token.strip().encode("utf-8", "surrogateescape")
        right = hmac.compare_digest(sent, self._token or b"")
        return right and kind.lower() == "bearer"

    async def _body(self, headers: dict[str, list[str]], receive: Receive) -> bytes:
        """All of the body, as it arrives; no header is believed."""
        most = self._limits.body_bytes
        too_long = ApiError(413, f"the body is larger than {most} bytes", "too_large")
        declared = headers.get("content-length", ["0"])[0]
        if declared.isdigit() and int(declared[:20]) > most:
            raise too_long
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise too_long
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, "the body took too long to arrive", "body_timeout") from None

    async def _serve(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Run the routes; a client that leaves takes its work along."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        held: bytes | None = body

        async def given() -> Message:
            nonlocal held
            if held is not None:
                message = {"type": "http.request", "body": held, "more_body": False}
                held = None
                return message
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not gone.done():
                gone.set_result(None)

        watcher = asyncio.create_task(watch())
        work = asyncio.ensure_future(self._app(scope, given, send))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _Gone
            await work
        finally:
            work.cancel()
            watcher.cancel()
            gone.cancel()


class _Gone(Exception):
    """The client has left."""


_SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def _headers(scope: Message) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        out.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return out


def error_headers(error: ApiError) -> dict[str, str]:
    """What goes with a refusal."""
    if error.status == 401:
        return {"www-authenticate": "Bearer"}
    if error.status == 429:
        return {"retry-after": str(getattr(error, "retry_after", 1))}
    if error.status in (408, 413):
        return {"connection": "close"}  # what is left of the body is not read
    return {}


async def _refuse(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= error_headers(error)
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
