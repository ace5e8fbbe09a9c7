"""What a server's answer says, read with suspicion: a pure function from parsed JSON to numbers.

Three shapes are known: completions with `logprobs` (with or without the echoed prompt), chats with
`logprobs.content`, and vLLM's `prompt_logprobs`. Whatever does not add up raises BadAnswer; a value
that a server does not know (null, or the marker -9999 for "unlikely") is nan, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# What hosted servers write for a token outside of their top list, and vLLM for -inf.
UNKNOWN_BELOW = -9999.0
# Rounding may lift the log-probability of a certain token a little above 0.
ROUNDING = 1e-4


class BadAnswer(Exception):
    """An answer that cannot be used; `reason` is its stable code, as in a rejected row."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that stood to choice: its string, its id where the server tells it, nats."""

    string: str
    logp: float
    id: int | None = None
    rank: int | None = None
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an answer. logp: nats, nan if not told.  raw: its bytes, None if not known.

    offset: its first character, as the server counts.  top: the likeliest tokens, best first.
    """

    string: str
    logp: float
    raw: bytes | None = None
    id: int | None = None
    rank: int | None = None
    offset: int | None = None
    top: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of an answer: the text, and its tokens in order."""

    text: str
    pieces: tuple[Piece, ...]
    finish_reason: str | None = None
    model: str = ""
    echoed: tuple[Piece, ...] = field(default=())


def read_completion(payload: object, *, n: int = 1) -> list[Answer]:
    """The n choices of a /v1/completions answer, by index. Raises BadAnswer."""
    body = _mapping(payload, "the answer")
    out = []
    for choice in _choices(body, n):
        held = choice.get("logprobs")
        prompt = choice.get("prompt_logprobs") or body.get("prompt_logprobs")
        ids = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
        echoed = () if prompt is None else _with_ids(_prompt_pieces(prompt), ids)
        pieces = () if held is None and echoed else _completion_pieces(held)
        out.append(_answer(body, choice, choice.get("text"), pieces, echoed))
    return out


def read_chat(payload: object, *, n: int = 1) -> list[Answer]:
    """The n choices of a /v1/chat/completions answer, by index. Raises BadAnswer."""
    body = _mapping(payload, "the answer")
    out = []
    for choice in _choices(body, n):
        message = _mapping(choice.get("message"), "the message")
        held = choice.get("logprobs")
        if held is None:
            raise BadAnswer("no_logprobs", "the server returned no log-probabilities")
        content = _sequence(_mapping(held, "logprobs").get("content"), "logprobs.content")
        pieces = tuple(_chat_piece(_mapping(entry, "a token")) for entry in content)
        text = message.get("content")
        out.append(_answer(body, choice, "" if text is None else text, pieces, ()))
    return out


def _answer(
    body: Mapping[str, Any],
    choice: Mapping[str, Any],
    text: object,
    pieces: tuple[Piece, ...],
    echoed: tuple[Piece, ...],
) -> Answer:
    if not isinstance(text, str):
        raise BadAnswer("bad_answer", "a choice of the answer holds no text")
    reason, model = choice.get("finish_reason"), body.get("model")
    return Answer(
        text, pieces, str(reason) if reason is not None else None,
        model if isinstance(model, str) else "", echoed,
    )  # fmt: skip


def _choices(body: Mapping[str, Any], n: int) -> list[Mapping[str, Any]]:
    """The choices in the order of their index, each exactly once."""
    found = [_mapping(c, "a choice") for c in _sequence(body.get("choices"), "choices")]
    order: dict[object, Mapping[str, Any]] = {}
    for position, choice in enumerate(found):
        index = choice.get("index", position)
        if index in order if isinstance(index, int) else True:
            raise BadAnswer("duplicated", "the answer holds a choice twice")
        order[index] = choice
    if set(order) != set(range(n)):
        kind = "duplicated" if len(found) > n else "bad_answer"
        raise BadAnswer(kind, f"{n} choices were asked for, the answer holds {len(found)}")
    return [order[i] for i in range(n)]


def _completion_pieces(held: object) -> tuple[Piece, ...]:
    if held is None:
        raise BadAnswer("no_logprobs", "the server returned no log-probabilities")
    held = _mapping(held, "logprobs")
    if "content" in held and "tokens" not in held:  # some servers answer in the chat's form
        content = _sequence(held["content"], "logprobs.content")
        return tuple(_chat_piece(_mapping(entry, "a token")) for entry in content)
    tokens = _sequence(held.get("tokens"), "logprobs.tokens")
    values = _sequence(held.get("token_logprobs"), "logprobs.token_logprobs")
    columns: dict[str, Sequence[Any]] = {}
    for name in ("top_logprobs", "text_offset", "token_ids", "ids", "bytes", "rank", "ranks"):
        if held.get(name) is not None:
            columns[name] = _sequence(held[name], f"logprobs.{name}")
    for name, column in {"token_logprobs": values, **columns}.items():
        if len(column) != len(tokens):
            raise BadAnswer("misaligned", f"{len(tokens)} tokens came with {len(column)} {name}")
    ids = columns.get("token_ids", columns.get("ids"))
    ranks = columns.get("rank", columns.get("ranks"))
    out = []
    for t, (token, value) in enumerate(zip(tokens, values, strict=True)):
        string, raw = _spelled(token, columns["bytes"][t] if "bytes" in columns else None)
        out.append(
            Piece(
                string, _logp(value), raw,
                id=_number(ids[t]) if ids else None,
                rank=_rank(ranks[t]) if ranks else None,
                offset=_number(columns["text_offset"][t]) if "text_offset" in columns else None,
                top=_top(columns["top_logprobs"][t]) if "top_logprobs" in columns else (),
            )
        )  # fmt: skip
    return tuple(out)


