"""`nll parity`: how far two sources of the same model are apart on the user's own texts."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nll.cli import _options as o
from nll.cli._terminal import plain, progress, say

if TYPE_CHECKING:
    from nll.models import Parity

_SHOWN = 5


def parity(
    a: Annotated[str, typer.Argument(help="A model, as for --model; - for the embedded one.")],
    b: Annotated[str, typer.Argument(help="Another source of it: a server, a recording, ...")],
    inputs: o.Inputs,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of a token's log p, nats.", min=0.0)
    ] = 1e-3,
    as_json: Annotated[bool, typer.Option("--json", help="The certificate as JSON.")] = False,
    lines: o.Lines = False,
    text_column: o.TextColumn = None,
    prompt_column: o.PromptColumn = None,
    completion_column: o.CompletionColumn = None,
    id_column: o.IdColumn = None,
) -> int:
    """Compare two sources token by token on your own texts, and certify how far they are apart.

    \b
    Tokens are matched by their place in the text. Exit code 1 when a token's log p differs by more
    than the tolerance, or one source scores a text or token that the other does not.
    Example: nll parity Qwen/Qwen3-0.6B http://localhost:8000/v1 texts.jsonl --tolerance 0.05
    """
    from nll._errors import BadInput
    from nll.models import load
    from nll.models import parity as certify
    from nll.runs import Columns, read_rows

    columns = Columns(text_column, prompt_column, completion_column, id_column, lines)
    rows = list(read_rows(inputs, columns))
    texts = [row.text for row in rows if row.text is not None]
    if not texts:
        raise BadInput("none of the rows is a text, so there is nothing to compare")
    with progress() as (_, tick):
        one, two = (load(None if name == "-" else name) for name in (a, b))
        found = certify(one, two, texts, tick=tick)
    fine = found.within(tolerance)
    if as_json:
        line = {**found.to_json(), "tolerance": tolerance, "within": fine}
        sys.stdout.write(json.dumps(line, indent=2, ensure_ascii=False) + "\n")
    else:
        _show(found)
    bad = len(rows) - len(texts)
    more = f"; {bad} rows are no texts and were left out" if bad else ""
    verdict = "within" if fine else "NOT within"
    say(f"{verdict} the tolerance of {tolerance:g} nats a token{more}")
    return 0 if fine else 1


def _show(found: Parity) -> None:
    def line(name: str, value: str) -> None:
        typer.echo(plain(f"{name:<22} {value}"))

    line("a", found.a)
    line("b", found.b)
    line("texts", str(found.texts))
    line("tokens compared", str(found.tokens))
    if found.only_a or found.only_b:
        line("not in both", f"{found.only_a} in a only, {found.only_b} in b only")
    for d in found.fields:
        line(f"|{d.field} a - b|", f"max {d.largest:.3g}, mean {d.mean:.3g} ({d.compared} values)")
    if not math.isnan(found.per_text):
        line("a text's sum", f"max {found.per_text:.3g}")
    if found.worst is not None:
        w = found.worst
        where = f"text {w.text}, characters {w.start}-{w.end}"
        line("worst token", f"{w.token!r} ({where}): {w.a:.6f} and {w.b:.6f}")
    for name, missing in (("a", found.missing_a), ("b", found.missing_b)):
        if missing:
            line(f"{name} does not hold", ", ".join(missing))
    for name, rejected in (("a", found.rejected_a), ("b", found.rejected_b)):
        for r in rejected[:_SHOWN]:
            line(f"{name} refused", f"text {r.index}: {r.detail}")
        if len(rejected) > _SHOWN:
            line(f"{name} refused", f"{len(rejected) - _SHOWN} more")
