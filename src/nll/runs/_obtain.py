"""Where the traces of a run come from: plain ones, or all that scores of several traces take."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from nll._bundle import Bundle
from nll._declare import TWO_MODELS, Request
from nll._errors import BadInput, BadText
from nll._plan import gather
from nll._table import fields_for
from nll.models._protocol import LanguageModel, OnReject
from nll.scores import perturb_spans, unigram_filler
from nll.trace import Fields, Text, Trace

Found: TypeAlias = Trace | Bundle
Source: TypeAlias = Callable[[Iterable[Text], OnReject, int], Iterator[Found]]
WAYS = ("spans", "words")


@dataclass(frozen=True, slots=True)
class GatherOptions:
    """How to obtain what scores take beside a text's own trace; see `nll.gather`.

    perturb, neighbours: `spans` or `words`, see `varied`; None when no score asks for them.
    copies: how many of them for each text.
    """

    n_samples: int = 10
    temperature: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0
    perturb: str | None = None
    neighbours: str | None = None
    copies: int = 10

    def __post_init__(self) -> None:
        for name in ("perturb", "neighbours"):
            way = getattr(self, name)
            if way is not None and way not in WAYS:
                raise BadInput(f"--{name} is one of {' and '.join(WAYS)}, not '{way}'")
        if not 0 < self.temperature < float("inf"):
            raise BadInput(f"--temperature must be above 0 and finite, not {self.temperature}")


def varied(text: str, *, way: str, n: int, seed: int) -> list[str]:
    """n texts like this one, with words of its own in other places; no model is asked.

    way: `spans` replaces 30 % of the words in spans of two, as in DetectGPT; `words` one word of
    each copy. Cruder than a language model's fills, so that scores of such texts are not the
    papers' numbers. The same text gives the same copies wherever it stands.
    Raises BadText when the text has too few words.
    """
    words = text.split()
    if not words:
        raise BadText("too_short", "the text has no words to replace")
    shown = " " + " ".join(words)
    ends = np.cumsum([len(word) + 1 for word in words])
    spans = np.stack([ends - [len(word) + 1 for word in words], ends], 1)
    own = zlib.crc32(text.encode()) ^ seed
    trace = Trace(np.full(len(words), np.nan), text=shown, spans=spans)
    length = 1 if way == "words" else 2
    # With a buffer of one word this share is one span.
    share = min(1.0, 3 / len(text.split(" "))) if way == "words" else 0.3
    fill = unigram_filler([trace], tokens=length, seed=own)
    return perturb_spans(text, fill, n=n, span_length=length, share=share, seed=own)


def check_takes(wanted: Sequence[Request], reference: str | None, more: GatherOptions) -> None:
    """Raise BadInput when a score takes something that no option says how to obtain."""
    for request in wanted:
        takes = request.declaration.takes
        two = TWO_MODELS & set(request.declaration.reads) or request.parameters.get("reference")
        if ("reference" in takes or two) and reference is None:
            raise BadInput(
                f"score '{request.label}' compares two models; name the second with --reference"
            )
        for role, option, way in (
            ("perturbed", "--perturb spans", more.perturb),
            ("neighbours", "--neighbours words", more.neighbours),
        ):
            if role in takes and way is None:
                raise BadInput(
                    f"score '{request.label}' takes {role} texts; say how to make them, for "
                    f"example with {option}"
                )


def is_bundled(wanted: Iterable[Request]) -> bool:
    """Whether one of these scores takes more than a text's own trace."""
    return any(request.declaration.takes != ("trace",) for request in wanted)


def source_of(
    model: LanguageModel,
    wanted: Sequence[Request],
    fields: Fields,
    reference: LanguageModel | None,
    stride: int | None,
    more: GatherOptions,
) -> Source:
    """From texts to the traces, or bundles, that these scores take and that hold these fields.

    The third argument of the source is the place of its first text in the whole run: the seeds
    depend on it, so that no two parts of a run draw by the same numbers.
    """
    if not is_bundled(wanted):
        return tracer(model, fields_for(wanted) | fields, reference, stride)

    def vary(way: str | None) -> Callable[[str], list[str]] | None:
        return None if way is None else partial(varied, way=way, n=more.copies, seed=more.seed)

    def bundles(texts: Iterable[Text], on_reject: OnReject, start: int) -> Iterator[Found]:
        return gather(
            model, texts, wanted, fields=fields, reference=reference, stride=stride,
            neighbours=vary(more.neighbours), perturb=vary(more.perturb),
            n_samples=max(1, more.n_samples), temperature=more.temperature,
            max_new_tokens=more.max_new_tokens, seed=more.seed + start, on_reject=on_reject,
        )  # fmt: skip

    return bundles


def tracer(
    model: LanguageModel, fields: Fields, reference: LanguageModel | None, stride: int | None
) -> Source:
    """The model's `trace` with these options."""

    def trace(texts: Iterable[Text], on_reject: OnReject, start: int = 0) -> Iterator[Trace]:
        return model.trace(
            texts, fields=fields, reference=reference, stride=stride, on_reject=on_reject
        )

    return trace
