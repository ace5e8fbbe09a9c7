"""Answers as JSON lines: a trace as one object and back, and what a question is known by."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nll._errors import BadInput, first_line
from nll.trace import OPTIONAL, PER_TOKEN, Array, Provenance, Text, TextLike, Trace

SCHEMA = 1
_ARRAYS = (*PER_TOKEN, "ids", "spans", *OPTIONAL)
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def trace_to_json(trace: Trace) -> dict[str, Any]:
    """The trace as JSON values, lossless; nan is null and infinities are strings."""
    held: dict[str, Any] = {
        "text": trace.text, "prompt_tokens": trace.prompt_tokens, "betas": list(trace.betas),
        "vocab": {str(k): v for k, v in trace.vocab.items()}, "id": trace.id,
        "provenance": json.loads(trace.provenance.to_json()),
    }  # fmt: skip
    wide = []
    for name in _ARRAYS:
        array = getattr(trace, name)
        if array is None:
            continue
        held[name] = _plain(array)
        if array.dtype == np.float64:
            wide.append(name)
        if array.ndim == 2 and not len(array):
            held.setdefault("widths", {})[name] = array.shape[1]
    return held | ({"wide": wide} if wide else {})


def trace_from_json(held: Mapping[str, Any]) -> Trace:
    """Inverse of `trace_to_json`. Raises BadInput for anything else."""
    try:
        wide, widths = set(held.get("wide", ())), held.get("widths", {})
        arrays: dict[str, Any] = {}
        for name in _ARRAYS:
            if held.get(name) is None:
                continue
            if name in ("rank", "ties", "ids", "spans", "top_ids"):
                array = np.array(held[name], np.int32)
            else:
                array = _array(held[name]).astype(np.float64 if name in wide else np.float32)
            arrays[name] = array.reshape(0, widths[name]) if name in widths else array
        return Trace(
            **arrays, text=held["text"], prompt_tokens=held["prompt_tokens"],
            betas=tuple(held["betas"]), id=held["id"],
            vocab={int(k): v for k, v in held["vocab"].items()},
            provenance=Provenance.from_json(json.dumps(held["provenance"])),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        kind = type(error).__name__
        raise BadInput(f"not a recorded trace: {kind}: {first_line(error)}") from None


def _plain(array: Array) -> Any:
    if array.ndim > 1:
        return [_plain(row) for row in array]
    if array.dtype.kind == "i":
        return array.tolist()
    # float32 goes through its own shortest decimal form, which reads back to the same bits.
    return [_number(x) for x in array]


def _number(x: Any) -> float | str | None:
    value = float(str(x))
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else ("inf" if value > 0 else "-inf")


def _array(values: Sequence[Any]) -> Array:
    return np.array(
        [_array(v) if isinstance(v, list) else math.nan if v is None else float(v) for v in values]
    )


def ask_of(text: TextLike) -> dict[str, Any]:
    """What a text to be scored is known by."""
    read = Text.of(text)
    return {
        "kind": "trace", "text": read.text, "prompt": read.prompt,
        "messages": [dict(m) for m in read.messages],
    }  # fmt: skip


def ask_of_prompt(prompt: TextLike, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a prompt to be continued under these settings is known by."""
    if isinstance(prompt, list):
        said: Any = [dict(m) for m in prompt]
    else:
        read = Text.of(prompt)
        said = [dict(m) for m in read.messages] or (read.prompt or "") + read.text
    return {"kind": "generate", "prompt": said, **settings}


def key_of(ask: Mapping[str, Any]) -> str:
    """One string for one question."""
    return json.dumps(ask, sort_keys=True)


def renamed(trace: Trace, id: str | None) -> Trace:
    """The same trace under the id of the text that was asked now."""
    return trace if trace.id == id else dataclasses.replace(trace, id=id)
