"""An OpenAI-compatible server of one's own as an endpoint to audit.

Only addresses of this machine and of private networks are asked: the audit is for servers that
one runs, from inside their network (or through a tunnel), and is no client for other people's.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from nll._errors import BadInput, MissingExtra
from nll.theory._endpoint import Answer

_ID = "token_id:"


class HttpEndpoint:
    """`/completions` of a server of one's own, with log-probabilities of the next token.

    base_url: such as http://localhost:8000/v1; must be on this machine or a private network.
    model: the name it is served under.   vocabulary: V.   top_k: values to ask for (`logprobs`).
    logit_bias: whether to try a bias.   max_bias: the largest that the server takes.
    token_ids: string -> id, for servers that answer with strings; those that answer with
    `token_id:17` (vLLM with `return_tokens_as_token_ids`, which is asked for) do not need it.
    api_key: sent as it is; the environment is not read.   A context is a prompt: a string, or a
    list of token ids.

    Raises MissingExtra without `nll[api]`, BadInput for another's address, for a server that does
    not answer, refuses, or shows no log-probabilities.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        vocabulary: int,
        top_k: int = 5,
        logit_bias: bool = False,
        max_bias: float = 100.0,
        token_ids: Mapping[str, int] | None = None,
        api_key: str = "none",
        timeout: float = 60.0,
        retries: int = 2,
    ):
        if vocabulary < 2 or top_k < 0:
            raise BadInput("vocabulary must be 2 or more, top_k 0 or more")
        check_own(base_url)
        try:
            import openai
        except ImportError:
            raise MissingExtra('openai is not installed; run: pip install "nll[api]"') from None
        self.base_url = base_url
        self.model = model
        self.top_k = top_k
        self.logit_bias = logit_bias
        self.max_bias = max_bias
        self.queries = 0
        self._vocabulary = vocabulary
        self._token_ids = token_ids
        self._errors = (openai.OpenAIError,)
        # Neither a proxy of the environment nor a redirect may lead elsewhere.
        plain = openai.DefaultHttpxClient(trust_env=False, follow_redirects=False)
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=retries,
            organization="", project="", http_client=plain,
        )  # fmt: skip

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def query(self, context: Any, bias: Mapping[int, float] | None = None) -> Answer:
        """The answer for one prompt; one request, tried again after a failure that may pass."""
        if bias and not self.logit_bias:
            raise BadInput("this endpoint was opened without a logit bias")
        self.queries += 1
        moved: Any = {"logit_bias": {str(t): b for t, b in bias.items()}} if bias else {}
        try:
            reply = self._client.completions.create(
                model=self.model,
                prompt=context,
                max_tokens=1,
                temperature=0.0,
                logprobs=self.top_k,
                **moved,
                extra_body={"return_tokens_as_token_ids": True},
            )
        except self._errors as error:
            line = " ".join(str(error).split())[:300]
            raise BadInput(f"{self.base_url} did not answer: {line}") from None
        return self._answer(reply)

    def vocabulary(self, context: Any) -> int:
        """V, as it was said."""
        return self._vocabulary

    def _answer(self, reply: Any) -> Answer:
        held = reply.choices[0].logprobs if reply.choices else None
        if held is None or not held.tokens:
            raise BadInput(f"{self.base_url} shows no log-probabilities, so there is nothing to do")
        top = self._id(held.tokens[0])
        pairs = held.top_logprobs[0] if held.top_logprobs else {}
        # A server may add the token it chose to the k most likely ones.
        ranked = sorted((pairs or {}).items(), key=lambda pair: -pair[1])[: self.top_k]
        tokens = np.array([self._id(token) for token, _ in ranked], np.int64)
        values = np.array([value for _, value in ranked], np.float64)
        kept = np.isfinite(values)
        if len(np.unique(tokens)) != len(tokens):
            raise BadInput(f"{self.base_url} names a token twice; two strings have the same id")
        return Answer(tokens[kept], values[kept], top)

    def _id(self, token: str) -> int:
        if token.startswith(_ID) and token[len(_ID) :].isdecimal():
            found = int(token[len(_ID) :])
        elif self._token_ids is not None and token in self._token_ids:
            found = self._token_ids[token]
        else:
            raise BadInput(
                f"{self.base_url} names tokens by strings ({token!r}); give the ids of its tokens"
            )
        if not 0 <= found < self._vocabulary:
            raise BadInput(f"{self.base_url} names token {found}, beyond a vocabulary of "
                           f"{self._vocabulary}")  # fmt: skip
        return found


def check_own(base_url: str) -> None:
    """Raise BadInput unless every address of the host is this machine's or a private network's."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"an endpoint is an address like http://localhost:8000/v1, not {base_url}")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot find the host of {base_url}: {error}") from None
    for address in {str(entry[4][0]).split("%")[0] for entry in found}:
        place = ipaddress.ip_address(address)
        if not (place.is_loopback or place.is_private) or place.is_unspecified:
            raise BadInput(
                f"{parts.hostname} ({address}) is a public address; audit a server of your own "
                "from inside its network, or through a tunnel to localhost"
            )
