"""Listening, and going down in good order."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING

from nll._errors import BadInput, MissingExtra
from nll.serve._limits import Limits

if TYPE_CHECKING:
    from nll.models import LanguageModel

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
LEAST_TOKEN = 8


def check_extra() -> None:
    """Raise MissingExtra unless the server's packages are there."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtra(f'{package} is not installed; run: pip install "nll[serve]"')


def check_access(host: str, token: str | None) -> None:
    """Raise BadInput for a token that is none, or an open door to other machines."""
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or " " in token):
        raise BadInput(f"a token has at least {LEAST_TOKEN} ASCII characters and no space")
    if token is None and not is_loopback(host):
        raise BadInput(
            f"on {host} other machines could use this server; give it a --token (or NLL_TOKEN)"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str, more: Collection[str] = ()) -> set[str]:
    """Names by which a server that listens on `host` may be called."""
    from nll.serve._guard import LOOPBACK

    names = {*LOOPBACK, host.lower(), *(m.lower() for m in more)}
    return names if is_loopback(host) else names | {"*"}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises BadInput when it cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        door = socket.socket(family, kind, proto)
    except (OSError, OverflowError, UnicodeError) as error:
        raise BadInput(f"cannot listen on {host} port {port}: {error}") from None
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        # From here on a connection waits for the server instead of being refused.
        door.listen(2_048)
    except OSError as error:
        door.close()
        raise BadInput(f"cannot listen on {host} port {port}: {error}") from None
    return door


def serve(
    model: LanguageModel,
    *,
    reference: LanguageModel | None = None,
    token: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Collection[str] = (),
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a model over HTTP until SIGINT or SIGTERM; then finish what was accepted.

    The first signal stops the listening; requests under way have `limits.drain_seconds`. See
    `create_app` for the rest. Raises BadInput when the port is taken, or when other machines could
    use the server without a token.
    """
    check_extra()
    check_access(host, token)
    import uvicorn

    from nll.serve._app import create_app

    limits = limits or Limits()
    hosts = allowed_hosts(host, allow_hosts)
    app = create_app(model, reference=reference, token=token, hosts=hosts, limits=limits)
    door = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    say(f"serving {', '.join(app.state.served.models)} on http://{shown}:{door.getsockname()[1]}")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, date_header=True,
        timeout_keep_alive=30, timeout_graceful_shutdown=int(limits.drain_seconds) or 1,
        lifespan="on", ws="none", proxy_headers=False, h11_max_incomplete_event_size=65_536,
        http="h11", loop="asyncio",
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[door])
