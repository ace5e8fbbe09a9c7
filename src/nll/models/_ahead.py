"""The next chunk of texts is tokenised while the model computes the one before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from nll.models._encode import Encoded
from nll.models._protocol import OnReject
from nll.trace import Rejected, TextLike

T = TypeVar("T")
Chunk: TypeAlias = list[Encoded]
Chunks: TypeAlias = Callable[[Iterable[TextLike], OnReject | None], Iterator[Chunk]]


def read_ahead(
    chunks: Chunks, texts: Iterable[TextLike], on_reject: OnReject | None
) -> Iterator[Chunk]:
    """`chunks(texts, on_reject)`, one chunk ahead; rejections and errors come where they did.

    Only for texts in memory: a lazy source (a file, a pipe, a database cursor) may block or belong
    to the caller's thread, so it is read when its turn comes, in that thread. `on_reject` is always
    called in the caller's thread.
    """
    if not isinstance(texts, list | tuple):
        yield from chunks(texts, on_reject)
        return
    for told, chunk, error in ahead(_steps(chunks, texts, on_reject is not None)):
        if on_reject is not None:
            for one in told:
                on_reject(one)
        if error is not None:
            raise error
        if chunk:
            yield chunk


def _steps(
    chunks: Chunks, texts: Iterable[TextLike], tolerant: bool
) -> Iterator[tuple[list[Rejected], Chunk, Exception | None]]:
    """(what was refused since the last step, chunk, error); an error is the last step."""
    told: list[Rejected] = []
    error: Exception | None = None
    try:
        for chunk in chunks(texts, told.append if tolerant else None):
            so_far, told[:] = told[:], []
            yield so_far, chunk, None
    except Exception as caught:  # noqa: BLE001  raised by the reader, after what came before it
        error = caught
    yield told, [], error


def ahead(source: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread that ends with this generator."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="nll-ahead") as pool:
        waiting = pool.submit(next, source, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # not `end`
