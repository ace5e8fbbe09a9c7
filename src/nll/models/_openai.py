"""Models behind an OpenAI-compatible server: the same calls, and only what the server can tell."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from nll import __version__
from nll._errors import BadInput, BadModel, BadText
from nll.models._capabilities import Capabilities
from nll.models._fan import fan
from nll.models._how import How
from nll.models._openai_client import Caller, check_url, home_url, key_for
from nll.models._options import Continues
from nll.models._probe import TOLERANCE, check_own, probe
from nll.models._protocol import DEFAULT_FIELDS, LanguageModel, OnReject
from nll.models._remote_payload import BadAnswer, read_chat, read_completion
from nll.models._remote_trace import (
    Source,
    generation,
    pieces_of,
    read_trace,
    reading,
    whole_text,
    written_trace,
)
from nll.models._retry import UNAVAILABLE, Retry
from nll.trace import Fields, Provenance, Rejected, Text, TextLike, Trace

# Rows in a row that got no answer, each after all its tries: the server is gone, not the row bad.
GIVE_UP = 20
LEAST_TOP = 5
_FOUND = ("source", "_own")  # what a ServedModel asked its server about itself


class ServedModel(Continues):
    """A model that answers over HTTP; see `nll.models.from_openai` for how to get one."""

    def __init__(self, caller: Caller, name: str, *, concurrency: int):
        self.name = name
        self.concurrency = concurrency
        self._caller = caller
        self._warned = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self._caller.url}>"

    @cached_property
    def source(self) -> Source:
        """What the server gives, asked on first use with a few tokens; see `capabilities`."""
        return probe(self._caller, self.name)

    @cached_property
    def _own(self) -> bool:
        return check_own(self._caller, self.name, self.source)

    def _check_own(self) -> None:
        """Raise BadModel when the numbers change with the temperature of drawing."""
        if not self._own:
            raise BadModel(
                f"{self._where} reports log-probs of the distribution after temperature, which are "
                "not the model's own; draw at temperature 1"
            )

    def _check_greedy(self, traces: Sequence[Trace]) -> None:
        """Warn, once, when the likeliest token was not the one that was written."""
        for trace in traces:
            if self._warned or trace.top_logp is None or trace.provenance.decoding != "greedy":
                continue
            lost = np.nan_to_num(trace.top_logp[:, 0] - trace.logp)
            if not len(lost) or lost.max() <= TOLERANCE:
                continue
            self._warned = True
            t = int(lost.argmax())
            warnings.warn(
                f"{self._where} did not write the likeliest token at temperature 0 "
                f"({trace.token_text(t)!r}): it changes the distribution by a setting of its own, "
                "such as a penalty on repetition; the log-probs are still those it reports",
                stacklevel=2,
            )

    @property
    def best_capabilities(self) -> Capabilities:
        """The most that any server of this kind gives; known before anything is asked."""
        exact = {"logp", "spans", "top_logp", "top_ids", "ids", "rank"}
        return Capabilities(
            frozenset(exact), frozenset({"entropy", "ties"}), source=self._where, texts=True
        )

    @property
    def capabilities(self) -> Capabilities:
        """Which Trace fields this server gives exactly and which within bounds."""
        s = self.source
        exact, bounded = {"logp", "spans"}, set()
        if s.top_k:
            exact |= {"top_logp"}
            bounded |= {"entropy", "ties", "rank"}
        if s.ids:
            exact |= {"ids", "top_ids"} if s.top_k else {"ids"}
        if s.ranks:
            exact |= {"rank"}
        return Capabilities(
            frozenset(exact), frozenset(bounded - exact), s.top_k, self._where, s.reads
        )

    @property
    def identity(self) -> Mapping[str, str]:
        """The server, the model and this library's version; the server tells no more."""
        return {
            "model": self.name, "server": self._caller.url, "backend": "openai",
            "library": __version__,
        }  # fmt: skip

    @property
    def provenance(self) -> Provenance:
        """What every trace of this model says of how it came about."""
        return Provenance(
            model=self.name, backend="openai", dtype="unknown", bos=None, library=__version__
        )

    @property
    def _where(self) -> str:
        return urlsplit(self._caller.url).netloc

    def reopener(self) -> Callable[[], ServedModel]:
        """What opens this model in another process, where the server is not asked again what it
        gives. The key does not go along; it is read from the environment there."""
        known = {name: vars(self)[name] for name in _FOUND if name in vars(self)}
        return partial(
            _reopened, self._caller.url, self.name, known, concurrency=self.concurrency,
            timeout=self._caller.timeout,
        )  # fmt: skip

    def trace(
        self,
        texts: Iterable[TextLike],
        *,
        fields: Fields = DEFAULT_FIELDS,
        reference: LanguageModel | None = None,
        stride: int | None = None,
        on_reject: OnReject | None = None,
    ) -> Iterator[Trace]:
        """One trace per text, in order; see `LanguageModel.trace`. One request per text.

        A trace holds logp and spans, rank and the alternatives as far as the server tells them
        (at most its own `capabilities.top_k`), and nothing else: no entropy (see
        `nll.models.entropy_bounds`). A text that the server refuses, or does not answer usably
        after all tries, is set aside like any other that cannot be scored.
        Raises BadModel when the server gives no log-probs of texts, or stops answering at all.
        """
        if isinstance(texts, str):
            raise BadInput("trace takes several texts; for one text write model.trace([text])")
        if reference is not None:
            raise BadModel(f"{self._where} gives no full distribution to compare with a reference")
        if stride is not None:
            raise BadInput("a server reads a text whole; stride is for local models")
        wanted = [n for n in ("betas", "boundary", "hidden", "kl_uniform") if getattr(fields, n)]
        if wanted:
            raise BadInput(f"{self._where} cannot give {' and '.join(wanted)}; a local model can")
        if not self.source.reads:
            why = f" ({self.source.unread})" if self.source.unread else ""
            raise BadModel(
                f"{self._where} gives log-probs only of what it writes itself; it can generate, "
                f"but not score a given text{why}"
            )
        return self._traces(texts, fields, on_reject)

    def _traces(
        self, texts: Iterable[TextLike], fields: Fields, on_reject: OnReject | None
    ) -> Iterator[Trace]:
        names: dict[int, str | None] = {}

        def numbered() -> Iterator[tuple[int, TextLike]]:
            for i, value in enumerate(texts):
                names[i] = value.id if isinstance(value, Text) else None
                yield i, value

        lost = 0
        answers = fan(lambda item: self._score(item[1], fields), numbered(), self.concurrency)
        for i, done in enumerate(answers):
            name = names.pop(i)
            error = done.exception()
            if error is None:
                lost = 0
                yield done.result()
                continue
            if not isinstance(error, BadText):
                raise error
            lost = lost + 1 if error.reason == UNAVAILABLE else 0
            if lost >= GIVE_UP:
                raise BadModel(
                    f"{self._where} no longer answers ({error.detail}); the same command goes on "
                    "from here once it does"
                )
            if on_reject is None:
                raise BadText(error.reason, f"text {i}: {error.detail}") from None
            on_reject(Rejected(i, error.reason, error.detail, name))

    def _score(self, value: TextLike, fields: Fields) -> Trace:
        text = Text.of(value)
        whole, source = whole_text(text), self.source
        top_k = min(source.top_k, max(fields.top_k, LEAST_TOP))

        def read(payload: object) -> Trace:
            answer = read_completion(payload)[0]
            self._check_model(answer.model)
            pieces = pieces_of(answer, echo=source.how == "echo")
            return read_trace(text, pieces, fields, self.provenance)

        return self._caller.completion(reading(source, self.name, whole, top_k), read)

    def _check_model(self, answered: str) -> None:
        if answered != self.source.answered:
            raise BadAnswer(
                "wrong_model", f"the model {answered!r} answered in place of {self.name!r}"
            )

    def generate(
        self,
        prompts: Iterable[TextLike],
        *,
        max_new_tokens: int = 64,
        n: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Sequence[str] = (),
        fields: Fields = DEFAULT_FIELDS,
        greedy: bool = False,
        on_reject: OnReject | None = None,
    ) -> Iterator[list[Trace]]:
        """For each prompt, n answers with their traces; one request per prompt.

        The prompt is part of a trace only where the server sends it back. Prompt i is drawn with
        seed + i. greedy: the greedy answer, from a request of its own, comes before the n.
        Raises BadInput for impossible settings, BadText for a prompt without an answer unless
        `on_reject` is given.
        """
        how = How(max_new_tokens, n, temperature, top_p, top_k, tuple(stop), fields, greedy)
        shared: dict[str, Any] = {"max_tokens": max_new_tokens, "n": n, **how.sampling}
        if stop:
            shared["stop"] = list(stop)
        first = {**shared, "n": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0}

        def write(item: tuple[int, TextLike]) -> list[Trace]:
            drawn = {**shared, "seed": seed + item[0]}
            answers = self._write(item[1], {**first, "seed": seed}, fields) if greedy else []
            return answers + self._write(item[1], drawn, fields)

        return self._told(fan(write, enumerate(prompts), self.concurrency), on_reject)

    def _told(
        self, answers: Iterator[Future[list[Trace]]], on_reject: OnReject | None
    ) -> Iterator[list[Trace]]:
        for i, done in enumerate(answers):
            error = done.exception()
            if not isinstance(error, BadText):
                found = done.result()
                self._check_greedy(found)
                yield found
            elif on_reject is None:
                raise BadText(error.reason, f"prompt {i}: {error.detail}") from None
            else:
                on_reject(Rejected(i, error.reason, error.detail))

    def _write(self, prompt: TextLike, options: dict[str, Any], fields: Fields) -> list[Trace]:
        n, sampling = options["n"], {}
        options["alternatives"] = min(self.source.top_k, max(fields.top_k, 1))
        if options["temperature"]:
            sampling = {k: options[k] for k in ("temperature", "top_p", "top_k", "seed")}
        asked: Any = prompt
        if not isinstance(prompt, list):
            text = Text.of(prompt)
            asked = list(text.messages) or (text.prompt or "") + text.text
        chat = self.source.how == "chat" or not isinstance(asked, str)
        if options["temperature"] not in (0.0, 1.0):
            self._check_own()
        echo = self.source.how == "echo" and not chat
        how = dataclasses.replace(
            self.provenance, kind="chat" if chat else "completion",
            decoding="sampled" if sampling else "greedy", sampling=sampling,
        )  # fmt: skip

        def read(payload: object) -> list[Trace]:
            answers = read_chat(payload, n=n) if chat else read_completion(payload, n=n)
            out = []
            for answer in answers:
                self._check_model(answer.model)
                pieces = answer.pieces
                shown = asked if isinstance(asked, str) else ""
                out.append(written_trace(shown, answer, pieces, fields, how, echo=echo))
            return out

        body = generation(self.source, self.name, asked, options)
        call = self._caller.chat if chat else self._caller.completion
        return call(body, read)


