"""A training run on disk: refuse what would overwrite, go on where it stopped, write it whole."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nll._errors import BadInput, MissingExtra
from nll.runs._atomic import TEMPORARY, sync, telling, write_atomic
from nll.runs._train_data import PLAIN, Template, digest, read_table, templated

if TYPE_CHECKING:
    from nll.training._forecast import Forecast
    from nll.training._job import Settings

RECORD, PLAN, LOG = "training.json", "run.json", "log.jsonl"
CHECKPOINTS = "checkpoints"
# What may differ between a run and its resumption: neither changes the weights.
_FREE = ("save_steps", "device")


class Source(NamedTuple):
    """Where rows come from and how they are read.

    retain: rows to keep, for unlearning; those of `data` without a label are then to be forgotten.
    """

    data: Sequence[str]
    eval_data: Sequence[str] = ()
    retain: Sequence[str] = ()
    renamed: Mapping[str, str] = {}
    template: str | None = None
    refusals: Path | None = None


class Rows(NamedTuple):
    """Rows as the trainers take them."""

    train: list[Any]
    held_out: list[Any] | None
    refusals: list[str] | None


class Trained(NamedTuple):
    """What became of a run; `already` when nothing was left to do."""

    record: Mapping[str, Any]
    already: bool


def rows_of(kind: str, source: Source, given: Mapping[str, Any]) -> Rows:
    """All rows, with their places. Raises BadInput for lines and values that cannot be used."""
    needs_packages()
    from nll.training._rewards import needs_answer
    from nll.training._rows import Placed

    template = PLAIN if source.template is None else Template.of(source.template)

    def read(inputs: Sequence[str], **more: Any) -> list[Any]:
        held = read_table(inputs, renamed=source.renamed)
        return [Placed({**more, **templated(r.values, template)}, r.where) for r in held]

    label: dict[str, Any] = {"label": False} if source.retain else {}
    train = read(source.data, **label)
    if source.retain:
        train += [Placed({**row, "label": True}, row.where) for row in read(source.retain)]
    held_out = read(source.eval_data) if source.eval_data else None
    if kind == "rlvr" and needs_answer(given["reward_funcs"]):
        for row in (*train, *(held_out or ())):
            if row.get("answer") is None:
                raise BadInput(f"{row.where} has no 'answer', which the reward compares with")
    refusals = None
    if source.refusals is not None:
        try:
            lines = source.refusals.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{source.refusals} cannot be read: {error}") from None
        refusals = [template.completion(line.strip()) for line in lines if line.strip()]
        if not refusals:
            raise BadInput(f"{source.refusals} holds no line to answer with")
    return Rows(train, held_out, refusals)


def needs_packages() -> None:
    """Raise MissingExtra where training cannot be."""
    for package in ("torch", "transformers", "accelerate"):
        if find_spec(package) is None:
            raise MissingExtra(f'{package} is not installed; run: pip install "nll[train]"')


def dry_run(settings: Settings, source: Source, out: Path, *, resume: bool = False) -> Forecast:
    """What the run would do, from all of its data and the model's shape; nothing is written."""
    from nll.training._forecast import forecast
    from nll.training._job import trainer_of

    rows = rows_of(settings.kind, source, settings.given)
    _look(out, _plan(settings, source, rows), resume)
    with tempfile.TemporaryDirectory() as folder:  # transformers makes the one it is given
        trainer = trainer_of(
            _with(settings, rows), rows.train, rows.held_out, Path(folder), empty=True
        )
    return forecast(trainer)


