"""The declaration beside each score, from which command line, report, docs and planner are fed.

A score is a plain function of a trace, or of several: its positional parameters are named by their
role (`trace`, `reference`, `perturbed`, ...: see `nll._bundle`). `@score(...)` registers a
`Declaration` of it under the function's name; outsiders register theirs through the entry-point
group `nll.scores`, whose entries name a module or a function.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any, Final, Literal, TypeVar

from nll._bundle import ROLES, Bundle
from nll._errors import BadInput
from nll.trace import Fields, Trace

F = TypeVar("F", bound=Callable[..., Any])
Shape = Literal["text", "token", "word"]


class Undefined(float):
    """A nan that says why: what a score returns where its value does not exist.

    >>> x = Undefined("no token was scored")
    >>> x != x, x.reason
    (True, 'no token was scored')
    """

    reason: str

    def __new__(cls, reason: str) -> Undefined:
        self = super().__new__(cls, "nan")
        self.reason = reason
        return self

    def __reduce__(self) -> tuple[type[Undefined], tuple[str]]:
        return Undefined, (self.reason,)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a score is, beside its code.

    higher_means: what a larger value speaks for, in a word or two (`member`, `uncertain`).
    reads: names of the Trace fields it uses.   unit: `nats`, `bits`, `1` (dimensionless), ...
    range: lowest and highest possible value.   paper: arXiv id, DOI or URL of the source.
    fields: what must be asked of the model beyond the defaults, given the score's parameters.
    shape: one value per text, token or word.   experimental: its definition may still change, or
    it asks for much more than other scores do; `all` leaves it out.
    """

    name: str
    function: Callable[..., Any]
    higher_means: str
    reads: tuple[str, ...]
    unit: str
    range: tuple[float, float]
    paper: str
    question: str
    shape: Shape = "text"
    fields: Callable[..., Fields] = Fields
    experimental: bool = False

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def takes(self) -> tuple[str, ...]:
        """What it is computed from, by role: `("trace",)`, `("trace", "reference")`, ..."""
        return _positional(self.function)

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword options and their defaults; None stands for an option without one."""
        return {
            p.name: None if p.default is p.empty else p.default
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }

    @property
    def required(self) -> tuple[str, ...]:
        """Keyword options that have no default."""
        found = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


@cache
def _positional(function: Callable[..., Any]) -> tuple[str, ...]:
    found = inspect.signature(function).parameters.values()
    return tuple(p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


_registry: dict[str, Declaration] = {}
_aliases: dict[str, tuple[str, ...]] = {}


def alias(name: str, *specs: str) -> None:
    """Let `name`, typed as a score spec, stand for the given specs."""
    _aliases[name] = specs


def score(
    *,
    higher_means: str,
    reads: tuple[str, ...],
    unit: str,
    range: tuple[float, float],
    paper: str,
    question: str,
    shape: Shape = "text",
    fields: Callable[..., Fields] | None = None,
    experimental: bool = False,
) -> Callable[[F], F]:
    """Declare the function below as a score; it stays a plain function (see Declaration).

    Example:
        @score(higher_means="uncertain", reads=("logp",), unit="nats", range=(0, inf),
               paper="10.1000/xyz", question="uncertainty")
        def worst_nll(trace: Trace, *, tail: float = 0.1) -> float: ...

    Raises BadInput when another score already has this name, or a positional parameter is no role.
    """

    def attach(function: F) -> F:
        name: str = function.__name__
        takes = _positional(function)
        if not takes or not set(takes) <= set(ROLES):
            raise BadInput(
                f"score '{name}' takes ({', '.join(takes)}); name its positional parameters by "
                f"what they are ({', '.join(ROLES)}) and make the others keyword-only"
            )
        if name in _registry and _registry[name].function.__module__ != function.__module__:
            raise BadInput(
                f"two scores are called '{name}': {_registry[name].function.__module__} "
                f"and {function.__module__}"
            )
        _registry[name] = Declaration(
            name=name, function=function, higher_means=higher_means, reads=reads, unit=unit,
            range=range, paper=paper, question=question, shape=shape,
            fields=fields or (lambda **_: Fields()), experimental=experimental,
        )  # fmt: skip
        return function

    return attach


@cache
def _load() -> None:
    import nll.scores  # noqa: F401  registers the built-in scores

    for entry in entry_points(group="nll.scores"):
        entry.load()


def declarations() -> Mapping[str, Declaration]:
    """All scores by name: built in, and from installed packages' entry points `nll.scores`."""
    _load()
    return dict(_registry)


