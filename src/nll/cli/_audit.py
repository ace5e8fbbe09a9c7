"""`nll audit`: what a model or an endpoint of one's own gives away."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nll.cli import _options as o
from nll.cli._terminal import plain, progress, say

if TYPE_CHECKING:
    from nll.runs._leakage import Audit

audit_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_WIDE = 10_000


@audit_app.callback()
def audit() -> None:
    """Look at one's own model or endpoint through the eyes of someone who has only its answers.

    \b
    Example: nll audit leakage -o leakage.html
    """


@audit_app.command()
def leakage(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts to ask about, as for nll score. [default: made-up rows of words]",
            metavar="INPUT",
            show_default=False,
        ),
    ] = None,
    model: o.Model = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="A server of your own instead, such as http://localhost:8000/v1; on this machine "
            "or a private network.",
            metavar="URL",
        ),
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Of the server's model: how many tokens it has.", min=2)
    ] = None,
    token_ids: Annotated[
        Path | None,
        typer.Option(
            help="Of the server's model: a JSON object string -> id, for servers that name tokens "
            "by strings.",
            metavar="FILE",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Values shown. [default: all; 5 of a server]", min=0, max=1_000_000),
    ] = None,
    logit_bias: Annotated[
        bool, typer.Option("--logit-bias", help="Requests may add to logits.")
    ] = False,
    bias_hidden: Annotated[
        bool,
        typer.Option("--bias-hidden", help="A bias moves the choice, not the values shown."),
    ] = False,
    decimals: Annotated[
        int | None, typer.Option(help="To which values are rounded.", min=0, max=15)
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Standard deviation added to each value, nats.", min=0.0),
    ] = None,
    contexts: Annotated[
        int | None,
        typer.Option(help="To ask about. [default: 1.5 times the hidden size]", min=2),
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(help="Tokens to look at. [default: twice the hidden size]", min=2),
    ] = None,
    compare: Annotated[bool, typer.Option(help="Try other settings too: what hides what.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write .html or .json.", metavar="FILE")
    ] = None,
    lines: o.Lines = False,
    text_column: o.TextColumn = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    dtype: o.Dtype = "float32",
    device: o.Device = "auto",
    seed: Annotated[int, typer.Option(help="Of contexts, columns and noise.", min=0)] = 0,
) -> None:
    """Audit your own endpoint: hidden size and output layer from the log-probabilities it shows.

    \b
    By default an endpoint is simulated around --model, and other settings are tried beside it.
    With --endpoint a running server is asked, one request a query; --model is then its name there.
    Example: nll audit leakage --top-k 20 --logit-bias --decimals 3 -o leakage.html
    """
    from nll.runs import _leakage as runs
    from nll.runs._atomic import write_atomic
    from nll.runs._output import check_output

    if out is not None:
        check_output(out, (".html", ".json"), list(inputs or ()))
    setting: dict[str, Any] = {"top_k": top_k, "decimals": decimals, "noise": noise}
    setting = {k: v for k, v in setting.items() if v is not None}
    if logit_bias:
        setting["logit_bias"] = True
    if bias_hidden:
        setting["bias_reported"] = False
    texts = runs.read_texts(inputs or (), text_column=text_column, lines=lines)
    with progress("contexts") as (tell, tick):
        if endpoint is not None:
            server = runs.open_server(
                endpoint, model, setting, vocabulary=vocabulary, token_ids=token_ids
            )
            found = runs.audit_http(
                server, texts=texts, contexts=contexts, columns=columns, seed=seed, tick=tick
            )
            server.close()
        else:
            runs.check_local(vocabulary=vocabulary, token_ids=token_ids)
            found = runs.audit_model(
                runs.open_model(
                    model, dtype=dtype, device=device, revision=revision,
                    trust_remote_code=trust_remote_code,
                ),
                setting, texts=texts, contexts=contexts, columns=columns, compare=compare,
                seed=seed, say=tell, tick=tick,
            )  # fmt: skip
    if out is not None and out.suffix.lower() == ".html":
        from nll.web._leakage import write_audit

        write_audit(out, found)
    elif out is not None:
        write_atomic(out, runs.as_json(found))
    _show(found)
    for line in (*found.notes, runs.reading(found), runs.LIMITS):
        say(line)
    if out is not None:
        say(f"wrote {out}")


def _show(audit: Audit) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nll.runs._leakage import rows_of

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("settings", "hidden size", "gap", "outside image", "output layer error",
                 "queries a full row", "left open", "leaks"):  # fmt: skip
        shown.add_column(head, justify="left" if head in ("settings", "leaks") else "right")
    for i, row in enumerate(rows_of(audit)):
        cells = [
            row["setting"],
            "-" if row["dimension"] is None else str(row["dimension"]),
            *(_cell(row[name]) for name in ("gap", "held_out", "projection_rms")),
            "-" if row["queries_per_full_row"] is None else f"{row['queries_per_full_row']:,.0f}",
            _cell(row["unseen_tv"]),
            ", ".join(row["leaks"]) or "nothing found",
        ]
        shown.add_row(*(Text(plain(c)) for c in cells), style="bold" if i == 0 else None)
    (Console() if sys.stdout.isatty() else Console(width=_WIDE)).print(shown)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
