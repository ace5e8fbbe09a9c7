"""The numbers of the papers' sheets, as cases: a trace, and what each score of it must be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nll.testing import trace_from_logits
from nll.trace import Provenance, Trace

FOLDER = Path(__file__).parents[1] / "oracle"


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.json")):
        for number, case in enumerate(json.loads(path.read_text())["cases"]):
            yield f"{path.stem}-{number}", case


def build(case: dict[str, Any]) -> Trace:
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
