"""What a set of scores needs, obtained with each model run once per text for all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, tee
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from nll._bundle import Bundle, Samples
from nll._declare import TWO_MODELS, Request, requests
from nll._errors import BadInput, BadText
from nll._table import Specs, fields_for
from nll.trace import Fields, Rejected, Text, TextLike, Trace

if TYPE_CHECKING:
    from nll.models import LanguageModel

Vary: TypeAlias = Callable[[str], Sequence[str]]
VARIANTS = ("lower", "alone", "neighbours", "perturbed")


@dataclass(frozen=True, slots=True)
class _Needs:
    """What to obtain, and the fields that each kind of trace must hold."""

    roles: frozenset[str]
    crossed: bool
    own: Fields
    reference: Fields
    samples: Fields

    @property
    def traced(self) -> bool:
        return bool(self.roles - {"samples"})


@dataclass(slots=True)
class _Item:
    """A text on its way: what is to be traced of it, and what could not be had."""

    index: int
    text: Text
    prompt: TextLike
    variants: list[tuple[str, Text]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


_Found: TypeAlias = Trace | Rejected
_T = TypeVar("_T")


def gather(
    model: LanguageModel,
    texts: Iterable[TextLike],
    specs: Specs,
    *,
    fields: Fields | None = None,
    reference: LanguageModel | None = None,
    neighbours: Vary | None = None,
    perturb: Vary | None = None,
    cluster: Callable[[Sequence[str]], Sequence[int]] | None = None,
    n_samples: int = 10,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    stride: int | None = None,
    on_reject: Callable[[Rejected], None] | None = None,
) -> Iterator[Bundle]:
    """One bundle per text, in order, streaming, with all that these scores take; for `nll.score`.

    A text and its variants (in lower case, without prompt, neighbours, perturbed) go to the model
    together, so that what they share is read once; nothing is run that no score asks for.

    specs: as in `nll.score`.   fields: what texts and drawn answers hold beyond what these need.
    reference: the second model.
    neighbours, perturb: from a text to texts like it (`functools.partial(nll.scores.perturb_spans,
    filler=..., n=10)`); of a completion or chat only the scored part is varied.
    n_samples, temperature, max_new_tokens, seed: of the answers drawn for scores of samples, in
    one generation with the greedy answer; the prompt is the text's prompt, or the text itself if it
    has none, or the chat up to the last answer.   cluster: from the drawn answers to a label each.
    stride, on_reject: as in `LanguageModel.trace`.

    Where one text cannot give something (too short to perturb, say) its bundle's `missing` says why
    and the run goes on. Raises BadInput when a score needs an argument that was not given, BadText
    for a text that cannot be traced unless `on_reject` is given.
    """
    if isinstance(texts, str):
        raise BadInput("gather takes several texts; for one text write gather(model, [text], ...)")
    from nll.models._capabilities import possible

    wanted = possible(model, requests(specs))
    needs = _needs(wanted, fields or Fields(), reference, neighbours, perturb)
    if n_samples < 1 or max_new_tokens < 1 or not temperature > 0:
        raise BadInput("n_samples and max_new_tokens must be 1 or more, temperature above 0")
    items = _items(texts, needs, {"neighbours": neighbours, "perturbed": perturb}, on_reject)

    answers = {
        "n": n_samples, "temperature": temperature, "max_new_tokens": max_new_tokens,
        "seed": seed, "fields": needs.samples, "greedy": True,
    }  # fmt: skip
    return _bundles(items, needs, model, reference, stride, on_reject, answers, cluster)


def _needs(
    wanted: Sequence[Request],
    fields: Fields,
    reference: LanguageModel | None,
    neighbours: Vary | None,
    perturb: Vary | None,
) -> _Needs:
    given = {"reference": reference, "neighbours": neighbours, "perturbed": perturb}
    pass_ = {"reference": "reference=model", "neighbours": "neighbours=function",
             "perturbed": "perturb=function"}  # fmt: skip
    for request in wanted:
        for role in (*request.declaration.takes, *(["reference"] if _crosses(request) else [])):
            if role in given and given[role] is None:
                raise BadInput(f"score '{request.label}' needs {role}; pass {pass_[role]}")

    def fields_of(*roles: str) -> Fields:
        return fields_for(r for r in wanted if set(roles) & set(r.declaration.takes))

    return _Needs(
        roles=frozenset(role for r in wanted for role in r.declaration.takes),
        crossed=any(map(_crosses, wanted)),
        own=fields_of("trace", *VARIANTS) | fields,
        reference=fields_of("reference"),
        samples=fields_of("samples") | fields,
    )


def _crosses(request: Request) -> bool:
    """Whether it reads this model's moments under the second one."""
    return bool(TWO_MODELS & set(request.declaration.reads) or request.parameters.get("reference"))


