"""`/v1/chat/completions`: answers in the model's own chat template, with log-probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from nll._errors import BadText
from nll.serve._generation import (
    Answers,
    Told,
    check_k,
    check_room,
    event,
    head,
    settings,
    usage,
)
from nll.serve._served import Served
from nll.serve._shapes import chat_logprobs, prompt_logprobs
from nll.serve._spoken import Speaker
from nll.serve._wire import ApiError, ChatRequest
from nll.serve._worker import Scoring
from nll.trace import Fields, Text, Trace

if TYPE_CHECKING:
    from nll.models._encode import Encoded
    from nll.models._engine import LocalModel


def read_chat(model: LocalModel, messages: list[dict[str, str]]) -> Encoded:
    """The conversation up to where the answer begins. Raises BadText, also for what the model's
    template does not take."""
    from jinja2 import TemplateError

    from nll.models._encode import encode

    hf, bos = model.tokenizer.hf, model.tokenizer.bos
    if not hf.chat_template:
        raise BadText("no_chat_template", "this model's tokenizer has no chat template")
    try:
        text = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise BadText("chat_template", f"the chat template refuses: {error}") from None
    # The BOS rule puts the BOS there once.
    (found,) = encode(model.tokenizer, [Text(text.removeprefix(bos) if bos else text)])
    if isinstance(found, BadText):
        raise found
    return found


class ChatCompletion:
    """One request, read and checked; then answered as a whole or streamed."""

    def __init__(self, request: ChatRequest, served: Served):
        self.request, self.served = request, served
        self.model = served.named(request.model)
        if request.top_logprobs is not None and not request.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", None, "top_logprobs")
        self.k = check_k(request.top_logprobs, served, "top_logprobs")
        self.prompt_k = check_k(request.prompt_logprobs, served, "prompt_logprobs")
        asked = request.max_completion_tokens or request.max_tokens
        self.limit = asked or min(served.limits.new_tokens, self.model.network.context)
        self._fit = asked is None
        self.how, self.seed = settings(request, served, self.limit, self.k)
        self.head = head("chat.completion", self.model, request.model)

    async def begin(self) -> None:
        """Read the messages and hand the work over."""
        request, served = self.request, self.served
        messages = [m.plain for m in request.messages]
        self.prompt = await served.read(read_chat, self.model, messages)
        if self._fit:
            room = self.model.network.context - len(self.prompt.ids) - 1
            self.limit = max(1, min(self.limit, room))
            self.how = dataclasses.replace(self.how, max_new_tokens=self.limit)
        check_room(self.model, self.prompt, self.limit)
        self.answers = Answers(self.model, [self.prompt], self.how, self.seed)
        if request.stream:
            self.answers.stream()
        fields = Fields(top_k=self.prompt_k)
        scoring = request.prompt_logprobs is not None and len(self.prompt.ids)
        self.scoring = [Scoring(self.model, self.prompt, fields)] if scoring else []
        served.submit([*self.scoring, *self.answers.jobs])

    async def whole(self) -> dict[str, Any]:
        """The answer as one body."""
        try:
            scored: list[Trace] = await self.served.results(s.future for s in self.scoring)
            await self.served.results(j.future for j in self.answers.jobs)
        finally:
            self.answers.give_up()
        body = {
            **self.head,
            "choices": await self.served.read(self._choices),
            "usage": usage([len(self.prompt.ids)], self.answers.written()),
        }
        if self.request.prompt_logprobs is not None:
            body["prompt_logprobs"] = [
                row for t in scored for row in prompt_logprobs(t, range(len(t)), self.prompt_k)
            ]
        if self.request.return_token_ids:
            body["prompt_token_ids"] = self.prompt.ids.tolist()
        return body

    def _choices(self) -> list[dict[str, Any]]:
        out = []
        for s, answer in enumerate(self.answers.jobs[0].answers):
            text, trace, reason = self.answers.speaker(answer).rest()
            choice: dict[str, Any] = {
                "index": s,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            if self.request.logprobs:
                choice["logprobs"] = self._logprobs(trace)
            if self.request.return_token_ids:
                choice["token_ids"] = list(answer.tokens)
            out.append(choice)
        return out

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        request, n = self.request, self.how.n
        options = request.stream_options
        counted = {"usage": None} if options and options.include_usage else {}
        speakers: list[Speaker] = []
        try:
            for s in range(n):
                delta = {"role": "assistant", "content": ""}
                yield self._chunk(s, {"delta": delta, "logprobs": None}, None, counted)
            async for told in self.answers.told(self.served):
                speakers = speakers or [*map(self.answers.speaker, self.answers.jobs[0].answers)]
                for s, speaker in enumerate(speakers):
                    part, reason = self._part(speaker, told, s)
                    if part is not None:
                        yield self._chunk(s, part, None, counted)
                    if reason is not None:
                        last: dict[str, Any] = {"delta": {}, "logprobs": None}
                        yield self._chunk(s, last, reason, counted)
            if counted:
                total = usage([len(self.prompt.ids)], self.answers.written())
                yield event({**self._chunk_head(), "choices": [], "usage": total})
        except ApiError as error:
            yield event(error.body())
        finally:
            self.answers.give_up()
        yield event("[DONE]")

    def _part(
        self, speaker: Speaker, told: Told, s: int
    ) -> tuple[dict[str, Any] | None, str | None]:
        """What a step adds to an answer (None: nothing), and why it ended if it did."""
        reason = None
        if told.done:
            text, trace, reason = speaker.rest()
        else:
            text, trace = speaker.more(told.counts[s])
        if not text and not len(trace):
            return None, reason
        logprobs = self._logprobs(trace) if self.request.logprobs else None
        return {"delta": {"content": text}, "logprobs": logprobs}, reason

    def _logprobs(self, trace: Trace) -> dict[str, Any]:
        return chat_logprobs(trace, range(len(trace)), self.k, self.model.tokenizer.hf)

    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}

    def _chunk(
        self, index: int, part: dict[str, Any], reason: str | None, counted: dict[str, Any]
    ) -> bytes:
        choice = {"index": index, **part, "finish_reason": reason}
        return event({**self._chunk_head(), "choices": [choice], **counted})
