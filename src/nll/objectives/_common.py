"""Sums and means over tokens and sequences that no masked entry reaches, in value or gradient.

Masked entries may hold anything, -inf and nan included: they are replaced before any arithmetic,
since 0 * nan is nan in the value and again in the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from nll._errors import BadInput

Reduction: TypeAlias = Literal["mean", "sum", "none"]
TokenReduction: TypeAlias = Literal["token", "sequence", "sum"]
Values: TypeAlias = Tensor | Sequence[Any]


class Tokens(NamedTuple):
    """(B, T) values whose masked entries are 0, and the (B, T) boolean mask of the others."""

    values: Tensor
    mask: Tensor

    @property
    def length(self) -> Tensor:
        """(B,) int64, valid tokens of each row."""
        return self.mask.sum(-1)


class Rows(NamedTuple):
    """(B,) values of sequences, 0 where left out, and which rows are kept."""

    values: Tensor
    keep: Tensor


def as_tensor(values: Values, name: str) -> Tensor:
    """A float tensor, float32 at least; numbers in lists become float64.

    Half precision is widened, since sums over a text in it are wrong by whole nats; integers become
    float64. Raises BadInput for what is no number.
    """
    if not isinstance(values, Tensor):
        try:
            values = torch.as_tensor(values, dtype=torch.float64)
        except (TypeError, ValueError):
            raise BadInput(f"{name} must hold numbers only") from None
    if not values.is_floating_point():
        return values.double()
    return values.to(torch.promote_types(values.dtype, torch.float32))


def as_mask(mask: Any, like: Tensor, name: str = "mask") -> Tensor:
    """A boolean mask of the shape of `like`; None keeps all. Raises BadInput on another shape."""
    if mask is None:
        return torch.ones(like.shape, dtype=torch.bool, device=like.device)
    found = torch.as_tensor(mask, device=like.device).bool()
    if found.shape != like.shape:
        raise BadInput(
            f"{name} has shape {tuple(found.shape)}, but what it masks {tuple(like.shape)}"
        )
    return found


def is_ragged(values: Values) -> bool:
    """Whether these are sequences of tokens in a list, of unequal lengths perhaps."""
    return not isinstance(values, Tensor) and any(
        (v.dim() if isinstance(v, Tensor) else int(hasattr(v, "__len__"))) == 1 for v in values
    )


def as_tokens(values: Values, mask: Any = None, name: str = "logp") -> Tokens:
    """(B, T) values, or a list of 1-D ones, with masked entries set to 0.

    A list is padded to its longest; its mask is then None or a list of the same lengths.
    Raises BadInput when it is neither, or the mask has another shape.
    """
    if not isinstance(values, Tensor) and not len(values):
        values = torch.zeros(0, 0, dtype=torch.float64)
    if is_ragged(values):
        rows = [as_tensor(v, name) for v in values]
        if any(r.dim() != 1 for r in rows):
            raise BadInput(f"{name}: a list must hold 1-D sequences, one for each text")
        inside = [torch.ones_like(r, dtype=torch.bool) for r in rows]
        if mask is not None:
            if len(mask) != len(rows):
                raise BadInput(f"{name} has {len(rows)} sequences, its mask {len(mask)}")
            inside = [as_mask(m, r, f"the mask of {name}") for m, r in zip(mask, rows, strict=True)]
        found = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        valid = torch.nn.utils.rnn.pad_sequence(inside, batch_first=True)
    else:
        found = as_tensor(values, name)
        if found.dim() != 2:
            raise BadInput(
                f"{name} must be (sequences, tokens) or a list of 1-D sequences, "
                f"not {tuple(found.shape)}"
            )
        valid = as_mask(mask, found, f"the mask of {name}")
    return Tokens(torch.where(valid, found, 0.0), valid)


def sequence_sums(values: Values, mask: Any = None, name: str = "seq_logp") -> Rows:
    """(B,) sums over tokens of (B, T) or ragged values; (B,) values are taken as sums already.

    The mask has the shape of the values: over tokens, or over rows when sums are given. Kept are
    the rows that have a valid token.
    """
    if not is_ragged(values):
        values = as_tensor(values, name)
        if values.dim() not in (1, 2):
            raise BadInput(
                f"{name} must be (sequences,) sums, (sequences, tokens) or a list of 1-D "
                f"sequences, not {tuple(values.shape)}"
            )
        if values.dim() == 1:
            keep = as_mask(mask, values, f"the mask of {name}")
            return Rows(torch.where(keep, values, 0.0), keep)
    tokens = as_tokens(values, mask, name)
    return Rows(tokens.values.sum(-1), tokens.mask.any(-1))


def same_rows(**rows: Tensor) -> None:
    """Raise BadInput, naming both, when two tensors disagree on the number of sequences."""
    (first, base), *others = rows.items()
    for name, other in others:
        if len(other) != len(base):
            raise BadInput(f"{first} has {len(base)} sequences, {name} {len(other)}")


def same_tokens(name: str, own: Tokens, **others: Tokens) -> None:
    """Raise BadInput, naming both, unless all have the same valid tokens in every row.

    Lists of unequal lengths would be padded to one shape, and their sums compared for no reason.
    """
    for other, tokens in others.items():
        same_rows(**{name: own.values, other: tokens.values})
        if own.mask.shape != tokens.mask.shape or not torch.equal(own.mask, tokens.mask):
            raise BadInput(f"{other} and {name} must have the same tokens in every row")


def positive(value: float, name: str, *, zero: bool = False) -> None:
    """Raise BadInput unless value > 0 (or = 0 where that is allowed)."""
    if not (value > 0 or (zero and value == 0)):
        raise BadInput(f"{name} must be {'0 or ' if zero else ''}positive, not {value}")


def masked_sum(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of the valid entries; 0 where there is none."""
    kept = torch.where(mask, values, 0.0)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the valid entries; 0, without gradient, where there is none."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(values, mask, dim) / count.clamp(min=1)


