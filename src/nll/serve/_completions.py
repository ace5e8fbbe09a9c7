"""`/v1/completions`: prompts continued, echoed, and scored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nll.models._written import Answer
from nll.serve._generation import (
    Answers,
    Told,
    check_k,
    check_room,
    event,
    head,
    one_trace,
    settings,
    usage,
)
from nll.serve._served import Served
from nll.serve._shapes import legacy, prompt_logprobs
from nll.serve._spoken import Speaker
from nll.serve._wire import ApiError, CompletionRequest
from nll.serve._worker import Scoring
from nll.trace import Fields, Text, Trace

if TYPE_CHECKING:
    from nll.models._encode import Encoded
    from nll.models._engine import LocalModel


def read_prompts(model: LocalModel, prompts: list[str | list[int]]) -> list[Encoded]:
    """Prompts as the model reads them, token ids exactly as given. Raises BadText."""
    from nll._errors import BadText
    from nll.models._encode import Encoded, encode, encoded_ids

    nothing = Encoded("", np.zeros(0, np.int64), np.zeros((0, 2), np.int32), 0, "completion", None)
    out = []
    for prompt in prompts:
        if isinstance(prompt, list):
            out.append(encoded_ids(model.tokenizer, prompt))
            continue
        found = encode(model.tokenizer, [Text(prompt)])[0] if prompt else nothing
        if isinstance(found, BadText):
            raise found
        out.append(found)
    return out


class Completion:
    """One request, read and checked; then answered as a whole or streamed."""

    def __init__(self, request: CompletionRequest, served: Served):
        self.request, self.served = request, served
        self.model = served.named(request.model)
        self.k = check_k(request.logprobs, served, "logprobs")
        self.prompt_k = check_k(request.prompt_logprobs, served, "prompt_logprobs")
        self.limit = 16 if request.max_tokens is None else request.max_tokens
        self.how, self.seed = settings(request, served, max(self.limit, 1), self.k)
        if not request.prompts:
            raise ApiError(400, "there is no prompt", "empty", "prompt")
        self.head = head("text_completion", self.model, request.model)
        self.prompts: list[Encoded] = []
        self.scoring: list[Scoring | None] = []
        self.answers: Answers | None = None

    async def begin(self) -> None:
        """Read the prompts and hand the work over."""
        request, served = self.request, self.served
        self.prompts = await served.read(read_prompts, self.model, request.prompts)
        if self.limit:
            for prompt in self.prompts:
                check_room(self.model, prompt, self.limit)
            self.answers = Answers(self.model, self.prompts, self.how, self.seed)
            if request.stream:
                self.answers.stream()
        asked = request.prompt_logprobs is not None
        wanted = asked or (request.echo and request.logprobs is not None)
        fields = Fields(top_k=max(self.k, self.prompt_k))
        self.scoring = [
            Scoring(self.model, p, fields) if wanted and len(p.ids) else None for p in self.prompts
        ]
        jobs = self.answers.jobs if self.answers else []
        served.submit([*(s for s in self.scoring if s), *jobs])

    async def whole(self) -> dict[str, Any]:
        """The answer as one body."""
        traces = await self._prompt_traces()
        if self.answers:
            try:
                await self.served.results(j.future for j in self.answers.jobs)
            finally:
                self.answers.give_up()
        written = self.answers.written() if self.answers else []
        return {
            **self.head,
            "choices": await self.served.read(self._choices, traces),
            "usage": usage([len(p.ids) for p in self.prompts], written),
        }

    async def _prompt_traces(self) -> list[Trace | None]:
        done = iter(await self.served.results(s.future for s in self.scoring if s))
        return [next(done) if s else None for s in self.scoring]

    def _choices(self, traces: list[Trace | None]) -> list[dict[str, Any]]:
        n, out = self.how.n, []
        for i, prompt in enumerate(self.prompts):
            for s in range(n):
                answer = self.answers.jobs[i].answers[s] if self.answers else None
                out.append(self._choice(i * n + s, prompt, traces[i], answer))
        return out

    def _choice(
        self, index: int, prompt: Encoded, scored: Trace | None, answer: Answer | None
    ) -> dict[str, Any]:
        request = self.request
        text, said, reason = "", None, "length"
        if self.answers and answer is not None:
            text, said, reason = self.answers.speaker(answer).rest()
        choice: dict[str, Any] = {
            "index": index,
            "text": (prompt.text if request.echo else "") + text,
            "logprobs": None,
            "finish_reason": reason,
        }
        if request.logprobs is not None:
            parts = [t for t in (scored if request.echo else None, said) if t is not None]
            trace = one_trace(*parts) if len(parts) == 2 else parts[0] if parts else None
            shift = -len(prompt.text) if request.echo and scored is None else 0
            choice["logprobs"] = self._logprobs(trace, shift)
        if request.prompt_logprobs is not None:
            found = prompt_logprobs(scored, range(len(scored)), self.prompt_k) if scored else []
            choice["prompt_logprobs"] = found
        if request.return_token_ids:
            tokens = [] if answer is None else list(answer.tokens)
            choice |= {"prompt_token_ids": prompt.ids.tolist(), "token_ids": tokens}
        return choice

    def _logprobs(self, trace: Trace | None, shift: int) -> dict[str, list[Any]]:
        if trace is None:
            return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        as_ids = bool(self.request.return_tokens_as_token_ids)
        return legacy(trace, range(len(trace)), self.k, as_ids=as_ids, shift=shift)

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        request, n, prompts = self.request, self.how.n, self.prompts
        options = request.stream_options
        counted = {"usage": None} if options and options.include_usage else {}
        try:
            traces = await self._prompt_traces()
            for i, prompt in enumerate(prompts):
                for s in range(n if request.echo or not self.limit else 0):
                    yield self._chunk(i * n + s, self._echoed(prompt, traces[i]), counted)
            if self.answers:
                speakers: dict[int, Speaker] = {}
                async for told in self.answers.told(self.served):
                    for s, answer in enumerate(self.answers.jobs[told.prompt].answers):
                        place = told.prompt * n + s
                        if place not in speakers:
                            speakers[place] = self.answers.speaker(answer)
                        part = self._part(speakers[place], told, s, prompts[told.prompt])
                        if part is not None:
                            yield self._chunk(place, part, counted)
            if counted:
                written = self.answers.written() if self.answers else []
                total = usage([len(p.ids) for p in prompts], written)
                yield event({**self.head, "choices": [], "usage": total})
        except ApiError as error:
            yield event(error.body())
        finally:
            if self.answers:
                self.answers.give_up()
        yield event("[DONE]")

    def _chunk(self, index: int, part: dict[str, Any], counted: dict[str, Any]) -> bytes:
        return event({**self.head, "choices": [{"index": index, **part}], **counted})

    def _part(self, speaker: Speaker, told: Told, s: int, prompt: Encoded) -> dict[str, Any] | None:
        """What a step adds to an answer; None when there is nothing to say."""
        reason = None
        if told.done:
            text, trace, reason = speaker.rest()
        else:
            text, trace = speaker.more(told.counts[s])
            if not text and not len(trace):
                return None
        logprobs = None
        if self.request.logprobs is not None:
            logprobs = self._logprobs(trace, -len(prompt.text) if self.request.echo else 0)
        return {"text": text, "logprobs": logprobs, "finish_reason": reason}

    def _echoed(self, prompt: Encoded, scored: Trace | None) -> dict[str, Any]:
        wanted = self.request.echo and self.request.logprobs is not None
        return {
            "text": prompt.text if self.request.echo else "",
            "logprobs": self._logprobs(scored, 0) if wanted else None,
            "finish_reason": None if self.limit else "length",
        }
