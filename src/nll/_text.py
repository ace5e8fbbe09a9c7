"""What can be scored, and what is said of a row that cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nll._errors import BadText

TextLike: TypeAlias = "Text | str | tuple[str, str] | Sequence[Mapping[str, str]]"


@dataclass(frozen=True, slots=True)
class Text:
    """A text to score: plain, a completion after a prompt, or the last answer of a chat.

    `text` is what gets scored. With a `prompt`, the model reads `prompt + text` and only the tokens
    of `text` are scored. With `messages`, `text` and `prompt` come from the model's chat template.
    """

    text: str = ""
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()
    id: str | None = None

    @classmethod
    def of(cls, value: object, *, id: str | None = None) -> Text:
        """Read a str, a (prompt, completion) pair, a list of chat messages, or a Text.

        Raises BadText (reasons `null`, `not_a_string`, `bad_chat`) for anything else.
        """
        if isinstance(value, Text):
            return value
        if isinstance(value, str):
            return cls(value, id=id)
        if value is None:
            raise BadText("null", "the text is missing (null)")
        if isinstance(value, tuple) and len(value) == 2:
            return cls.pair(*value, id=id)
        if isinstance(value, list) and all(isinstance(m, Mapping) for m in value):
            return cls.chat(value, id=id)
        raise BadText("not_a_string", f"a text must be a string, not {type(value).__name__}")

    @classmethod
    def pair(cls, prompt: object, completion: object, *, id: str | None = None) -> Text:
        """A completion that is scored after a prompt that is only read."""
        for part, name in ((prompt, "prompt"), (completion, "completion")):
            if part is None:
                raise BadText("null", f"the {name} is missing (null)")
            if not isinstance(part, str):
                raise BadText(
                    "not_a_string", f"the {name} must be a string, not {type(part).__name__}"
                )
        return cls(str(completion), prompt=str(prompt), id=id)

    @classmethod
    def chat(cls, messages: Sequence[Mapping[str, str]], *, id: str | None = None) -> Text:
        """A conversation whose last message, by the assistant, is scored."""
        for m in messages:
            if not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
                raise BadText("bad_chat", "a chat message needs a 'role' and a 'content' string")
        if not messages or messages[-1]["role"] != "assistant":
            raise BadText("bad_chat", "the last chat message must be the assistant's answer")
        return cls(messages[-1]["content"], messages=tuple(messages), id=id)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be scored, and why."""

    index: int
    reason: str
    detail: str
    id: str | None = None
