"""`llamacpp:FILE.gguf`: a GGUF model in llama.cpp, with its full logits and so every field."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nll import __version__
from nll._errors import BadFile, BadInput, BadModel, BadText, MissingExtra
from nll.models._align import align
from nll.models._capabilities import FIELDS, Capabilities
from nll.models._encode import Encoded
from nll.models._how import How
from nll.models._options import Continues
from nll.models._protocol import DEFAULT_FIELDS, LanguageModel, OnReject, identity_of
from nll.models._remote_payload import BadAnswer, Piece
from nll.models._remote_trace import whole_text
from nll.trace import Array, Fields, Provenance, Rejected, Text, TextLike, Trace

_BLOCK = 256  # rows of logits turned into statistics at once
_TOLERANCE = 0.05
_ABSENT = {"hidden", "cross_mean", "cross_var", "boundary", "boundary_at"}
CAPABILITIES = Capabilities(frozenset(FIELDS) - _ABSENT, source="llama.cpp")


class LlamaCppModel(Continues):
    """A model in llama.cpp; texts are read one by one."""

    def __init__(self, engine: Any, provenance: Provenance, bos: bool):
        self.engine = engine
        self.provenance = provenance
        self._bos = bos
        self.context = int(engine.n_ctx())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.provenance.model}>"

    @property
    def capabilities(self) -> Capabilities:
        """All that follows from the logits; the states before the unembedding are not told."""
        return CAPABILITIES

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that decides the numbers."""
        return identity_of(self.provenance, context=str(self.context))

    def trace(
        self,
        texts: Iterable[TextLike],
        *,
        fields: Fields = DEFAULT_FIELDS,
        reference: LanguageModel | None = None,
        stride: int | None = None,
        on_reject: OnReject | None = None,
    ) -> Iterator[Trace]:
        """One trace per text, in order; see `LanguageModel.trace`.

        A text longer than the context is set aside (`too_long`), as nothing is cut silently.
        """
        if isinstance(texts, str):
            raise BadInput("trace takes several texts; for one text write model.trace([text])")
        if reference is not None or stride is not None:
            raise BadInput("reference and stride are for local models")
        refuse_fields(fields)
        return self._traces(texts, fields, on_reject)

    def _traces(
        self, texts: Iterable[TextLike], fields: Fields, on_reject: OnReject | None
    ) -> Iterator[Trace]:
        for i, value in enumerate(texts):
            try:
                yield self._trace(Text.of(value), fields)
            except BadText as error:
                if on_reject is None:
                    raise BadText(error.reason, f"text {i}: {error.detail}") from None
                name = value.id if isinstance(value, Text) else None
                on_reject(Rejected(i, error.reason, error.detail, name))

    def _trace(self, text: Text, fields: Fields) -> Trace:
        encoded = self.encode(text)
        ids, start = encoded.ids.tolist(), self.start
        if len(ids) + len(start) > self.context:
            raise BadText("too_long", f"{len(ids)} tokens do not fit the context of {self.context}")
        columns = self._columns(ids, fields, encoded.prompt_tokens)
        top = columns["top_ids"].ravel() if fields.top_k else np.empty(0, np.int32)
        return Trace(
            **columns, ids=encoded.ids, spans=encoded.spans, text=encoded.text,
            prompt_tokens=encoded.prompt_tokens, betas=fields.betas, id=text.id,
            vocab=self.strings(np.concatenate([encoded.ids, top[top >= 0]])),
            provenance=dataclasses.replace(self.provenance, kind=encoded.kind),
        )  # fmt: skip

    @property
    def start(self) -> list[int]:
        """The token that is put in front of every text, if one is."""
        return [int(self.engine.token_bos())] if self._bos else []

    def encode(self, text: Text) -> Encoded:
        """A text in the file's own tokens. Raises BadText where they do not spell it."""
        whole = whole_text(text)
        ids = self.engine.tokenize(whole.encode(), add_bos=False, special=False)
        raw = [self.engine.detokenize([i]) for i in ids]
        pieces = [
            Piece(r.decode(errors="replace"), 0.0, r, i) for r, i in zip(raw, ids, strict=True)
        ]
        try:
            found = align(whole, pieces)
        except BadAnswer as error:
            raise BadText(error.reason, error.detail) from None
        if found.last - found.first != len(ids):
            raise BadText("misaligned", "llama.cpp's tokens spell more than the text")
        cut = len(text.prompt or "")
        prompt = int(np.searchsorted(found.spans[:, 1], cut, side="right")) if cut else 0
        kind = "text" if text.prompt is None else "completion"
        return Encoded(whole, np.array(ids, np.int64), found.spans, prompt, kind, text.id)

    def strings(self, ids: Array) -> dict[int, str]:
        """What these token ids stand for."""
        return {
            int(i): self.engine.detokenize([int(i)], special=True).decode(errors="replace")
            for i in np.unique(ids)
        }

    def logits(self, ids: Sequence[int]) -> Array:
        """(T, V) float32: row t is what follows after token t; a view until the next call."""
        self.engine.reset()
        self.engine.eval(list(ids))
        return np.asarray(self.engine.scores[: len(ids)], np.float32)

    def _columns(self, ids: Sequence[int], fields: Fields, prompt: int) -> dict[str, Any]:
        """The statistics of every token after the prompt."""
        start = self.start
        logits = self.logits([*start, *ids])
        n, first = len(ids), max(prompt, 0 if start else 1)
        out: dict[str, Array] = {}
        for a in range(first, n, _BLOCK):
            b = min(a + _BLOCK, n)
            # The row that predicts token t is the one before it.
            rows = logits[a - 1 + len(start) : b - 1 + len(start)]
            for name, value in columns(rows, ids[a:b], fields).items():
                if name not in out:
                    blank = -1 if value.dtype.kind == "i" else np.nan
                    out[name] = np.full((n, *value.shape[1:]), blank, value.dtype)
                out[name][a:b] = value
        return out if out else _blank(n, fields)

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
        """For each prompt, n answers with their traces; see `LanguageModel.generate`.

        A prompt is read once for all its answers. Chats are set aside (`chat`): for these serve the
        file with llama-server and name its address.
        """
        from nll.models._llama_cpp_answers import answers

        how = How(max_new_tokens, n, temperature, top_p, top_k, tuple(stop), fields, greedy)
        refuse_fields(fields)
        return answers(self, prompts, how, seed, on_reject)


