"""Rows with TRL's columns as token ids, and batches of them, padded on the right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from nll._errors import BadInput, BadText
from nll.models._encode import Tokenizer, encode, make_tokenizer
from nll.trace import Text

Row: TypeAlias = Mapping[str, Any]


class Placed(dict[str, Any]):
    """A row that knows where it stood, such as `data.jsonl:7`, for what is said of it."""

    def __init__(self, values: Mapping[str, Any], where: str):
        super().__init__(values)
        self.where = where


Made = TypeVar("Made")
# input_ids, completion_mask: what is read, and which tokens are the answer's.
Example: TypeAlias = dict[str, list[int]]


class Encoder:
    """Texts to examples by the same cuts that scoring makes, with EOS at the end of an answer.

    max_length: longer rows lose the beginning of their prompt, then the end of their answer.
    """

    def __init__(self, processing_class: Any, *, max_length: int = 1024, bos: str = "auto"):
        self.tokenizer: Tokenizer = make_tokenizer(processing_class, bos)
        self.max_length = max_length
        self.eos: int | None = processing_class.eos_token_id
        pad = processing_class.pad_token_id
        self.pad: int = pad if pad is not None else (self.eos or 0)

    def example(self, prompt: Any, completion: Any) -> Example:
        """An answer to a prompt: strings, or lists of chat messages.

        Raises BadText for an empty answer or one that the tokenizer cannot read.
        """
        if isinstance(prompt, list) or isinstance(completion, list):
            return self._of(Text.chat([*_messages(prompt, "user"), *_messages(completion)]))
        return self._of(Text.pair(_string(prompt, "prompt"), _string(completion, "completion")))

    def text(self, text: Any) -> Example:
        """A text all of which is learned, or a chat whose last answer is."""
        return self._of(Text.chat(text) if isinstance(text, list) else Text(_string(text, "text")))

    def prompt(self, prompt: Any) -> list[int]:
        """The ids that an answer continues."""
        if isinstance(prompt, list):
            rendered = self.tokenizer.hf.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True
            )
            prompt = rendered.removeprefix(self.tokenizer.bos or "")
        ids = list(
            self.tokenizer.hf(_string(prompt, "prompt"), add_special_tokens=False)["input_ids"]
        )
        return ([] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]) + ids

    def _of(self, text: Text) -> Example:
        (done,) = encode(self.tokenizer, [text])
        if isinstance(done, BadText):
            raise done
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        ids = [*bos, *done.ids.tolist()]
        answer = len(bos) + done.prompt_tokens
        if self.eos is not None and ids[-1] != self.eos:
            ids.append(self.eos)
        over = max(0, len(ids) - self.max_length)
        cut = min(over, max(0, answer - 1))  # the token that predicts the answer's first stays
        ids = ids[cut:][: self.max_length]
        return {
            "input_ids": ids,
            "completion_mask": [int(i >= answer - cut) for i in range(len(ids))],
        }


def _messages(value: Any, role: str = "assistant") -> list[Any]:
    return list(value) if isinstance(value, list) else [{"role": role, "content": value}]


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadText("not_text", f"{name} must be a string or chat messages, not {value!r:.60}")
    return value


def place(row: Row, number: int) -> str:
    """How a row is named in errors."""
    return str(getattr(row, "where", f"row {number}"))


def checked(rows: Iterable[Row], columns: Sequence[str], what: str) -> list[dict[str, Any]]:
    """All rows, each with these columns. Raises BadInput naming the first that lacks one."""
    held = [row if isinstance(row, Placed) else dict(row) for row in rows]
    if not held:
        raise BadInput(f"there are no rows to train on ({what})")
    for number, row in enumerate(held, 1):
        missing = [c for c in columns if row.get(c) is None]
        if missing:
            has = ", ".join(sorted(row)) or "nothing"
            raise BadInput(f"{place(row, number)} has no '{missing[0]}' for {what} (it has: {has})")
    return held


def encoded(rows: Sequence[dict[str, Any]], make: Callable[[dict[str, Any]], Made]) -> list[Made]:
    """What `make` gives for every row; a row that cannot be read is named in the error."""
    out = []
    for number, row in enumerate(rows, 1):
        try:
            out.append(make(row))
        except BadInput as error:
            raise BadInput(f"{place(row, number)} cannot be trained on: {error}") from None
    return out


def number_of(row: Row, name: str) -> float:
    """A finite number, or a string of one as CSV brings it. Raises BadInput for anything else."""
    value = row[name]
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise BadInput(f"{name} must be a finite number, not {value!r:.60}")
    return found


def label_of(row: Row) -> bool:
    """The column `label`: a boolean, 0 or 1, or one of these as a string (`"false"` is false)."""
    value = row["label"]
    known = {"true": True, "1": True, "false": False, "0": False}
    word = str(int(value)) if isinstance(value, float) and value in (0, 1) else str(value)
    if word.strip().lower() not in known:
        raise BadInput(f"label must be true or false, not {value!r:.60}")
    return known[word.strip().lower()]


def padded(examples: Sequence[Example], pad: int) -> dict[str, Tensor]:
    """input_ids, attention_mask and completion_mask, all (B, T) int64, padded on the right."""
    width = max(len(e["input_ids"]) for e in examples)

    def block(name: str, filling: int) -> Tensor:
        return torch.tensor([e[name] + [filling] * (width - len(e[name])) for e in examples])

    ids = block("input_ids", pad)
    lengths = torch.tensor([len(e["input_ids"]) for e in examples])
    held = (torch.arange(width)[None] < lengths[:, None]).long()
    return {
        "input_ids": ids, "attention_mask": held, "completion_mask": block("completion_mask", 0),
    }  # fmt: skip
