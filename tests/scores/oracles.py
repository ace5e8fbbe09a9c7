"""The numbers of the papers' sheets, as cases: a trace or several, and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nll._bundle import Bundle, Samples
from nll.testing import trace_from_logits
from nll.trace import Provenance, Trace

FOLDER = Path(__file__).parents[1] / "oracle"


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.json")):
        for number, case in enumerate(json.loads(path.read_text())["cases"]):
            yield f"{path.stem}-{number}", case


def bundle(parts: dict[str, Any]) -> Bundle:
    """A bundle from {role: trace, a list of them, or {"drawn": [...], "greedy": ...}}."""

    def one(given: dict[str, Any]) -> Trace:
        if "logits" in given:
            return build(given)
        given = dict(given)
        made = {"decoding": given.pop("decoding")} if "decoding" in given else {}
        return Trace(**given, provenance=Provenance(**made))

    held: dict[str, Any] = {}
    for role, given in parts.items():
        if role == "samples":
            greedy = one(given["greedy"]) if "greedy" in given else None
            rest = {k: v for k, v in given.items() if k not in ("drawn", "greedy")}
            held[role] = Samples([one(g) for g in given["drawn"]], greedy=greedy, **rest)
        else:
            held[role] = [one(g) for g in given] if isinstance(given, list) else one(given)
    return Bundle(**held)


def build(case: dict[str, Any]) -> Trace | Bundle:
    if "bundle" in case:
        return bundle(case["bundle"])
    if "trace" in case:
        return Trace(**case["trace"])
    with np.errstate(divide="ignore"):
        logits = case["logits"] if "logits" in case else np.log(case["probabilities"])
    named = ("reference_logits", "end_logits", "boundary_ids", "betas", "top_k", "text", "spans")
    return trace_from_logits(
        logits,
        case["targets"],
        provenance=Provenance(
            vocab_size=len(logits[0]), decoding=case.get("decoding", "given"), backend="testing"
        ),
        **{name: case[name] for name in named if name in case},
    )


def expectations() -> list[tuple[str, str, dict[str, Any], Any]]:
    """(case, score, parameters, value); "inf" stands for infinity."""
    out = []
    for label, case in cases():
        for name, parameters, value in case["expect"]:
            parameters = {k: float(v) if v == "inf" else v for k, v in parameters.items()}
            out.append((label, name, parameters, float(value) if value == "inf" else value))
    return out


def covered() -> set[str]:
    return {name for _, name, _, _ in expectations()}