def from_openai(
    url: str | None = None,
    name: str | None = None,
    *,
    concurrency: int | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
) -> ServedModel:
    """A model behind an OpenAI-compatible server (vLLM, llama.cpp, nll serve, hosted ones).

    url: such as `http://host:8000/v1`; default OPENAI_BASE_URL, or OpenAI's own.
    name: of the model; may be left out where the server has only one.
    concurrency: requests under way at once (NLL_CONCURRENCY, 8).   timeout: seconds that a server
    may be silent (NLL_TIMEOUT, 600).   retry: see `nll.models.Retry`.
    The key comes from the environment alone: NLL_API_KEY, or OPENAI_API_KEY for OPENAI_BASE_URL,
    OpenAI's own address and this machine.
    Raises MissingExtra without `nll[api]`, BadInput for a wrong address or setting, BadModel when
    the server cannot be reached, refuses the key or has several models and none was named.
    """
    url = check_url(url or home_url())
    concurrency = int(_setting("NLL_CONCURRENCY", concurrency, 8))
    seconds = _setting("NLL_TIMEOUT", timeout, 600.0)
    if concurrency < 1 or not seconds > 0:
        raise BadInput("the number of requests at once and the timeout must be above 0")
    caller = Caller(url, key_for(url), timeout=seconds, retry=retry or Retry())
    return ServedModel(caller, name or _only_model(caller), concurrency=concurrency)


