"""`replay:FILE`: a model whose answers were recorded, and the recorder that writes such files."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from nll import __version__
from nll._errors import BadFile, BadInput, BadModel, BadText, MissingField
from nll.models._capabilities import FIELDS, Capabilities, capabilities
from nll.models._options import Continues
from nll.models._protocol import DEFAULT_FIELDS, LanguageModel, OnReject
from nll.models._record import (
    SCHEMA,
    ask_of,
    ask_of_prompt,
    key_of,
    renamed,
    trace_from_json,
    trace_to_json,
)
from nll.models._remote_payload import BadAnswer, read_completion
from nll.models._remote_trace import pieces_of, read_trace, whole_text
from nll.trace import Fields, Provenance, Rejected, Text, TextLike, Trace


class Recorder(Continues):
    """A model that writes every answer it passes on to a file for `replay:FILE`.

        with nll.models.Recorder(model, "answers.jsonl") as recorded:
            table = nll.score(recorded.trace(texts), ["mean_nll"])

    A file that is there already grows; a line that a crash has torn is dropped.
    """

    def __init__(self, model: LanguageModel, path: str | Path):
        self.model = model
        self.path = Path(path)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Recorder:
        self._file = self.path.open("ab+")
        self._file.seek(0)
        held = self._file.read()
        self._file.truncate(held.rfind(b"\n") + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def identity(self) -> Mapping[str, str]:
        """The recorded model's."""
        return self.model.identity

    @property
    def capabilities(self) -> Capabilities:
        """The recorded model's."""
        return capabilities(self.model)

    def _write(self, ask: Mapping[str, Any], traces: Sequence[Trace]) -> None:
        if self._file is None:
            raise BadInput("the recorder is closed; use it as: with Recorder(model, path) as m:")
        line = {"nll": SCHEMA, "model": self.identity.get("model", ""), "ask": ask,
                "traces": [trace_to_json(t) for t in traces]}  # fmt: skip
        self._file.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")
        self._file.flush()

    def trace(
        self,
        texts: Iterable[TextLike],
        *,
        on_reject: OnReject | None = None,
        **options: Any,
    ) -> Iterator[Trace]:
        """As the model's, each trace recorded before it is passed on."""
        waiting: deque[tuple[int, TextLike]] = deque()
        refused: set[int] = set()

        def counted() -> Iterator[TextLike]:
            for i, value in enumerate(texts):
                waiting.append((i, value))
                yield value

        def told(rejected: Rejected) -> None:
            refused.add(rejected.index)
            if on_reject is not None:
                on_reject(rejected)

        hears = told if on_reject is not None else None
        for trace in self.model.trace(counted(), on_reject=hears, **options):
            while waiting[0][0] in refused:
                refused.discard(waiting.popleft()[0])
            self._write(ask_of(waiting.popleft()[1]), [trace])
            yield trace

    def generate(
        self, prompts: Iterable[TextLike], *, on_reject: OnReject | None = None, **options: Any
    ) -> Iterator[list[Trace]]:
        """As the model's, prompt by prompt so that each has a question of its own."""
        for i, prompt in enumerate(prompts):
            settings = settings_of(i, options)
            try:
                (answers,) = self.model.generate([prompt], **{**options, "seed": settings["seed"]})
            except BadText as error:
                if on_reject is None:
                    raise
                on_reject(Rejected(i, error.reason, error.detail))
                continue
            self._write(ask_of_prompt(prompt, settings), answers)
            yield answers


