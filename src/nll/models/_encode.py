"""From texts to token ids with exact character spans, by the model's own tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nll._errors import BadInput, BadModel, BadText
from nll.trace import Array, Text


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as the model reads it. ids (T,), spans (T, 2); BOS not included."""

    text: str
    ids: Array
    spans: Array
    prompt_tokens: int
    kind: str
    id: str | None


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer, its BOS rule and the strings of its vocabulary."""

    hf: Any
    bos: str | None
    bos_id: int | None
    digest: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_strings", {})

    def string(self, token: int) -> str:
        """What a single token looks like; part of a character is a replacement character."""
        held: dict[int, str] = self._strings  # type: ignore[attr-defined]
        if token not in held:
            held[token] = self.hf.decode([token], clean_up_tokenization_spaces=False)
        return held[token]

    def strings(self, tokens: Array) -> dict[int, str]:
        """id -> string of every distinct id."""
        return {int(t): self.string(int(t)) for t in np.unique(tokens)}


def make_tokenizer(hf: Any, bos: str) -> Tokenizer:
    """Apply a BOS rule: `auto` (the tokenizer's own habit), `none`, `bos`, or a token's string.

    Raises BadModel for a tokenizer without character offsets, BadInput for an unknown rule.
    """
    if not getattr(hf, "is_fast", False):
        raise BadModel(
            "this model's tokenizer gives no character offsets (a 'slow' tokenizer); "
            "convert it to a tokenizer.json first"
        )
    bos_id: int | None
    if bos == "auto":
        plain = hf("a", add_special_tokens=False)["input_ids"]
        own = hf("a")["input_ids"]
        bos_id = int(own[0]) if len(own) > len(plain) and own[0] != plain[0] else None
    elif bos == "none":
        bos_id = None
    elif bos == "bos":
        bos_id = hf.bos_token_id if hf.bos_token_id is not None else hf.eos_token_id
        if bos_id is None:
            raise BadInput("this tokenizer has neither a BOS nor an EOS token; use bos='none'")
    else:
        bos_id = hf.get_vocab().get(bos)
        if bos_id is None:
            raise BadInput(f"bos must be auto, none, bos or a token of the vocabulary, not {bos!r}")
    digest = hashlib.sha256(hf.backend_tokenizer.to_str().encode()).hexdigest()[:16]
    token = None if bos_id is None else str(hf.convert_ids_to_tokens(bos_id))
    return Tokenizer(hf, token, bos_id, digest)


def render(tokenizer: Tokenizer, text: Text) -> tuple[str, int, str]:
    """(all that is read, character where scoring starts, kind); raises BadText."""
    if text.messages:
        return _render_chat(tokenizer, text)
    whole = (text.prompt or "") + text.text
    if not text.text:
        what = "completion" if text.prompt is not None else "text"
        raise BadText("empty", f"the {what} is empty")
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadText(
            "surrogates",
            f"character {error.start} is a lone surrogate (U+{ord(whole[error.start]):04X}), "
            "which no tokenizer can read",
        ) from None
    if text.prompt is None:
        return whole, 0, "text"
    return whole, len(text.prompt), "completion"


def _render_chat(tokenizer: Tokenizer, text: Text) -> tuple[str, int, str]:
    hf = tokenizer.hf
    if not hf.chat_template:
        raise BadText("no_chat_template", "this model's tokenizer has no chat template")
    messages = [dict(m) for m in text.messages]
    prompt = hf.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = hf.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(prompt):
        raise BadText(
            "chat_template",
            "this chat template writes the conversation differently once it is answered, "
            "so the answer's tokens cannot be told apart",
        )
    # The end-of-turn token is part of the answer; what the template writes after it is not.
    end = whole.rfind(hf.eos_token) if hf.eos_token else -1
    if end >= len(prompt):
        whole = whole[: end + len(hf.eos_token)]
    if not messages[-1]["content"]:
        raise BadText("empty", "the answer is empty")
    # The template may write the BOS itself; the BOS rule puts it there once.
    if tokenizer.bos and whole.startswith(tokenizer.bos):
        cut = len(tokenizer.bos)
        whole, prompt = whole[cut:], prompt[cut:]
    return whole, len(prompt), "chat"


def _closed(spans: Array) -> Array:
    """Give characters that a tokenizer leaves out of its offsets (spaces) to the next token."""
    ends = np.concatenate([[0], np.maximum.accumulate(spans[:, 1])[:-1]])
    spans[:, 0] = np.minimum(spans[:, 0], ends)
    return spans


def encode(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Encoded | BadText]:
    """Encode many texts at once; a text that cannot be read becomes its BadText.

    A token that straddles the end of the prompt belongs to the completion.
    """
    out: list[Encoded | BadText] = []
    good: list[tuple[int, str, int, str]] = []
    for i, text in enumerate(texts):
        try:
            good.append((i, *render(tokenizer, text)))
            out.append(BadText("unread", "not encoded"))
        except BadText as error:
            out.append(error)
    if not good:
        return out
    batch = tokenizer.hf(
        [whole for _, whole, _, _ in good],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    for (i, whole, start, kind), ids, spans in zip(
        good, batch["input_ids"], batch["offset_mapping"], strict=True
    ):
        pieces = _closed(np.asarray(spans, np.int32).reshape(-1, 2))
        if len(ids) == 0:
            out[i] = BadText("empty", "the tokenizer finds no token in the text")
            continue
        prompt_tokens = int(np.searchsorted(pieces[:, 1], start, side="right")) if start else 0
        out[i] = Encoded(whole, np.asarray(ids, np.int64), pieces, prompt_tokens, kind, texts[i].id)
    return out


def piece_spans(hf: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text that these tokens write, and the characters of each token in it.

    A token that only begins a character spans nothing; the one that completes it has it all.
    """

    def decode(part: Sequence[int]) -> str:
        text: str = hf.decode(list(part), clean_up_tokenization_spaces=False)
        return text

    whole = decode(ids)
    spans: list[tuple[int, int]] = []
    at = start = read = settled = 0  # characters up to the window's last whole one: settled
    before = ""
    for i in range(len(ids)):
        after = decode(ids[start : i + 1])
        grown = len(after.rstrip("\N{REPLACEMENT CHARACTER}")) - len(before)
        end = max(at, settled + max(0, grown))
        spans.append((at, end))
        at = end
        if not after.endswith("\N{REPLACEMENT CHARACTER}") and len(after) > len(before):
            settled += len(after) - len(before)
            start, read = read, i + 1
            before = decode(ids[start:read])
    if at == len(whole.rstrip("\N{REPLACEMENT CHARACTER}")):
        return whole, spans
    # The tokenizer writes a piece differently once more has been read; ask it for every beginning.
    spans, at = [], 0
    for i in range(len(ids)):
        end = max(at, len(decode(ids[: i + 1]).rstrip("\N{REPLACEMENT CHARACTER}")))
        spans.append((at, end))
        at = end
    return whole, spans


def encoded_ids(tokenizer: Tokenizer, ids: Sequence[int], id: str | None = None) -> Encoded:
    """Token ids as given, with the text they write; raises BadText for ids of no token.

    A BOS in front is dropped where the BOS rule puts it there anyway.
    """
    size = tokenizer.hf.backend_tokenizer.get_vocab_size(with_added_tokens=True)
    wrong = [i for i in ids if not 0 <= i < size]
    if wrong:
        raise BadText("no_such_token", f"token id {wrong[0]} is not in 0 to {size - 1}")
    own = list(ids[1:] if ids and ids[0] == tokenizer.bos_id else ids)
    text, spans = piece_spans(tokenizer.hf, own)
    return Encoded(
        text, np.asarray(own, np.int64), np.asarray(spans, np.int32).reshape(-1, 2), 0, "text", id
    )
