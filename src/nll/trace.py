"""What a model's likelihood says about every token of a text, and what was read to get it.

Natural logarithm throughout. Every per-token array has length T, the number of tokens of the text
(a BOS that the model was given in front is not one of them); entry t speaks of token t given all
tokens before it. Where nothing was predicted, floats are nan, ranks and ties are -1.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput, MissingField
from nll._text import Rejected as Rejected
from nll._text import Text as Text
from nll._text import TextLike as TextLike

Array: TypeAlias = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """What a trace holds beyond logp, entropy, varentropy, rank and ties, which are always there.

    top_k: how many of the most likely tokens to keep at each position.
    betas: inverse temperatures b at which `lse_at` = ln sum_v p_v^b is kept.
    boundary: keep the log mass of word-start tokens at each position and one past the end.
    hidden: keep the states as they enter the unembedding (4 d bytes a token).
    kl_uniform: keep the divergence of the uniform distribution from the model's at each position.

    With both `boundary` and `betas` the word-start mass is kept at each inverse temperature too.
    """

    top_k: int = 0
    betas: tuple[float, ...] = ()
    boundary: bool = False
    hidden: bool = False
    kl_uniform: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise BadInput(f"top_k must be 0 or more, not {self.top_k}")
        if not all(np.isfinite(b) and b >= 0 for b in self.betas):
            raise BadInput(f"inverse temperatures must be finite and >= 0, not {self.betas}")
        object.__setattr__(self, "betas", tuple(sorted({float(b) for b in self.betas})))

    def __or__(self, other: Fields) -> Fields:
        """The least that serves both."""
        return Fields(
            top_k=max(self.top_k, other.top_k),
            betas=self.betas + other.betas,
            boundary=self.boundary or other.boundary,
            hidden=self.hidden or other.hidden,
            kl_uniform=self.kl_uniform or other.kl_uniform,
        )


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a trace came about; two traces with equal provenance are comparable.

    decoding: `given` (the text was there), `greedy`, or `sampled` (then `sampling` says how).
    bos: the token put in front of the text, or None when the first token was not predicted.
    window, stride: set when the text was longer than the context; every token was scored once, with
    at least `window - stride` tokens of left context (fewer only within the first window).
    reference: the second model of the cross statistics.
    declared_error: how far log p is from the same model in float32, where it is not that one.
    """

    model: str = ""
    revision: str | None = None
    weights: str | None = None
    tokenizer: str | None = None
    dtype: str = "float32"
    backend: str = ""
    vocab_size: int | None = None
    bos: str | None = None
    kind: str = "text"
    decoding: str = "given"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    window: int | None = None
    stride: int | None = None
    reference: str | None = None
    library: str = ""
    declared_error: str | None = None

    def to_json(self) -> str:
        """One line, the same for equal provenance; fields empty by default are left out."""
        blank = Provenance()
        kept = {
            f.name: value
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) not in (None, {}, "")
            or value != getattr(blank, f.name)
        }
        return json.dumps(kept, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Provenance:
        """Inverse of `to_json`; fields that this version does not know are dropped."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in json.loads(line).items() if k in known})


PER_TOKEN = ("logp", "entropy", "varentropy", "rank", "ties")
OPTIONAL = (
    "top_ids",
    "top_logp",
    "lse_at",
    "boundary",
    "boundary_at",
    "kl_uniform",
    "cross_mean",
    "cross_var",
    "hidden",
)
PAST_END = ("boundary", "boundary_at")  # these hold one entry more, for what follows the last token
_HOW = {
    "top_ids": "top_k=10",
    "top_logp": "top_k=10",
    "lse_at": "betas=(...)",
    "boundary": "boundary=True",
    "boundary_at": "boundary=True, betas=(...)",
    "kl_uniform": "kl_uniform=True",
    "hidden": "hidden=True",
    "cross_mean": "reference=model",
    "cross_var": "reference=model",
}


@dataclass(frozen=True, eq=False)
class Trace:
    """One text and, for each of its T tokens, what the model's likelihood says. Nats.

    logp: (T,) log p(x_t | x_<t); nan where nothing was predicted.
    entropy: (T,) of the full next-token distribution.  varentropy: (T,) variance of log p under p.
    rank: (T,) 1 + number of tokens with a strictly larger logit.  ties: (T,) others as likely.
    ids: (T,) token ids.  spans: (T, 2) first and past-the-end character of each token in `text`.
    prompt_tokens: tokens of the prompt; they are read, not scored.
    top_ids, top_logp: (T, k) most likely tokens first.
    betas, lse_at: (G,), (T, G) ln sum_v p_v^b at inverse temperatures b.
    boundary: (T + 1,) log mass of word-start tokens before each token and after the last.
    boundary_at: (T + 1, G) the same mass under the distribution at each inverse temperature b.
    kl_uniform: (T,) KL(uniform || p) = -mean_v ln p_v - ln V, over the entries with p_v > 0.
    cross_mean, cross_var: (T,) mean and variance of this model's log p under a second model.
    hidden: (T, d) the state from which token t was predicted, as it enters the unembedding.
    vocab: token id -> string, for the ids that occur here.

    Floats are kept in the precision given (float32 from models, float64 from exact sources).
    Raises BadInput when lengths disagree.
    """

    logp: Array
    entropy: Array | None = None
    varentropy: Array | None = None
    rank: Array | None = None
    ties: Array | None = None
    ids: Array | None = None
    spans: Array | None = None
    text: str = ""
    prompt_tokens: int = 0
    top_ids: Array | None = None
    top_logp: Array | None = None
    betas: tuple[float, ...] = ()
    lse_at: Array | None = None
    boundary: Array | None = None
    boundary_at: Array | None = None
    kl_uniform: Array | None = None
    cross_mean: Array | None = None
    cross_var: Array | None = None
    hidden: Array | None = None
    vocab: Mapping[int, str] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    id: str | None = None

    def __post_init__(self) -> None:
        n = len(self.logp)
        for name in ("logp", "entropy", "varentropy", "kl_uniform", "cross_mean", "cross_var"):
            self._settle(name, _floats, (n,))
        for name in ("rank", "ties", "ids"):
            self._settle(name, _ints, (n,))
        self._settle("spans", _ints, (n, 2))
        self._settle("boundary", _floats, (n + 1,))
        self._settle("lse_at", _floats, (n, len(self.betas)))
        self._settle("boundary_at", _floats, (n + 1, len(self.betas)))
        for name, kind in (("top_ids", _ints), ("top_logp", _floats), ("hidden", _floats)):
            value = getattr(self, name)
            if value is not None:
                width = np.shape(value)[1] if np.ndim(value) == 2 else 0
                self._settle(name, kind, (n, width))
        if not 0 <= self.prompt_tokens <= n:
            raise BadInput(f"prompt_tokens is {self.prompt_tokens}, but there are {n} tokens")

    def _settle(self, name: str, kind: Any, shape: tuple[int, ...]) -> None:
        value = getattr(self, name)
        if value is None:
            return
        array = kind(value)
        if array.shape != shape and array.size == 0 and 0 in shape:
            array = array.reshape(shape)
        if array.shape != shape:
            raise BadInput(f"Trace.{name} has shape {array.shape}, expected {shape}")
        object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.logp)

    @property
    def nll(self) -> Array:
        """(T,) -log p(x_t | x_<t), nats."""
        return -self.logp

    @cached_property
    def scored(self) -> Array:
        """(T,) bool: the tokens that count, predicted and not part of the prompt."""
        mask: Array = ~np.isnan(self.logp)
        mask[: self.prompt_tokens] = False
        return mask

    @cached_property
    def scored_part(self) -> slice | Array:
        """An index of the scored tokens: a slice, which copies nothing, where they lie together."""
        first = int(np.argmax(self.scored)) if self.n_scored else len(self)
        together = first + self.n_scored
        return slice(first, together) if self.scored[first:together].all() else self.scored

    @cached_property
    def _values(self) -> dict[str, Array]:
        return {}

    @cached_property
    def _derived(self) -> dict[Hashable, Any]:
        return {}

    @cached_property
    def n_scored(self) -> int:
        """How many tokens count."""
        return int(np.count_nonzero(self.scored))

    def field(self, name: str) -> Array:
        """The array called `name`; raises MissingField, saying how to get it, when absent."""
        value: Array | None = getattr(self, name)
        if value is None:
            how = _HOW.get(name)
            hint = f"; trace the text again with {how}" if how else ""
            raise MissingField(f"this trace holds no {name}{hint}")
        return value

    def values(self, name: str) -> Array:
        """`field(name)` at the scored tokens, as read-only float64, so that sums are exact enough.

        Kept once computed, since most scores of a text read the same few fields.
        """
        held: Array | None = self._values.get(name)
        if held is None:
            value = self.field(name)
            held = value[self.scored_part].astype(np.float64)
            held.flags.writeable = False
            if name != "hidden":
                self._values[name] = held
        return held

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, kept under this key: scores of one family share what they derive."""
        held: dict[Hashable, Any] = self._derived
        if key not in held:
            held[key] = make()
        found: T = held[key]
        return found

    def lse(self, beta: float) -> Array:
        """ln sum_v p_v^beta at the scored tokens, float64; exact 0 at beta = 1.

        Raises MissingField when the trace was not made with this inverse temperature.
        """
        if beta == 1.0:
            return np.zeros(self.n_scored)
        return self.values("lse_at")[:, self.beta_index(beta)]

    def beta_index(self, beta: float) -> int:
        """The column of `lse_at` and `boundary_at` that speaks of inverse temperature beta.

        Raises MissingField when the trace was not made with it.
        """
        for column, held in enumerate(self.betas):
            if math.isclose(held, beta, rel_tol=1e-9):
                return column
        raise MissingField(
            f"this trace holds no lse_at for inverse temperature {beta:g} "
            f"(it holds {list(self.betas)}); trace the text again with betas=({beta:g},)"
        )

    @property
    def left_context(self) -> Array:
        """(T,) how many tokens the model saw to the left of each token, BOS not counted."""
        window, stride, n = self.provenance.window, self.provenance.stride, len(self)
        seen = np.arange(n)
        if window is None or stride is None:
            return seen
        bos = int(self.provenance.bos is not None)
        first = window - bos
        later = np.maximum(seen - first, 0) // stride + 1
        return np.where(seen < first, seen, seen + bos - later * stride)

    @property
    def completion(self) -> Trace:
        """The same trace without its prompt: text, spans and every array cut to the answer."""
        start = self.prompt_tokens
        if start == 0:
            return self
        cut: dict[str, Any] = {"prompt_tokens": 0}
        names = (*PER_TOKEN, *OPTIONAL, "ids")
        for name in names:
            value = getattr(self, name)
            cut[name] = None if value is None else value[start:]
        if self.spans is not None:
            at = int(self.spans[start, 0]) if start < len(self) else len(self.text)
            cut |= {"text": self.text[at:], "spans": self.spans[start:] - at}
        return dataclasses.replace(self, **cut)

    @property
    def scored_text(self) -> str:
        """The text without its prompt (an unscored first token is still text)."""
        if self.prompt_tokens == 0 or self.spans is None:
            return self.text
        return self.completion.text

    def token_text(self, t: int) -> str:
        """Token t as it stands in the text; its vocabulary string if it is part of a character."""
        if self.spans is not None:
            start, end = (int(x) for x in self.spans[t])
            shared = (t > 0 and int(self.spans[t - 1, 1]) > start) or (
                t + 1 < len(self) and int(self.spans[t + 1, 0]) < end
            )
            if not shared:
                return self.text[start:end]
        return (
            self.vocab.get(int(self.ids[t]), "\N{REPLACEMENT CHARACTER}")
            if self.ids is not None
            else ""
        )


def _floats(value: Any) -> Array:
    array = np.asarray(value)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _ints(value: Any) -> Array:
    return np.asarray(value, dtype=np.int32)


def same(a: Trace, b: Trace) -> bool:
    """Whether two traces are equal in every field, bit for bit (nan equals nan)."""
    for f in dataclasses.fields(Trace):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
            if x is None or y is None or x.dtype != y.dtype or x.shape != y.shape:
                return False
            if x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True
