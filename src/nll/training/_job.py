"""One training job from settings to a written model; what `nll train` runs."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from nll._errors import BadInput, BadModel, MissingExtra, first_line
from nll.models._embedded import NAME, embedded_folder, quiet
from nll.models._load import _refuse_unsafe
from nll.training._group import GroupRLTrainer
from nll.training._learn import FinetuneTrainer, OfflineRLTrainer
from nll.training._preference import PreferenceTrainer
from nll.training._rewards import reward_of
from nll.training._rows import Row
from nll.training._trainer import LikelihoodTrainer
from nll.training._unlearn import UnlearnTrainer

TRAINERS: dict[str, type[LikelihoodTrainer]] = {
    "unlearn": UnlearnTrainer,
    "preference": PreferenceTrainer,
    "offline-rl": OfflineRLTrainer,
    "rlvr": GroupRLTrainer,
    "finetune": FinetuneTrainer,
}
DTYPES = ("float32", "bfloat16")
WHOLE = "whole"  # the file that says that a checkpoint was written to its end


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the weights, beside the rows.

    model: hub id or folder, None for the embedded one.   given: the trainer's own keywords, such as
    `objective`; `reward_funcs` by their names.   lora: rank of adapters, None trains all weights.
    dtype: `bfloat16` computes in it by autocast; the weights that are trained stay float32.
    warmup: steps, or below 1 a share of all.   accumulate: micro-batches to an update.
    """

    kind: str
    model: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    epochs: float = 1.0
    max_steps: int | None = None
    lr: float = 5e-5
    batch_size: int = 8
    accumulate: int = 1
    max_length: int = 1024
    warmup: float = 0.0
    schedule: str = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    lora: int | None = None
    dtype: str = "float32"
    device: str = "auto"
    gradient_checkpointing: bool = False
    save_steps: int | None = None


def is_main() -> bool:
    """Whether this process speaks and writes for all of a launch."""
    return os.environ.get("RANK", "0") == "0"


def source_of(model: str | None, trust_remote_code: bool, say: Callable[[str], None]) -> str:
    """What transformers opens. Raises BadModel for a server, a recording or an unsafe folder."""
    if model is None:
        return str(embedded_folder(say))
    if "://" in model or (":" in model and not Path(model).exists()):
        raise BadModel(f"{model} cannot be trained; name a hub id or a folder with weights")
    _refuse_unsafe(model, trust_remote_code)
    return model


def opened(settings: Settings, name: str, *, empty: bool = False) -> Any:
    """The network of a folder or hub id in float32; `empty`: its shape alone, without weights."""
    common: dict[str, Any] = {
        "trust_remote_code": settings.trust_remote_code, "revision": settings.revision,
    }  # fmt: skip
    with _told(name), quiet():
        if empty:
            config = AutoConfig.from_pretrained(name, **common)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(
                    config, trust_remote_code=settings.trust_remote_code, dtype=torch.float32
                )
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, **common
        )


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise BadModel(f"cannot load the model {name}: {first_line(error)}") from None


def trainer_of(
    settings: Settings,
    rows: Sequence[Row],
    eval_rows: Sequence[Row] | None,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    empty: bool = False,
) -> LikelihoodTrainer:
    """The trainer of these settings, its rows read and encoded.

    empty: with models of which only the shape is there, for what is to be known beforehand.
    """
    if settings.dtype not in DTYPES:
        raise BadInput(f"dtype must be one of {', '.join(DTYPES)}, not {settings.dtype!r}")
    name = source_of(settings.model, settings.trust_remote_code, say)
    with _told(name), quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    set_seed(settings.seed)
    model = opened(settings, name, empty=empty)
    given = dict(settings.given)
    if "reward_funcs" in given:
        given["reward_funcs"] = [reward_of(r) for r in given["reward_funcs"]]
    if settings.reference is not None:
        other = source_of(settings.reference, settings.trust_remote_code, say)
        given["ref_model"] = opened(settings, other, empty=empty)
    if settings.lora is not None:
        given["peft_config"] = _adapters(settings.lora)
        if settings.gradient_checkpointing:
            model.enable_input_require_grads()
    with warnings.catch_warnings():
        # peft warns of tied embeddings, which adapters on linear layers do not touch, and asks
        # transformers in words that its newer versions find old.
        warnings.filterwarnings("ignore", module="peft")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        trainer = TRAINERS[settings.kind](
            model, arguments(settings, folder, eval_rows is not None), train_dataset=rows,
            eval_dataset=eval_rows, processing_class=tokenizer, max_length=settings.max_length,
            **given,
        )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adapters(rank: int) -> Any:
    try:
        from peft import LoraConfig
    except ImportError:
        raise MissingExtra('adapters need peft; run: pip install "nll[train]"') from None
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def arguments(settings: Settings, folder: Path, evaluated: bool) -> TrainingArguments:
    """The settings in transformers' words. Raises BadInput for one that it refuses."""
    when = "steps" if settings.save_steps else "epoch"
    try:
        return TrainingArguments(
            str(folder),
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps or -1,
            learning_rate=settings.lr,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulate,
            warmup_steps=settings.warmup if settings.warmup < 1 else int(settings.warmup),
            lr_scheduler_type=settings.schedule,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            seed=settings.seed,
            bf16=settings.dtype == "bfloat16",
            use_cpu=settings.device == "cpu",
            save_strategy=when,
            save_steps=settings.save_steps or 500,
            save_total_limit=2,
            eval_strategy=when if evaluated else "no",
            eval_steps=settings.save_steps,
            logging_steps=1,
            optim="adamw_torch",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available() and settings.device != "cpu",
            **_checkpointing(settings),
        )
    except (ValueError, TypeError) as error:
        raise BadInput(f"these settings cannot be: {first_line(error)}") from None


