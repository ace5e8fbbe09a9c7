"""The models being served and how requests get work done by them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from nll._errors import BadInput, BadModel, BadText
from nll.serve._limits import Limits
from nll.serve._metrics import Metrics
from nll.serve._wire import ApiError
from nll.serve._worker import Answering, Busy, Scoring, Stopping, Worker

if TYPE_CHECKING:
    from nll.models import LanguageModel
    from nll.models._engine import LocalModel

R = TypeVar("R")


class Served:
    """Models by the names that requests may use, one worker for all, one thread that tokenizes."""

    def __init__(self, model: LanguageModel, reference: LanguageModel | None, limits: Limits):
        self.limits = limits
        self.metrics = Metrics()
        self.worker = Worker(limits, self.metrics)
        self.model = _local(model)
        self.reference = None if reference is None else _local(reference)
        self.models: dict[str, LocalModel] = {self.model.provenance.model: self.model}
        if self.reference is not None:
            name = self.reference.provenance.model
            if name in self.models:
                name += "#reference"
            self.models[name] = self.reference
        for found in self.models.values():
            _ = found.network.pad_limit  # found out by running the model: now, not under a request
        # A tokenizer is not for several threads at once.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="nll-reader")

    def close(self) -> None:
        """Finish what was accepted and end the threads."""
        self.worker.stop()
        self._reader.shutdown()

    def named(self, name: str | None) -> LocalModel:
        """The model of that name (the first one if none is given); ApiError 404 otherwise."""
        if name is None:
            return self.model
        found = self.models.get(name)
        if found is None:
            raise ApiError(
                404, f"this server does not serve that model; it serves {', '.join(self.models)}",
                "model_not_found", "model",
            )  # fmt: skip
        return found

    async def read(self, function: Callable[..., R], *args: Any) -> R:
        """Run something that uses a tokenizer. Its BadInput becomes ApiError 400."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reader, function, *args)
        except BadText as error:
            raise ApiError(400, error.detail, error.reason) from None
        except BadInput as error:
            raise ApiError(400, str(error)) from None

    def submit(self, jobs: Sequence[Scoring | Answering]) -> None:
        """Hand work to the model's thread; ApiError 400, 429 or 503 when it is not taken."""
        texts, tokens = len(jobs), sum(j.tokens for j in jobs)
        if texts > self.limits.request_texts:
            raise ApiError(
                400, f"{texts} texts in one request; at most {self.limits.request_texts}",
                "too_many_texts",
            )  # fmt: skip
        if tokens > self.limits.request_tokens:
            raise ApiError(
                400,
                f"{tokens} tokens in one request, those to be written included; "
                f"at most {self.limits.request_tokens}",
                "too_many_tokens",
            )
        try:
            self.worker.submit(jobs)
        except Busy as error:
            raise Full(error.retry_after) from None
        except Stopping as error:
            raise ApiError(503, str(error), "stopping") from None

    async def results(self, futures: Iterable[Future[Any]]) -> list[Any]:
        """What the futures bring; what they raise on the user's account becomes ApiError 400.

        Given up (a client that left, or too long a time) they are cancelled where they still wait.
        """
        futures = list(futures)
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                return await asyncio.gather(*map(asyncio.wrap_future, futures))
        except TimeoutError:
            raise ApiError(504, "the model took too long for this request", "timeout") from None
        except BadText as error:
            raise ApiError(400, error.detail, error.reason) from None
        except (BadInput, BadModel) as error:
            raise ApiError(400, str(error)) from None
        finally:
            for future in futures:
                future.cancel()


class Full(ApiError):
    """429, with the seconds after which to try again."""

    def __init__(self, retry_after: int):
        super().__init__(429, f"the queue is full; try again in {retry_after} s", "queue_full")
        self.retry_after = retry_after


def _local(model: LanguageModel) -> LocalModel:
    from nll.models._engine import LocalModel

    if not isinstance(model, LocalModel):
        raise BadModel("nll serve runs a model of its own; give it a local one")
    return model
