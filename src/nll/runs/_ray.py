"""The shards of a run made by a Ray cluster: one set of models for each worker.

This process reads the texts, cuts the same shards as a run without a cluster and writes what comes
back, so the output is the same, a shared disk is not needed, and an interrupted run goes on. A
worker that dies is started again, and its shards are computed again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nll._errors import BadInput, BadModel, MissingExtra, NllError, first_line
from nll.runs._run import Engine, Make, Piece, Tick, maker, refusal
from nll.runs._store import Say, fingerprint
from nll.runs._task import Task

if TYPE_CHECKING:
    from nll.models import LanguageModel

AHEAD = 2  # shards that wait at each worker, so that it never waits for this process
RETRIES = 3


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which Ray cluster, how many workers, and what each of them takes of it.

    address: as in `ray.init`; None starts a cluster on this machine for the run.
    workers: None for as many as the cluster has room for.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BadInput(f"--workers must be 1 or more, not {self.workers}")
        if self.cpus < 0 or self.gpus < 0 or self.cpus + self.gpus == 0:
            raise BadInput("a worker needs some of the cluster: --worker-cpus or --worker-gpus")


class _Worker:
    """Holds the models in a process of the cluster.

    reopen: opens the task's model, where more is known of it than its name.
    """

    def __init__(self, task: Task, reopen: Callable[[], LanguageModel] | None = None):
        self.task = task
        self.reopen = reopen
        self.opened: Any = None

    def open(self) -> tuple[dict[str, object], int]:
        """Load the models unless they are; what decides the numbers, and the pace."""
        if self.opened is None:
            model = self.reopen() if self.reopen else None
            self.opened = replace(self.task, held=model).open()
        return self.opened[0], self.opened[1]

    def make(self, piece: Piece, identity: str) -> tuple[bytes, int, Sequence[Mapping[str, Any]]]:
        """The bytes of a shard's file, how many texts it scored, and what it set aside."""
        parts, _ = self.open()
        if fingerprint(parts) != identity:
            raise BadModel(
                "a worker of the cluster holds another model or another version of nll under the "
                "same name; make the machines alike"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shard.parquet"
            make = maker(piece, self.opened[2], self.task.write, lambda _: None, False)
            scored, rejected = make(path)
            return path.read_bytes(), scored, rejected


@contextmanager
def ray_engine(
    task: Task, cluster: Cluster, say: Say
) -> Iterator[tuple[dict[str, object], int, Engine]]:
    """What decides the task's numbers, the pace of its shards, and an engine on the cluster.

    Raises MissingExtra without Ray, BadInput when the cluster cannot be reached or has no room, and
    what loading the models raises.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _connect(ray, cluster)
    workers = []
    try:
        count = cluster.workers or _room(ray, cluster)
        kind = ray.remote(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_restarts=-1, max_task_retries=RETRIES
        )(_Worker)
        reopener = getattr(task.held, "reopener", None)
        task = replace(task, held=None)  # a model may hold what cannot leave this process
        workers = [kind.remote(task, reopener and reopener()) for _ in range(count)]
        say(f"loading the model in {count} worker{'s' * (count != 1)} of the Ray cluster")
        parts, pace = _result(ray, workers[0].open.remote())
        yield parts, pace, _engine(ray, workers, fingerprint(parts))
    finally:
        for worker in workers:
            ray.kill(worker)
        if started:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtra('Ray is not installed; run: pip install "nll[ray]"') from None
    return ray


def _connect(ray: Any, cluster: Cluster) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    try:
        if cluster.address is None:
            needed = max(1, round((cluster.workers or 1) * cluster.cpus))
            import os

            ray.init(num_cpus=max(needed, os.cpu_count() or 1), include_dashboard=False, **quiet)
        else:
            ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = cluster.address or "this machine"
        raise BadInput(f"no Ray cluster at {where}: {first_line(error)}") from None


def _room(ray: Any, cluster: Cluster) -> int:
    """How many workers the cluster has room for."""
    held = ray.cluster_resources()
    rooms = [
        int(held.get(name, 0) // size)
        for name, size in (("CPU", cluster.cpus), ("GPU", cluster.gpus))
        if size
    ]
    if min(rooms) < 1:
        raise BadInput(
            f"the cluster has {held.get('CPU', 0):g} CPUs and {held.get('GPU', 0):g} GPUs, too few "
            f"for a worker that takes {cluster.cpus:g} and {cluster.gpus:g}"
        )
    return min(rooms)


def _engine(ray: Any, workers: Sequence[Any], identity: str) -> Engine:
    def engine(
        pieces: Iterable[Piece], tick: Tick, fail_on_error: bool
    ) -> Iterator[tuple[Piece, Make]]:
        idle = [worker for worker in workers for _ in range(AHEAD)]
        waiting: dict[Any, tuple[Any, Piece]] = {}

        def finished() -> tuple[Piece, Make]:
            (first, *_), _ = ray.wait(list(waiting), num_returns=1)
            worker, piece = waiting.pop(first)
            idle.append(worker)
            data, scored, rejected = _result(ray, first)
            if fail_on_error and rejected:
                raise refusal(rejected[0])

            def make(path: Path) -> tuple[int, Sequence[Mapping[str, Any]]]:
                path.write_bytes(data)
                tick(len(piece.rows))
                return scored, rejected

            return piece, make

        for piece in pieces:
            while not idle:
                yield finished()
            worker = idle.pop(0)
            waiting[worker.make.remote(piece, identity)] = (worker, piece)
        while waiting:
            yield finished()

    return engine


def _result(ray: Any, reference: Any) -> Any:
    """What a worker returned; its own errors as they were raised there, losses in one line."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, NllError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise BadInput(
            f"a worker of the cluster died {RETRIES + 1} times over the same texts: "
            f"{first_line(error)}; what is done is kept, the same command goes on from there"
        ) from None
