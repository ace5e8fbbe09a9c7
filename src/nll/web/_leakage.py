"""The leakage audit as one HTML page: what each setting gives away, singular values as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import nll
from nll.runs._atomic import write_atomic
from nll.runs._leakage import LIMITS, Audit, describe, reading, rows_of
from nll.theory import LeakageReport
from nll.web._page import _asset, _hash
from nll.web._text import number, visible

_W, _H, _LEFT, _BOTTOM, _TOP = 380, 260, 46, 36, 8
_DRAWN = 8
_MOST_POINTS = 600


def write_audit(path: Path, audit: Audit) -> None:
    """Write the page to `path`, whole or not at all. Raises as `write_report` does."""
    write_atomic(path, audit_html(audit))


def audit_html(audit: Audit) -> str:
    """The audit as a string: one page without scripts that loads nothing."""
    style = _asset("report.css") + _asset("eval.css")
    drawn = [(s, r) for s, r in audit.rows if r.hidden is not None][:_DRAWN]
    page: str = _template().render(
        title=visible(audit.source),
        csp=(
            f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'"
        ),
        style=Markup(style),  # noqa: S704  our own files
        facts=[
            ("true hidden size", "–" if audit.hidden_size is None else str(audit.hidden_size)),
            ("vocabulary", number(audit.vocabulary)),
            ("contexts", number(audit.contexts)),
            ("tokens looked at", number(audit.columns)),
        ],
        reading=visible(reading(audit)),
        lines=[visible(line) for line in audit.rows[0][1].lines()],
        limits=LIMITS,
        notes=[visible(note) for note in audit.notes],
        version=nll.__version__,
        rows=[_cells(row) for row in rows_of(audit)],
        plots=[{"name": describe(s), "svg": _spectrum(describe(s), r)} for s, r in drawn],
    )
    return page


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "setting": row["setting"],
        "dimension": "–" if row["dimension"] is None else str(row["dimension"]),
        "gap": _number(row["gap"]),
        "held_out": _number(row["held_out"]),
        "rms": _number(row["projection_rms"]),
        "per_row": _number(row["queries_per_full_row"]),
        "queries": number(row["queries"]),
        "unseen": _number(row["unseen_tv"]),
        "bias_error": _number(row["bias_error"]),
        "leaks": ", ".join(row["leaks"]) or "nothing found",
    }


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _spectrum(name: str, report: LeakageReport) -> Markup:
    """Singular values on a logarithmic axis, the found dimension as a dashed line."""
    hidden = report.hidden
    s = np.empty(0) if hidden is None else hidden.singular_values
    if hidden is None or len(s) < 2 or s[0] <= 0:
        return Markup("")
    logs: list[float] = np.log10(np.maximum(s, s[0] * 1e-12)).tolist()
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    high = max(high, low + 1)

    def x(i: float) -> float:
        return _LEFT + (i - 1) / (len(s) - 1) * (_W - 8 - _LEFT)

    def y(v: float) -> float:
        return _TOP + (high - v) / (high - low) * (_H - _BOTTOM - _TOP)

    # A spectrum of thousands is thinned, but not where the gap is.
    at = set(np.linspace(0, len(s) - 1, min(len(s), _MOST_POINTS)).astype(int).tolist())
    if hidden.dimension is not None:
        at |= {hidden.dimension - 1, hidden.dimension}
    points = " ".join(
        f"{'M' if n == 0 else 'L'}{x(i + 1):.1f} {y(logs[i]):.1f}" for n, i in enumerate(sorted(at))
    )
    marks = [Markup('<path class="curve" d="{}"/>').format(points)]
    if hidden.dimension is not None:
        cut = x(hidden.dimension + 0.5)
        line = f"M{cut:.1f} {_TOP} L{cut:.1f} {_H - _BOTTOM}"
        marks.append(Markup('<path class="chance" d="{}"/>').format(line))
    step = max(1, (high - low) // 6)
    for v in range(low, high + 1, step):
        marks.append(
            Markup(
                '<line class="grid" x1="{l}" x2="{r}" y1="{y}" y2="{y}"/>'
                '<text x="{l}" dx="-4" y="{y}" dy="4" text-anchor="end">1e{v}</text>'
            ).format(l=_LEFT, r=_W - 8, y=f"{y(v):.1f}", v=v)
        )
    for i in sorted({1, len(s) // 2, len(s)}):
        marks.append(
            Markup('<text x="{x}" y="{y}" dy="14" text-anchor="middle">{i}</text>').format(
                x=f"{x(i):.1f}", y=_H - _BOTTOM, i=i
            )
        )
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{title}">'
        '{marks}<text class="name" x="{cx}" y="{h}" dy="-4" text-anchor="middle">number</text>'
        "</svg>"
    ).format(
        w=_W,
        h=_H,
        title=f"singular values, {name}",
        marks=Markup("").join(marks),
        cx=f"{(_LEFT + _W) / 2:.0f}",
    )


@cache
def _template() -> jinja2.Template:
    source = (files("nll.web") / "templates" / "leakage.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
