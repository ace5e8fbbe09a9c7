"""Results as pages: one per study, and the table of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_MARK = {"supported": "✔", "not supported": "✘", "inconclusive": "?"}


def page(result: Mapping[str, Any], *, figure: bool) -> str:
    """A study's result as Markdown: claim, verdict, numbers, baselines, limits, provenance."""
    lines = [
        f"# {_plain(result['title'])}",
        "",
        f"**Claim.** {_plain(result['claim'])} ({_link(result['paper'])})",
        "",
        f"**What would show it wrong.** {_plain(result['falsifier'])}",
        "",
        f"**Verdict: {result['verdict']}.** {_plain(result['why'])}",
        "",
    ]
    if figure:
        lines += [f"![{_plain(result['title'])}](figure.svg)", ""]
    for heading, rows in (("Measured", result["findings"]), ("Baselines", result["baselines"])):
        if rows:
            lines += [f"## {heading}", "", *_table(_numbers(rows)), ""]
    for title, rows in result["tables"].items():
        lines += [f"## {_plain(title)}", "", *_table(rows), ""]
    if result["notes"]:
        lines += ["## Limits", "", *(f"- {_plain(note)}" for note in result["notes"]), ""]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    lines += [
        "## How it was made",
        "",
        f"`nll study {result['slug']} --{result['mode']} --seed {result['seed']}`"
        + (f" on {result['model']}" if result["model"] else "")
        + f", {result['seconds']} s on {result['cores']} cores; {versions}.",
        "",
    ]
    return "\n".join(lines)


def evidence(folder: Path) -> str:
    """The table over all results below a folder, as Markdown: one row per paper."""
    results = [json.loads(p.read_text()) for p in sorted(folder.glob("*/result.json"))]
    rows = [
        {
            "paper": f"[{_plain(r['title'])}]({folder.name}/{r['slug']}/page.md)",
            "verdict": f"{_MARK[r['verdict']]} {r['verdict']}",
            "measured": _finding(r["findings"][0]) if r["findings"] else "",
            "baseline": _finding(r["baselines"][0]) if r["baselines"] else "",
            "why": _plain(r["why"]),
        }
        for r in results
    ]
    return "\n".join(_table(rows)) + "\n"


def _finding(row: Mapping[str, Any]) -> str:
    shown = f"{_plain(row['name'])} {_number(row['value'])}"
    if row["low"] is not None:
        shown += f" [{_number(row['low'])}, {_number(row['high'])}]"
    return shown


def _numbers(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "": r["name"],
            "value": r["value"],
            "95% interval": ""
            if r["low"] is None
            else f"{_number(r['low'])} to {_number(r['high'])}",
            "n": r["n"] or "",
        }
        for r in rows
    ]


def _table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    head = list(rows[0])
    out = ["| " + " | ".join(map(_plain, head)) + " |", "|" + " --- |" * len(head)]
    out += ["| " + " | ".join(_number(r.get(name, "")) for name in head) + " |" for r in rows]
    return out


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if text.startswith("[") else _plain(text)


def _plain(text: str) -> str:
    """Text that cannot become markup or break a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _link(paper: str) -> str:
    if paper[:4].isdigit():
        return f"[arXiv {paper}](https://arxiv.org/abs/{paper})"
    return _plain(paper)
