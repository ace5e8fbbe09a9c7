"""The routes, put together with their guard."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from nll import __version__
from nll.serve._chat import ChatCompletion
from nll.serve._completions import Completion
from nll.serve._guard import LOOPBACK, Guard, error_headers
from nll.serve._limits import Limits
from nll.serve._page import add_page
from nll.serve._scoring import score_texts, trace_texts
from nll.serve._served import Served
from nll.serve._wire import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    ErrorAnswer,
    ScoreRequest,
    TraceRequest,
    error_body,
)

if TYPE_CHECKING:
    from nll.models import LanguageModel

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning}
    for status, meaning in {
        400: "The request cannot be obeyed.",
        401: "No valid token.",
        403: "A foreign Host or Origin.",
        404: "No such model.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "Not application/json.",
        429: "Too much work waits; see Retry-After.",
    }.items()
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, as JSON or as server-sent events.",
          "content": {"application/json": {}, "text/event-stream": {}}},
}  # fmt: skip


class Json(Response):
    """JSON in plain ASCII, so that nothing a text holds can break it; nan is an error here."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def create_app(
    model: LanguageModel,
    *,
    reference: LanguageModel | None = None,
    token: str | None = None,
    hosts: Collection[str] = LOOPBACK,
    limits: Limits | None = None,
) -> FastAPI:
    """The server as an ASGI application; its model's thread lives from startup to shutdown.

    model, reference: local models; both are served by their names.   token: asked of every request
    but those for the page and /health.   hosts: names by which the server may be called.
    Raises BadModel for a model that does not run in this process.
    """
    limits = limits or Limits()
    served = Served(model, reference, limits)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        served.worker.start()
        try:
            yield
        finally:
            served.close()

    app = FastAPI(
        title="nll", version=__version__, lifespan=life, docs_url=None, redoc_url=None,
        description="Likelihoods of texts under one language model.",
    )  # fmt: skip
    app.state.served = served
    _add_api(app, served)
    _add_service(app, served)
    add_page(app, served, needs_token=token is not None)
    _add_errors(app)
    routes = [getattr(r, "path", "") for r in app.routes]
    app.add_middleware(
        Guard, token=token, hosts=hosts, limits=limits, metrics=served.metrics, routes=routes
    )
    return app


def _add_api(app: FastAPI, served: Served) -> None:
    @app.post("/v1/completions", responses=_REFUSALS | _STREAM)
    async def completions(request: CompletionRequest) -> Response:
        """Continue prompts; `echo` with `logprobs`, or `prompt_logprobs`, scores them."""
        return await _answer(Completion(request, served))

    @app.post("/v1/chat/completions", responses=_REFUSALS | _STREAM)
    async def chat(request: ChatRequest) -> Response:
        """Answer a conversation."""
        return await _answer(ChatCompletion(request, served))

    @app.post("/v1/score", responses=_REFUSALS)
    async def score(request: ScoreRequest) -> Response:
        """Scores of texts; each that is null has its reason in `undefined`."""
        return Json(await score_texts(request, served))

    @app.post("/v1/trace", responses=_REFUSALS)
    async def trace(request: TraceRequest) -> Response:
        """What the model says of every token."""
        return Json(await trace_texts(request, served))


async def _answer(job: Completion | ChatCompletion) -> Response:
    await job.begin()
    if job.request.stream:
        return StreamingResponse(job.events(), media_type="text/event-stream")
    return Json(await job.whole())


def _add_service(app: FastAPI, served: Served) -> None:
    @app.get("/v1/models", responses={401: _REFUSALS[401], 403: _REFUSALS[403]})
    async def models() -> Response:
        """The models being served, with what decides their numbers."""
        data = [
            {
                "id": name, "object": "model", "created": 0, "owned_by": "nll",
                "max_model_len": m.network.context, "identity": dict(m.identity),
            }
            for name, m in served.models.items()
        ]  # fmt: skip
        return Json({"object": "list", "data": data})

    @app.get("/health", responses={403: _REFUSALS[403]})
    async def health() -> Response:
        """200 while the model's thread lives."""
        alive = served.worker.alive
        return Json({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    @app.get("/metrics", responses={401: _REFUSALS[401], 403: _REFUSALS[403]})
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(served.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return Json(error.body(), error.status, headers=error_headers(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return Json(error_body(400, "the body is not JSON", "invalid_json"), 400)
        where = ".".join(str(p) for p in first["loc"] if p != "body")[:200]
        said = str(first["msg"])[:500]
        message = f"{where}: {said}" if where else said
        return Json(error_body(400, message, "invalid_request", where or None), 400)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        message = str(error.detail)
        return Json(error_body(error.status_code, message), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return Json(error_body(500, "the server failed on this request; see its log"), 500)
