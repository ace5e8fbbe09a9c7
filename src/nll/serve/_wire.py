"""What requests look like, and errors in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nll._errors import NllError

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Stop = str | Annotated[list[str], Field(max_length=16)] | None
Id = Annotated[int, Field(ge=0, lt=2**31)]


class ApiError(NllError):
    """A refusal with its status; `code` is stable, `param` names the field at fault."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        return error_body(self.status, str(self), self.code, self.param)


_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "server_error",
}  # fmt: skip


def error_body(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Any answer whose status is 400 or more."""

    error: ErrorDetail


class _Request(BaseModel):
    """Unknown fields are refused: an option that is not obeyed must not look as if it were."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Request):
    """`include_usage`: one more chunk at the end, with the number of tokens."""

    include_usage: bool = False


class _Sampling(_Request):
    model: str
    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = 0
    n: Annotated[int, Field(ge=1)] | None = 1
    seed: Seed | None = None
    stop: Stop = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    prompt_logprobs: Annotated[int, Field(ge=0)] | None = None
    return_token_ids: bool | None = False
    user: str | None = None
    frequency_penalty: Finite | None = None
    presence_penalty: Finite | None = None
    logit_bias: dict[str, Finite] | None = None

    @model_validator(mode="after")
    def _only_the_models_own(self) -> _Sampling:
        for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
            if getattr(self, name):
                raise ValueError(f"{name} is not supported: answers are the model's own")
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs cannot be streamed")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not all(stops):
            raise ValueError("a stop string is empty")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(_Sampling):
    """OpenAI's legacy completion, with vLLM's `prompt_logprobs`, `top_k` and `return_token_ids`."""

    prompt: str | list[str] | list[Id] | list[list[Id]]
    echo: bool | None = False
    logprobs: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    best_of: int | None = None
    suffix: None = None
    return_tokens_as_token_ids: bool | None = False

    @model_validator(mode="after")
    def _best_is_all(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is not supported; ask for n answers")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return list(given)


class TextPart(_Request):
    """A piece of a message; only text is read."""

    type: Literal["text"]
    text: str


class Message(_Request):
    """A turn of a chat."""

    role: Annotated[str, Field(max_length=64)]
    content: str | list[TextPart]

    @property
    def plain(self) -> dict[str, str]:
        """Role and content as strings."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        return {"role": self.role, "content": content}


class ChatRequest(_Sampling):
    """OpenAI's chat completion, with vLLM's `prompt_logprobs`, `top_k` and `return_token_ids`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


class Pair(_Request):
    """A completion that is scored after a prompt that is only read."""

    prompt: str
    completion: str
    id: str | None = None


class Plain(_Request):
    """A text with an id."""

    text: str
    id: str | None = None


class Chat(_Request):
    """A chat whose last message, the assistant's, is scored."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    id: str | None = None


AnyText = str | Plain | Pair | Chat


class ScoreRequest(_Request):
    """Texts and the scores wanted of them: names, `name(option=value)`, or `all`."""

    model: str | None = None
    texts: Annotated[list[AnyText], Field(min_length=1)]
    scores: Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1)] = Field(
        default=["all"], max_length=128
    )


class TraceRequest(_Request):
    """Texts whose every token is wanted; `top_k` alternatives at each, `betas` as in `Fields`."""

    model: str | None = None
    texts: Annotated[list[AnyText], Field(min_length=1)]
    top_k: Annotated[int, Field(ge=0)] = 0
    betas: Annotated[list[Annotated[Finite, Field(ge=0, le=1e6)]], Field(max_length=16)] = []
    boundary: bool = False
