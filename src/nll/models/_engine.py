"""The engine: texts in, traces out, one forward pass per batch, statistics per row block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from nll import kernels
from nll._errors import BadInput, BadModel, BadText
from nll.models._ahead import read_ahead
from nll.models._encode import Encoded, Tokenizer, encode, encoded_ids
from nll.models._generate import generate
from nll.models._how import How
from nll.models._layout import Batch, Segment, common_prefix, plan, windows
from nll.models._network import Network
from nll.models._options import Continues
from nll.models._protocol import DEFAULT_FIELDS, LanguageModel, OnReject, identity_of
from nll.trace import (
    PAST_END,
    Array,
    Fields,
    Provenance,
    Rejected,
    Text,
    TextLike,
    Trace,
)  # fmt: skip

FIRST_CHUNK = 2_048  # tokens: small, so that the first result comes soon
LARGEST_CHUNK = 65_536
MOST_TEXTS = 4_096  # equal texts share all their tokens, and a chunk of them must end too


class LocalModel(Continues):
    """A causal language model in this process; see `nll.load` for how to get one."""

    def __init__(
        self, network: Network, tokenizer: Tokenizer, provenance: Provenance, *, batch_tokens: int
    ):
        self.network = network
        self.tokenizer = tokenizer
        self.provenance = provenance
        self.batch_tokens = batch_tokens

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.provenance.model} {self.provenance.dtype}>"

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that decides the numbers."""
        return identity_of(
            self.provenance,
            context=str(self.network.context),
            device=self.network.device.type,
        )

    @cached_property
    def boundary_ids(self) -> torch.Tensor:
        """Ids of tokens that begin a new word (leading space or newline) and of end-of-text."""
        return torch.from_numpy(word_starts(self.tokenizer.hf))

    def trace(
        self,
        texts: Iterable[TextLike],
        *,
        fields: Fields = DEFAULT_FIELDS,
        reference: LanguageModel | None = None,
        stride: int | None = None,
        on_reject: OnReject | None = None,
    ) -> Iterator[Trace]:
        """One trace per text, in order, streaming; see `LanguageModel.trace`.

        reference: a second model over the same vocabulary; adds cross_mean and cross_var, the
        moments of this model's log p under the reference's distribution.
        stride: how far overlapping windows move over a text longer than the context (half of it).
        Raises BadModel when the two vocabularies differ, BadText as `LanguageModel.trace`.
        """
        if isinstance(texts, str):
            raise BadInput("trace takes several texts; for one text write model.trace([text])")
        window = self.network.context
        stride = window // 2 if stride is None else stride
        if not 1 <= stride < window:
            raise BadInput(f"stride must be between 1 and {window - 1}, not {stride}")
        second = None if reference is None else self._partner(reference)
        for chunk in read_ahead(self._chunks, texts, on_reject):
            yield from self._run(chunk, fields, second, stride)

    def trace_encoded(
        self,
        chunk: Sequence[Encoded],
        *,
        fields: Fields = DEFAULT_FIELDS,
        reference: LanguageModel | None = None,
        stride: int | None = None,
    ) -> list[Trace]:
        """Traces of texts that are token ids already, all in one run of shared passes."""
        second = None if reference is None else self._partner(reference)
        step = self.network.context // 2 if stride is None else stride
        return list(self._run(chunk, fields, second, step))

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
        """For each prompt, n answers with their traces; temperature 0 is greedy.

        greedy: put the greedy answer before the n drawn ones.   on_reject: as `trace`.
        A prompt is read once for all its answers, and several prompts are continued together; what
        is drawn depends on the seed and the prompt's position alone. Log-probabilities are the
        model's own, before temperature, top_p and top_k. An end-of-text token that it produced is
        the last token.
        """
        if isinstance(prompts, str):
            raise BadInput("generate takes several prompts; for one write generate([prompt])")
        how = How(max_new_tokens, n, temperature, top_p, top_k, tuple(stop), fields, greedy)
        return generate(self, prompts, how, seed=seed, on_reject=on_reject)

    def continue_ids(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 64,
        stop: Sequence[str] = (),
        fields: Fields = DEFAULT_FIELDS,
    ) -> Iterator[list[Trace]]:
        """The greedy answer to each prompt of token ids, which are read as those very tokens.

        Otherwise as `generate`; text written out and read back may become other tokens. Raises
        BadText for an id that is no token.
        """
        read = [encoded_ids(self.tokenizer, prompt) for prompt in prompts]
        how = How(max_new_tokens, 1, 0.0, 1.0, 0, tuple(stop), fields)
        return generate(self, read, how, seed=0)

    def _partner(self, reference: LanguageModel) -> Network:
        if not isinstance(reference, LocalModel):
            raise BadModel("the reference must be a local model too")
        if self.tokenizer.digest != reference.tokenizer.digest:
            mine, other = self.tokenizer.hf.get_vocab(), reference.tokenizer.hf.get_vocab()
            if mine != other:
                differ = sum(mine.get(token) != i for token, i in other.items())
                raise BadModel(
                    f"{reference.provenance.model} and {self.provenance.model} do not share a "
                    f"vocabulary ({differ} tokens differ), so they cannot be compared"
                )
        if self.network.head is None or reference.network.head is None:
            raise BadModel("cross statistics need models whose unembedding is known")
        return reference.network

    def _chunks(
        self, texts: Iterable[TextLike], on_reject: OnReject | None
    ) -> Iterator[list[Encoded]]:
        """Encoded texts in pieces that grow, so that results come early and batches fill well."""
        limit, tokens = FIRST_CHUNK, 0
        held: list[Encoded] = []
        pending: list[tuple[int, Text]] = []
        characters = 0

        def settle() -> None:
            nonlocal tokens
            for (i, text), done in zip(
                pending, encode(self.tokenizer, [t for _, t in pending]), strict=True
            ):
                if isinstance(done, BadText):
                    refuse(i, done, text.id)
                else:
                    # What a text shares with the one before it will be computed once.
                    shared = common_prefix(held[-1].ids, done.ids) if held else 0
                    tokens += len(done.ids) - shared
                    held.append(done)
            pending.clear()

        def refuse(i: int, error: BadText, name: str | None) -> None:
            if on_reject is None:
                raise BadText(error.reason, f"text {i}: {error.detail}") from None
            on_reject(Rejected(i, error.reason, error.detail, name))

        for i, value in enumerate(texts):
            try:
                text = Text.of(value)
            except BadText as error:
                refuse(i, error, None)
                continue
            pending.append((i, text))
            characters += len(text.text) + len(text.prompt or "")
            if len(pending) >= 64 or characters >= 4 * limit:
                settle()
                characters = 0
            if tokens >= limit or len(held) >= MOST_TEXTS:
                yield held
                limit, held, tokens = min(limit * 4, LARGEST_CHUNK), [], 0
        settle()
        if held:
            yield held

    def _segments(self, chunk: Sequence[Encoded], stride: int, tail: bool) -> list[Segment]:
        context = self.network.context
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        out = []
        for item, text in enumerate(chunk):
            ids = np.concatenate([np.asarray(bos, np.int64), text.ids])
            wanted = max(1, text.prompt_tokens + len(bos))
            for start, end, done in windows(len(ids), context=context, stride=stride):
                first = max(done, wanted)
                last = tail and end == len(ids)
                if first < end or last:
                    out.append(
                        Segment(item, ids[start:end], first - start, first - len(bos), tail=last)
                    )
        return out

    def _run(
        self, chunk: Sequence[Encoded], fields: Fields, second: Network | None, stride: int
    ) -> Iterator[Trace]:
        lengths = np.array([len(e.ids) for e in chunk])
        base = np.concatenate([[0], np.cumsum(lengths + 1)])  # one spare entry: past the end
        arrays: dict[str, Array] = {}
        reducers = kernels.reducers_for(
            fields,
            boundary_ids=self.boundary_ids if fields.boundary else None,
            with_reference=second is not None,
        )
        if fields.hidden:
            reducers = [*reducers, kernels.hidden]
        segments = self._segments(chunk, stride, fields.boundary)
        work = [
            batch
            for pack, part in self._parted(segments, second)
            for batch in plan(part, budget=self.batch_tokens, pack=pack)
        ]
        for batch in work:
            for key, value in self._compute(batch, reducers, second).items():
                if key not in arrays:
                    empty = np.nan if value.dtype.kind == "f" else -1
                    arrays[key] = np.full((base[-1], *value.shape[1:]), empty, value.dtype)
                arrays[key][base[batch.items] + batch.dests] = value
        for i, text in enumerate(chunk):
            yield self._assemble(text, arrays, base[i], fields, second, stride)

    def _parted(
        self, segments: Sequence[Segment], second: Network | None
    ) -> list[tuple[bool, list[Segment]]]:
        """Segments that may be packed, and those that must lie alone in their rows."""
        networks = [self.network] if second is None else [self.network, second]
        limit = min(n.pack_limit for n in networks)
        packed = [s for s in segments if len(s.ids) <= limit]
        return [(True, packed), (False, [s for s in segments if len(s.ids) > limit])]

    def _compute(self, batch: Batch, reducers: Any, second: Network | None) -> dict[str, Array]:
        pairs = np.stack([batch.rows, batch.targets])
        rows, targets, inverse = batch.rows, batch.targets, None
        if not batch.plain:  # shared prefixes: a state that predicts one token is visited once
            unique, inverse = np.unique(pairs, axis=1, return_inverse=True)
            rows, targets = unique
        index = torch.from_numpy(np.ascontiguousarray(rows))
        labels = torch.from_numpy(np.ascontiguousarray(targets))
        mine = self.network.states(batch, index)
        if self.network.head is None:
            found = kernels.visit_logits(mine, labels.to(mine.device), reducers)
        else:
            other = None
            if second is not None and second.head is not None:
                other = (second.states(batch, index), second.head)
            found = kernels.visit(
                mine, labels.to(mine.device), self.network.head, reducers, reference=other
            )
        out = {k: v.cpu().numpy() for k, v in found.items() if k != "lse"}
        if inverse is not None:
            out = {k: v[inverse.reshape(-1)] for k, v in out.items()}
        return out

    def _assemble(
        self,
        text: Encoded,
        arrays: Mapping[str, Array],
        base: int,
        fields: Fields,
        second: Network | None,
        stride: int,
    ) -> Trace:
        n = len(text.ids)
        held: dict[str, Array] = {}
        for key, value in arrays.items():
            held[key] = value[base : base + n + (key in PAST_END)].copy()
        held = _blank(n, fields, second is not None, self.network.width) | held
        shown = [text.ids, held["top_ids"].ravel()] if fields.top_k else [text.ids]
        known = np.concatenate(shown)
        bos = int(self.tokenizer.bos_id is not None)
        long = n + bos > self.network.context
        return Trace(
            ids=text.ids, spans=text.spans, text=text.text, prompt_tokens=text.prompt_tokens,
            betas=fields.betas, vocab=self.tokenizer.strings(known[known >= 0]), id=text.id,
            provenance=dataclasses.replace(
                self.provenance,
                kind=text.kind,
                window=self.network.context if long else None,
                stride=stride if long else None,
                reference=None if second is None else second.name,
            ),
            **held,
        )  # fmt: skip