@dataclass(frozen=True, slots=True)
class Request:
    """A score with its parameters, as asked for: `min_k_prob(k=0.1)`.

    optional: came in by `all`, so a trace that lacks what it needs leaves it undefined; a score
    that was asked for by name is an error then.
    """

    declaration: Declaration
    parameters: Mapping[str, Any]
    label: str
    optional: bool = False

    @property
    def fields(self) -> Fields:
        """What the trace must hold for it."""
        defaults = self.declaration.parameters
        return self.declaration.fields(**{**defaults, **self.parameters})

    def __call__(self, given: Trace | Bundle) -> Any:
        """Its value; raises MissingField when something that it takes is not in the bundle."""
        takes = self.declaration.takes
        if takes == ("trace",) and isinstance(given, Trace):
            return self.declaration.function(given, **self.parameters)
        bundle = Bundle(trace=given) if isinstance(given, Trace) else given
        return self.declaration.function(*map(bundle.role, takes), **self.parameters)


ALL: Final = "all"
_SHOWN_FIRST: Final = ("mean_nll", "perplexity")
# The order in which people look for them; a question that is not here comes after.
_QUESTIONS: Final = (
    "surprisal", "uncertainty", "membership", "machine_text", "ood", "reasoning", "selection",
    "bias",
)  # fmt: skip
TWO_MODELS: Final = frozenset({"cross_mean", "cross_var"})


def requests(specs: str | Callable[..., Any] | Any) -> list[Request]:
    """Read score specs: names, `name(option=value)`, declared functions (partial ones), or `all`.

    `all` is every score of a whole text that one model's plain trace can give, but for the
    experimental ones.
    Raises BadInput naming the unknown score or option and the ones that exist.
    """
    if isinstance(specs, str) or callable(specs):
        specs = [specs]
    out: dict[str, Request] = {}
    for spec in specs:
        for request in _expand(spec):
            if request.label not in out or out[request.label].optional:
                out[request.label] = request
    if not out:
        raise BadInput("no score was asked for; `nll scores` lists them")
    return list(out.values())


def question_place(declaration: Declaration) -> int:
    """Where a score's question stands among the others, for lists that people read."""
    question = declaration.question
    return _QUESTIONS.index(question) if question in _QUESTIONS else len(_QUESTIONS)


def _expand(spec: Any) -> list[Request]:
    if isinstance(spec, str) and spec.strip() == ALL:
        found = [
            Request(d, {}, d.name, optional=True)
            for d in declarations().values()
            if d.shape == "text"
            and d.takes == ("trace",)
            and not d.required
            and not d.experimental
            and not TWO_MODELS & set(d.reads)
        ]
        return sorted(
            found, key=lambda r: (r.label not in _SHOWN_FIRST, question_place(r.declaration))
        )
    if isinstance(spec, Request):
        return [spec]
    if callable(spec):
        bound = spec if isinstance(spec, partial) else partial(spec)
        own = [d for d in declarations().values() if d.function is bound.func]
        if not own or bound.args:
            raise BadInput(f"{spec!r} is not a declared score; declare it with @nll.declare_score")
        return [_checked(Request(own[0], bound.keywords, own[0].name))]
    spec = str(spec).strip()
    declarations()
    name, bracket, rest = spec.partition("(")
    if name in _aliases:
        return [_parse(s + bracket + rest, label=s if s.endswith(")") else spec)
                for s in _aliases[name]]  # fmt: skip
    return [_parse(spec, label=spec)]


def _parse(spec: str, *, label: str) -> Request:
    name, parameters = spec, {}
    if "(" in name:
        try:
            call = ast.parse(name, mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
                raise ValueError
            name = call.func.id
            parameters = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        except (ValueError, SyntaxError):
            raise BadInput(
                f"cannot read score '{spec}'; write name or name(option=value), "
                "for example min_k_prob(k=0.1)"
            ) from None
    known = declarations()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, [*known, *_aliases], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise BadInput(f"unknown score '{name}'; {hint}`nll scores` lists them")
    declaration = known[name]
    for option, value in parameters.items():
        defaults = declaration.parameters
        if option not in defaults:
            has = ", ".join(defaults) or "none"
            raise BadInput(f"score '{name}' has no option '{option}' (it has: {has})")
        _check_type(name, option, value, defaults[option])
    return _checked(Request(declaration, parameters, label))


def _checked(request: Request) -> Request:
    for option in request.declaration.required:
        if option not in request.parameters:
            name = request.declaration.name
            raise BadInput(
                f"score '{name}' needs option '{option}'; from Python: "
                f"functools.partial(nll.scores.{name}, {option}=...)"
            )
    return request


def _check_type(name: str, option: str, value: Any, default: Any) -> None:
    number = isinstance(default, int | float) and not isinstance(default, bool)
    fine = (
        isinstance(value, int | float) and not isinstance(value, bool)
        if number
        else (default is None or isinstance(value, type(default)))
    )
    if not fine:
        kind = "number" if number else type(default).__name__
        raise BadInput(f"option '{option}' of score '{name}' must be a {kind}, not {value!r}")
