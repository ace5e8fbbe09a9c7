"""What completions and chats share: prompts read, answers asked for, streams told."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nll.models._decode import end_ids
from nll.models._how import How
from nll.models._written import Answer
from nll.serve._served import Served
from nll.serve._spoken import Speaker
from nll.serve._wire import ApiError, ChatRequest, CompletionRequest
from nll.serve._worker import Answering
from nll.trace import Fields, Trace

if TYPE_CHECKING:
    from nll.models._encode import Encoded
    from nll.models._engine import LocalModel

_log = logging.getLogger("nll.serve")


@dataclass(frozen=True, slots=True)
class Told:
    """How many tokens the answers to a prompt have now, and whether they are whole."""

    prompt: int
    counts: list[int]
    done: bool = False


def head(kind: str, model: LocalModel, name: str) -> dict[str, Any]:
    """What every answer begins with."""
    return {
        "id": f"{'chatcmpl' if kind.startswith('chat') else 'cmpl'}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": f"{model.provenance.weights}-{model.provenance.dtype}",
    }


def usage(prompts: list[int], answers: list[int]) -> dict[str, int]:
    """Tokens read and written."""
    read, written = sum(prompts), sum(answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def settings(
    request: CompletionRequest | ChatRequest, served: Served, limit: int, alternatives: int
) -> tuple[How, int]:
    """How to draw, and the seed; raises ApiError 400 for more than the server gives."""
    n = 1 if request.n is None else request.n
    temperature = 1.0 if request.temperature is None else request.temperature
    if n > served.limits.answers:
        raise ApiError(400, f"n is at most {served.limits.answers}", "too_many_answers", "n")
    if n > 1 and temperature == 0:
        raise ApiError(400, "n answers at temperature 0 would all be the same", None, "n")
    if limit > served.limits.new_tokens:
        most = served.limits.new_tokens
        raise ApiError(400, f"at most {most} new tokens", "too_many_tokens", "max_tokens")
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**64
    how = How(
        limit, n, temperature, 1.0 if request.top_p is None else request.top_p,
        max(request.top_k or 0, 0), request.stops, Fields(top_k=max(1, alternatives)),
    )  # fmt: skip
    return how, seed


def check_k(asked: int | None, served: Served, param: str) -> int:
    """How many alternatives; raises ApiError 400 beyond the limit."""
    most = served.limits.top_logprobs
    if asked is not None and asked > most:
        raise ApiError(400, f"{param} is at most {most}", "too_many_logprobs", param)
    return asked or 0


def check_room(model: LocalModel, prompt: Encoded, new: int) -> None:
    """Raise ApiError 400 when prompt and answer do not fit into the context."""
    read = len(prompt.ids) + (model.tokenizer.bos_id is not None)
    if not read:
        raise ApiError(400, "the prompt is empty, and this model has no BOS", "empty", "prompt")
    if read + new > model.network.context:
        raise ApiError(
            400,
            f"this model's context is {model.network.context} tokens; the prompt has {read} and "
            f"{new} are to be written",
            "context_length_exceeded", "max_tokens",
        )  # fmt: skip


class Answers:
    """The answers to several prompts on their way: awaited as a whole, or told step by step."""

    def __init__(self, model: LocalModel, prompts: list[Encoded], how: How, seed: int):
        self._model, self._stop, self._ends = model, how.stop, end_ids(model)
        self._gone = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Told | ApiError] = asyncio.Queue()
        self._streaming = False
        self.jobs = [
            Answering(model, p, how, (seed, i), self._hear(i)) for i, p in enumerate(prompts)
        ]

    def _hear(self, prompt: int) -> Callable[[list[int]], None]:
        def hear(counts: list[int]) -> None:
            if self._gone.is_set():
                raise CancelledError
            if self._streaming:
                self._loop.call_soon_threadsafe(self._told.put_nowait, Told(prompt, counts))

        return hear

    def speaker(self, answer: Answer) -> Speaker:
        """Tells this answer."""
        return Speaker(answer, self._model.tokenizer, self._ends, self._stop)

    def written(self) -> list[int]:
        """Tokens of every answer."""
        return [len(a.tokens) for job in self.jobs for a in job.answers]

    def give_up(self) -> None:
        """Nobody waits for them any more."""
        self._gone.set()
        for job in self.jobs:
            job.future.cancel()

    def stream(self) -> None:
        """Have every step told; call it before the work is submitted."""
        self._streaming = True

    async def told(self, served: Served) -> AsyncIterator[Told]:
        """The steps as they come; the last of each prompt says so."""

        async def whole(i: int, job: Answering) -> None:
            try:
                await served.results([job.future])
            except ApiError as error:
                self._told.put_nowait(error)
            except Exception:  # noqa: BLE001  told to the client without what went wrong
                _log.exception("an answer failed")
                self._told.put_nowait(ApiError(500, "the server failed on this request"))
            else:
                # The steps were handed to this loop before the future was done.
                self._told.put_nowait(Told(i, [len(a.tokens) for a in job.answers], done=True))

        waiting = [asyncio.create_task(whole(i, job)) for i, job in enumerate(self.jobs)]
        left = len(waiting)
        try:
            while left:
                found = await self._told.get()
                if isinstance(found, ApiError):
                    raise found
                left -= found.done
                yield found
        finally:
            self.give_up()
            for task in waiting:
                task.cancel()


def event(payload: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    line = payload if isinstance(payload, str) else json.dumps(payload, allow_nan=False)
    return f"data: {line}\n\n".encode()


def one_trace(prompt: Trace, answer: Trace) -> Trace:
    """A prompt's trace with its answer's behind it, as one text."""
    arrays: dict[str, Any] = {}
    for name in ("logp", "rank", "ids", "top_ids", "top_logp"):
        mine, other = getattr(prompt, name), getattr(answer, name)
        if mine is not None and other is not None:
            if mine.ndim == 2:
                k = min(mine.shape[1], other.shape[1])
                mine, other = mine[:, :k], other[:, :k]
            arrays[name] = np.concatenate([mine, other])
    spans = np.concatenate([prompt.field("spans"), answer.field("spans") + len(prompt.text)])
    vocab = {**prompt.vocab, **answer.vocab}
    return Trace(spans=spans, text=prompt.text + answer.text, vocab=vocab, **arrays)