def _blank(n: int, fields: Fields, cross: bool, width: int) -> dict[str, Array]:
    """What a text holds when none of its tokens was predicted: nan and -1, never 0."""

    def nan(*shape: int) -> Array:
        return np.full(shape, np.nan, np.float32)

    def none(*shape: int) -> Array:
        return np.full(shape, -1, np.int32)

    held = {
        "logp": nan(n), "entropy": nan(n), "varentropy": nan(n), "rank": none(n), "ties": none(n),
    }  # fmt: skip
    if fields.top_k:
        held |= {"top_ids": none(n, fields.top_k), "top_logp": nan(n, fields.top_k)}
    if fields.betas:
        held["lse_at"] = nan(n, len(fields.betas))
    if fields.boundary:
        held["boundary"] = nan(n + 1)
    if fields.boundary and fields.betas:
        held["boundary_at"] = nan(n + 1, len(fields.betas))
    if fields.kl_uniform:
        held["kl_uniform"] = nan(n)
    if fields.hidden:
        held["hidden"] = nan(n, width)
    if cross:
        held |= {"cross_mean": nan(n), "cross_var": nan(n)}
    return held


def word_starts(hf: Any) -> Array:
    """Ids whose string begins with white space, and the end-of-text token."""
    starts = [
        i
        for token, i in hf.get_vocab().items()
        if token[:1] in ("Ġ", "▁", "Ċ", "ĉ", " ", "\n", "\t")
    ]
    if hf.eos_token_id is not None:
        starts.append(hf.eos_token_id)
    return np.array(sorted(set(starts)), np.int64)
