"""The evaluation as one HTML page: table, ROC, risk-coverage and reliability as plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

import nll
from nll.runs._atomic import write_atomic
from nll.runs._eval import LIMITS, Evaluated, Evaluation
from nll.web._page import _asset, _hash
from nll.web._text import number, visible

_W, _H, _LEFT, _BOTTOM, _TOP = 312, 260, 54, 36, 8
_DRAWN = 12


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write the page to `path`, whole or not at all. Raises as `write_report` does."""
    write_atomic(path, evaluation_html(evaluation))


def evaluation_html(evaluation: Evaluation) -> str:
    """The evaluation as a string: one page without scripts that loads nothing."""
    style = _asset("report.css") + _asset("eval.css")
    groups = list(dict.fromkeys(r.group for r in evaluation.results))
    page: str = _template().render(
        title=visible(Path(evaluation.source).name),
        csp=(
            f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'"
        ),
        style=Markup(style),  # noqa: S704  our own files
        facts=[
            ("labelled rows", number(evaluation.n)),
            ("positives", number(evaluation.positives)),
            ("without a label", number(evaluation.unlabelled)),
            ("label column", visible(evaluation.label)),
            ("positive means", visible(evaluation.positive)),
        ],
        limits=LIMITS,
        resamples=number(evaluation.resamples),
        version=nll.__version__,
        parts=[
            {
                "name": visible(group),
                "rows": [_row(r) for r in evaluation.results if r.group == group],
                "plots": [_plots(r) for r in evaluation.results if r.group == group][:_DRAWN],
            }
            for group in groups
        ],
    )
    return page


def _row(r: Evaluated) -> dict[str, str | int]:
    return {
        "name": visible(r.name),
        "kind": r.kind,
        "higher": visible(r.higher_means) + (" (negated)" if r.flipped else ""),
        "n": r.n,
        "dropped": r.dropped,
        "auroc": number(r.auroc.value, 3),
        "interval": f"{number(r.auroc.low, 3)} to {number(r.auroc.high, 3)}",
        "tpr_1": number(r.tpr_at_1, 3),
        "tpr_5": number(r.tpr_at_5, 3),
        "prr": number(r.prr, 3),
        "note": visible(r.note),
    }


def _plots(r: Evaluated) -> dict[str, object]:
    name = visible(r.name)
    plots = []
    if r.roc:
        plots.append(_svg(f"{name}: ROC curve", "false positive rate", "true positive rate",
                          [_path(r.roc, "curve"), _path([(0, 0), (1, 1)], "chance")]))  # fmt: skip
    if r.risk:
        plots.append(_svg(f"{name}: risk by coverage", "share kept, lowest score first",
                          "share of positives", [_path(r.risk, "curve")]))  # fmt: skip
    if r.reliability:
        points = [(c, a) for c, a, _ in r.reliability]
        dots = [
            Markup('<circle class="point" cx="{}" cy="{}" r="4"><title>{} items</title></circle>')
            .format(f"{_x(c):.1f}", f"{_y(a):.1f}", n)
            for c, a, n in r.reliability
        ]  # fmt: skip
        marks = [_path([(0, 0), (1, 1)], "chance"), _path(points, "curve"), *dots]
        plots.append(_svg(f"{name}: reliability", "score", "share of positives", marks))
    return {"name": name, "auroc": number(r.auroc.value, 3), "plots": plots}


def _svg(title: str, x: str, y: str, marks: Sequence[Markup]) -> Markup:
    ticks = Markup("").join(_tick(v / 4) for v in range(5))
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{title}">'
        "{ticks}{marks}"
        '<text class="name" x="{cx}" y="{h}" dy="-4" text-anchor="middle">{x}</text>'
        '<text class="name" transform="translate(11 {cy}) rotate(-90)" text-anchor="middle">{y}'
        "</text></svg>"
    ).format(
        w=_W, h=_H, title=title, ticks=ticks, marks=Markup("").join(marks), x=x, y=y,
        cx=f"{_x(0.5):.0f}", cy=f"{_y(0.5):.0f}",
    )  # fmt: skip


def _tick(v: float) -> Markup:
    x, y = f"{_x(v):.1f}", f"{_y(v):.1f}"
    return Markup(
        '<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        '<text x="{left}" dx="-4" y="{y}" dy="4" text-anchor="end">{v}</text>'
        '<text x="{x}" y="{bottom}" dy="14" text-anchor="middle">{v}</text>'
    ).format(left=_LEFT, right=_W - 8, bottom=_H - _BOTTOM, x=x, y=y, v=f"{v:g}")


def _path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    d = " ".join(f"{'L' if i else 'M'}{_x(x):.1f} {_y(y):.1f}" for i, (x, y) in enumerate(points))
    return Markup('<path class="{}" d="{}"/>').format(kind, d)


def _x(v: float) -> float:
    return _LEFT + v * (_W - 8 - _LEFT)


def _y(v: float) -> float:
    return _H - _BOTTOM - v * (_H - _BOTTOM - _TOP)


@cache
def _template() -> jinja2.Template:
    source = (files("nll.web") / "templates" / "eval.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
