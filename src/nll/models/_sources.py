"""Names that say where a model is: `http://host/v1`, `openai:NAME`, `replay:FILE`, ..."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from nll._declare import Request
from nll.models._capabilities import Capabilities, capabilities, possible

if TYPE_CHECKING:
    from nll.models._protocol import LanguageModel

_OPENERS = {
    "http": "_openai:open_openai",
    "https": "_openai:open_openai",
    "openai": "_openai:open_openai",
    "replay": "_replay:open_replay",
    "vllm": "_vllm:open_vllm",
    "llamacpp": "_llama_cpp:open_llama_cpp",
}


def opener(name: str) -> Callable[..., LanguageModel] | None:
    """What opens names with this prefix; None for hub ids, folders and other prefixes."""
    prefix, colon, _ = name.partition(":")
    if not colon or prefix not in _OPENERS:
        return None
    module, function = _OPENERS[prefix].split(":")
    found: Callable[..., LanguageModel] = getattr(import_module(f"nll.models.{module}"), function)
    return found


def possible_of(
    name: str | None,
    wanted: Sequence[Request],
    options: Mapping[str, Any],
    *,
    answers: bool = False,
) -> tuple[list[Request], LanguageModel | None]:
    """Of these scores, those that the model of this name can give (see `possible`), and the model
    if it had to be opened to know.

    Models that are run here give all and are not opened; engines declare what they give without
    being started; a server is asked for a few tokens unless nothing is wanted that any could give,
    and what it was found to give need not be asked again.
    options: as `nll.load` takes them.   answers: whether the scores are of the model's own answers,
    which a server that reads no texts gives too.
    """
    find = None if name is None else opener(name)
    if find is None or name is None:
        return list(wanted), None
    engine = _OPENERS[name.partition(":")[0]].split(":")[0]
    held = getattr(import_module(f"nll.models.{engine}"), "CAPABILITIES", None)
    if held is not None:
        return possible(_Declared(held), wanted), None
    model = find(name, **options)
    if not answers:
        return possible(model, wanted), model
    told = dataclasses.replace(capabilities(model), texts=True)
    return possible(_Declared(told), wanted), model


class _Declared(NamedTuple):
    capabilities: Capabilities
