"""What every source of traces offers, whatever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from nll.trace import Array, Fields, Provenance, Rejected, TextLike, Trace

OnReject = Callable[[Rejected], None]
DEFAULT_FIELDS = Fields(top_k=10)


def identity_of(made: Provenance, **more: str) -> dict[str, str]:
    """`LanguageModel.identity` of a model whose traces come about like this, with what else decides
    its numbers; what is not known is left out."""
    known = {
        "model": made.model, "revision": made.revision, "weights": made.weights,
        "tokenizer": made.tokenizer, "dtype": made.dtype, "bos": made.bos,
        "backend": made.backend, "library": made.library,
    }  # fmt: skip
    return {k: v for k, v in known.items() if v is not None} | more


@runtime_checkable
class LanguageModel(Protocol):
    """A language model that says how likely every token was."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that decides its numbers: names, hashes, dtype, BOS rule, library version."""
        ...

    def trace(
        self,
        texts: Iterable[TextLike],
        *,
        fields: Fields = DEFAULT_FIELDS,
        reference: LanguageModel | None = None,
        stride: int | None = None,
        on_reject: OnReject | None = None,
    ) -> Iterator[Trace]:
        """One trace per text, in the order given, streaming.

        A text that cannot be scored raises BadText, unless `on_reject` is given: then it is told,
        with the text's position, and the run goes on without it.
        """
        ...

    def generate(
        self,
        prompts: Iterable[TextLike],
        *,
        max_new_tokens: int = 64,
        n: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Sequence[str] = (),
        fields: Fields = DEFAULT_FIELDS,
        greedy: bool = False,
        on_reject: OnReject | None = None,
    ) -> Iterator[list[Trace]]:
        """For each prompt, n answers with their traces, whose log p is always the model's own.

        greedy: put the greedy answer before the n drawn ones.   on_reject: as `trace`.
        """
        ...

    def continuations(
        self, prompt: str, continuations: Sequence[str], *, fields: Fields = DEFAULT_FIELDS
    ) -> list[Trace]:
        """Traces of several continuations of one prompt, which is read once."""
        ...

    def options(self, prompt: str, continuations: Sequence[str]) -> Array:
        """(n,) log-probability of each continuation given the prompt, nats, float64."""
        ...