def _top(entry: object) -> tuple[Candidate, ...]:
    """{token: logp}, or a list of {token, logprob}, best first."""
    if entry is None:
        return ()
    found = []
    if isinstance(entry, Mapping):
        for token, value in entry.items():
            string, raw = _spelled(token, None)
            found.append(Candidate(string, _logp(value), raw=raw))
    else:
        for one in _sequence(entry, "a top list"):
            item = _mapping(one, "a candidate")
            string, raw = _spelled(item.get("token"), item.get("bytes"))
            id_ = _number(item.get("id", item.get("token_id")))
            found.append(Candidate(string, _logp(item.get("logprob")), id_, raw=raw))
    return tuple(sorted((c for c in found if c.logp == c.logp), key=lambda c: -c.logp))


def _chat_piece(entry: Mapping[str, Any]) -> Piece:
    string, raw = _spelled(entry.get("token"), entry.get("bytes"))
    id_ = _number(entry.get("id", entry.get("token_id")))
    top = entry.get("top_logprobs")
    return Piece(string, _logp(entry.get("logprob")), raw, id_, top=_top(top))


def _prompt_pieces(prompt: object) -> tuple[Piece, ...]:
    """vLLM's form: per token null or {id: {logprob, rank, decoded_token}}, its own entry first."""
    out = []
    for t, entry in enumerate(_sequence(prompt, "prompt_logprobs")):
        if entry is None:
            if t:
                raise BadAnswer("missing_logprob", f"token {t} of the prompt has no log-prob")
            out.append(Piece("", math.nan))
            continue
        found = []
        for key, value in _mapping(entry, "a prompt token").items():
            one = _mapping(value, "a candidate")
            string, raw = _spelled(one.get("decoded_token") or "", None)
            id_ = int(key) if str(key).isascii() and str(key).isdigit() else None
            found.append(
                Candidate(string, _logp(one.get("logprob")), id_, _rank(one.get("rank")), raw)
            )
        if not found:
            raise BadAnswer("missing_logprob", f"token {t} of the prompt has no log-prob")
        own = found[0]
        # The own token is one entry more than was asked for, unless it is among the likeliest.
        ranked = sorted((c for c in found if c.logp == c.logp), key=lambda c: -c.logp)
        top = tuple(c for c in ranked if c.rank is None or c.rank <= max(1, len(found) - 1))
        out.append(Piece(own.string, own.logp, own.raw, own.id, own.rank, top=top))
    return tuple(out)


def _with_ids(pieces: tuple[Piece, ...], ids: object) -> tuple[Piece, ...]:
    """The first token's id too, which stands in no entry of `prompt_logprobs`."""
    if ids is None:
        return pieces
    numbers = [_number(i) for i in _sequence(ids, "prompt_token_ids")]
    if len(numbers) != len(pieces):
        raise BadAnswer("misaligned", f"{len(numbers)} tokens came with {len(pieces)} log-probs")
    return tuple(
        replace(p, id=i) if p.id is None else p for p, i in zip(pieces, numbers, strict=True)
    )


def _spelled(token: object, raw: object) -> tuple[str, bytes | None]:
    """A token's string and its bytes, None where the string hides them (part of a character)."""
    if not isinstance(token, str):
        raise BadAnswer("bad_answer", f"a token is a {type(token).__name__}, not a string")
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        if all(isinstance(b, int) and not isinstance(b, bool) and 0 <= b < 256 for b in raw):
            return token, bytes(raw)
        raise BadAnswer("bad_answer", "a token's bytes are no bytes")
    if token.startswith("bytes:\\x"):
        try:
            return token, bytes(int(h, 16) for h in token[len("bytes:\\x") :].split("\\x"))
        except ValueError:
            return token, token.encode()
    if "\N{REPLACEMENT CHARACTER}" in token or token.startswith("token_id:"):
        return token, None
    try:
        return token, token.encode()
    except UnicodeEncodeError:
        return token, None


def _logp(value: object) -> float:
    """A log-probability in nats as the server states it, nan when it is not known."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAnswer("bad_answer", f"a log-prob is a {type(value).__name__}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise BadAnswer("bad_answer", "a log-prob is out of all range") from None
    if number > ROUNDING:
        raise BadAnswer("positive_logprob", f"a log-probability is {number:.6g}, above 0")
    if math.isfinite(number) and number <= UNKNOWN_BELOW:
        return math.nan
    return min(number, 0.0)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _rank(value: object) -> int | None:
    number = _number(value)
    return number if number is not None and number >= 1 else None


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadAnswer("bad_answer", f"{what} is missing or no object")
    return value


def _sequence(value: object, what: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise BadAnswer("bad_answer", f"{what} is missing or no list")
    return value
