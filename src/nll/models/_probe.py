"""Asked before any text: does this server give log-probs, of the right tokens, in nats?

A known short text is read, continued greedily, and read again with its continuation. A trained
model's numbers are not known, but these must agree among each other: alternatives sum to at most 1,
the token that greedy decoding chose is the likeliest, and reading it gives what writing it gave.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from nll._errors import BadModel, BadText
from nll.models._align import align
from nll.models._openai_client import (
    Caller,
    NotFound,
    Refused,
    Unavailable,
)
from nll.models._remote_payload import Answer, BadAnswer, Piece, read_chat, read_completion
from nll.models._remote_trace import How, Source, pieces_of, reading
from nll.models._retry import UNAVAILABLE

TEXT = "one two three four five"
NEW = 2
# A server's own rounding and batching move log-probs by less; one token late moves them by more.
TOLERANCE = 0.5
_MASS = 1.02
# Some servers take "no new token" for "without end"; these come soon in any text and end it.
SOON = (" ", "e", "\n", ",")
# How much is asked for at first; a server refuses what it does not know or allow, without charge.
_TRIES: Sequence[tuple[How, int, bool]] = (
    ("echo", 50, True), ("echo", 20, True), ("echo", 20, False), ("echo", 5, False),
    ("prompt_logprobs", 20, True), ("prompt_logprobs", 5, True), ("echo", 1, False),
    ("generate", 20, False), ("generate", 5, False),
)  # fmt: skip


def probe(caller: Caller, model: str) -> Source:
    """What the server gives, verified. Raises BadModel, saying what is wrong, in one line."""
    where = urlsplit(caller.url).netloc
    try:
        return _probe(caller, model, where)
    except Unavailable as error:
        if error.reason in ("positive_logprob", "missing_logprob", UNAVAILABLE):
            raise BadModel(f"{where}: {error.detail}") from None
        raise BadModel(f"{where} gives no usable log-probabilities: {error.detail}") from None
    except BadAnswer as error:
        raise BadModel(f"{where}: {error.detail}") from None


def _probe(caller: Caller, model: str, where: str) -> Source:
    refused, wrong = "", None
    for how, k, prompt in _TRIES:
        if wrong is not None and how != "generate":
            continue
        body: dict[str, Any] = {
            "model": model, "prompt": TEXT, "max_tokens": NEW, "temperature": 0, "logprobs": k,
        }  # fmt: skip
        if how == "echo":
            body["echo"] = True
        if prompt:
            body["extra_body"] = {"prompt_logprobs": k, "return_token_ids": True}
        try:
            answer = caller.completion(body, lambda p: read_completion(p)[0])
        except Refused as error:
            refused = error.detail
            continue
        except Unavailable as error:
            if error.reason != "no_logprobs":
                raise
            refused = error.detail
            continue
        except NotFound as error:
            refused = str(error)
            break  # a model for chats only, or a server without /completions
        if how == "echo" and not answer.text.startswith(TEXT):
            # The option was passed over in silence; what was written is of use still.
            if not answer.echoed:
                continue
            how = "prompt_logprobs"
        if how == "prompt_logprobs" and not answer.echoed:
            continue
        try:
            source = _examined(caller, model, where, how, k, answer)
        except BadModel as error:
            # What it says of a given text is wrong; what it says of its own may be right.
            wrong = wrong or error
            continue
        return source if wrong is None else dataclasses.replace(source, unread=str(wrong))
    if wrong is not None:
        raise wrong
    return _chat(caller, model, where, refused)


def _examined(caller: Caller, model: str, where: str, how: How, k: int, answer: Answer) -> Source:
    pieces = pieces_of(answer, echo=how == "echo")
    _same_model(where, model, answer.model)
    check_pieces(where, pieces, written=None if how == "generate" else pieces[-NEW:])
    top = max((len(p.top) for p in pieces), default=0)
    read = pieces[:-NEW]
    source = Source(
        how, min(k, top), prompt=bool(answer.echoed), answered=answer.model,
        ids=how != "generate" and all(p.id is not None for p in read),
        ranks=how != "generate" and all(p.rank is not None for p in read[1:]),
    )  # fmt: skip
    if not source.reads:
        check_pieces(where, pieces, written=pieces)
        return source
    return _read_again(caller, model, where, source)


def _read_again(caller: Caller, model: str, where: str, source: Source) -> Source:
    """Compare reading with writing, and find whether a text can be read without writing."""
    plain = {"model": model, "prompt": TEXT, "max_tokens": NEW, "temperature": 0}
    wrote = caller.completion({**plain, "logprobs": 1}, lambda p: read_completion(p)[0])
    check_pieces(where, wrote.pieces, written=wrote.pieces)
    text = TEXT + wrote.text

    def read(tail: int) -> tuple[Piece, ...]:
        asked = Source(source.how, source.top_k, tail=tail, prompt=source.prompt)
        body = reading(asked, model, text, max(1, min(5, source.top_k)))
        if not tail:
            body["stop"] = list(SOON)
        answer = caller.completion(body, lambda p: read_completion(p)[0])
        pieces = pieces_of(answer, echo=source.how == "echo")
        found = align(text, pieces)
        if len(pieces) > found.last + tail:
            raise BadAnswer("misaligned", f"{len(pieces) - found.last} tokens were written")
        return pieces[found.first : found.last]

    tail = 0
    try:
        pieces = read(0)
    except (Refused, Unavailable, BadAnswer):
        tail = 1
        pieces = read(1)
    check_pieces(where, pieces, written=None)
    new = len(wrote.pieces)
    if new and [p.string for p in pieces[-new:]] == [p.string for p in wrote.pieces]:
        _compare(where, pieces, [p.logp for p in wrote.pieces])
    return Source(
        source.how, source.top_k, source.ids, source.ranks, tail, source.prompt, source.answered
    )


def check_own(caller: Caller, model: str, source: Source) -> bool:
    """Whether log-probs stay the model's own when an answer is drawn at another temperature."""

    def first(temperature: float) -> dict[str, float]:
        k = min(source.top_k, 5)
        body: dict[str, Any] = {"model": model, "max_tokens": 1, "temperature": temperature}
        if source.how == "chat":
            body |= {"messages": [{"role": "user", "content": TEXT}], "logprobs": True}
            answer = caller.chat({**body, "top_logprobs": k}, lambda p: read_chat(p)[0])
        else:
            body |= {"prompt": TEXT, "logprobs": k}
            answer = caller.completion(body, lambda p: read_completion(p)[0])
        return {c.string: c.logp for piece in answer.pieces[:1] for c in piece.top}

    cold, warm = first(0.0), first(0.5)
    both = cold.keys() & warm.keys()
    return all(abs(cold[token] - warm[token]) <= TOLERANCE for token in both)