def _reopened(url: str, name: str, known: Mapping[str, Any], **how: Any) -> ServedModel:
    model = from_openai(url, name, **how)
    vars(model).update(known)
    return model


def _setting(variable: str, given: float | None, default: float) -> float:
    if given is not None:
        return given
    value = os.environ.get(variable, "")
    try:
        return float(value) if value else default
    except ValueError:
        raise BadInput(f"{variable} must be a number, not {value[:20]!r}") from None


def _only_model(caller: Caller) -> str:
    where = urlsplit(caller.url).netloc
    try:
        names = caller.models()
    except BadText as error:
        raise BadModel(f"{where} does not tell its models: {error.detail}") from None
    if len(names) != 1:
        shown = ", ".join(names[:5]) or "none"
        raise BadModel(f"{where} lists {len(names)} models ({shown}); add #NAME to its address")
    return names[0]


def open_openai(name: str, **options: Any) -> LanguageModel:
    """`openai:NAME`, `http://host/v1` or `http://host/v1#NAME`, for `nll.load`."""
    refuse_local(options, "the server decides")
    if name.startswith("openai:"):
        wanted = name.removeprefix("openai:")
        if not wanted:
            raise BadInput("name the model behind openai: as in openai:davinci-002")
        return from_openai(name=wanted)
    url, _, wanted = name.partition("#")
    return from_openai(url, wanted or None)


def refuse_local(options: Mapping[str, Any], who: str) -> None:
    """Raise BadInput for an option of `nll.load` that only a local model can obey."""
    usual = {
        "device": "auto", "dtype": "float32", "bos": "auto", "revision": None,
        "trust_remote_code": False, "batch_tokens": None,
    }  # fmt: skip
    for option, value in usual.items():
        if options.get(option, value) != value:
            raise BadInput(f"{option} is for local models; {who} its own")
