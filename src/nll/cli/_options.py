"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Texts: .txt, .jsonl, .csv, .tsv, .parquet, packed too (.gz, .zst, ...), a folder, a "
        "URL, or - for standard input.",
        metavar="INPUT",
        show_default=False,
    ),
]
Scores = Annotated[
    list[str] | None,
    typer.Option(
        "--score",
        help="A score, or 'name(option=value)', or all; repeat it for more. See: nll scores",
        metavar="SCORE",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="File to write.", metavar="FILE"),
]
TextColumn = Annotated[
    str | None,
    typer.Option(help="Column of the text. [default: text, or prompt and completion, or messages]"),
]
PromptColumn = Annotated[
    str | None, typer.Option(help="Column of a prompt, which is read but not scored.")
]
CompletionColumn = Annotated[
    str | None, typer.Option(help="Column of the completion, which is scored.")
]
IdColumn = Annotated[
    str | None, typer.Option(help="Column of the ids. [default: id if there, else file:line]")
]
Lines = Annotated[bool, typer.Option("--lines", help="Plain text files hold one text per line.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Hub id or folder of a causal language model, or http://host/v1, openai:NAME, "
        "replay:FILE, vllm:NAME, llamacpp:FILE. [default: the embedded model]",
    ),
]
Reference = Annotated[
    str | None, typer.Option(help="A second model, for scores that compare two.", metavar="MODEL")
]
Revision = Annotated[str | None, typer.Option(help="Revision of the model on the hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the model's folder run code of its own.")
]
Dtype = Annotated[
    str, typer.Option(help="Of the backbone: float32, bfloat16, float16, int8 (CPU), auto.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Bos = Annotated[
    str, typer.Option(help="What stands before the first token: auto, none, bos, or a token.")
]
Stride = Annotated[
    int | None,
    typer.Option(help="Step of the windows over texts longer than the context.", min=1),
]
TopK = Annotated[
    int | None,
    typer.Option(help="Alternatives to keep at each token. [default: what is needed]", min=0),
]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens per forward pass.", min=1)]
FailOnError = Annotated[
    bool, typer.Option("--fail-on-error", help="Stop at the first text that cannot be scored.")
]
NSamples = Annotated[
    int, typer.Option(help="Answers to draw for each prompt, for scores of samples.", min=1)
]
Temperature = Annotated[float, typer.Option(help="At which answers are drawn.", metavar="T")]
MaxNewTokens = Annotated[
    int, typer.Option(help="Length at which a generated answer is cut.", min=1)
]
Seed = Annotated[int, typer.Option(help="Of drawn answers and varied texts.", min=0)]
Perturb = Annotated[
    str | None,
    typer.Option(
        help="How texts are perturbed for scores that ask for it: spans (30% of the words, in "
        "pairs) or words (one word); words of the same text stand in.",
        metavar="WAY",
    ),
]
Neighbours = Annotated[
    str | None,
    typer.Option(help="How neighbours of texts are made: words or spans.", metavar="WAY"),
]
Copies = Annotated[
    int, typer.Option(help="Perturbed texts or neighbours to make of each text.", min=1)
]
Engine = Annotated[
    str,
    typer.Option(help="Where the model runs: local (this process), or ray (workers of a cluster)."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="The Ray cluster: auto, HOST:PORT or ray://HOST:PORT. [default: one on this machine]"
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Workers of the cluster. [default: as many as there is room for]")
]
WorkerCpus = Annotated[float, typer.Option(help="CPUs that each worker takes.")]
WorkerGpus = Annotated[float, typer.Option(help="GPUs that each worker takes.")]
NSamplesOrNone = Annotated[
    int,
    typer.Option(help="Answers to draw for each question, for the scores of samples.", min=0),
]
Label = Annotated[
    str | None,
    typer.Option(
        help="Column with two labels: shows how well each score tells them apart.",
        metavar="COLUMN",
        show_default=False,
    ),
]
Positive = Annotated[
    str | None,
    typer.Option(help="The label that means yes, or what label 1 means: correct, human, ..."),
]
Fit = Annotated[
    str | None,
    typer.Option(
        help="Labelled texts of yours (column label, or --label) to fit a threshold on.",
        metavar="FILE",
        show_default=False,
    ),
]
Fpr = Annotated[
    float, typer.Option(help="Share of the negatives of --fit that may be flagged.", min=0, max=1)
]
Given = Annotated[
    bool | None,
    typer.Option(
        "--given/--own",
        help="Judge the answers in the data, or the model's own. [default: those in the data when "
        "there are any]",
        show_default=False,
    ),
]