def _compare(where: str, pieces: Sequence[Piece], wrote: Sequence[float]) -> None:
    read = [p.logp for p in pieces]
    new = len(wrote)
    apart = max(abs(a - b) for a, b in zip(read[-new:], wrote, strict=True))
    if apart <= TOLERANCE:
        return
    late = read[-new + 1 :] if new > 1 else []
    if late and abs(late[0] - wrote[0]) <= 1e-3:
        raise BadModel(
            f"{where} is one token late: it gives each token the log-prob of the one before"
        )
    raise BadModel(
        f"{where} reads a text with other log-probs than it writes it with (up to {apart:.2f} nats "
        "apart), as servers do that are one token late or report a processed distribution"
    )


def check_pieces(where: str, pieces: Sequence[Piece], written: Sequence[Piece] | None) -> None:
    """Raise BadModel when values contradict each other. written: those chosen greedily."""
    values = [p.logp for p in pieces[1:] if p.logp == p.logp] or [p.logp for p in pieces]
    if not values or all(v != v for v in values):
        raise BadModel(f"{where} returns no log-probabilities for the tokens of a text")
    if any(p.logp != p.logp for p in pieces[2:]):
        raise BadModel(f"{where} returns no log-prob for some tokens of a plain text")
    if all(v == 0.0 for v in values):
        raise BadModel(f"{where} returns 0 for every log-prob, which would read as certainty")
    for piece in pieces:
        mass = sum(math.exp(c.logp) for c in piece.top)
        if mass > _MASS:
            ten = sum(10.0**c.logp for c in piece.top) <= _MASS
            base = ": these look like logarithms of base 10, nll needs base e" if ten else ""
            raise BadModel(
                f"{where}: the probabilities of one token's alternatives sum to {mass:.3g}{base}"
            )
        if _not_its_own(piece):
            raise BadModel(
                f"{where} is one token late or early: {piece.string!r} comes with the log-prob "
                "of another token"
            )
    for piece in written or ():
        if piece.top and piece.logp < piece.top[0].logp - TOLERANCE:
            raise BadModel(
                f"{where}: {piece.string!r} was chosen greedily, but its log-prob is not the "
                "largest, as in servers that are one token late"
            )


def _not_its_own(piece: Piece) -> bool:
    """Whether a token with the value of a listed one is not that one."""
    if piece.logp != piece.logp or len(piece.top) < 2 or piece.raw is None:
        return False
    if any(c.raw is None for c in piece.top):
        return False
    own = [
        c
        for c in piece.top
        if c.string == piece.string or (piece.id is not None and piece.id == c.id)
    ]
    if own:
        return all(abs(c.logp - piece.logp) > 0.05 for c in own)
    return piece.logp > piece.top[-1].logp + 1e-3


def _same_model(where: str, asked: str, answered: str) -> None:
    """Servers may add a date or a path to a name; anything else is another model."""
    if answered and asked not in answered and answered not in asked:
        raise BadModel(f"{where} was asked for the model {asked!r}, and {answered!r} answered")


def _chat(caller: Caller, model: str, where: str, refused: str) -> Source:
    """A server that only chats: log-probs of what it writes."""
    body = {
        "model": model, "messages": [{"role": "user", "content": "Count: " + TEXT}],
        "max_tokens": NEW, "temperature": 0, "logprobs": True,
    }  # fmt: skip
    for k in (20, 5, 1):
        try:
            answer = caller.chat({**body, "top_logprobs": k}, lambda p: read_chat(p)[0])
        except Refused as error:
            refused = error.detail
            continue
        except BadText as error:
            refused = error.detail
            break
        _same_model(where, model, answer.model)
        if not answer.pieces:
            break
        check_pieces(where, answer.pieces, written=answer.pieces)
        top = max(len(p.top) for p in answer.pieces)
        return Source("chat", min(k, top), answered=answer.model)
    why = f" ({refused})" if refused else ""
    raise BadModel(f"{where} gives no log-probabilities, neither of texts nor of answers{why}")
