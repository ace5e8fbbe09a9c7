"""One HTML file that needs nothing else: template, style and scripts put together, then written."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup

import nll
from nll.runs._atomic import atomic_path
from nll.trace import Trace
from nll.web._drawing import Drawing
from nll.web._scores import columns_of
from nll.web._text import island, number, visible
from nll.web._traces import nll_histogram

_SCRIPTS = ("base.js", "plots.js", "table.js", "report.js")


def write_report(
    path: Path, traces: Iterable[Trace] | Drawing, table: pa.Table, *, title: str
) -> None:
    """Write the report of these traces and their scores to `path`, whole or not at all.

    traces: or a `Drawing` of them, where they are too many to be kept.
    Raises BadInput when the table and the traces differ in length or the file cannot be written,
    WriteFailed when the disk is full.
    """
    parts = _parts(traces, table, title)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(parts)


def report_html(traces: Iterable[Trace] | Drawing, table: pa.Table, *, title: str) -> str:
    """The report as a string: one self-contained HTML page that loads nothing.

    table: one row per trace in the same order, as `nll.score` gives it.
    Raises BadInput when the lengths differ.
    """
    return "".join(_parts(traces, table, title))


class _Head(NamedTuple):
    """What stands above a text."""

    name: str
    tokens: int
    scored: int
    prompt: int
    mean: str
    run: int


def _parts(traces: Iterable[Trace] | Drawing, table: pa.Table, title: str) -> Iterator[str]:
    drawn = traces if isinstance(traces, Drawing) else Drawing.of(traces)
    scores = columns_of([t.mean for t in drawn.texts], table)
    ids = table["id"].to_pylist() if "id" in table.column_names else [None] * len(drawn)
    mean = drawn.total / drawn.scored if drawn.scored else float("nan")
    scripts, style = [_asset(name) for name in _SCRIPTS], _asset("report.css")
    return _template().generate(
        title=visible(title),
        csp=_csp(scripts, style),
        scripts=[Markup(s) for s in scripts],  # noqa: S704  our own files
        style=Markup(style),  # noqa: S704
        runs=[{"texts": n, "facts": facts} for facts, n in drawn.runs.items()],
        texts=[
            _Head(
                visible(t.id or ids[i] or f"Text {i + 1}"), t.tokens, t.scored, t.prompt,
                number(t.mean, 3), t.run,
            )
            for i, t in enumerate(drawn.texts)
        ],
        columns=scores,
        facts=[
            ("texts", number(len(drawn))),
            ("tokens", number(drawn.tokens)),
            ("scored tokens", number(drawn.scored)),
            ("mean nll, nats", number(mean)),
            ("perplexity", number(float(np.exp(np.float64(mean))))),
        ],
        alternatives=drawn.alternatives,
        version=nll.__version__,
        data=island({"strings": list(drawn.strings.place), "nll": nll_histogram(drawn.nll)}),
        islands=(Markup(t.data) for t in drawn.texts),  # noqa: S704  an island already
    )  # fmt: skip


def _csp(scripts: Sequence[str], style: str) -> str:
    code = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {code}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def _hash(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (files("nll.web") / "static" / name).read_text("utf-8")


@cache
def _template() -> jinja2.Template:
    source = (files("nll.web") / "templates" / "report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