def _items(
    texts: Iterable[TextLike],
    needs: _Needs,
    vary: Mapping[str, Vary | None],
    on_reject: Callable[[Rejected], None] | None,
) -> Iterator[_Item]:
    for index, value in enumerate(texts):
        try:
            item = _Item(index, *_read(value, needs.traced))
        except BadText as error:
            _reject(Rejected(index, error.reason, error.detail), on_reject)
            continue
        own = item.text.messages[-1]["content"] if item.text.messages else item.text.text
        if "lower" in needs.roles:
            item.variants.append(("lower", _replaced(item.text, own.lower())))
        if "alone" in needs.roles:
            if item.text.messages or item.text.prompt:
                item.variants.append(("alone", Text(own)))
            else:
                item.missing["alone"] = "the text has no prompt to leave out"
        for role, function in vary.items():
            if role not in needs.roles or function is None:
                continue
            try:
                others = function(own)
            except BadText as error:
                item.missing[role] = error.detail
                continue
            if isinstance(others, str):
                raise BadInput(f"{role} must be a function from a text to a list of texts")
            if not others:
                item.missing[role] = "no such text was found for this one"
            item.variants += [(role, _replaced(item.text, other)) for other in others]
        yield item


def _read(value: TextLike, traced: bool) -> tuple[Text, TextLike]:
    """The text, and the prompt that answers to it continue."""
    if not traced and isinstance(value, list) and value and value[-1].get("role") != "assistant":
        return Text(), value
    text = Text.of(value)
    if text.messages:
        return text, list(text.messages[:-1])
    return text, text.text if text.prompt is None else text.prompt


def _replaced(text: Text, new: str) -> Text:
    """The same with another text in place of the scored one."""
    if text.messages:
        last = {**text.messages[-1], "content": new}
        return Text.chat([*text.messages[:-1], last], id=text.id)
    return dataclasses.replace(text, text=new)


def _bundles(
    items: Iterator[_Item],
    needs: _Needs,
    model: LanguageModel,
    reference: LanguageModel | None,
    stride: int | None,
    on_reject: Callable[[Rejected], None] | None,
    answers: Mapping[str, Any],
    cluster: Callable[[Sequence[str]], Sequence[int]] | None,
) -> Iterator[Bundle]:
    own = {"fields": needs.own, "stride": stride}
    # The second model would be run on the variants too if they went along with crossed texts.
    apart = needs.crossed
    spine = items
    nothing: Iterator[_Found] = iter(())
    main = aside = second = nothing
    drawn: Iterator[list[Trace] | Rejected] = iter(())
    # Only what is run gets its copy of the items: one that nobody reads would hold all of them.
    if needs.traced:
        spine, copy = tee(spine)
        texts = (t for i in copy for t in (i.text, *(v for _, v in i.variants if not apart)))
        main = _run(model.trace, texts, reference=reference if apart else None, **own)
    if apart and needs.roles & set(VARIANTS):
        spine, copy = tee(spine)
        aside = _run(model.trace, (v for i in copy for _, v in i.variants), **own)
    if reference is not None and "reference" in needs.roles:
        spine, copy = tee(spine)
        texts = (i.text for i in copy)
        second = _run(reference.trace, texts, fields=needs.reference, stride=stride)
    if "samples" in needs.roles:
        spine, copy = tee(spine)
        drawn = _run(model.generate, (i.prompt for i in copy), **answers)
    for item in spine:
        held: dict[str, Any] = {"missing": item.missing}
        found = next(drawn) if "samples" in needs.roles else []
        if needs.traced:
            trace = next(main)
            others = list(islice(aside if apart else main, len(item.variants)))
            if "reference" in needs.roles:
                _keep(held, "reference", [next(second)])
            if isinstance(trace, Rejected):
                _reject(dataclasses.replace(trace, index=item.index), on_reject)
                continue
            held["trace"] = trace
            for role in VARIANTS:
                these = [t for (r, _), t in zip(item.variants, others, strict=True) if r == role]
                _keep(held, role, these)
        if isinstance(found, Rejected):
            item.missing["samples"] = found.detail
        elif found:
            held["samples"] = _samples(item, found, cluster)
        yield Bundle(**held)


def _samples(
    item: _Item,
    answers: Sequence[Trace],
    cluster: Callable[[Sequence[str]], Sequence[int]] | None,
) -> Samples:
    greedy, *drawn = answers
    found = Samples(drawn, greedy=greedy, id=item.text.id)
    if cluster is None:
        return found
    return dataclasses.replace(found, clusters=cluster(found.answers))


def _keep(held: dict[str, Any], role: str, found: Sequence[_Found]) -> None:
    """Put the traces among these into the bundle; the first refusal tells when there is none."""
    good = [f for f in found if isinstance(f, Trace)]
    if good:
        held[role] = tuple(good) if role in ("neighbours", "perturbed") else good[0]
    elif found:
        (first, *_) = (f for f in found if isinstance(f, Rejected))
        held["missing"][role] = first.detail


def _run(
    call: Callable[..., Iterator[_T]], texts: Iterable[TextLike], **options: Any
) -> Iterator[_T | Rejected]:
    """What trace or generate gives for each text, or why it gives nothing, in order."""
    refused: dict[int, Rejected] = {}
    at = read = 0

    def counted() -> Iterator[TextLike]:
        nonlocal read
        for text in texts:
            read += 1
            yield text

    for found in call(counted(), on_reject=lambda r: refused.update({r.index: r}), **options):
        while at in refused:
            yield refused.pop(at)
            at += 1
        yield found
        at += 1
    for number in range(at, read):
        yield refused.pop(number)


def _reject(rejected: Rejected, on_reject: Callable[[Rejected], None] | None) -> None:
    if on_reject is None:
        raise BadText(rejected.reason, f"text {rejected.index}: {rejected.detail}")
    on_reject(rejected)
