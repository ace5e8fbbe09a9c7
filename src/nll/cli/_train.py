"""`nll train`: unlearning, preferences, offline RL, RL from verified answers, fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from nll.cli import _options as o
from nll.cli._shared import takes
from nll.cli._terminal import Interrupted, plain, progress, say

if TYPE_CHECKING:
    from nll.runs._train import Trained
    from nll.training._forecast import Forecast

train_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@train_app.callback()
def train() -> None:
    """Change what a model finds likely, on the trainer of transformers.

    \b
    Several processes: accelerate launch --num_processes 2 -m nll train ...
    Example: nll train unlearn --data forget.jsonl --retain-data keep.jsonl -o out
    """


class Common(NamedTuple):
    """What all trainers take."""

    settings: dict[str, Any]
    source: Any
    out: Path
    resume: bool
    dry_run: bool


Data = Annotated[
    list[str],
    typer.Option(
        "--data",
        "-d",
        help="Rows: .jsonl, .csv, .parquet, a folder, s3://, hf://NAME?split=train; repeat it.",
        metavar="FILE",
        show_default=False,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="Model to compare with. [default: the model before training, or columns ref_*]",
        metavar="MODEL",
    ),
]
Beta = Annotated[float | None, typer.Option(help="Of the objective. [default: the paper's]")]


def common(
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder to write.", metavar="DIR", show_default=False),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Hub id or folder. [default: the embedded model]", metavar="MODEL"
        ),
    ] = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option(help="Held-out rows, whose loss is told at each save.", metavar="FILE"),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Call a column otherwise: prompt=question.", metavar="NEW=OLD"),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help=r"Such as 'Question: {prompt}\nAnswer: {completion}'.", metavar="TEXT"),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the rows.", min=0.0)] = 1.0,
    max_steps: Annotated[
        int | None, typer.Option(help="Updates, instead of --epochs.", min=1)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate. [default: 1e-5; 1e-4 with --lora]", min=0.0),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a micro-batch.", min=1)] = 8,
    accumulate: Annotated[int, typer.Option(help="Micro-batches to an update.", min=1)] = 1,
    max_length: Annotated[
        int, typer.Option(help="Tokens; longer rows lose the prompt's beginning.", min=2)
    ] = 1024,
    warmup: Annotated[float, typer.Option(help="Steps, or below 1 a share of all.", min=0.0)] = 0.0,
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: linear, cosine, constant_with_warmup, ...")
    ] = "linear",
    weight_decay: Annotated[float, typer.Option(help="AdamW's.", min=0.0)] = 0.0,
    max_grad_norm: Annotated[
        float, typer.Option(help="Gradients are cut to it; 0 leaves them.", min=0.0)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of order, pairs, adapters, drawing.", min=0)] = 0,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train adapters (peft) instead of all weights.")
    ] = False,
    lora_rank: Annotated[
        int | None, typer.Option(help="Implies --lora. [default: 16]", min=1)
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="To compute in: float32, or bfloat16 by autocast.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one) or cpu.")] = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, a third slower.")
    ] = False,
    save_steps: Annotated[
        int | None, typer.Option(help="Steps between checkpoints. [default: an epoch]", min=1)
    ] = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read all, show what would be done, and stop.")
    ] = False,
) -> Common:
    """What every trainer takes."""
    from nll._errors import BadInput
    from nll.runs._train import Source
    from nll.runs._train_data import renamings

    if device not in ("auto", "cpu"):
        raise BadInput(f"--device is auto or cpu, not '{device}'; CUDA_VISIBLE_DEVICES picks GPUs")
    rank = lora_rank if lora_rank is not None else 16 if lora else None
    settings = {
        "model": model, "revision": revision, "trust_remote_code": trust_remote_code,
        "epochs": epochs, "max_steps": max_steps,
        "lr": lr if lr is not None else 1e-4 if rank else 1e-5,
        "batch_size": batch_size, "accumulate": accumulate, "max_length": max_length,
        "warmup": warmup, "schedule": schedule, "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm, "seed": seed, "lora": rank, "dtype": dtype,
        "device": device, "gradient_checkpointing": gradient_checkpointing,
        "save_steps": save_steps,
    }  # fmt: skip
    source = Source(data, eval_data or (), (), renamings(column or ()), template)
    return Common(settings, source, out, resume, dry_run)


@train_app.command()
@takes(options=common)
def unlearn(
    *,
    options: Common,
    objective: Annotated[
        str, typer.Option(help="ga, wga, npo, simnpo, idk, dpo, kto or meow.")
    ] = "npo",
    retain: Annotated[str, typer.Option(help="nll, kl or none.")] = "nll",
    retain_data: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows to keep; those of --data are then to be forgotten.", metavar="FILE"
        ),
    ] = None,
    beta: Beta = None,
    alpha: Annotated[float, typer.Option(help="Weight of the retain term.")] = 1.0,
    gamma: Annotated[float, typer.Option(help="Weight of the forget term.")] = 1.0,
    delta: Annotated[float, typer.Option(help="SimNPO's margin.")] = 0.0,
    refusals: Annotated[
        Path | None,
        typer.Option(help="Lines to answer with instead (idk, dpo, kto).", metavar="FILE"),
    ] = None,
    reference: Reference = None,
) -> int:
    """Make answers less likely while others stay: prompt, completion, label (false = forget).

    \b
    Example: nll train unlearn --data forget.jsonl --retain-data keep.jsonl -o out
    Example: nll train unlearn --data tofu.csv --objective simnpo --beta 4.5 --lora -o out
    """  # fmt: skip
    from nll._errors import BadInput

    if refusals is not None and objective not in ("idk", "dpo", "kto"):
        raise BadInput(f"--refusals goes with idk, dpo and kto, not {objective}")
    options = options._replace(
        source=options.source._replace(retain=tuple(retain_data or ()), refusals=refusals)
    )
    given = {
        "objective": objective, "retain": None if retain == "none" else retain, "beta": beta,
        "alpha": alpha, "gamma": gamma, "delta": delta,
    }  # fmt: skip
    return _run("unlearn", options, given, reference)


@train_app.command()
@takes(options=common)
def preference(
    *,
    options: Common,
    objective: Annotated[str, typer.Option(help="dpo, cdpo, rpo or kto.")] = "dpo",
    beta: Beta = None,
    label_smoothing: Annotated[float, typer.Option(help="Of dpo.", min=0.0, max=0.5)] = 0.0,
    alpha: Annotated[float, typer.Option(help="Weight of rpo's nll.", min=0.0)] = 1.0,
    reference: Reference = None,
) -> int:
    """Prefer one answer to another: prompt, chosen, rejected (kto: prompt, completion, label).

    \b
    Example: nll train preference --data pairs.jsonl --objective dpo --beta 0.1 -o out
    """
    given = {"objective": objective, "label_smoothing": label_smoothing, "alpha": alpha}
    if beta is not None:
        given["beta"] = beta
    return _run("preference", options, given, reference)


@train_app.command("offline-rl")
@takes(options=common)
def offline_rl(
    *,
    options: Common,
    objective: Annotated[
        str,
        typer.Option(help="wbc, r_gold, r_lol, a_lol, a_lol_ref_free, a_lol_seq or a_lol_kl."),
    ] = "a_lol",
    clip: Annotated[float, typer.Option(help="Of importance ratios.", min=0.0)] = 0.9,
    kl_beta: Annotated[float, typer.Option(help="Of a_lol_kl.", min=0.0)] = 0.0,
    floor: Annotated[float, typer.Option(help="Of r_gold's weights.", min=0.0)] = 0.1,
    sampler: Annotated[
        str, typer.Option(help="none, priority (by advantage) or random (advantage above 0).")
    ] = "none",
    reference: Reference = None,
) -> int:
    """Learn given answers by their reward: prompt, completion, reward (a_lol: value too).

    \b
    Example: nll train offline-rl --data rated.jsonl --objective a_lol --sampler priority -o out
    """  # fmt: skip
    given = {
        "objective": objective, "clip": clip, "kl_beta": kl_beta, "floor": floor,
        "sampler": None if sampler == "none" else sampler,
    }  # fmt: skip
    return _run("offline-rl", options, given, reference)


@train_app.command()
@takes(options=common)
def rlvr(
    *,
    options: Common,
    reward: Annotated[
        list[str],
        typer.Option(
            help="exact or contains (column answer), or package.module:function; repeat it.",
            show_default=False,
        ),
    ],
    objective: Annotated[str, typer.Option(help="grpo, nsr, psr, w_reinforce or resrl.")] = "resrl",
    num_generations: Annotated[int, typer.Option(help="Answers to a prompt.", min=2)] = 8,
    max_completion_length: Annotated[int, typer.Option(help="Their length.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="They are drawn at.", min=0.01)] = 1.0,
    clip: Annotated[float, typer.Option(help="Of the ratio.", min=0.0)] = 0.2,
    clip_high: Annotated[
        float | None, typer.Option(help="Its upper side. [default: --clip]", min=0.0)
    ] = None,
    dual_clip: Annotated[
        float | None, typer.Option(help="For negative advantages.", min=1.0)
    ] = None,
) -> int:
    """Draw answers, judge them, learn from the verdicts: prompt, and what the rewards take.

    \b
    Example: nll train rlvr --data sums.jsonl --reward exact --num-generations 8 -o out
    """
    given = {
        "reward_funcs": list(reward), "objective": objective, "num_generations": num_generations,
        "max_completion_length": max_completion_length, "temperature": temperature, "clip": clip,
        "clip_high": clip_high, "dual_clip": dual_clip,
    }  # fmt: skip
    return _run("rlvr", options, given, None)


@train_app.command()
@takes(options=common)
def finetune(*, options: Common) -> int:
    """Make texts more likely: text, or prompt and completion, or messages.

    \b
    Example: nll train finetune --data notes.jsonl --epochs 3 -o out
    """
    return _run("finetune", options, {}, None)


def _run(kind: str, common: Common, given: dict[str, Any], reference: str | None) -> int:
    from nll.runs._train import dry_run, needs_packages
    from nll.runs._train import train as run

    needs_packages()
    from nll.training._job import Settings, is_main

    settings = Settings(kind, given=given, reference=reference, **common.settings)
    if common.dry_run:
        _show_forecast(dry_run(settings, common.source, common.out, resume=common.resume))
        return 0
    if is_main():
        with progress("steps") as (tell, tick):
            try:
                done = run(settings, common.source, common.out, resume=common.resume, say=tell,
                           tick=tick)  # fmt: skip
            except Interrupted:
                tell(_of_interruption(common.out))
                raise
        _show_end(done, common.out)
    else:
        run(settings, common.source, common.out, resume=common.resume)
    return 0


def _of_interruption(out: Path) -> str:
    if any(out.glob("checkpoints/checkpoint-*")):
        return f"interrupted; with --resume the same command goes on from what {out} holds"
    return f"interrupted before the first checkpoint; --resume begins {out} again"


def _show_end(done: Trained, out: Path) -> None:
    result = done.record["result"]
    if done.already:
        say(f"{out} is finished already ({result['steps']} steps); nothing to do")
        return
    losses = ""
    if result["first_loss"] is not None:
        losses = f", loss {result['first_loss']:.4f} to {result['last_loss']:.4f}"
    if "dropped" in done.record:
        losses += f"; {done.record['dropped']} rows without a reward or an advantage left out"
    say(f"{result['steps']} steps{losses}; wrote {out}")


def _show_forecast(found: Forecast) -> None:
    from nll.training._forecast import quantiles

    def line(name: str, value: str) -> None:
        typer.echo(plain(f"{name:<20} {value}"))

    line("examples", f"{found.examples:,}")
    line("texts", ", ".join(f"{n:,} {role}" for role, n in found.roles.items()))
    for name, lengths in (("tokens of a text", found.lengths), ("of them learned", found.answers)):
        low, middle, high = quantiles(lengths)
        line(name, f"{low} to {high}, median {middle}; {sum(lengths):,} in all")
    if found.cut:
        line("cut", f"{found.cut:,} texts reach --max-length; raise it, or they may be cut")
    share = found.trained / found.parameters
    line("trained weights", f"{found.trained:,} of {found.parameters:,} ({share:.2%})")
    line("steps", f"{found.steps:,} ({found.steps_an_epoch:,} an epoch)")
    total = sum(found.memory.values())
    parts = ", ".join(f"{name} {_bytes(n)}" for name, n in found.memory.items() if n)
    line("memory, about", f"{_bytes(total)} a process ({parts})")
    typer.echo("\nencoded, the tokens that count between [[ and ]]:")
    for role, spans in found.shown:
        text = "".join(f"[[{s.text}]]" if s.learned else s.text for s in spans)
        typer.echo(plain(f"  {role}: {_short(text)!r}"))
    say("nothing was trained or written (--dry-run)")


def _short(text: str, most: int = 600) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _bytes(n: int) -> str:
    size = float(n)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
