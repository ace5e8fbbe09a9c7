"""One request to an OpenAI-compatible server until it is answered, refused or given up."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nll._errors import BadInput, BadModel, BadText, MissingExtra
from nll.models._remote_payload import BadAnswer
from nll.models._retry import UNAVAILABLE, Gate, Retry, may_pass

T = TypeVar("T")
_OPENAI = "https://api.openai.com/v1"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(BadText):
    """The server does not take this request (400, 413, 422); the same again would not help."""


class Unavailable(BadText):
    """The server did not give a usable answer however often it was asked."""


class NotFound(BadModel):
    """The server knows no such model or path (404)."""


class Caller:
    """Sends requests one at a time or from many threads, all under one retry policy."""

    def __init__(self, url: str, key: str | None, *, timeout: float, retry: Retry):
        try:
            import openai
        except ImportError:
            raise MissingExtra('openai is not installed; run: pip install "nll[api]"') from None
        self._errors = openai
        self._key = key
        self.url = url
        self.timeout = timeout
        self.retry = retry
        self.gate = Gate(retry)
        # The client's own retries would multiply with ours.
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=url, max_retries=0, timeout=timeout
        )
        weakref.finalize(self, self._client.close)

    def __repr__(self) -> str:
        return f"<Caller {self.url}>"

    def models(self) -> list[str]:
        """Names of the models that the server lists; the first contact, so it is given up early."""
        return self._until_done(
            lambda: self._client.models.with_raw_response.list().content, read_models, attempts=3
        )

    def completion(self, body: Mapping[str, Any], read: Callable[[object], T]) -> T:
        """POST /completions; `read` makes of the parsed answer what is wanted of it."""
        make: Any = self._client.completions.with_raw_response.create
        return self._until_done(lambda: make(**body).content, read)

    def chat(self, body: Mapping[str, Any], read: Callable[[object], T]) -> T:
        """POST /chat/completions, as `completion`."""
        make: Any = self._client.chat.completions.with_raw_response.create
        return self._until_done(lambda: make(**body).content, read)

    def _until_done(
        self, send: Callable[[], bytes], read: Callable[[object], T], attempts: int | None = None
    ) -> T:
        """Send until `read` accepts the answer.

        Raises Refused, Unavailable for one request that fails; BadModel where no request can work.
        """
        failures = unusable = 0
        attempts = min(self.retry.attempts, attempts or self.retry.attempts)
        while True:
            self.gate.pass_()
            asked: str | None = None
            try:
                return read(_parsed(send()))
            except BadAnswer as error:
                unusable += 1
                last = Unavailable(error.reason, f"{error.detail} ({unusable} tries)")
                done = unusable >= self.retry.malformed
            except self._errors.APIStatusError as error:
                status = error.status_code
                if not may_pass(status):
                    raise self._refusal(status, error.body) from None
                asked = error.response.headers.get("retry-after")
                last = Unavailable(UNAVAILABLE, f"the server answered {status}")
                done = False
            except self._errors.APITimeoutError:
                last, done = Unavailable(UNAVAILABLE, "the server did not answer in time"), False
            except self._errors.APIConnectionError:
                last, done = Unavailable(UNAVAILABLE, "the connection broke or was refused"), False
            except self._errors.OpenAIError as error:
                last, done = Unavailable(UNAVAILABLE, type(error).__name__), False
            failures += 1
            if done or failures >= attempts:
                if last.reason == UNAVAILABLE:
                    raise Unavailable(UNAVAILABLE, f"{last.detail} ({failures} tries)") from None
                raise last from None
            wait = self.retry.wait(failures, asked)
            if asked is not None:
                self.gate.close(wait)
            else:
                self.retry.sleep(wait)

    def _refusal(self, status: int, body: object) -> Exception:
        where = urlsplit(self.url).netloc
        if status in (401, 403):
            return BadModel(
                f"{where} refuses the key ({status}); set NLL_API_KEY or OPENAI_API_KEY"
            )
        if status == 404:
            return NotFound(f"{where} answers 404: {self._said(body) or 'no such model or path'}")
        return Refused("refused", f"the server answered {status}: {self._said(body)}")

    def _said(self, body: object) -> str:
        """The server's own words in one short line, without the key."""
        held = body.get("error", body) if isinstance(body, Mapping) else body
        held = held.get("message", held) if isinstance(held, Mapping) else held
        line = " ".join(str(held or "").split())[:300]
        return line.replace(self._key, "***") if self._key else line


def _parsed(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BadAnswer("bad_json", "the answer is no whole JSON") from None


def read_models(payload: object) -> list[str]:
    """The ids of a /v1/models answer."""
    data = payload.get("data") if isinstance(payload, Mapping) else None
    if not isinstance(data, list):
        raise BadAnswer("bad_answer", "the list of models is no list")
    return [str(m["id"]) for m in data if isinstance(m, Mapping) and "id" in m]


def check_url(url: str) -> str:
    """The base URL; raises BadInput for one that would carry a secret or is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput("the server's address must look like http://host:port/v1")
    if parts.username is not None or parts.password is not None or parts.query:
        raise BadInput(
            "the server's address must hold no key, user or query; put the key into the "
            "environment variable NLL_API_KEY"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def key_for(url: str) -> str | None:
    """The key for this server, from the environment alone.

    NLL_API_KEY goes to any server that is named, OPENAI_API_KEY only to OPENAI_BASE_URL (or
    OpenAI's own address) and to this machine, so that it is not handed to a stranger.
    """
    own = os.environ.get("NLL_API_KEY")
    if own:
        return own
    home = urlsplit(os.environ.get("OPENAI_BASE_URL") or _OPENAI).hostname
    host = urlsplit(url).hostname
    return os.environ.get("OPENAI_API_KEY") or None if host in (*_LOOPBACK, home) else None


def home_url() -> str:
    """Where `openai:NAME` lives."""
    return os.environ.get("OPENAI_BASE_URL") or _OPENAI
