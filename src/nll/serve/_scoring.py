"""`/v1/score` and `/v1/trace`: texts in, scores or traces out, each nan a null with its reason."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nll._bundle import Bundle
from nll._declare import TWO_MODELS, Request, requests
from nll._errors import BadInput, BadText, NllError
from nll.serve._served import Served
from nll.serve._wire import AnyText, ApiError, Pair, Plain, ScoreRequest, TraceRequest
from nll.serve._worker import Scoring
from nll.trace import Fields, Text, Trace

if TYPE_CHECKING:
    from nll.models._encode import Encoded
    from nll.models._engine import LocalModel

# What a text's scores may be computed from here; answers are not drawn for a score.
NOTHING = Fields()
_ROLES = {"trace", "reference", "lower"}


def text_of(given: AnyText) -> Text:
    """The text as the library holds it; raises BadText for a chat without a last answer."""
    if isinstance(given, str):
        return Text(given)
    if isinstance(given, Plain):
        return Text(given.text, id=given.id)
    if isinstance(given, Pair):
        return Text.pair(given.prompt, given.completion, id=given.id)
    return Text.chat([m.plain for m in given.messages], id=given.id)


def lowered(given: AnyText) -> AnyText:
    """The same with its scored part in lower case."""
    if isinstance(given, str):
        return given.lower()
    if isinstance(given, Plain):
        return given.model_copy(update={"text": given.text.lower()})
    if isinstance(given, Pair):
        return given.model_copy(update={"completion": given.completion.lower()})
    last = given.messages[-1]
    last = last.model_copy(update={"content": last.plain["content"].lower()})
    return given.model_copy(update={"messages": [*given.messages[:-1], last]})


def read_texts(model: LocalModel, given: Sequence[AnyText]) -> list[Encoded | BadText]:
    """Each text as the model reads it, or why it cannot be read."""
    from jinja2 import TemplateError

    from nll.models._encode import encode

    out: list[Encoded | BadText] = []
    for value in given:
        try:
            out += encode(model.tokenizer, [text_of(value)])
        except BadText as error:
            out.append(error)
        except TemplateError as error:
            out.append(BadText("chat_template", f"the chat template refuses: {error}"))
    return out


@dataclass(slots=True)
class _Row:
    """The jobs of one text, by role, or why it has none."""

    jobs: dict[str, Scoring]
    rejected: BadText | None = None
    missing: dict[str, str] | None = None


async def bundles(
    served: Served, model: LocalModel, texts: Sequence[AnyText], wanted: Sequence[Request],
    fields: Fields = NOTHING,
) -> list[Bundle | BadText]:  # fmt: skip
    """For each text what these scores are computed from, obtained in shared passes."""
    roles = {role for r in wanted for role in r.declaration.takes}
    crossed = any(
        TWO_MODELS & set(r.declaration.reads) or r.parameters.get("reference") for r in wanted
    )
    if beyond := roles - _ROLES:
        raise ApiError(
            400,
            f"the server does not obtain {', '.join(sorted(beyond))} for a score; use nll.gather",
            "score_not_served", "scores",
        )  # fmt: skip
    second = served.reference
    if ("reference" in roles or crossed) and (second is None or second is model):
        raise ApiError(
            400, "a score that compares two models needs a server with --reference",
            "no_reference", "scores",
        )  # fmt: skip
    for request in wanted:
        fields = fields | request.fields
    if fields.hidden:
        raise ApiError(400, "the server gives no hidden states", "score_not_served", "scores")
    read = await served.read(read_texts, model, texts)
    lower = await served.read(read_texts, model, [*map(lowered, texts)] if "lower" in roles else [])
    other = await served.read(read_texts, second, texts if "reference" in roles else [])
    rows = []
    for i, text in enumerate(read):
        if isinstance(text, BadText):
            rows.append(_Row({}, text))
            continue
        row = _Row({"trace": Scoring(model, text, fields, second if crossed else None)}, None, {})
        for role, owner, found in (("lower", model, lower), ("reference", second, other)):
            variant = found[i] if found else None
            if isinstance(variant, BadText) and row.missing is not None:
                row.missing[role] = variant.detail
            elif variant is not None and owner is not None:
                row.jobs[role] = Scoring(owner, variant, fields)  # type: ignore[arg-type]
        rows.append(row)
    jobs = [job for row in rows for job in row.jobs.values()]
    if jobs:
        served.submit(jobs)
    done = iter(await served.results(job.future for job in jobs))
    out: list[Bundle | BadText] = []
    for row in rows:
        held: dict[str, Any] = {role: next(done) for role in row.jobs}
        out.append(row.rejected or Bundle(**held, missing=row.missing or {}))
    return out


@lru_cache(256)
def asked(specs: tuple[str, ...]) -> tuple[Request, ...]:
    """The scores that are meant, kept since their check runs them all; raises ApiError 400."""
    from nll._table import score_schema

    try:
        found = requests(list(specs))
        score_schema(found)
    except (BadInput, RecursionError, MemoryError) as error:
        raise ApiError(400, str(error), "unknown_score", "scores") from None
    return tuple(found)


async def score_texts(request: ScoreRequest, served: Served) -> dict[str, Any]:
    """The scores of every text, in order."""
    model = served.named(request.model)
    wanted = asked(tuple(request.scores))
    found = await bundles(served, model, request.texts, wanted)
    rows = await asyncio.to_thread(scored, found, wanted)
    return {"object": "list", "model": _name(served, model), "data": rows, **_spent(found)}


def scored(found: Sequence[Bundle | BadText], wanted: Sequence[Request]) -> list[dict[str, Any]]:
    """One row per text: its scores, why those that are null are, or why there are none."""
    from nll._table import score

    good = [b for b in found if isinstance(b, Bundle)]
    try:
        table = score(good, wanted).to_pylist() if good else []
    except NllError as error:
        raise ApiError(400, str(error), "score_failed", "scores") from None
    rows, done = [], iter(table)
    for i, bundle in enumerate(found):
        if isinstance(bundle, BadText):
            rows.append({"index": i, **_rejected(bundle)})
            continue
        row = next(done)
        reasons = json.loads(row["undefined"]) if row["undefined"] else {}
        values = {r.label: plain(row[r.label]) for r in wanted}
        rows.append(
            {
                "index": i, "id": row["id"], "tokens": row["tokens"], "scores": values,
                "undefined": reasons, "rejected": None,
            }
        )  # fmt: skip
    return rows


async def trace_texts(request: TraceRequest, served: Served) -> dict[str, Any]:
    """The trace of every text, in order."""
    model = served.named(request.model)
    if request.top_k > served.limits.top_logprobs:
        raise ApiError(
            400, f"top_k is at most {served.limits.top_logprobs}", "too_many_logprobs", "top_k"
        )
    fields = Fields(top_k=request.top_k, betas=tuple(request.betas), boundary=request.boundary)
    found = await bundles(served, model, request.texts, [], fields)
    rows = await asyncio.to_thread(_traced, found, fields)
    return {"object": "list", "model": _name(served, model), "data": rows, **_spent(found)}


def _traced(found: Sequence[Bundle | BadText], fields: Fields) -> list[dict[str, Any]]:
    rows = []
    for i, bundle in enumerate(found):
        if isinstance(bundle, BadText) or bundle.trace is None:
            rows.append({"index": i, **_rejected(bundle)})  # type: ignore[arg-type]
        else:
            rows.append({"index": i, **traced(bundle.trace, fields), "rejected": None})
    return rows


def traced(trace: Trace, fields: Fields) -> dict[str, Any]:
    """A trace as JSON: lists aligned with the tokens, null where there is no value."""
    n = len(trace)
    out: dict[str, Any] = {
        "id": trace.id,
        "text": trace.text,
        "prompt_tokens": trace.prompt_tokens,
        "tokens": [trace.token_text(t) for t in range(n)],
        "ids": trace.field("ids").tolist(),
        "spans": trace.field("spans").tolist(),
    }
    for name in ("logp", "entropy", "varentropy"):
        out[name] = plain(trace.field(name).tolist())
    for name in ("rank", "ties"):
        out[name] = [v if v >= 0 else None for v in trace.field(name).tolist()]
    if fields.top_k and trace.top_ids is not None and trace.top_logp is not None:
        top_ids = trace.top_ids[:, : fields.top_k].tolist()
        out["top_ids"] = [[i if i >= 0 else None for i in row] for row in top_ids]
        out["top_tokens"] = [[trace.vocab.get(i) for i in row] for row in top_ids]
        out["top_logp"] = plain(trace.top_logp[:, : fields.top_k].tolist())
    if fields.betas and trace.lse_at is not None:
        columns = [trace.beta_index(b) for b in fields.betas]
        out["betas"] = list(fields.betas)
        out["lse_at"] = plain(trace.lse_at[:, columns].tolist())
    if fields.boundary and trace.boundary is not None:
        out["boundary"] = plain(trace.boundary.tolist())
    unpredicted = [t for t in range(n) if math.isnan(trace.logp[t])]
    out["undefined"] = {str(t): "nothing stands before this token" for t in unpredicted}
    out["provenance"] = json.loads(trace.provenance.to_json())
    return out


def plain(value: Any) -> Any:
    """Numbers as JSON holds them: nan as null, infinities as strings."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


def _rejected(error: BadText) -> dict[str, Any]:
    return {"rejected": {"reason": error.reason, "detail": error.detail}}


def _name(served: Served, model: LocalModel) -> str:
    return next(name for name, m in served.models.items() if m is model)


def _spent(found: Sequence[Bundle | BadText]) -> dict[str, Any]:
    tokens = sum(len(b.trace) for b in found if isinstance(b, Bundle) and b.trace is not None)
    return {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
