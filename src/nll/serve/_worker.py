"""One thread that owns the models: what has arrived shares forward passes, answers go by turns."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING

from nll._errors import NllError
from nll.models._decode import decoding
from nll.models._how import How
from nll.models._written import Answer
from nll.serve._limits import Limits
from nll.serve._metrics import Metrics
from nll.trace import Fields, Trace

if TYPE_CHECKING:
    from nll.models._encode import Encoded
    from nll.models._engine import LocalModel

# Tokens that one turn of scoring takes, in units of the model's batch. More would gain little, and
# whoever comes next waits for the whole turn; less when somebody waits for an answer's next word.
ALONE, BESIDE_ANSWERS = 2, 1
# Answers that are written in one batch, and tokens that it may come to hold.
ROWS, CACHED = 32, 32_768


class Busy(NllError):
    """The queue is full; `retry_after` seconds are a fair guess for when it will not be."""

    def __init__(self, retry_after: int):
        super().__init__("the server has as much work waiting as it takes; try again later")
        self.retry_after = retry_after


class Stopping(NllError):
    """The server is going down and takes no more work."""


@dataclass(slots=True, eq=False)
class Scoring:
    """A text to trace. The future gets its Trace."""

    model: LocalModel
    text: Encoded
    fields: Fields
    reference: LocalModel | None = None
    future: Future[Trace] = field(default_factory=Future)

    @property
    def tokens(self) -> int:
        """What it costs."""
        return len(self.text.ids)


@dataclass(slots=True, eq=False)
class Answering:
    """Answers to write. `tell` hears how many tokens each has after a step, in the worker's thread;
    CancelledError from it ends them. The future gets the answers."""

    model: LocalModel
    prompt: Encoded
    how: How
    seed: tuple[int, int]
    tell: Callable[[list[int]], None]
    future: Future[list[Answer]] = field(default_factory=Future)
    answers: list[Answer] = field(default_factory=list)
    written: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """What it costs at most."""
        return len(self.prompt.ids) + self.how.max_new_tokens * self.how.n

    @property
    def read(self) -> list[int]:
        """What the model reads."""
        bos = self.model.tokenizer.bos_id
        return [*([] if bos is None else [bos]), *self.prompt.ids.tolist()]

    def beside(self, first: Answering) -> bool:
        """Whether one batch may write both: drawn alike, of like length where padding is borne."""
        if self.model is not first.model or self.how != first.how:
            return False
        size, other = sorted((len(self.prompt.ids), len(first.prompt.ids)))
        whole = other + self.how.max_new_tokens
        padded = other <= 16 + 3 * size // 2 and whole <= self.model.network.pad_limit
        return size == other or padded


@dataclass(slots=True)
class _Run:
    """Answers that are written together, a token of each per step."""

    jobs: list[Answering]
    steps: Iterator[list[list[Answer]]]


class Worker:
    """The queue and its thread. `submit` from anywhere; results come through futures."""

    def __init__(self, limits: Limits, metrics: Metrics):
        self._limits, self._metrics = limits, metrics
        self._wake = threading.Condition()
        self._texts: deque[Scoring] = deque()
        self._prompts: deque[Answering] = deque()
        self._active: list[_Run] = []
        self._held = [0, 0]  # texts and tokens that wait or run
        self._rate = 200.0  # tokens a second, measured as it goes
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="nll-model", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Texts and prompts that wait or run."""
        return self._held[0]

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more, finish what was accepted, and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, jobs: Sequence[Scoring | Answering]) -> None:
        """Accept all of these or none; raises Busy when they do not fit, Stopping at the end."""
        tokens = sum(j.tokens for j in jobs)
        with self._wake:
            if self._closed:
                raise Stopping("the server is going down")
            texts, waiting = self._held
            limits = self._limits
            if texts and (
                texts + len(jobs) > limits.queue_texts or waiting + tokens > limits.queue_tokens
            ):
                raise Busy(min(60, max(1, round(waiting / self._rate))))
            self._hold(len(jobs), tokens)
            for job in jobs:
                job.future.add_done_callback(partial(self._release, job.tokens))
                if isinstance(job, Scoring):
                    self._texts.append(job)
                else:
                    self._prompts.append(job)
            self._wake.notify()

    def _hold(self, texts: int, tokens: int) -> None:
        self._held[0] += texts
        self._held[1] += tokens
        self._metrics.waiting.set(self._held[0])

    def _release(self, tokens: int, _: object) -> None:
        with self._wake:
            self._hold(-1, -tokens)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._texts or self._prompts or self._active or self._closed):
                    self._wake.wait()
                if self._closed and not (self._texts or self._prompts or self._active):
                    return
                batch = self._next_texts()
                begun = self._next_prompts()
            if batch:
                self._score(batch)
            if begun:
                steps = decoding(
                    begun[0].model, [j.read for j in begun], [j.seed for j in begun], begun[0].how
                )
                self._active.append(_Run(begun, steps))
            self._active = [run for run in self._active if self._step(run)]

    def _next_prompts(self) -> list[Answering]:
        """What of the waiting can be written together, if there is room for one more run."""
        batch: list[Answering] = []
        if len(self._active) >= self._limits.generations:
            return batch
        left: deque[Answering] = deque()
        rows = cached = 0
        for job in self._prompts:
            more = rows + job.how.n
            fits = not batch or (
                job.beside(batch[0]) and more <= ROWS and cached + job.tokens <= CACHED
            )
            if not fits:
                left.append(job)
            elif job.future.set_running_or_notify_cancel():
                batch.append(job)
                rows, cached = more, cached + job.tokens
        self._prompts = left
        return batch

    def _next_texts(self) -> list[Scoring]:
        """What has arrived, up to a turn's worth, all of one kind: the same models."""
        batch: list[Scoring] = []
        left: deque[Scoring] = deque()
        tokens = 0
        beside = self._active or self._prompts
        while self._texts:
            job = self._texts.popleft()
            turn = job.model.batch_tokens * (BESIDE_ANSWERS if beside else ALONE)
            if batch and (
                job.model is not batch[0].model
                or job.reference is not batch[0].reference
                or tokens + job.tokens > turn
            ):
                left.append(job)
                if tokens + job.tokens > turn:
                    break
                continue
            if job.future.set_running_or_notify_cancel():
                batch.append(job)
                tokens += job.tokens
        left.extend(self._texts)
        self._texts = left
        return batch

    def _score(self, batch: Sequence[Scoring]) -> None:
        began = time.perf_counter()
        first = batch[0]
        wanted = reduce(or_, (j.fields for j in batch), Fields())
        try:
            traces = first.model.trace_encoded(
                [j.text for j in batch], fields=wanted, reference=first.reference
            )
        except Exception as error:  # noqa: BLE001  goes to the one who asked
            if len(batch) == 1:
                first.future.set_exception(error)
                return
            # One text must not cost its neighbours their answers.
            for job in batch:
                self._score([job])
            return
        tokens = sum(j.tokens for j in batch)
        self._count(tokens, time.perf_counter() - began)
        self._metrics.batch.observe(len(batch))
        for job, trace in zip(batch, traces, strict=True):
            job.future.set_result(trace)

    def _step(self, run: _Run) -> bool:
        """One more token of each answer; whether any goes on."""
        began = time.perf_counter()
        read = 0 if run.jobs[0].answers else sum(len(j.prompt.ids) for j in run.jobs)
        try:
            found = next(run.steps)
        except Exception as error:  # noqa: BLE001  goes to those who asked
            for job in run.jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            return False
        self._count(read, time.perf_counter() - began)
        for job, answers in zip(run.jobs, found, strict=True):
            if not job.future.done():
                self._tell(job, answers)
        return not all(job.future.done() for job in run.jobs)

    def _tell(self, job: Answering, answers: list[Answer]) -> None:
        """Say how far the answers to one prompt are, or that they are whole or not wanted."""
        written = [len(a.tokens) for a in answers]
        self._metrics.generated.inc(sum(written) - sum(job.written))
        job.answers, job.written = answers, written
        try:
            job.tell(written)
        except CancelledError:
            job.future.set_exception(CancelledError())
            return
        if all(
            a.ended or n == job.how.max_new_tokens for a, n in zip(answers, written, strict=True)
        ):
            job.future.set_result(answers)

    def _count(self, tokens: int, seconds: float) -> None:
        self._metrics.scored.inc(tokens)
        if tokens and seconds > 0:
            self._rate += 0.2 * (tokens / seconds - self._rate)
