"""What a source can tell of a token, and which scores follow from that: exact, bounded, impossible.

A model that says nothing of the kind gives every field exactly. Others have a property
`capabilities`: a mapping from the names of Trace fields to `exact` or `bounded`; what it does not
name is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from nll._declare import TWO_MODELS, Request, requests
from nll._errors import BadInput
from nll.trace import OPTIONAL, PER_TOKEN

State = Literal["exact", "bounded", "impossible"]
FIELDS: Final = (*PER_TOKEN, "ids", "spans", *OPTIONAL)
# A row of these is either exact or undefined with a reason; the other bounded ones have no value.
_ROW_BY_ROW: Final = frozenset({"rank", "ties"})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """exact, bounded: names of Trace fields.  top_k: most alternatives per token, None: any number.

    source: what the messages call it.  texts: whether given texts can be scored at all, or only
    answers that it writes itself.
    """

    exact: frozenset[str] = frozenset(FIELDS)
    bounded: frozenset[str] = frozenset()
    top_k: int | None = None
    source: str = "this model"
    texts: bool = True

    def state(self, request: Request) -> State:
        """Of the score's value from this source."""
        return _state(self, request)[0]


def capabilities(model: object) -> Capabilities:
    """What the model declares; everything, exactly, when it declares nothing."""
    held = getattr(model, "capabilities", None)
    return held if isinstance(held, Capabilities) else Capabilities()


def availability(
    model: object, specs: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] = "all"
) -> Mapping[str, State]:
    """For each score, by label: `exact`, `bounded` or `impossible` from this model's traces.

    `bounded` by ranks: exact for texts whose tokens are all among the alternatives that the source
    tells, undefined with a reason for others; `bounded` by entropy: nll.models.entropy_bounds.
    """
    held = capabilities(model)
    return {request.label: held.state(request) for request in requests(specs)}


def possible(model: object, wanted: Sequence[Request]) -> list[Request]:
    """The scores that this model's traces can give, before anything is asked of it.

    Those that `all` brought in and that cannot be had are left out. Raises BadInput, in one line,
    when one that was asked for by name cannot be had, or none is left.
    """
    # First what no server of this kind gives: to know more, some servers must be asked.
    best = getattr(model, "best_capabilities", None)
    if isinstance(best, Capabilities):
        wanted = _narrowed(best, wanted)
    return _narrowed(capabilities(model), wanted)


def _narrowed(held: Capabilities, wanted: Sequence[Request]) -> list[Request]:
    if not held.texts and any(set(r.declaration.takes) - {"samples"} for r in wanted):
        raise BadInput(
            f"{held.source} gives log-probs only of what it writes itself, so it cannot score "
            "texts; another server (vLLM, nll serve) or a local model can"
        )
    kept = []
    for request in wanted:
        state, why = _state(held, request)
        if state != "impossible" and _row_by_row(held, request):
            kept.append(request)
        elif not request.optional:
            raise BadInput(
                f"score '{request.label}' is {state} on this source: {why} "
                f"(`--score all` takes what {held.source} can give)"
            )
    if not kept:
        raise BadInput(f"none of the scores can be had from {held.source}")
    return kept


def _state(held: Capabilities, request: Request) -> tuple[State, str]:
    """The state, and what it is for want of."""
    reads = _reads(request)
    absent = [n for n in reads if n not in held.exact | held.bounded]
    if absent:
        return "impossible", f"it needs {' and '.join(absent)}, which {held.source} cannot give"
    asked = request.fields.top_k
    if held.top_k is not None and asked > held.top_k:
        return "impossible", f"it needs the top {asked}, and {held.source} gives {held.top_k}"
    bounded = [n for n in reads if n in held.bounded]
    if bounded:
        return "bounded", f"{held.source} tells {' and '.join(bounded)} only within bounds"
    return "exact", ""


def _row_by_row(held: Capabilities, request: Request) -> bool:
    return {n for n in _reads(request) if n in held.bounded} <= _ROW_BY_ROW


def _reads(request: Request) -> list[str]:
    """Every Trace field that the score needs, also those that only its options bring in."""
    fields = request.fields
    names = [n for n in request.declaration.reads if n in FIELDS]
    names += ["lse_at"] if set(fields.betas) - {1.0} else []
    names += ["boundary"] if fields.boundary else []
    names += ["hidden"] if fields.hidden else []
    names += ["kl_uniform"] if fields.kl_uniform else []
    # Of two models, the second is the one that must be there; the trace holds what follows.
    names += sorted(TWO_MODELS & set(request.declaration.reads))
    return list(dict.fromkeys(names))
