"""`nll study`: run a paper's study and show its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nll.cli._terminal import plain, say


def study(
    slugs: Annotated[
        list[str] | None, typer.Argument(help="Studies to run.", metavar="SLUG", show_default=False)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the studies and stop.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Run all studies.")] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick", help="The paper's size, or a small one: 3 to 70 minutes on two cores."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results.", metavar="DIR")
    ] = Path("studies"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of data sets that nll may not carry, one folder a study.", metavar="DIR"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model under study. [default: embedded]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all draws.", min=0)] = 0,
) -> int:
    """Measure a paper's claim on this machine: verdict, numbers with intervals, figure, page.

    \b
    Writes OUT/SLUG/result.json, figure.svg and page.md. Where one study fails, the others go on.
    Example: nll study g-nll --quick -o studies
    """
    from nll._errors import BadInput, NllError
    from nll.studies import Setting, run_study, studies

    known = studies()
    if listed:
        for s in known.values():
            typer.echo(f"{s.slug:24s} {plain(s.title)} ({s.paper})")
        return 0
    chosen = list(known) if every else list(slugs or [])
    if not chosen:
        raise BadInput("name a study, or --all; `nll study --list` shows them")
    for slug in chosen:
        if slug not in known:
            raise BadInput(f"unknown study '{slug}'; `nll study --list` names them")
    failed = 0
    for slug in chosen:
        try:
            setting = Setting(quick=not full, seed=seed, model_name=model, data=data, say=say)
            result = run_study(slug, setting, out)
        except NllError as error:
            if len(chosen) == 1:
                raise
            failed += 1
            say(f"{slug}: {error}")
            continue
        _show(result)
        say(f"wrote {out / slug}")
    return 1 if failed else 0


def _show(result: dict[str, object]) -> None:
    from nll.studies import Finding

    typer.echo(plain(f"claim: {result['claim']}"))
    for kind in ("findings", "baselines"):
        rows = result[kind]
        if isinstance(rows, list):
            for row in rows:
                typer.echo(plain(f"  {kind[:-1]}: {Finding(**row)}"))
    typer.echo(plain(f"verdict: {result['verdict']}. {result['why']}"))
