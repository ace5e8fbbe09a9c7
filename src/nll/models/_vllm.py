"""`vllm:NAME`: a model in vLLM, in this process (GPU), under the same protocol.

vLLM computes log-softmax and rank over the whole vocabulary for each prompt token and hands out the
top k; entropy and the other statistics of the full distribution never leave it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from nll import __version__
from nll._errors import BadInput, BadModel, BadText, MissingExtra, first_line
from nll.models._capabilities import Capabilities
from nll.models._encode import Encoded, Tokenizer, encode, make_tokenizer
from nll.models._how import How
from nll.models._options import Continues
from nll.models._protocol import DEFAULT_FIELDS, LanguageModel, OnReject, identity_of
from nll.trace import Array, Fields, Provenance, Rejected, Text, TextLike, Trace

MAX_LOGPROBS = 50
CHUNK = 256  # texts handed over at once; vLLM batches within them as its memory allows

CAPABILITIES = Capabilities(
    frozenset({"logp", "rank", "ids", "spans", "top_ids", "top_logp"}),
    frozenset({"entropy", "ties"}), MAX_LOGPROBS, "vLLM",
)  # fmt: skip


class VllmModel(Continues):
    """A model held by a `vllm.LLM`; tokenised by its own tokenizer with nll's BOS rule."""

    def __init__(self, engine: Any, tokenizer: Tokenizer, provenance: Provenance):
        self._engine = engine
        self.tokenizer = tokenizer
        self.provenance = provenance
        self.context = int(engine.llm_engine.model_config.max_model_len)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.provenance.model} {self.provenance.dtype}>"

    @property
    def capabilities(self) -> Capabilities:
        """Log-probs, ranks and the top k are exact; the full distribution stays within vLLM."""
        return CAPABILITIES

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that decides the numbers, as far as vLLM tells it."""
        return identity_of(self.provenance, context=str(self.context), device="cuda")

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
        if reference is not None:
            raise BadModel("vLLM gives no full distribution to compare with a reference")
        if stride is not None:
            raise BadInput("vLLM reads a text whole; stride is for local models")
        wanted = [n for n in ("betas", "boundary", "hidden", "kl_uniform") if getattr(fields, n)]
        if wanted:
            raise BadInput(f"vLLM cannot give {' and '.join(wanted)}; a local model can")
        return self._traces(texts, fields, on_reject)

    def _traces(
        self, texts: Iterable[TextLike], fields: Fields, on_reject: OnReject | None
    ) -> Iterator[Trace]:
        held: list[tuple[int, TextLike]] = []
        for item in enumerate(texts):
            held.append(item)
            if len(held) == CHUNK:
                yield from self._chunk(held, fields, on_reject)
                held = []
        yield from self._chunk(held, fields, on_reject)

    def _chunk(
        self, held: Sequence[tuple[int, TextLike]], fields: Fields, on_reject: OnReject | None
    ) -> Iterator[Trace]:
        read: list[Encoded] = []
        for i, value in held:
            try:
                text = Text.of(value)
                (found,) = encode(self.tokenizer, [text])
                if isinstance(found, BadText):
                    raise found
                if len(found.ids) + (self.tokenizer.bos_id is not None) >= self.context:
                    raise BadText(
                        "too_long",
                        f"{len(found.ids)} tokens do not fit the context of {self.context}",
                    )
            except BadText as error:
                if on_reject is None:
                    raise BadText(error.reason, f"text {i}: {error.detail}") from None
                name = value.id if isinstance(value, Text) else None
                on_reject(Rejected(i, error.reason, error.detail, name))
                continue
            read.append(found)
        k = min(MAX_LOGPROBS, max(fields.top_k, 1))
        outputs = self._run([self._ids(e) for e in read], max_tokens=1, temperature=0.0,
                            prompt_logprobs=k)  # fmt: skip
        for encoded, output in zip(read, outputs, strict=True):
            yield self._trace(encoded, output, min(fields.top_k, MAX_LOGPROBS))

    def _ids(self, encoded: Encoded) -> list[int]:
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return bos + [int(i) for i in encoded.ids]

    def _run(self, prompts: Sequence[list[int]], **settings: Any) -> list[Any]:
        sampling = import_module("vllm").SamplingParams(**settings)
        if not prompts:
            return []
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        outputs: list[Any] = self._engine.generate(asked, sampling, use_tqdm=False)
        for ids, output in zip(prompts, outputs, strict=True):
            if list(output.prompt_token_ids) != ids:
                raise BadModel("vLLM answered another prompt than it was asked")
        return outputs

    def _trace(self, encoded: Encoded, output: Any, top_k: int) -> Trace:
        told = list(output.prompt_logprobs)[-len(encoded.ids) :]
        columns = _columns([int(i) for i in encoded.ids], told, top_k, encoded.prompt_tokens)
        return Trace(
            **columns, ids=encoded.ids, spans=encoded.spans, text=encoded.text, id=encoded.id,
            prompt_tokens=encoded.prompt_tokens, vocab=self._strings(encoded.ids, columns),
            provenance=dataclasses.replace(self.provenance, kind=encoded.kind),
        )  # fmt: skip

    def _strings(self, ids: Array, columns: Mapping[str, Array]) -> dict[int, str]:
        shown = [ids, columns["top_ids"].ravel()] if "top_ids" in columns else [ids]
        known = np.concatenate(shown)
        return self.tokenizer.strings(known[known >= 0])

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
        """For each prompt, n answers with their traces, the prompt's tokens in front, unscored.

        Log-probs are vLLM's raw ones, before temperature, top_p and top_k. greedy: the greedy
        answer comes first.   on_reject: as `trace`.
        """
        how = How(max_new_tokens, n, temperature, top_p, top_k, tuple(stop), fields, greedy)
        k = min(MAX_LOGPROBS, max(fields.top_k, 1))
        shared = {"max_tokens": max_new_tokens, "logprobs": k, "stop": list(stop) or None}
        drawn = {**shared, "n": n, "temperature": temperature, "top_p": top_p,
                 "top_k": top_k or -1}  # fmt: skip
        for i, prompt in enumerate(prompts):
            try:
                text, kind = self._prompt(prompt)
                (encoded,) = encode(self.tokenizer, [Text(text)])
                if isinstance(encoded, BadText):
                    raise encoded
            except BadText as error:
                if on_reject is None:
                    raise BadText(error.reason, f"prompt {i}: {error.detail}") from None
                on_reject(Rejected(i, error.reason, error.detail))
                continue
            ids, out = self._ids(encoded), []
            if greedy:
                (found,) = self._run([ids], temperature=0.0, **shared)
                out += self._answers(encoded, kind, found, {}, min(fields.top_k, MAX_LOGPROBS))
            settings = {**how.sampling, "seed": seed + i}
            (found,) = self._run([ids], **drawn, seed=seed + i)
            out += self._answers(encoded, kind, found, settings if temperature else {},
                                 min(fields.top_k, MAX_LOGPROBS))  # fmt: skip
            yield out

    def _prompt(self, prompt: TextLike) -> tuple[str, str]:
        if isinstance(prompt, list):
            hf = self.tokenizer.hf
            if not hf.chat_template:
                raise BadText("no_chat_template", "this model's tokenizer has no chat template")
            shown = hf.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            bos = self.tokenizer.bos
            return (shown[len(bos) :] if bos and shown.startswith(bos) else shown), "chat"
        text = Text.of(prompt)
        return (text.prompt or "") + text.text, "completion"

    def _answers(
        self, encoded: Encoded, kind: str, output: Any, sampling: Mapping[str, Any], top_k: int
    ) -> list[Trace]:
        n, hf = len(encoded.ids), self.tokenizer.hf
        found = []
        for choice in output.outputs:
            new = [int(i) for i in choice.token_ids]
            ids = np.concatenate([encoded.ids, np.array(new, np.int64)])
            spans, at = list(encoded.spans.tolist()), len(encoded.text)
            for j in range(len(new)):
                shown = hf.decode(new[: j + 1], clean_up_tokenization_spaces=False)
                end = max(at, len(encoded.text) + len(shown.rstrip("\N{REPLACEMENT CHARACTER}")))
                spans.append([at, end])
                at = end
            told = [None] * n + list(choice.logprobs or [])
            columns = _columns(ids.tolist(), told, top_k, n)
            whole = hf.decode(new, clean_up_tokenization_spaces=False)
            how = dataclasses.replace(
                self.provenance, kind=kind, decoding="sampled" if sampling else "greedy",
                sampling=dict(sampling), finish_reason=choice.finish_reason,
            )  # fmt: skip
            found.append(Trace(
                **columns, ids=ids, spans=np.array(spans, np.int32).reshape(-1, 2),
                text=encoded.text + whole, prompt_tokens=n, provenance=how,
                vocab=self._strings(ids, columns),
            ))  # fmt: skip
        return found


def _columns(
    ids: Sequence[int], told: Sequence[Any], top_k: int, prompt_tokens: int
) -> dict[str, Any]:
    """Per-token arrays from vLLM's {id: Logprob} per position, None where nothing is said.

    vLLM ranks by >=, so tokens as likely as this one count as before it; the top list corrects
    that where it can. Raises BadModel when a scored token has no log-prob or a positive one.
    """
    n = len(ids)
    logp, rank = np.full(n, np.nan, np.float32), np.full(n, -1, np.int32)
    top_ids, top_logp = np.full((n, top_k), -1, np.int32), np.full((n, top_k), np.nan, np.float32)
    for t, (token, entry) in enumerate(zip(ids, told, strict=True)):
        if t < prompt_tokens or entry is None:
            if t >= max(prompt_tokens, 1):
                raise BadModel(f"vLLM gave no log-prob for token {t}")
            continue
        own = entry.get(token)
        if own is None or math.isnan(own.logprob) or own.logprob > 1e-4:
            raise BadModel(f"vLLM gave no usable log-prob for token {t}")
        logp[t] = min(own.logprob, 0.0)
        greater = sum(o.logprob > own.logprob for o in entry.values())
        listed = own.rank is not None and own.rank <= len(entry)
        rank[t] = 1 + greater if listed else own.rank or -1
        best = sorted(entry.items(), key=lambda item: -item[1].logprob)
        best = [(i, o) for i, o in best if o.rank is None or o.rank <= top_k][:top_k]
        for column, (i, o) in enumerate(best):
            top_ids[t, column], top_logp[t, column] = i, min(o.logprob, 0.0)
    held: dict[str, Array] = {"logp": logp, "rank": rank}
    return held | ({"top_ids": top_ids, "top_logp": top_logp} if top_k else {})


def open_vllm(name: str, **options: Any) -> LanguageModel:
    """`vllm:NAME` for `nll.load`: a hub id or folder, opened by vLLM on this machine's GPU.

    Raises MissingExtra without `nll[vllm]`, BadModel when vLLM cannot open it or its log-probs are
    not the model's own, BadInput for options that vLLM does not know.
    """
    try:
        vllm = import_module("vllm")
    except ImportError:
        raise MissingExtra('vllm is not installed; run: pip install "nll[vllm]"') from None
    wanted, dtype = name.removeprefix("vllm:"), options.get("dtype", "float32")
    if not wanted:
        raise BadInput("name the model behind vllm: as in vllm:Qwen/Qwen3-0.6B")
    if dtype == "int8":
        raise BadInput("dtype int8 is for local models on a CPU")
    if options.get("batch_tokens") is not None or options.get("device", "auto") != "auto":
        raise BadInput("vLLM chooses batches and devices itself (CUDA_VISIBLE_DEVICES)")
    try:
        engine = vllm.LLM(
            model=wanted, dtype=dtype, revision=options.get("revision"),
            trust_remote_code=bool(options.get("trust_remote_code")), max_logprobs=MAX_LOGPROBS,
            logprobs_mode="raw_logprobs",
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise BadModel(f"vLLM cannot open {wanted}: {first_line(error)}") from None
    read = make_tokenizer(engine.get_tokenizer(), options.get("bos", "auto"))
    config = engine.llm_engine.model_config
    provenance = Provenance(
        model=wanted, revision=options.get("revision"), tokenizer=read.digest,
        dtype=str(config.dtype).removeprefix("torch."), backend="vllm",
        vocab_size=int(config.get_vocab_size()), bos=read.bos, library=__version__,
    )  # fmt: skip
    found = VllmModel(engine, read, provenance)
    _check_alignment(found)
    return found


def _check_alignment(model: VllmModel) -> None:
    """A text is read and its last token written: both must get the same number."""
    ((wrote,),) = model.generate(["one two three"], max_new_tokens=1)
    ids = [int(i) for i in wrote.field("ids")]
    bos = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    (output,) = model._run([bos + ids], max_tokens=1, temperature=0.0, prompt_logprobs=1)
    own = output.prompt_logprobs[-1][ids[-1]].logprob
    if not abs(own - float(wrote.logp[-1])) < 0.5:
        raise BadModel(
            f"vLLM reads a token with log p {own:.3f} that it wrote with {wrote.logp[-1]:.3f}; "
            "it may be one token late or report a processed distribution"
        )
