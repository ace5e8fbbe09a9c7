"""Which characters of a text each token of a server stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nll.models._remote_payload import BadAnswer, Piece
from nll.trace import Array

_PIECE_SPACES = str.maketrans({"\u2581": " ", "\u0120": " ", "\u010a": "\n", "\u0109": "\t"})


class Aligned(NamedTuple):
    """first, last: the tokens that spell the text, past-the-end.  spans (last - first, 2)."""

    first: int
    last: int
    spans: Array


def align(text: str, pieces: Sequence[Piece], *, cut: bool = False) -> Aligned:
    """Find the tokens that spell `text` from its first to its last character, and their spans.

    cut: a last token that reaches past the end (a stop string cut it) is left out.

    Tokens in front (a BOS) and behind (generated ones) are left out. A token that is only part of a
    character gets that whole character's span, as a local tokenizer says it. Tokens whose bytes are
    not told share the stretch up to the next one that is. Raises BadAnswer when they spell
    something else.
    """
    if pieces and _blank(pieces[0]) and len(pieces) > 1:
        # vLLM tells nothing of its first token: a BOS if the others spell all of the text.
        try:
            found = align(text, pieces[1:], cut=cut)
        except BadAnswer:
            found = Aligned(0, -1, _none())
        if found.last == len(pieces) - 1:
            return Aligned(found.first + 1, found.last + 1, found.spans)
    raw = text.encode()
    first = _skip_bos(raw, pieces)
    ends = _walk(raw, pieces, first, cut)
    last = first + len(ends)
    starts = np.array([0, *(end for _, end in ends)][: len(ends)], np.int64)
    stops = np.array([end for _, end in ends], np.int64)
    for i, (known_from, _) in enumerate(ends):
        starts[i] = known_from
    first_char, past_char = _characters(text)
    spans = np.stack([first_char[starts], past_char[stops]], axis=1) if len(ends) else _none()
    return Aligned(first, last, spans.astype(np.int32))


def _blank(piece: Piece) -> bool:
    """Whether a token's string was not told at all."""
    return not piece.string and piece.logp != piece.logp


def _none() -> Array:
    return np.empty((0, 2), np.int64)


def _characters(text: str) -> tuple[Array, Array]:
    """For every byte position: the character it lies in, and the one that is past it."""
    lengths = np.array([len(c.encode()) for c in text], np.int64)
    ends = np.cumsum(lengths)
    positions = np.arange((int(ends[-1]) if len(ends) else 0) + 1)
    first = np.searchsorted(ends, positions, side="right")
    past = np.searchsorted(ends, positions, side="left") + 1
    if len(past):
        past[0] = 0
    return first, past


def _skip_bos(raw: bytes, pieces: Sequence[Piece]) -> int:
    """How many leading tokens are no part of the text: those without a value that do not fit it."""
    first = 0
    while first < len(pieces):
        piece = pieces[first]
        spelled = _bytes_of(piece, at_start=True, raw=raw, at=0)
        if spelled is None or (spelled and raw.startswith(spelled)) or piece.logp == piece.logp:
            return first
        if _blank(piece):
            return first
        first += 1
    return first


def _bytes_of(piece: Piece, *, at_start: bool, raw: bytes, at: int) -> bytes | None:
    """The token's bytes as they stand in the text, None where they are not known."""
    if piece.raw is None:
        return None
    if piece.raw and raw.startswith(piece.raw, at):
        return piece.raw
    plain = piece.string.translate(_PIECE_SPACES).encode()
    if plain != piece.raw and plain and raw.startswith(plain, at):
        return plain
    # SentencePiece puts a space in front of a text that has none.
    if at_start and plain.startswith(b" ") and raw.startswith(plain[1:], at):
        return plain[1:]
    return piece.raw


def _walk(raw: bytes, pieces: Sequence[Piece], first: int, cut: bool) -> list[tuple[int, int]]:
    """(start, end) in bytes of the tokens from `first` until the text is spelled."""
    out: list[tuple[int, int]] = []
    at, t = 0, first
    while at < len(raw):
        if t == len(pieces):
            shown = raw[:at].decode(errors="ignore")
            raise BadAnswer(
                "misaligned", f"the server's tokens end after {len(shown)} characters of the text"
            )
        piece = pieces[t]
        spelled = _bytes_of(piece, at_start=t == first, raw=raw, at=at)
        unknown = spelled is None or _blank(piece)
        if not unknown and spelled is not None:
            if cut and spelled.startswith(raw[at:]) and len(spelled) > len(raw) - at:
                break
            if not raw.startswith(spelled, at):
                where = len(raw[:at].decode(errors="ignore"))
                raise BadAnswer(
                    "misaligned",
                    f"the server's tokens do not spell the text: {piece.string[:40]!r} "
                    f"at character {where}",
                )
            out.append((at, at + len(spelled)))
            at, t = at + len(spelled), t + 1
            continue
        run = t
        while run < len(pieces) and (pieces[run].raw is None or (run == t and unknown)):
            run += 1
        end = _next_known(raw, pieces, run, at)
        out += _shared(raw, pieces[t:run], at, end)
        at, t = end, run
    return out


def _shared(raw: bytes, run: Sequence[Piece], at: int, end: int) -> list[tuple[int, int]]:
    """The stretch from `at` to `end` among unknown tokens, by the server's offsets if it has any.

    Tokens at one offset are parts of one character, as a local tokenizer says it too.
    """
    text = raw.decode()
    here = len(raw[:at].decode())
    offsets = [p.offset - (run[0].offset or 0) + here for p in run if p.offset is not None]
    last = len(raw[:end].decode())
    inside = offsets == sorted(offsets) and all(o < last for o in offsets)
    if len(offsets) != len(run) or not inside:
        return [(at, end)] * len(run)
    bounds = [*offsets, last]
    nexts = [next(b for b in bounds[i:] if b > a or b == last) for i, a in enumerate(offsets)]
    return [
        (len(text[:a].encode()), len(text[:b].encode()))
        for a, b in zip(offsets, nexts, strict=True)
    ]


def _next_known(raw: bytes, pieces: Sequence[Piece], run: int, at: int) -> int:
    """Where the text goes on with the tokens from `run`, which are known, after unknown ones."""
    if run == len(pieces):
        return len(raw)
    # Several tokens are looked for, as one alone (a space) may stand in many places.
    known = b""
    for piece in pieces[run : run + 8]:
        if piece.raw is None:
            break
        known += piece.raw
    for size in range(len(known), 0, -1):
        found = raw.find(known[:size], at + 1)
        # What follows the text (generated tokens) need not be found.
        if found >= 0 and (size == len(known) or found + size == len(raw)):
            return found
    return len(raw)