def settings_of(index: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide an answer, defaults filled in; prompt i counts its own seed."""
    usual = {"max_new_tokens": 64, "n": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0,
             "seed": 0, "stop": (), "greedy": False}  # fmt: skip
    held = {name: options.get(name, value) for name, value in usual.items()}
    return {**held, "seed": held["seed"] + index, "stop": list(held["stop"])}


class ReplayModel(Continues):
    """Recorded answers under the protocol of a model; see `nll.models.open_replay`."""

    def __init__(self, path: Path):
        self._path = path
        self._lines: dict[str, bytes] = {}
        self._payloads: dict[str, bytes] = {}
        digest, self._exact = hashlib.sha256(), set(FIELDS)
        self._model, self._top = "", 1 << 30
        for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
            digest.update(raw + b"\n")
            if raw.strip():
                self._index(number, raw)
        self._digest = digest.hexdigest()
        if not self._lines and not self._payloads:
            raise BadFile(f"{path} holds no recorded answers")

    def _index(self, number: int, raw: bytes) -> None:
        try:
            line = json.loads(raw)
            if "response" in line:
                prompt = line["request"]["prompt"]
                self._payloads[str(prompt)] = raw
                held: Sequence[Mapping[str, Any]] = ()
                self._exact &= {"logp", "spans"}
                self._model = self._model or str(line["request"].get("model", ""))
            else:
                if int(line["nll"]) > SCHEMA:
                    raise BadFile(f"{self._path} was recorded by a newer nll; upgrade it")
                self._lines[key_of(line["ask"])] = raw
                held = line["traces"]
                self._model = self._model or str(line["model"])
            for trace in held:
                self._exact &= {n for n in FIELDS if trace.get(n) is not None}
                if trace.get("top_logp"):
                    self._top = min(self._top, len(trace["top_logp"][0]))
        except (KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"{self._path}:{number}: not a recorded answer ({error!r})") from None
        except ValueError as error:
            if isinstance(error, BadFile):
                raise
            raise BadFile(f"{self._path}:{number}: no whole JSON") from None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path.name}: {len(self._lines)} answers>"

    @property
    def identity(self) -> Mapping[str, str]:
        """The recorded model's name, and the file's checksum."""
        return {"model": self._model, "backend": "replay", "recording": self._digest,
                "library": __version__}  # fmt: skip

    @property
    def capabilities(self) -> Capabilities:
        """The fields that every recorded trace holds."""
        return Capabilities(
            frozenset(self._exact), frozenset({"entropy", "rank", "ties"} - self._exact)
            if "top_logp" in self._exact else frozenset(),
            self._top if "top_logp" in self._exact else 0, self._path.name,
        )  # fmt: skip

    def trace(
        self,
        texts: Iterable[TextLike],
        *,
        fields: Fields = DEFAULT_FIELDS,
        reference: LanguageModel | None = None,
        stride: int | None = None,
        on_reject: OnReject | None = None,
    ) -> Iterator[Trace]:
        """The recorded trace of each text; a text that was not recorded cannot be scored.

        Raises BadText for such a text unless `on_reject` is given, MissingField when a trace was
        recorded without what `fields` asks for (fewer alternatives than asked for are given).
        """
        if isinstance(texts, str):
            raise BadInput("trace takes several texts; for one text write model.trace([text])")
        if reference is not None:
            raise BadModel("recorded answers cannot be compared with a reference model anew")
        if stride is not None:
            raise BadInput("a recorded answer has the stride it was recorded with")
        return self._traces(texts, fields, on_reject)

    def _traces(
        self, texts: Iterable[TextLike], fields: Fields, on_reject: OnReject | None
    ) -> Iterator[Trace]:
        for i, value in enumerate(texts):
            try:
                text = Text.of(value)
                found = renamed(self._find(text, fields), text.id)
            except BadText as error:
                if on_reject is None:
                    raise BadText(error.reason, f"text {i}: {error.detail}") from None
                name = value.id if isinstance(value, Text) else None
                on_reject(Rejected(i, error.reason, error.detail, name))
                continue
            _check_held(found, fields)
            yield found

    def _find(self, text: Text, fields: Fields) -> Trace:
        raw = self._lines.get(key_of(ask_of(text)))
        if raw is not None:
            return trace_from_json(json.loads(raw)["traces"][0])
        whole = (text.prompt or "") + text.text
        raw = None if text.messages else self._payloads.get(whole_text(text))
        if raw is None:
            raise BadText("not_recorded", f"{self._path.name} has no answer to {_short(whole)}")
        line = json.loads(raw)
        try:
            pieces = pieces_of(
                read_completion(line["response"])[0], echo=bool(line["request"].get("echo"))
            )
            source = Provenance(
                model=self._model, backend="replay", dtype="unknown", library=__version__
            )
            return read_trace(text, pieces, fields, source)
        except BadAnswer as error:
            raise BadText(error.reason, error.detail) from None

    def generate(
        self, prompts: Iterable[TextLike], *, on_reject: OnReject | None = None,
        fields: Fields = DEFAULT_FIELDS, **options: Any,
    ) -> Iterator[list[Trace]]:  # fmt: skip
        """The recorded answers to each prompt under the same settings, seed included."""
        for i, prompt in enumerate(prompts):
            raw = self._lines.get(key_of(ask_of_prompt(prompt, settings_of(i, options))))
            if raw is None:
                detail = f"{self._path.name} has no answer to {_short(str(prompt))} as it is asked"
                if on_reject is None:
                    raise BadText("not_recorded", f"prompt {i}: {detail}")
                on_reject(Rejected(i, "not_recorded", detail))
                continue
            found = [trace_from_json(t) for t in json.loads(raw)["traces"]]
            for trace in found:
                _check_held(trace, fields)
            yield found


def _check_held(trace: Trace, fields: Fields) -> None:
    for name in ("boundary", "hidden", "kl_uniform"):
        if getattr(fields, name):
            trace.field(name)
    for beta in fields.betas:
        trace.beta_index(beta)
    if fields.betas and trace.lse_at is None:
        raise MissingField("this answer was recorded without lse_at")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def open_replay(name: str, **options: Any) -> LanguageModel:
    """`replay:FILE` for `nll.load`: JSON lines of a Recorder, or `{"request", "response"}` lines
    with the bodies of an OpenAI-compatible completions server.

    Raises BadFile for a file that is missing or holds anything else. How the model is run (dtype,
    device, ...) was decided at recording, so such options are refused with BadInput.
    """
    from nll.models._openai import refuse_local

    refuse_local(options, "the recording has")
    path = Path(name.removeprefix("replay:"))
    if not path.is_file():
        raise BadFile(f"{path}: no such file")
    return ReplayModel(path)