def reduce(values: Tensor, keep: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Mean or sum of the kept entries as a scalar, or `none`: all of them, 0 where left out.

    With nothing kept the result is 0 with a gradient of 0. Raises BadInput on another word.
    """
    if reduction == "none":
        return torch.where(keep, values, 0.0)
    if reduction == "sum":
        return masked_sum(values, keep)
    if reduction == "mean":
        return masked_mean(values, keep)
    raise BadInput(f"reduction must be mean, sum or none, not {reduction!r}")


def reduce_tokens(
    tokens: Tokens, token_reduction: TokenReduction, reduction: Reduction = "mean"
) -> Tensor:
    """Reduce (B, T) losses of tokens, first within each sequence, then over the sequences.

    token: no step within the sequence, `reduction` runs over all valid tokens of the batch
    (`none` gives (B, T)).   sequence: mean over each sequence's tokens.   sum: their sum.
    Sequences without a valid token are left out. Raises BadInput on another word.
    """
    match token_reduction:
        case "token":
            return reduce(tokens.values, tokens.mask, reduction)
        case "sequence":
            rows = masked_mean(tokens.values, tokens.mask, -1)
        case "sum":
            rows = masked_sum(tokens.values, tokens.mask, -1)
        case _:
            raise BadInput(
                f"token_reduction must be token, sequence or sum, not {token_reduction!r}"
            )
    return reduce(rows, tokens.mask.any(-1), reduction)


def log_ratios(
    logp: Values, ref: Values, mask: Any = None, name: str = "seq_logp", ref_name: str = ""
) -> Rows:
    """(B,) log p - log p_ref of whole sequences; the reference is a constant.

    Either may be (B,) sums or (B, T) tokens under the mask, or a list of 1-D tokens. An answer that
    is impossible has a ratio of -inf, also where it was impossible under the reference.
    """
    ref_name = ref_name or f"ref_{name}"
    own = sequence_sums(logp, mask, name)
    if _are_sums(ref, ref_name):
        base = as_tensor(ref, ref_name).to(own.values.device)
        same_rows(**{name: own.values, ref_name: base})
        base = torch.where(own.keep, base, 0.0)
    else:
        if not _are_sums(logp, name):
            tokens = as_tokens(ref, mask, ref_name)
            same_tokens(name, as_tokens(logp, mask, name), **{ref_name: tokens})
        base = sequence_sums(ref, mask, ref_name).values
        same_rows(**{name: own.values, ref_name: base})
    base = base.detach().to(own.values)
    never = (own.values == -torch.inf) & (base == -torch.inf)
    return Rows(torch.where(never, -torch.inf, own.values - base), own.keep)


def _are_sums(values: Values, name: str) -> bool:
    return not is_ragged(values) and as_tensor(values, name).dim() == 1
