"""From the tokens of a server's answer to a Trace, from a question to a request's body: pure."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nll._errors import BadText
from nll.models._align import align
from nll.models._remote_payload import Answer, BadAnswer, Candidate, Piece
from nll.trace import Array, Fields, Provenance, Text, Trace

How = Literal["echo", "prompt_logprobs", "generate", "chat"]
# Above every real id, so that a token's name never passes for one.
_NAMES_FROM = 1 << 30


@dataclass(frozen=True, slots=True)
class Source:
    """What a server was found to give.

    how: by which route.   top_k: most alternatives it tells.   ids, ranks: whether it tells them.
    tail: new tokens to ask for when a text is only to be read; some servers refuse 0.
    prompt: whether `prompt_logprobs` goes along with the request.   answered: model of its answers.
    unread: why it cannot be trusted with a given text, where it claims to read one.
    """

    how: How
    top_k: int
    ids: bool = False
    ranks: bool = False
    tail: int = 0
    prompt: bool = False
    answered: str = ""
    unread: str = ""

    @property
    def reads(self) -> bool:
        """Whether it scores texts that it is given."""
        return self.how in ("echo", "prompt_logprobs")


def reading(source: Source, model: str, text: str, top_k: int) -> dict[str, Any]:
    """The body of a request for the log-probs of a given text."""
    body = {"model": model, "prompt": text, "max_tokens": source.tail, "temperature": 0}
    if source.how == "echo":
        body |= {"echo": True, "logprobs": top_k}
    if source.prompt:
        body["extra_body"] = {"prompt_logprobs": top_k, "return_token_ids": True}
    return body


def pieces_of(answer: Answer, *, echo: bool) -> tuple[Piece, ...]:
    """All tokens of an answer in order: prompt, if it was sent back, then what was written.

    Where a server tells the prompt twice, ids, ranks and alternatives come from
    `prompt_logprobs`, which names tokens by id. Raises BadAnswer when the two do not fit.
    """
    if not answer.echoed:
        return answer.pieces
    if not echo:
        return answer.echoed + answer.pieces
    if len(answer.pieces) < len(answer.echoed):
        raise BadAnswer(
            "misaligned",
            f"{len(answer.pieces)} tokens came with {len(answer.echoed)} prompt_logprobs",
        )
    both = zip(answer.pieces, answer.echoed, strict=False)
    merged = [dataclasses.replace(e, string=p.string, raw=p.raw, offset=p.offset) for p, e in both]
    return (*merged, *answer.pieces[len(merged) :])


def whole_text(text: Text) -> str:
    """What the model reads; raises BadText for what a server cannot be asked."""
    if text.messages:
        raise BadText(
            "chat",
            "a server applies its chat template itself and gives no log-probs of a given answer; "
            "pass the conversation as prompt and completion",
        )
    if not text.text:
        what = "completion" if text.prompt is not None else "text"
        raise BadText("empty", f"the {what} is empty")
    whole = (text.prompt or "") + text.text
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        raise BadText(
            "surrogates", f"character {error.start} is a lone surrogate, which no server can read"
        ) from None
    return whole


def read_trace(
    text: Text, pieces: Sequence[Piece], fields: Fields, provenance: Provenance
) -> Trace:
    """The trace of a given text. Raises BadAnswer where the tokens or numbers do not fit it."""
    whole = (text.prompt or "") + text.text
    found = align(whole, pieces)
    bos = pieces[found.first - 1].string if found.first else None
    if bos is None and found.last and pieces[0].logp == pieces[0].logp:
        bos = "(not told)"
    kind = "text" if text.prompt is None else "completion"
    provenance = dataclasses.replace(provenance, kind=kind, bos=bos)
    trace = _trace(whole, pieces[found.first : found.last], found.spans, fields, provenance)
    cut = len(text.prompt or "")
    prompt = int(np.searchsorted(found.spans[:, 1], cut, side="right")) if cut else 0
    first = max(prompt, 1 if found.first == 0 else 0)
    missing = np.flatnonzero(np.isnan(trace.logp[first:])) + first
    if len(missing):
        t = int(missing[0])
        raise BadAnswer("missing_logprob", f"token {t} ({trace.token_text(t)[:40]!r}) has none")
    return dataclasses.replace(_unscored(trace, prompt), id=text.id)


def written_trace(
    prompt: str, answer: Answer, pieces: Sequence[Piece], fields: Fields, provenance: Provenance,
    *, echo: bool,
) -> Trace:  # fmt: skip
    """The trace of an answer that the server wrote, behind its prompt if that was sent back."""
    text = answer.text if not echo or answer.text.startswith(prompt) else prompt + answer.text
    try:
        found = align(text, pieces, cut=True)
    except BadAnswer:
        if any(p.raw is None for p in pieces):
            raise
        # Some servers trim the text that they show; the tokens tell what was written.
        text = b"".join(p.raw or b"" for p in pieces).decode(errors="replace")
        found = align(text, pieces, cut=True)
    if len(found.spans):
        text = text[: int(found.spans[:, 1].max())]
    elif not pieces:
        text = ""
    held = pieces[found.first : found.last]
    reason = "stop" if answer.finish_reason not in ("length",) else "length"
    provenance = dataclasses.replace(provenance, finish_reason=reason)
    trace = _trace(text, held, found.spans, fields, provenance)
    start = len(prompt) if echo else 0
    cut = int(np.searchsorted(found.spans[:, 1], start, side="right")) if start else 0
    if np.isnan(trace.logp[cut:]).any():
        raise BadAnswer("missing_logprob", "a token of the answer has no log-prob")
    return _unscored(trace, cut)


def _unscored(trace: Trace, prompt: int) -> Trace:
    """The same with nothing said of the prompt, as every source has it."""
    if not prompt:
        return trace
    cut: dict[str, Array] = {}
    for name in ("logp", "rank", "ties", "top_ids", "top_logp"):
        value = getattr(trace, name)
        if value is not None:
            value = value.copy()
            value[:prompt] = np.nan if value.dtype.kind == "f" else -1
            cut[name] = value
    return dataclasses.replace(trace, prompt_tokens=prompt, **cut)  # type: ignore[arg-type]


def _trace(
    text: str, pieces: Sequence[Piece], spans: Array, fields: Fields, provenance: Provenance
) -> Trace:
    n, k = len(pieces), fields.top_k
    vocab: dict[int, str] = {}
    ids = None
    if all(p.id is not None for p in pieces):
        ids = np.array([p.id for p in pieces], np.int32)
        vocab |= {int(p.id): p.string for p in pieces if p.id is not None}
    ranks = np.array([_rank(p) for p in pieces], np.int32).reshape(n, 2)
    top_ids = np.full((n, k), -1, np.int32)
    top_logp = np.full((n, k), np.nan, np.float32)
    for t, piece in enumerate(pieces):
        for i, candidate in enumerate(piece.top[:k]):
            name = _name(candidate)
            vocab[name] = candidate.string
            top_ids[t, i], top_logp[t, i] = name, candidate.logp
    # Where nothing was predicted there is nothing to be told, which is not the same as no ranks.
    told = any(p.top or p.rank for p in pieces) or all(p.logp != p.logp for p in pieces)
    return Trace(
        logp=np.array([p.logp for p in pieces], np.float32),
        rank=ranks[:, 0] if told else None,
        ties=ranks[:, 1] if told else None,
        ids=ids, spans=spans, text=text, vocab=vocab, provenance=provenance,
        top_ids=top_ids if k and told else None,
        top_logp=top_logp if k and told else None,
    )  # fmt: skip


def _rank(piece: Piece) -> tuple[int, int]:
    """(rank, ties) as far as the alternatives tell; -1 for what they do not."""
    if piece.logp != piece.logp:
        return -1, -1
    greater = sum(c.logp > piece.logp for c in piece.top)
    inside = bool(piece.top) and piece.logp >= piece.top[-1].logp
    rank = 1 + greater if inside else piece.rank or -1
    if inside and piece.logp > piece.top[-1].logp:
        return rank, max(sum(c.logp == piece.logp for c in piece.top) - 1, 0)
    return rank, -1


def _name(candidate: Candidate) -> int:
    """The token's id or, where a server tells none, a number that stands for its string."""
    if candidate.id is not None:
        return candidate.id
    digest = hashlib.blake2b(candidate.string.encode("utf-8", "replace"), digest_size=4).digest()
    return _NAMES_FROM | (int.from_bytes(digest, "big") & (_NAMES_FROM - 1))


def generation(
    source: Source, model: str, prompt: str | Sequence[Mapping[str, str]], options: dict[str, Any]
) -> dict[str, Any]:
    """The body of a request for an answer. options: max_tokens, n, temperature, ..., top_k."""
    k = options.pop("alternatives")
    extra = {"top_k": options.pop("top_k")} if options.get("top_k") else {}
    options.pop("top_k", None)
    body: dict[str, Any] = {"model": model, **options}
    if extra:
        body["extra_body"] = extra
    if source.how == "chat" or not isinstance(prompt, str):
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return {**body, "messages": turns, "logprobs": True, "top_logprobs": min(k, 20)}
    body |= {"prompt": prompt, "logprobs": k}
    return body | ({"echo": True} if source.how == "echo" else {})
