"""The commands: each hands its options to `nll.runs` and shows what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nll.cli import _options as o
from nll.cli._audit import audit_app
from nll.cli._eval import eval_command
from nll.cli._parity import parity
from nll.cli._questions import detect, membership, ood, uncertainty
from nll.cli._serve import serve_command
from nll.cli._shared import cluster, columns, done, gather_options, model_options, takes
from nll.cli._study import study
from nll.cli._terminal import progress, say
from nll.cli._train import train_app
from nll.cli._unlearn import unlearn_report

if TYPE_CHECKING:
    from nll.runs import Cluster, Columns, GatherOptions, ModelOptions

app = typer.Typer(
    name="nll",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
model_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        from nll import __version__

        typer.echo(f"nll {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run a language model over texts once; score, explain and store what it says.

    \b
    Exit codes: 0 all texts scored, 1 some rejected (see OUT.rejected.jsonl), 2 wrong usage.
    Example: nll report examples/ -o report.html
    """


@app.command(short_help="Show texts as token heat maps, in one HTML file.")
@takes(columns=columns, options=model_options, more=gather_options)
def report(
    inputs: o.Inputs,
    *,
    out: o.Out = Path("report.html"),
    score: o.Scores = None,
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions,
    fail_on_error: o.FailOnError = False,
) -> int:
    """Show texts as token heat maps with all their scores, in one HTML file.

    \b
    Also takes stored traces. Scores: all, unless some are named.
    Example: nll report essay.txt answers.jsonl -o report.html
    """
    from nll.cli._show import show_table
    from nll.runs import report_data, title_of
    from nll.web import Drawing, write_report

    out = out or Path("report.html")
    drawing = Drawing()
    with progress() as (tell, tick):
        outcome, table = report_data(
            inputs, out, score or ["all"], columns, options, more, draw=drawing.add,
            say=tell, tick=tick, fail_on_error=fail_on_error,
        )  # fmt: skip
    write_report(out, drawing, table, title=title_of(inputs))
    show_table(table)
    return done(outcome, out)


@app.command("score")
@takes(columns=columns, options=model_options, more=gather_options, cluster=cluster)
def score_command(
    inputs: o.Inputs,
    *,
    score: o.Scores = None,
    out: o.Out = None,
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions,
    cluster: Cluster | None,
    fail_on_error: o.FailOnError = False,
) -> int:
    """Score texts, or stored traces without running any model.

    \b
    Scores: all that a plain trace of the text can give, unless some are named.
    Writes Parquet, JSON lines or CSV by the suffix of -o, else a table on the terminal.
    An interrupted run that is started again goes on where it stopped.
    For scores of samples the text (or its prompt) is what the drawn answers answer.
    Example: nll score data.jsonl --score min_k_prob --score 'min_k_prob(k=0.1)' -o out.parquet
    Example: nll score questions.jsonl --score semantic_entropy --n-samples 10 -o out.parquet
    Example: nll score shards/ --engine ray --address auto --worker-gpus 1 -o out.parquet
    """
    from nll.cli._show import show_table
    from nll.runs import score_to

    with progress() as (tell, tick):
        outcome, table = score_to(
            inputs, out, score or ["all"], columns, options, more, cluster,
            say=tell, tick=tick, fail_on_error=fail_on_error,
        )  # fmt: skip
    if table is not None:
        show_table(table)
    return done(outcome, out)


@app.command(short_help="Store what the model says about every token.")
@takes(columns=columns, options=model_options, more=gather_options, cluster=cluster)
def trace(
    inputs: o.Inputs,
    *,
    out: o.Out = Path("traces.parquet"),
    score: o.Scores = None,
    columns: Columns,
    options: ModelOptions,
    more: GatherOptions,
    cluster: Cluster | None,
    fail_on_error: o.FailOnError = False,
) -> int:
    """Store what the model says about every token, to be scored later without it.

    \b
    --score names scores that are to be computed later, so that what they need is kept: drawn
    answers for scores of samples, the text in lower case, under a second model, ...
    Example: nll trace texts/ -o traces.parquet, then: nll score traces.parquet --score lrr
    Example: nll trace questions.jsonl --score predictive_entropy -o answers.parquet
    """
    from nll.runs import trace_to

    out = out or Path("traces.parquet")
    with progress() as (tell, tick):
        outcome = trace_to(
            inputs, out, score or [], columns, options, more, cluster,
            say=tell, tick=tick, fail_on_error=fail_on_error,
        )  # fmt: skip
    return done(outcome, out)


app.command(short_help="How sure is the model of its answers?")(uncertainty)
app.command(short_help="Was the model trained on these texts?")(membership)
app.command(short_help="Did a machine write these texts?")(detect)
app.command(short_help="Are these texts foreign to the model?")(ood)


@app.command(short_help="List every score: direction, unit, needs, paper.")
def scores(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with all details.")] = False,
) -> None:
    """List every score with direction, unit, what it reads of a trace, and its paper.

    \b
    Example: nll scores --json
    """
    from nll.cli._show import show_scores

    show_scores(as_json)


@model_app.callback()
def model_command(context: typer.Context) -> None:
    """Show where the embedded model is; `nll model install` fetches and converts it.

    \b
    Example: nll model install
    """
    if context.invoked_subcommand is not None:
        return
    from nll.models import converted_folder, find_gguf

    folder, source = converted_folder(), find_gguf()
    if (folder / "config.json").is_file():
        typer.echo(f"ready: {folder}")
    elif source is not None:
        typer.echo(f"there, converted on first use (half a minute): {source}")
    else:
        typer.echo("not installed; run: nll model install")


@model_app.command("install")
def install() -> None:
    """Fetch the embedded model (about 95 MB) if it is not there, and convert it.

    \b
    Example: nll model install
    """
    from nll.models import install_embedded

    typer.echo(f"ready: {install_embedded(say)}")


app.command("eval", short_help="How well does each score tell two labels apart?")(eval_command)
app.command(short_help="How far are two sources of one model apart?")(parity)
app.command("serve", short_help="Serve a model over HTTP, with a page to try it.")(serve_command)
app.command(short_help="Measure a paper's claim on this machine.")(study)
app.command("unlearn-report", short_help="What did a model forget, and keep?")(unlearn_report)
app.add_typer(model_app, name="model", short_help="Where the embedded model is; install it.")
app.add_typer(audit_app, name="audit", short_help="What does an endpoint of yours give away?")
app.add_typer(train_app, name="train", short_help="Unlearn, prefer, reinforce, fine-tune.")
