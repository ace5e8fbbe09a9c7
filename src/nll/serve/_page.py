"""The web page at `/`: its files, by name only, and the one route that it asks."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import jinja2
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from nll import __version__
from nll._bundle import Bundle
from nll._declare import requests
from nll._errors import BadText
from nll.serve._scoring import bundles
from nll.serve._served import Served
from nll.serve._wire import AnyText, ApiError, Pair
from nll.trace import Fields, Trace

_FILES = {
    "base.js": "text/javascript", "table.js": "text/javascript", "serve.js": "text/javascript",
    "report.css": "text/css", "serve.css": "text/css",
}  # fmt: skip
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_ALTERNATIVES = 10


class Side(BaseModel):
    """A text, or an answer behind its prompt, and which of the served models reads it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: Annotated[int, Field(ge=0, le=1)] = 0
    text: str
    prompt: str | None = None


class PageRequest(BaseModel):
    """One text, or two side by side."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sides: Annotated[list[Side], Field(min_length=1, max_length=2)]


def add_page(app: FastAPI, served: Served, *, needs_token: bool) -> None:
    """Add the page's routes."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        html = _template().render(
            models=list(served.models), needs_token=needs_token, version=__version__
        )
        headers = {"content-security-policy": _CSP, "x-frame-options": "DENY"}
        return Response(html, media_type="text/html", headers=headers)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in _FILES:
            raise ApiError(404, "no such file", "not_found")
        return Response(_asset(name), media_type=_FILES[name])

    @app.post("/page/read", include_in_schema=False)
    async def read(request: PageRequest) -> Response:
        return JSONResponse(await read_sides(request, served))


async def read_sides(request: PageRequest, served: Served) -> dict[str, Any]:
    """Heat maps and scores of the sides, as the page draws them."""
    began = time.perf_counter()
    models = list(served.models)
    if any(side.model >= len(models) for side in request.sides):
        raise ApiError(400, "there is no second model; start with --reference", "no_reference")
    wanted, fields = requests("all"), Fields(top_k=_ALTERNATIVES)
    held: dict[int, Bundle | BadText] = {}
    for number in {side.model for side in request.sides}:
        mine = [i for i, side in enumerate(request.sides) if side.model == number]
        texts = [_text(request.sides[i]) for i in mine]
        model = served.models[models[number]]
        held |= zip(mine, await bundles(served, model, texts, wanted, fields), strict=True)
    found = [held[i] for i in range(len(request.sides))]
    names = _names(request.sides, models)
    drawn = await asyncio.to_thread(_drawn, found, names)
    return {**drawn, "seconds": round(time.perf_counter() - began, 3)}


def _text(side: Side) -> AnyText:
    if side.prompt is None:
        return side.text
    return Pair(prompt=side.prompt, completion=side.text)


def _names(sides: list[Side], models: list[str]) -> list[str]:
    if len(sides) == 1:
        return ["The text"]
    if sides[0].model != sides[1].model:
        return [models[side.model] for side in sides]
    return ["First text", "Second text"]


def _drawn(found: list[Bundle | BadText], names: list[str]) -> dict[str, Any]:
    from nll._table import score
    from nll.web._scores import Cell, columns
    from nll.web._text import number, visible
    from nll.web._traces import Strings, packed

    strings = Strings()
    traces: list[Trace] = []
    sides: list[dict[str, Any]] = []
    for name, bundle in zip(names, found, strict=True):
        if isinstance(bundle, BadText) or bundle.trace is None:
            why = bundle.detail if isinstance(bundle, BadText) else ""
            sides.append({"name": visible(name), "rejected": visible(why)})
            continue
        traces.append(bundle.trace)
        nll = -bundle.trace.values("logp")
        mean = float(nll.mean()) if len(nll) else float("nan")
        sides.append(
            {
                "name": visible(name), "rejected": None, "mean": number(mean, 3),
                "packed": packed(bundle.trace, strings, _ALTERNATIVES),
            }
        )  # fmt: skip
    missing = Cell("–", None, "not scored")
    shown = []
    for column in columns(traces, score(traces, "all")) if traces else []:
        cells = iter(column.cells)
        row = [missing if side["rejected"] is not None else next(cells) for side in sides]
        shown.append(
            {
                "label": column.label, "summary": column.summary, "higher": column.higher,
                "cells": [{"text": c.text, "value": c.value, "reason": c.reason} for c in row],
            }
        )  # fmt: skip
    return {"strings": list(strings.place), "sides": sides, "columns": shown}


@cache
def _asset(name: str) -> bytes:
    return (files("nll.web") / "static" / name).read_bytes()


@cache
def _template() -> jinja2.Template:
    source = (files("nll.web") / "templates" / "serve.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
