"""An answer as its reader sees it: without the end token, cut at a stop string, piece by piece."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nll.models._encode import piece_spans
from nll.models._written import Answer
from nll.serve._shapes import HALF
from nll.trace import Trace

if TYPE_CHECKING:
    from nll.models._encode import Tokenizer

_KEPT = ("logp", "rank", "top_ids", "top_logp")


class Speaker:
    """Tells a growing answer: nothing that could still become a stop string, each token once.

    The end token belongs to the tokens, not to the text; tokens that touch a stop string do not.
    """

    def __init__(
        self, answer: Answer, tokenizer: Tokenizer, ends: Collection[int], stop: Sequence[str]
    ):
        self._answer, self._tokenizer, self._ends, self._stop = answer, tokenizer, ends, stop
        self._hold = max((len(s) for s in stop), default=1) - 1
        self._after = [0]  # characters before the first token and after each
        self._shown = self._released = 0

    def more(self, count: int) -> tuple[str, Trace]:
        """(new text, its tokens), now that there are `count` tokens."""
        text, _ = self._read(count)
        whole = len(text.rstrip(HALF))
        return self._show(text, max(self._shown, whole - self._hold), count)

    def rest(self) -> tuple[str, Trace, str]:
        """(what is left at the end, its tokens, why it ended)."""
        count = len(self._answer.tokens)
        text, cut = self._read(count)
        until = sum(end <= len(text) for end in self._after[1:]) if cut else count
        piece, trace = self._show(text, len(text), until)
        return piece, trace, "stop" if self._answer.ended else "length"

    def _read(self, count: int) -> tuple[str, bool]:
        """The text of that many tokens, and whether a stop string cut it."""
        if len(self._after) == 1 and count > 1:
            ended = self._answer.tokens[count - 1] in self._ends
            _, spans = piece_spans(self._tokenizer.hf, self._answer.tokens[: count - ended])
            self._after += [end for _, end in spans]
        while len(self._after) <= count:
            text = self._text(len(self._after))
            self._after.append(max(self._after[-1], len(text.rstrip(HALF))))
        text = self._text(count)
        cuts = [text.find(s) for s in self._stop if s in text]
        return (text[: min(cuts)] if cuts else text), bool(cuts)

    def _text(self, count: int) -> str:
        tokens = self._answer.tokens[:count]
        body = tokens[:-1] if tokens and tokens[-1] in self._ends else tokens
        text: str = self._tokenizer.hf.decode(body, clean_up_tokenization_spaces=False)
        return text

    def _show(self, text: str, until: int, count: int) -> tuple[str, Trace]:
        piece, self._shown = text[self._shown : until], until
        first = self._released
        while self._released < count and self._after[self._released + 1] <= until:
            self._released += 1
        return piece, self._trace(text, range(first, self._released))

    def _trace(self, text: str, part: range) -> Trace:
        """A trace of these tokens alone, which begins where they begin."""
        ids = np.array([self._answer.tokens[t] for t in part], np.int64)
        held: dict[str, Any] = {
            k: np.array(self._answer.values[k][part.start : part.stop]) for k in _KEPT
        }
        known = np.concatenate([ids, held["top_ids"].ravel()]).astype(np.int64)
        spans: Any = [(self._after[t], self._after[t + 1]) for t in part]
        return Trace(
            ids=ids, spans=np.array(spans).reshape(-1, 2), text=text,
            vocab=self._tokenizer.strings(known[known >= 0]), **held,
        )  # fmt: skip
