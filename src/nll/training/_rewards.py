"""Rewards by name: two that compare with a column, and functions of the user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeAlias

from nll._errors import BadInput

Reward: TypeAlias = Callable[..., Sequence[float | None]]
BUILT_IN = ("exact", "contains")


def exact(completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the completion is the row's `answer`, spaces around both aside, else 0."""
    return [float(c.strip() == str(a).strip()) for c, a in zip(completions, answer, strict=True)]


def contains(completions: Sequence[str], answer: Sequence[Any], **_: Any) -> list[float]:
    """1 where the row's `answer` stands in the completion, else 0."""
    return [float(str(a).strip() in c) for c, a in zip(completions, answer, strict=True)]


def reward_of(name: str) -> Reward:
    """`exact`, `contains`, or `package.module:function`, which is imported, from here too.

    Raises BadInput when there is no such function.
    """
    if name in BUILT_IN:
        return {"exact": exact, "contains": contains}[name]
    module, colon, function = name.partition(":")
    if not colon or not function:
        raise BadInput(
            f"a reward is {', '.join(BUILT_IN)} or package.module:function, not '{name}'"
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"the reward '{name}' cannot be imported: {error}") from None
    if not callable(found):
        raise BadInput(f"the reward '{name}' is no function")
    reward: Reward = found
    return reward


def needs_answer(names: Sequence[str]) -> bool:
    """Whether every row must bring an `answer`."""
    return any(name in BUILT_IN for name in names)
