"""Pages that are written by the code itself: scores, command line, API members, changelog.

A page asks for its generated part with a line `<!-- generated: NAME -->`. Quoted lines (`> `) right
below it stand there for those who read the page in the repository, and are replaced too.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^<!-- generated: ([\w.]+) -->$(?:\n> .*$)*", re.MULTILINE)
QUESTIONS = {
    "surprisal": "How surprising is the text?",
    "uncertainty": "How sure is the model of its answer?",
    "membership": "Has the model seen the text?",
    "machine_text": "Did a machine write it?",
    "ood": "Is the text foreign to the model?",
    "reasoning": "Does the chain of thought hold?",
    "bias": "Does the answer follow the labels' form?",
    "selection": "Which steps or answers should be kept?",
}
CHECKS = {
    1: "alignment with a known table",
    2: "statistics against float64",
    3: "layout: batch, padding, order, chunks, prefixes",
    4: "texts in one pack do not read each other",
    5: "models with absolute positions",
    6: "low precision",
    7: "laws of a trace",
    8: "missing is nan",
    9: "ties",
    10: "parity of two backends",
    11: "agreement with peers",
    12: "no public score escapes the common suite",
    14: "killed and resumed",
    15: "identity of a stored run",
    16: "two processes, one store",
    17: "full disk, read-only folder, signals",
    18: "poisoned rows",
    19: "servers that fail or lie",
    20: "secrets",
    21: "safe loading",
    22: "limits, token and refusals of the server",
    23: "hostile texts in reports",
    24: "memory",
    25: "package",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return MARK.sub(lambda found: generate(found[1]), markdown)


def generate(name: str) -> str:
    """The generated part called `name`; raises KeyError for an unknown one."""
    if name.startswith("members."):
        return "\n\n".join(members(name.removeprefix("members.")))
    parts = {
        "scores": scores,
        "cli": cli,
        "changelog": changelog,
        "checks": checks,
        "evidence": evidence,
        "benchmarks": benchmarks,
        "parity": parity,
    }
    return parts[name]()


def evidence() -> str:
    """One row for each study whose result is kept in docs/evidence."""
    from nll.studies import evidence as table

    return table(ROOT / "docs" / "evidence")


def benchmarks() -> str:
    """The kept results, as the benchmarks wrote them, with the machine of each."""
    out = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        machine = held.pop("machine")
        shown = ", ".join(f"{k} {v}" for k, v in machine.items() if v != "absent")
        out += [f"### {path.stem}", "", shown, "", "| figure | value |", "| --- | --- |"]
        out += [f"| {name} | {value} |" for name, value in _figures(held)] + [""]
    return "\n".join(out)


def parity() -> str:
    """How far each source is from the local model in float32, as tests/models measured it."""
    kept = json.loads((ROOT / "docs" / "parity.json").read_text(encoding="utf-8"))
    lines = [
        "A model on a CPU against itself in this process in float32: |difference| of log p per "
        "token, nats. The tests measure it again (`tests/models/test_parity_table.py`) and fail "
        "above the tolerance.",
        "",
        "| model | source | texts | tokens | mean | max | tolerance | does not tell |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for held in kept.values():
        for name, r in held["rows"].items():
            numbers = " | ".join(f"{r[k]:.2g}" for k in ("mean", "largest", "tolerance"))
            counts = f"{r['texts']} | {r['tokens']}"
            absent = ", ".join(r["absent"]) or "-"
            lines.append(f"| {held['model']} | {name} | {counts} | {numbers} | {absent} |")
    return "\n".join(lines)


def _figures(held: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in held.items():
        label = f"{above}: {name}" if above else name
        if isinstance(value, dict):
            yield from _figures(value, label)
        elif isinstance(value, int | float):
            yield label, f"{value:.4g}" if isinstance(value, float) else str(value)


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def checks() -> str:
    """Where each numbered check is tested: the tests' names and their files' docstrings tell."""
    found: dict[int, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        named = re.findall(r"def test_(?:check_|reliability_)?(\d\d?)_", source)
        first = (ast.get_docstring(ast.parse(source)) or "").replace("\n", " ")
        for numbers in re.findall(r"checks? (\d\d?(?:(?:, | and )\d\d?)*)", first):
            named += re.findall(r"\d+", numbers)
        for number in named:
            found.setdefault(int(number), set()).add(path.relative_to(ROOT).as_posix())
    return "\n".join(
        f"| {n} | {CHECKS[n]} | {', '.join(f'`{f}`' for f in sorted(found[n]))} |"
        for n in sorted(found)
    )


def members(room: str) -> Iterator[str]:
    """One mkdocstrings directive for every public name of a room."""
    import importlib

    module = importlib.import_module(room)
    for name in module.__all__:
        value = getattr(module, name)
        if room == "nll" and (hasattr(value, "__path__") or name in {"trace", "__version__"}):
            continue
        yield f"::: {room}.{name}"


def paper_link(paper: str) -> str:
    if re.fullmatch(r"\d{4}\.\d{4,5}", paper):
        return f"[arXiv {paper}](https://arxiv.org/abs/{paper})"
    if paper.startswith("10."):
        return f"[doi {paper}](https://doi.org/{paper})"
    return f"<{paper}>" if paper.startswith("http") else paper


def scores() -> str:
    """Every declared score, grouped by the question that it answers."""
    import nll

    found = list(nll.declarations().values())
    parts = []
    for question in dict.fromkeys([*QUESTIONS, *(d.question for d in found)]):
        rows = [d for d in found if d.question == question]
        if not rows:
            continue
        parts.append(f"## {QUESTIONS.get(question, question)}\n")
        parts.append("| score | a larger value speaks for | unit | range | options | paper |")
        parts.append("| --- | --- | --- | --- | --- | --- |")
        for d in rows:
            options = ", ".join(f"`{k}={v!r}`" for k, v in d.parameters.items()) or "none"
            low, high = (f"{x:g}".replace("inf", "∞") for x in d.range)
            parts.append(
                f"| `{d.name}` | {d.higher_means} | {d.unit} | {low} to {high} | {options} "
                f"| {paper_link(d.paper)} |"
            )
        parts.append("")
        for d in rows:
            each = {"text": "", "token": " One value per token.", "word": " One value per word."}
            marks = " *Experimental.*" if d.experimental else ""
            reads = ", ".join(f"`{name}`" for name in d.reads)
            reads = f" Reads {reads}." if reads else ""
            parts.append(f"- **`{d.name}`**: {d.summary}{each[d.shape]}{marks}{reads}")
        parts.append("")
    return "\n".join(parts)


def cli() -> str:
    """Help of every command, from the command line itself."""
    import typer.main

    from nll.cli._app import app

    return "\n".join(command_help(typer.main.get_command(app), "nll", 2))


def command_help(command: Any, path: str, level: int) -> Iterator[str]:
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    yield f"{'#' * level} `{path}`\n"
    yield re.sub(r"\s*\f?\x08\s*", "\n\n", command.help or "").strip() + "\n"
    rows = [row for p in parameters if (row := parameter_row(p))]
    if rows:
        yield "| argument or option | meaning | default |\n| --- | --- | --- |"
        yield "\n".join(rows) + "\n"
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from command_help(inner, f"{path} {name}", level + 1)


def parameter_row(parameter: Any) -> str:
    if parameter.name in {"help", "install_completion", "show_completion"}:
        return ""
    shown = (
        ", ".join([*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "option"
        else (parameter.metavar or parameter.name.upper())
    )
    default = (
        ""
        if parameter.default in (None, (), []) or callable(parameter.default)
        else (f"`{parameter.default}`")
    )
    meaning = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
    return f"| `{shown}` | {meaning} | {default} |"