def train(
    settings: Settings,
    source: Source,
    out: Path,
    *,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    tick: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Train and write `out`: the model whole, its tokenizer, `training.json` and `log.jsonl`.

    Checkpoints lie in `out/checkpoints` until the model is written. resume: go on from the last of
    them; a run that was killed and is resumed ends with the weights of one that was not.
    Raises BadInput when `out` holds another run, BadModel for a model that cannot be had.
    """
    rows = rows_of(settings.kind, source, settings.given)
    from nll.training import _job as job

    plan = _plan(settings, source, rows)
    done = _look(out, plan, resume) if job.is_main() else _finished(out) if resume else None
    if done is not None:
        return Trained(done, True)
    folder = out / CHECKPOINTS
    trainer = job.trainer_of(_with(settings, rows), rows.train, rows.held_out, folder, say=say)
    if job.is_main():
        with telling(out):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(out / PLAN, json.dumps(plan, indent=2, ensure_ascii=False) + "\n")
    trainer.accelerator.wait_for_everyone()
    result = job.run(trainer, folder, resume=resume, say=say, tick=tick)
    log = "".join(json.dumps(line) + "\n" for line in result.pop("log"))
    record = {**plan, "result": result, "versions": _versions()}
    if getattr(trainer, "dropped", 0):
        record["dropped"] = trainer.dropped
    if job.is_main():
        write_atomic(out / LOG, log)
    _written(trainer, out, record)
    return Trained(record, False)


def _with(settings: Settings, rows: Rows) -> Settings:
    if rows.refusals is None:
        return settings
    return dataclasses.replace(settings, given={**settings.given, "refusals": rows.refusals})


def _plan(settings: Settings, source: Source, rows: Rows) -> dict[str, Any]:
    """What decides the weights, as JSON."""
    from nll.training._job import model_name

    data: dict[str, Any] = {
        "files": [*source.data, *source.retain], "rows": len(rows.train),
        "sha256": digest([*rows.train, *({"refusal": r} for r in rows.refusals or ())]),
    }  # fmt: skip
    if rows.held_out is not None:
        held_out = {"files": list(source.eval_data), "rows": len(rows.held_out)}
        data["eval"] = held_out | {"sha256": digest(rows.held_out)}
    options = dataclasses.asdict(settings)
    options["model"] = model_name(settings)
    return {
        "trainer": options.pop("kind"), "options": options, "template": source.template,
        "columns": dict(source.renamed), "data": data,
    }  # fmt: skip


def _look(out: Path, plan: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
    """Refuse an `out` that holds something else; the record when this run is there already."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"cannot write {out}: it is a file")
    held = [p.name for p in out.iterdir()] if out.is_dir() else []
    held = [name for name in held if not name.startswith(TEMPORARY)]
    if not held:
        return None
    if PLAN not in held:
        raise BadInput(f"{out} holds other files; name a folder that is new or empty")
    if not resume:
        what = "a finished" if RECORD in held else "an unfinished"
        raise BadInput(f"{out} holds {what} run; go on with --resume, or name another folder")
    before = json.loads((out / PLAN).read_text(encoding="utf-8"))
    changed = sorted(_differences(before, json.loads(json.dumps(plan))))
    if changed:
        raise BadInput(
            f"{out} holds a run with other settings ({', '.join(changed)}); "
            "resume with the same ones, or name another folder"
        )
    return _finished(out)


def _finished(out: Path) -> dict[str, Any] | None:
    """The record of a run that came to its end."""
    if not (out / RECORD).is_file():
        return None
    record: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
    return record


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], under: str = "") -> list[str]:
    out = []
    for name in {*a, *b}:
        one, two = a.get(name), b.get(name)
        if name in _FREE or name == "files":
            continue
        if isinstance(one, dict) and isinstance(two, dict):
            out += _differences(one, two, f"{under}{name}.")
        elif one != two:
            out.append(f"{under}{name}")
    return out


def _written(trainer: Any, out: Path, record: Mapping[str, Any]) -> None:
    """The files move into place one by one, the record last: with it the run is finished."""
    from nll.training import _job as job

    temporary = out / f"{TEMPORARY}model"
    if job.is_main():
        shutil.rmtree(temporary, ignore_errors=True)
        with telling(out):
            temporary.mkdir()
    trainer.accelerator.wait_for_everyone()
    with telling(out):
        names = job.save(trainer, temporary)
        if not job.is_main():
            return
        for name in names:
            target = out / name
            if target.is_dir():
                shutil.rmtree(target)
            if (temporary / name).is_file():
                sync(temporary / name)
            (temporary / name).replace(target)
        temporary.rmdir()
        sync(out)
    write_atomic(out / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def _versions() -> dict[str, str]:
    from nll import __version__
    from nll.training._job import versions

    return {"nll": __version__, "python": platform.python_version(), **versions()}
