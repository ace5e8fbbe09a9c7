"""Traces in the shapes of OpenAI's and vLLM's answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nll.trace import Trace

# What OpenAI's interface documents for a token of no probability; JSON has no infinity.
LEAST = -9999.0
HALF = "\N{REPLACEMENT CHARACTER}"


def logprob(value: float) -> float | None:
    """A log-probability as JSON holds it: None where nothing was predicted."""
    if math.isnan(value):
        return None
    return max(float(value), LEAST)


def token_name(trace: Trace, t: int, as_id: bool = False) -> str:
    """Token t as it stands in the text, or `token_id:N`."""
    if as_id:
        return f"token_id:{_ids(trace)[t]}"
    return trace.token_text(t) or trace.vocab.get(int(_ids(trace)[t]), HALF)


def legacy(
    trace: Trace, part: range, k: int, *, as_ids: bool = False, shift: int = 0
) -> dict[str, list[Any]]:
    """`logprobs` of a completion for the tokens in `part`; text_offset counts from `shift` on.

    The token itself is among its top_logprobs even where it is not among the k likeliest. Of two
    tokens that are written alike the likelier stands there.
    """
    spans = trace.field("spans")
    out: dict[str, list[Any]] = {
        "tokens": [token_name(trace, t, as_ids) for t in part],
        "token_logprobs": [logprob(trace.logp[t]) for t in part],
        "top_logprobs": [],
        "text_offset": [int(spans[t, 0]) - shift for t in part],
    }
    for name, own, t in zip(out["tokens"], out["token_logprobs"], part, strict=True):
        if own is None:
            out["top_logprobs"].append(None)
            continue
        row: dict[str, float | None] = {}
        for token, value in _top(trace, t, k):
            mine = token == int(_ids(trace)[t])
            shown = name if mine else f"token_id:{token}" if as_ids else trace.vocab[token]
            row.setdefault(shown, logprob(value))
        row.setdefault(name, own)
        out["top_logprobs"].append(row)
    return out


def prompt_logprobs(trace: Trace, part: range, k: int) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: for each token `{id: {logprob, rank, decoded_token}}`, its own
    first, then the k likeliest; None where nothing was predicted."""
    out: list[dict[str, Any] | None] = []
    for t in part:
        if math.isnan(trace.logp[t]):
            out.append(None)
            continue
        rank = int(trace.field("rank")[t])
        row = {str(_ids(trace)[t]): _entry(trace.logp[t], rank, token_name(trace, t))}
        for place, (token, value) in enumerate(_top(trace, t, k), 1):
            row.setdefault(str(token), _entry(value, place, trace.vocab[token]))
        out.append(row)
    return out


def _entry(value: float, rank: int, name: str) -> dict[str, Any]:
    return {"logprob": logprob(value), "rank": rank, "decoded_token": name}


def chat_logprobs(trace: Trace, part: range, k: int, hf: Any) -> dict[str, Any]:
    """`logprobs` of a chat answer: each token with its bytes and the k likeliest."""

    def entry(token: int, name: str, value: float) -> dict[str, Any]:
        return {"token": name, "logprob": logprob(value), "bytes": token_bytes(hf, token, name)}

    content = []
    for t in part:
        own = entry(int(_ids(trace)[t]), token_name(trace, t), trace.logp[t])
        top = [entry(i, trace.vocab[i], v) for i, v in _top(trace, t, k)]
        content.append({**own, "top_logprobs": top})
    return {"content": content, "refusal": None}


def token_bytes(hf: Any, token: int, name: str) -> list[int] | None:
    """The UTF-8 bytes that a token writes; None where they are not known."""
    if HALF not in name:
        return list(name.encode("utf-8", "surrogatepass"))
    piece = hf.convert_ids_to_tokens(token)
    if len(piece) == 6 and piece.startswith("<0x"):
        return [int(piece[3:5], 16)]
    known = _byte_of()
    found = [known.get(c) for c in piece]
    return None if None in found else [b for b in found if b is not None]


def _byte_of() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as: printable ones stand for themselves,
    the others are numbered from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def _ids(trace: Trace) -> Any:
    return trace.field("ids")


def _top(trace: Trace, t: int, k: int) -> list[tuple[int, float]]:
    if not k or trace.top_ids is None or trace.top_logp is None:
        return []
    rows = zip(trace.top_ids[t, :k].tolist(), trace.top_logp[t, :k].tolist(), strict=True)
    return [(i, v) for i, v in rows if i >= 0 and not np.isnan(v)]
