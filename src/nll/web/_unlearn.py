"""The unlearning report as one HTML page: the measures before and after, truth ratios as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

import nll
from nll.runs._atomic import write_atomic
from nll.runs._unlearn_report import FORGET, LIMITS, Judged, UnlearnReport, table_of
from nll.web._page import _asset, _hash
from nll.web._text import number, visible

_W, _H, _LEFT, _BOTTOM, _TOP = 420, 280, 54, 40, 10
_KINDS = {"before": "before", "after": "curve", "reference": "chance"}
_FLOOR = 1e-6  # a ratio of 0 has no place on a logarithmic axis


def write_unlearn_report(path: Path, report: UnlearnReport) -> None:
    """Write the page to `path`, whole or not at all. Raises as `write_report` does."""
    write_atomic(path, unlearn_html(report))


def unlearn_html(report: UnlearnReport) -> str:
    """The report as a string: one page without scripts that loads nothing."""
    style = _asset("report.css") + _asset("eval.css") + _asset("unlearn.css")
    page: str = _template().render(
        title=visible(Path(report.models[1].name).name or report.models[1].name),
        csp=(
            f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'"
        ),
        style=Markup(style),  # noqa: S704  our own files
        facts=[
            *((m.role, visible(m.name)) for m in report.models),
            *((f"rows, {name}", number(s.rows)) for name, s in report.models[0].sets.items()),
        ],
        reading=reading(report),
        limits=LIMITS,
        notes=[visible(note) for note in report.notes],
        utility=", ".join(report.utility_of),
        roles=[m.role for m in report.models],
        rows=[
            {"name": name, "better": better, "values": [number(v, _decimals(v)) for v in values]}
            for name, better, values in table_of(report)
        ],
        ratios=_ratios(report.models),
        moves=_moves(report),
        version=nll.__version__,
    )
    return page


def reading(report: UnlearnReport) -> str:
    """What the numbers say, in a sentence or two."""
    before, after = report.models[:2]
    a, b = before.sets[FORGET], after.sets[FORGET]
    line = (
        f"The forget set's answers went from {a.nll:.3g} to {b.nll:.3g} nats per token "
        f"(probability {a.probability:.3g} to {b.probability:.3g})"
    )
    if not math.isnan(after.utility):
        line += f"; model utility from {before.utility:.3g} to {after.utility:.3g}"
    if not math.isnan(float(after.quality.p)):
        told = "cannot be told" if after.quality.p > 0.05 else "can be told"
        line += (
            f". Its truth ratios {told} from those of the retain-only model at 5 % "
            f"(KS p = {after.quality.p:.3g}; before: {before.quality.p:.3g})"
        )
    return line + "."


def _decimals(value: float) -> int | None:
    return None if value != value or 0 < abs(value) < 1e-3 else 3


def _ratios(models: Sequence[Judged]) -> Markup | None:
    """Share of forget rows up to each truth ratio, one step curve a model."""
    held = {
        m.role: sorted(math.log10(max(r, _FLOOR)) for r in m.sets[FORGET].ratios if r == r)
        for m in models
    }
    values = [v for each in held.values() for v in each]
    if not values:
        return None
    low, high = math.floor(min(values)), math.ceil(max(values))
    high = max(high, low + 1)

    def x(v: float) -> float:
        return _LEFT + (v - low) / (high - low) * (_W - 12 - _LEFT)

    marks = [_level(v / 4) for v in range(5)]
    for power in range(low, high + 1, max(1, (high - low) // 6)):
        marks.append(
            Markup('<text x="{}" y="{}" dy="17" text-anchor="middle">{}</text>').format(
                f"{x(power):.1f}", _H - _BOTTOM, f"{10.0**power:g}"
            )
        )
    for role, each in held.items():
        if not each:
            continue
        d = [f"M{x(low):.1f} {_y(0):.1f}"]
        for i, v in enumerate(each, 1):
            d += [f"H{x(v):.1f}", f"V{_y(i / len(each)):.1f}"]
        d.append(f"H{x(high):.1f}")
        path = Markup('<path class="{}" d="{}"><title>{}</title></path>')
        marks.append(path.format(_KINDS[role], " ".join(d), role))
    return _svg(
        "truth ratios of the forget set", marks, "truth ratio R = p(wrong) / p(right)",
        "share of rows up to R",
    )  # fmt: skip


def _moves(report: UnlearnReport) -> Markup:
    """Every measure in [0, 1]: a dot before, a filled one after, joined by a line."""
    rows = [
        (name, values) for name, _, values in table_of(report)
        if "nll" not in name and "quality" not in name
        and not any(map(math.isnan, values[:2]))
    ]  # fmt: skip
    wide, left, step, top = 560, 200, 26, 12
    height = top + step * len(rows) + 30

    def x(v: float) -> float:
        return left + min(max(v, 0.0), 1.0) * (wide - left - 16)

    bottom = top + step * len(rows)
    marks = []
    for v in range(5):
        marks.append(
            Markup(
                '<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
                '<text x="{x}" y="{bottom}" dy="15" text-anchor="middle">{v}</text>'
            ).format(x=f"{x(v / 4):.1f}", top=top, bottom=bottom, v=f"{v / 4:g}")
        )
    for i, (name, values) in enumerate(rows):
        y = f"{top + step * (i + 0.5):.1f}"
        marks.append(
            Markup(
                '<text class="row" x="{at}" y="{y}" dy="4" text-anchor="end">{name}</text>'
                '<line class="move" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>'
                '<circle class="start" cx="{a}" cy="{y}" r="4.5"><title>before {va}</title>'
                '</circle><circle class="point" cx="{b}" cy="{y}" r="4.5"><title>after {vb}</title>'
                "</circle>"
            ).format(
                at=left - 12, y=y, name=name, a=f"{x(values[0]):.1f}", b=f"{x(values[1]):.1f}",
                va=f"{values[0]:.4g}", vb=f"{values[1]:.4g}",
            )
        )  # fmt: skip
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="measures before and after">{marks}</svg>'
    ).format(w=wide, h=height, marks=Markup("").join(marks))


def _level(v: float) -> Markup:
    return Markup(
        '<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        '<text x="{left}" dx="-4" y="{y}" dy="4" text-anchor="end">{v}</text>'
    ).format(left=_LEFT, right=_W - 12, y=f"{_y(v):.1f}", v=f"{v:g}")


def _y(v: float) -> float:
    return _H - _BOTTOM - v * (_H - _BOTTOM - _TOP)


def _svg(title: str, marks: Sequence[Markup], x: str, y: str) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{title}">'
        '{marks}<text class="name" x="{cx}" y="{h}" dy="-6" text-anchor="middle">{x}</text>'
        '<text class="name" transform="translate(11 {cy}) rotate(-90)" text-anchor="middle">{y}'
        "</text></svg>"
    ).format(
        w=_W, h=_H, title=title, marks=Markup("").join(marks), x=x, y=y,
        cx=f"{(_LEFT + _W) / 2:.0f}", cy=f"{_y(0.5):.0f}",
    )  # fmt: skip


@cache
def _template() -> jinja2.Template:
    source = (files("nll.web") / "templates" / "unlearn.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