def columns(rows: Array, targets: Sequence[int], fields: Fields) -> dict[str, Array]:
    """What (n, V) float32 logits say of n tokens, as float32 and int32.

    By the row kernel where torch is installed; else in plain numpy, several times slower.
    """
    if find_spec("torch") is None:
        from nll.kernels.reference import stats

        found = stats(rows, targets, k=fields.top_k, betas=fields.betas)
    else:
        import torch

        from nll.kernels import reducers_for, visit_logits

        given = torch.from_numpy(np.ascontiguousarray(rows)), torch.tensor(list(targets))
        told = visit_logits(*given, reducers_for(fields))
        found = {name: value.numpy() for name, value in told.items()}
    if not fields.kl_uniform:
        found.pop("kl_uniform", None)
    return {
        name: value.astype(np.int32 if value.dtype.kind == "i" else np.float32)
        for name, value in found.items()
        if name != "lse"
    }


def refuse_fields(fields: Fields) -> None:
    """Raise BadInput for what llama.cpp does not tell."""
    wanted = [n for n in ("boundary", "hidden") if getattr(fields, n)]
    if wanted:
        raise BadInput(f"llama.cpp cannot give {' and '.join(wanted)}; a local model can")


def _blank(n: int, fields: Fields) -> dict[str, Any]:
    """When no token is predicted."""
    nan = np.full(n, np.nan, np.float32)
    none = np.full(n, -1, np.int32)
    out = {"logp": nan, "entropy": nan, "varentropy": nan, "rank": none, "ties": none}
    if fields.kl_uniform:
        out["kl_uniform"] = nan
    if fields.top_k:
        out["top_ids"] = np.full((n, fields.top_k), -1, np.int32)
        out["top_logp"] = np.full((n, fields.top_k), np.nan, np.float32)
    if fields.betas:
        out["lse_at"] = np.full((n, len(fields.betas)), np.nan, np.float32)
    return out


def open_llama_cpp(name: str, **options: Any) -> LanguageModel:
    """`llamacpp:FILE.gguf` for `nll.load`.

    Raises MissingExtra without llama-cpp-python, BadFile for a missing file, BadModel when
    llama.cpp cannot open it or its logits are one token late, BadInput for other options.
    """
    path = Path(name.removeprefix("llamacpp:"))
    try:
        llama_cpp = import_module("llama_cpp")
    except ImportError:
        raise MissingExtra('llama_cpp is not installed; run: pip install "nll[llamacpp]"') from None
    if not path.is_file():
        raise BadFile(f"{path}: no such file")
    usual = {"dtype": "float32", "device": "auto", "revision": None, "batch_tokens": None}
    for option, value in usual.items():
        if options.get(option, value) != value:
            raise BadInput(f"{option} is not for llama.cpp; the file decides it")
    try:
        engine = llama_cpp.Llama(str(path), n_ctx=0, logits_all=True, verbose=False)
    except (ValueError, RuntimeError, OSError) as error:
        raise BadModel(f"llama.cpp cannot open {path}: {str(error)[:200]}") from None
    rule = options.get("bos", "auto")
    if rule not in ("auto", "none", "bos"):
        raise BadInput("bos must be auto, none or bos for llama.cpp")
    own = engine.metadata.get("tokenizer.ggml.add_bos_token", "true") == "true"
    bos = own if rule == "auto" else rule == "bos"
    with path.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    provenance = Provenance(
        model=path.name, weights=weights, dtype="gguf", backend="llama.cpp",
        vocab_size=int(engine.n_vocab()), library=__version__,
        bos=engine.detokenize([engine.token_bos()]).decode(errors="replace") if bos else None,
    )  # fmt: skip
    model = LlamaCppModel(engine, provenance, bos)
    check_rows(model, engine.tokenize(b"one two three four", add_bos=True, special=False))
    return model


def check_rows(model: LlamaCppModel, ids: Sequence[int]) -> None:
    """Raise BadModel unless row t of the logits is what is known after token t and no more.

    Bindings have returned rows that are one late, or rows of zeros for all but the last token.
    """
    whole = model.logits(ids).copy()
    for t in range(1, len(ids)):
        alone = model.logits(ids[:t])[-1]
        if not np.abs(alone - whole[t - 1]).max() <= _TOLERANCE * max(1.0, np.ptp(alone)):
            late = t < len(ids) and np.abs(alone - whole[t]).max() <= _TOLERANCE
            raise BadModel(
                "llama.cpp's rows of logits are one token late"
                if late
                else f"llama.cpp gives other logits for token {t} of a text than at its end"
            )
