"""The declaration beside each objective, which trainers, command line, docs and tests read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nll._errors import BadInput

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Objective:
    """What an objective is, beside its code; every one is minimised.

    descent: what going down does, in a few words (`forget answers less likely`).
    unit: `nats` where a constant factor on the log-probs is a factor of the loss, else `1`.
    paper: arXiv id, DOI or URL of the source.   range: lowest and highest possible value.
    """

    name: str
    function: Callable[..., Any]
    descent: str
    unit: str
    paper: str
    range: tuple[float, float]

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of its positional parameters."""
        return tuple(
            p.name
            for p in inspect.signature(self.function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword options and their defaults; None also stands for an option without one."""
        return {
            p.name: None if p.default is p.empty else p.default
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }


_registry: dict[str, Objective] = {}


def objective(
    *, descent: str, unit: str, paper: str, range: tuple[float, float]
) -> Callable[[F], F]:
    """Declare the function below as an objective; it stays a plain function (see Objective).

    Raises BadInput when a word is missing, or another objective already has this name.
    """

    def attach(function: F) -> F:
        name: str = function.__name__
        if not (descent and unit and paper and inspect.getdoc(function)):
            raise BadInput(f"objective '{name}' needs a docstring, descent, unit and paper")
        if name in _registry and _registry[name].function.__module__ != function.__module__:
            raise BadInput(
                f"two objectives are called '{name}': {_registry[name].function.__module__} "
                f"and {function.__module__}"
            )
        _registry[name] = Objective(name, function, descent, unit, paper, range)
        return function

    return attach


def objectives() -> Mapping[str, Objective]:
    """All objectives of the room by name."""
    return dict(_registry)
