"""What the server takes at most; everything beyond is refused with a status that says so."""

from __future__ import annotations

from dataclasses import dataclass, fields

from nll._errors import BadInput


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep one request from taking the machine. Refusals: 413, 400, 429, 408, 504.

    body_bytes: of a request's body, counted as it arrives.   request_texts, request_tokens: texts
    and tokens (prompt and new ones) in one request.   new_tokens: of one answer.   answers: drawn
    for one prompt.   top_logprobs: alternatives at a token.   queue_texts, queue_tokens: what may
    wait for the model.   generations: answers that are written at the same time, by turns.
    connections: requests being served at once.   body_seconds: for a body to arrive.
    request_seconds: for the model's answer.   drain_seconds: for accepted requests at the end.
    """

    body_bytes: int = 4 << 20
    request_texts: int = 256
    request_tokens: int = 65_536
    new_tokens: int = 2_048
    answers: int = 16
    top_logprobs: int = 20
    queue_texts: int = 1_024
    queue_tokens: int = 262_144
    generations: int = 4
    connections: int = 512
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    drain_seconds: float = 120.0

    def __post_init__(self) -> None:
        for f in fields(self):
            if not getattr(self, f.name) > 0:
                raise BadInput(f"{f.name} must be above 0, not {getattr(self, f.name)}")
