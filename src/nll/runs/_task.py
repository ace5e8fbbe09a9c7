"""What a run computes, described so that any process can do it: the command, scores and models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa

from nll import __version__, _arrow, _arrow_bundles
from nll._declare import Request, requests
from nll._table import fields_for, score_batches, score_schema
from nll.runs._answers import answer_batches, answer_schema, answerer
from nll.runs._obtain import Found, GatherOptions, Source, is_bundled, source_of
from nll.runs._output import write_parquet
from nll.runs._run import Engine, Write, local_engine
from nll.runs._store import Say
from nll.trace import Fields

if TYPE_CHECKING:
    from nll.models import LanguageModel
    from nll.runs._ray import Cluster

TOP_K = 10
# A score whose only need is the text's own trace.
OWN = "mean_nll"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model and how to run it; see `nll.load` and `LanguageModel.trace`.

    top_k: how many alternatives to keep; None for what the command needs.
    """

    model: str | None = None
    reference: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: str = "float32"
    device: str = "auto"
    bos: str = "auto"
    stride: int | None = None
    top_k: int | None = None
    batch_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A command on texts: which scores, by which models, obtained how.

    `answer` scores the greedy answers that the model gives to the texts, in place of the texts.
    held: the model, where it is open already.
    """

    command: Literal["trace", "score", "report", "answer"]
    specs: tuple[str, ...]
    options: ModelOptions
    more: GatherOptions
    held: LanguageModel | None = field(default=None, compare=False, repr=False)

    @property
    def wanted(self) -> list[Request]:
        """The scores; where a text's own trace is kept or shown, one that asks for it."""
        found = requests(self.specs) if self.specs else []
        own = self.command == "report" or (self.command == "trace" and is_bundled(found))
        return [*requests(OWN), *found] if own else list(found)

    @property
    def write(self) -> Write:
        """What makes a shard's file of the traces or bundles of its texts."""
        wanted = self.wanted
        if self.command == "trace":
            return _arrow_bundles.write_bundles if is_bundled(wanted) else _arrow.write_traces
        schema, batches = self.schema, self.batches
        return lambda path, found: write_parquet(path, batches(found), schema)

    @property
    def schema(self) -> pa.Schema:
        """Of the table of scores."""
        answers = self.command == "answer"
        return answer_schema(self.wanted) if answers else score_schema(self.wanted)

    def batches(self, found: Iterable[Found]) -> Iterator[pa.RecordBatch]:
        """The table of scores, in parts."""
        answers = self.command == "answer"
        return answer_batches(found, self.wanted) if answers else score_batches(found, self.wanted)

    def open(self) -> tuple[dict[str, object], int, Source]:
        """Load the models: all that decides the numbers, the pace of shards, and the source."""
        options, wanted = self.options, self.wanted
        from nll import models

        how = load_options(options)
        model = self.held or models.load(options.model, **how)
        reference = None
        if options.reference:
            reference = models.load(options.reference, **{**how, "revision": None})
        default = TOP_K if self.command in ("trace", "report") else 0
        fields = Fields(top_k=default if options.top_k is None else options.top_k)
        if self.command == "answer":
            source = answerer(model, wanted, fields, self.more)
        else:
            source = source_of(model, wanted, fields, reference, options.stride, self.more)
        parts = self._parts(model, reference, fields_for(wanted) | fields)
        return parts, _pace(model), source

    def _parts(
        self, model: LanguageModel, reference: LanguageModel | None, fields: Fields
    ) -> dict[str, object]:
        """Everything that decides the numbers to the last bit, by the word told when it changes."""
        parts: dict[str, object] = {
            "command": self.command,
            "model": dict(model.identity),
            "reference": dict(reference.identity) if reference else None,
            "choice of fields": dataclasses.asdict(fields),
            "stride": self.options.stride,
            "batch size": self.options.batch_tokens,
            "library version": (__version__, _arrow.SCHEMA),
        }
        bundled = is_bundled(self.wanted)
        if self.command in ("score", "answer") or bundled:
            parts["scores"] = [
                (r.label, r.declaration.name, dict(r.parameters)) for r in self.wanted
            ]
        if self.command == "answer" or bundled:
            parts["choice of samples"] = dataclasses.asdict(self.more)
        return parts


class Opened(NamedTuple):
    """What decides a task's numbers, the pace of its shards, the engine that makes them, and, in
    this process, where its traces come from."""

    parts: dict[str, object]
    pace: int
    engine: Engine
    source: Source | None


@contextmanager
def opened(task: Task, cluster: Cluster | None, say: Say) -> Iterator[Opened]:
    """The task with its models loaded: in this process, or on a cluster whose workers are let go
    at the end."""
    if cluster is None:
        parts, pace, source = task.open()
        yield Opened(parts, pace, local_engine(source, task.write), source)
        return
    from nll.runs._ray import ray_engine

    with ray_engine(task, cluster, say) as found:
        yield Opened(*found, None)


def load_options(options: ModelOptions) -> dict[str, Any]:
    """As `nll.load` takes them, for the first model."""
    return {
        "device": options.device, "dtype": options.dtype, "bos": options.bos,
        "revision": options.revision, "trust_remote_code": options.trust_remote_code,
        "batch_tokens": options.batch_tokens,
    }  # fmt: skip


def _pace(model: LanguageModel) -> int:
    """How many times larger shards may be than on a CPU for the same loss at a kill."""
    return 1 if model.identity.get("device", "cpu") == "cpu" else 16
