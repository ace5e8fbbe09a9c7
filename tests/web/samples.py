"""Small traces and score tables with everything in them that a page could trip over."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa

from nll.trace import Provenance, Trace

HOSTILE = (
    "</script><script>window.__pwned=1;alert(1)</script>",
    '<img src=x onerror="window.__pwned=1">',
    "<!--<script>",
    "\u202eevil\u2066",
    "\x1b[31mred",
    '=HYPERLINK("http://example.com")',
    "\ud800",
    "\u2028line",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "\n",
    "\t",
    " ",
    "&amp;",
)
PLAIN = ("The", " cat", " sat", " on", " the", " mat", ".", "\n")
PROVENANCE = Provenance(model="tiny", bos="<s>", vocab_size=64, backend="table", library="nll 0")


def trace(
    words: tuple[str, ...] = PLAIN,
    id: str | None = "plain",
    *,
    level: float = 1.0,
    bos: bool = True,
    **changes: Any,
) -> Trace:
    """One token per word; token t has nll `level * t`, rank t + 1, and is first of 4 options."""
    n = len(words)
    ids = np.arange(n)
    nll = level * np.arange(n, dtype=np.float64)
    if not bos:
        nll[0] = math.nan
    ends = np.cumsum([len(w) for w in words])
    others = (ids[:, None] + 1 + np.arange(3)) % n
    top_logp = np.log(np.tile([0.5, 0.25, 0.125, 1e-6], (n, 1)))
    given: dict[str, Any] = {
        "logp": -nll,
        "entropy": np.linspace(5.0, 0.0, n),
        "rank": np.where(np.isnan(nll), -1, np.arange(1, n + 1)),
        "ids": ids,
        "spans": np.stack([ends - [len(w) for w in words], ends], axis=1),
        "text": "".join(words),
        "top_ids": np.concatenate([ids[:, None], others], axis=1),
        "top_logp": top_logp,
        "vocab": dict(enumerate(words)),
        "provenance": PROVENANCE,
    }
    return Trace(id=id, **{**given, **changes})


def table(traces: list[Trace], **scores: list[float | None]) -> pa.Table:
    """The columns of `nll.score`: id, tokens, each score with its declaration, undefined."""
    fields = [pa.field("id", pa.string()), pa.field("tokens", pa.int32())]
    values: list[Any] = [
        [t.id.encode("utf-8", "replace").decode() if t.id else None for t in traces],
        [t.n_scored for t in traces],
    ]
    for name, column in scores.items():
        fields.append(pa.field(name, pa.float64(), metadata={b"nll": json.dumps(meta(name))}))
        values.append(column)
    reasons = [
        {k: f"no {k} <here>" for k, column in scores.items() if column[i] is None}
        for i in range(len(traces))
    ]
    fields.append(pa.field("undefined", pa.string()))
    values.append([json.dumps(r) if r else None for r in reasons])
    return pa.table(
        [pa.array(v, type=f.type) for v, f in zip(values, fields, strict=True)],
        schema=pa.schema(fields),
    )


def meta(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": {"k": 0.2},
        "higher_means": "member",
        "unit": "nats",
        "range": [None, 0],
        "paper": "2310.16789",
        "question": "membership",
        "summary": f"What <b>{name}</b> is.",
        "shape": "text",
    }


def sample() -> tuple[list[Trace], pa.Table]:
    """Three texts: plain without BOS, one after a prompt, and a hostile one."""
    traces = [
        trace(bos=False),
        trace(id="answer 2", level=0.5, prompt_tokens=3),
        trace(HOSTILE, id="<img src=x onerror=window.__pwned=1>", level=0.2),
    ]
    return traces, table(traces, min_k=[-3.0, -10.0, None], other=[0.5, None, 0.25])