def _checkpointing(settings: Settings) -> dict[str, bool]:
    if not settings.gradient_checkpointing:
        return {}
    new = "activation_checkpointing"  # its name since transformers 5.20 or so
    return {
        new if new in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing": True
    }


@contextmanager
def _silent() -> Iterator[None]:
    """transformers' own bars and remarks would stand between the lines of progress."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with quiet():
            yield
    finally:
        logging.set_verbosity(before)


def run(
    trainer: LikelihoodTrainer,
    folder: Path,
    *,
    resume: bool,
    say: Callable[[str], None],
    tick: Callable[[int], None],
) -> dict[str, Any]:
    """Train; with `resume` from the last whole checkpoint in `folder`. The numbers of the end."""
    trainer.add_callback(_Tell(say, tick))
    found = last_checkpoint(folder) if resume else None
    if is_main():
        for torn in checkpoints(folder):
            if not (torn / WHOLE).exists():
                shutil.rmtree(torn)
    trainer.accelerator.wait_for_everyone()
    if found is not None:
        say(f"going on from step {found.name.rpartition('-')[2]}")
    with _silent():
        done = trainer.train(resume_from_checkpoint=None if found is None else str(found))
    history = trainer.state.log_history
    first = next((line["loss"] for line in history if "loss" in line), None)
    last = next((line["loss"] for line in reversed(history) if "loss" in line), None)
    held_out = next((h["eval_loss"] for h in reversed(history) if "eval_loss" in h), None)
    return {
        "steps": done.global_step, "first_loss": first, "last_loss": last, "eval_loss": held_out,
        "processes": trainer.args.world_size, "device": str(trainer.args.device),
        "log": [line for line in history if "loss" in line or "eval_loss" in line],
    }  # fmt: skip


def checkpoints(folder: Path) -> list[Path]:
    """Those in a folder, the earliest first."""
    return sorted(
        (p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()),
        key=lambda p: int(p.name[11:]),
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The last one that was written to its end; a run may be killed in the middle of writing."""
    return next((p for p in reversed(checkpoints(folder)) if (p / WHOLE).exists()), None)


def save(trainer: LikelihoodTrainer, folder: Path) -> list[str]:
    """Write model and tokenizer, adapters merged in (and beside, in `adapter/`); what was written.

    All processes call it. Cut weights (FSDP, DeepSpeed) are gathered by transformers; adapters on
    them are then written alone.
    """
    cut = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if cut:
        trainer.save_model(str(folder))
    elif is_main():
        model = trainer.accelerator.unwrap_model(trainer.model)
        with quiet():
            if hasattr(model, "merge_and_unload"):
                model.save_pretrained(folder / "adapter")
                model = model.merge_and_unload()
            model.save_pretrained(folder)
    if is_main():
        trainer.encoder.tokenizer.hf.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    return sorted(p.name for p in folder.iterdir()) if is_main() else []


def versions() -> dict[str, str]:
    """Of the packages that decide the numbers."""
    out = {}
    for name in ("torch", "transformers", "accelerate", "peft", "deepspeed"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def model_name(settings: Settings) -> str:
    """The model as it is named in records."""
    return settings.model or NAME


class _Tell(TrainerCallback):  # type: ignore[misc]
    """Progress, log lines, and the mark of a checkpoint that was written to its end."""

    def __init__(self, say: Callable[[str], None], tick: Callable[[int], None]):
        self.say, self.tick = say, tick
        self.told = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tick(1)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        every = max(1, state.max_steps // 20)
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            self.say(f"step {state.global_step}: held-out loss {logs['eval_loss']:.4f}")
        elif "loss" in logs and (state.global_step % every == 0 or state.global_step == 1):
            more = "".join(
                f", {name.replace('_', ' ')} {value:.4g}" for name, value in logs.items()
                if name not in ("loss", "epoch", "learning_rate")
            )  # fmt: skip
            step = f"step {state.global_step} of {state.max_steps}"
            self.say(f"{step}: loss {logs['loss']:.4f}{more}")
