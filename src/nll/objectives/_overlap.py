"""Losses shaped like F1, for tasks where almost every example is negative.

p is the probability of the positive class, y in {0, 1}. Of an example by itself, or, with
`set_level`, of a whole batch at once ("soft F1"): the two have different optima. Several classes
are taken one against the rest and their losses added. All lie in [0, 1) for one class.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nll._errors import BadInput
from nll.objectives._common import Reduction, Values, as_mask, as_tensor, positive, reduce
from nll.objectives._declare import objective

PAPER = "1911.02855"
EDGE = 1e-7
IGNORED = -100


class _Examples(NamedTuple):
    """p, y: (N, C) probabilities and 0/1 targets.   keep: (N,) the examples that count.
    shape: of the targets as they were given."""

    p: Tensor
    y: Tensor
    keep: Tensor
    shape: tuple[int, ...]


@objective(
    descent="probabilities nearer to the targets in overlap", unit="1", paper=PAPER, range=(0, 1)
)
def dice_loss(
    probs: Values,
    target: Any,
    *,
    smooth: float = 1.0,
    square_denominator: bool = True,
    mask: Any = None,
    logits: bool = False,
    one_hot: bool = False,
    exclude_background: bool = False,
    ohem_ratio: float = 0.0,
    set_level: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Sorensen-Dice loss `1 - (2 p y + smooth) / (p^2 + y^2 + smooth)`; dimensionless, minimised.

    probs: (N,) or (B, T) probabilities of the positive class with targets of the same shape, or
    (N, C), (B, T, C) of C classes with their indices (N,), (B, T); `one_hot`: targets (N, C).
    A single output, (N, 1) or (B, T, 1), is the probability of the positive class.
    logits: what is given goes through a sigmoid, or a softmax over classes, first.
    square_denominator: else p + y + smooth.   mask: like the target; label -100 is masked too.
    exclude_background: leave class 0 out of the sum over classes.
    ohem_ratio: of each class keep all positives and floor(ratio * positives) negatives, those of
    the largest p, and take its mean over the kept; 0 keeps all.   set_level: sums over all
    examples inside the fraction; the result is one number whatever the reduction.
    All-masked: 0, gradient 0. Raises BadInput when shapes disagree, a probability lies outside
    [0, 1], or smooth = 0 where that is 0/0. References: Li et al. 2020, arXiv 1911.02855.
    """

    def parts(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _dice_parts(p, y, square_denominator)

    given = _examples(probs, target, mask, logits, one_hot)
    return _overlap(given, parts, smooth, exclude_background, ohem_ratio, set_level, reduction)


@objective(
    descent="probabilities nearer to the targets, misses and false alarms weighed apart",
    unit="1",
    paper=PAPER,
    range=(0, 1),
)
def tversky_loss(
    probs: Values,
    target: Any,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    mask: Any = None,
    logits: bool = False,
    one_hot: bool = False,
    exclude_background: bool = False,
    ohem_ratio: float = 0.0,
    set_level: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Tversky loss `1 - (p y + s) / (p y + alpha p (1-y) + beta (1-p) y + s)`; minimised.

    alpha weighs false positives, beta false negatives; 0.5 and 0.5 are the dice loss with a linear
    denominator and half the smoothing. Other arguments as in `dice_loss`.
    References: arXiv 1911.02855, section 3.3.
    """
    positive(alpha, "alpha", zero=True)
    positive(beta, "beta", zero=True)

    def parts(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        both = p * y
        return both, both + alpha * p * (1 - y) + beta * (1 - p) * y

    given = _examples(probs, target, mask, logits, one_hot)
    return _overlap(given, parts, smooth, exclude_background, ohem_ratio, set_level, reduction)


@objective(
    descent="probabilities nearer to the targets, easy examples passed over",
    unit="1",
    paper=PAPER,
    range=(0, 1),
)
def self_adjusting_dice_loss(
    probs: Values,
    target: Any,
    *,
    alpha: float = 0.01,
    smooth: float = 1.0,
    square_denominator: bool = True,
    detach_weight: bool = False,
    mask: Any = None,
    logits: bool = False,
    one_hot: bool = False,
    exclude_background: bool = False,
    ohem_ratio: float = 0.0,
    set_level: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """DSC: the dice loss of u = (1 - p)^alpha p in the place of p; dimensionless, minimised.

    For a positive example it falls only until p = 1 / (1 + alpha) and rises after it: alpha above
    0.1 is warned of, and `detach_weight` (the factor (1 - p)^alpha taken as a constant) moves the
    point where the gradient ends to p = 1. p is kept 1e-7 from 0 and 1, where the power's slope is
    infinite. Other arguments as in `dice_loss`. References: arXiv 1911.02855, section 3.4.
    """
    positive(alpha, "alpha", zero=True)
    if alpha > 0.1 and not detach_weight:
        warnings.warn(
            f"with alpha = {alpha:g} the loss of a positive example rises again above "
            f"p = {1 / (1 + alpha):.2f}; use alpha 0.01, or detach_weight=True",
            stacklevel=2,
        )

    def parts(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        p = p.clamp(EDGE, 1 - EDGE)
        weight = (1 - p) ** alpha
        return _dice_parts(
            (weight.detach() if detach_weight else weight) * p, y, square_denominator
        )

    given = _examples(probs, target, mask, logits, one_hot)
    return _overlap(given, parts, smooth, exclude_background, ohem_ratio, set_level, reduction)


@objective(
    descent="true classes more likely, the unlikely ones first",
    unit="nats",
    paper="1708.02002",
    range=(0, math.inf),
)
def focal_loss(
    probs: Values,
    target: Any,
    *,
    gamma: float = 2.0,
    mask: Any = None,
    logits: bool = False,
    one_hot: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Focal loss `-(1 - p_t)^gamma ln p_t`, p_t the probability of the true class; nats, minimised.

    gamma = 0 is the cross entropy. Arguments as in `dice_loss`; p_t is kept above 1e-7.
    References: arXiv 1708.02002.
    """
    positive(gamma, "gamma", zero=True)
    given = _examples(probs, target, mask, logits, one_hot)
    true = given.p if given.p.shape[1] > 1 else torch.cat([1 - given.p, given.p], 1)
    hit = given.y > 0 if given.p.shape[1] > 1 else torch.cat([given.y == 0, given.y > 0], 1)
    if logits:
        # Not from p: its logarithm is lost, and with it the gradient, where the model is wrong.
        logp = torch.where(hit, _log_p(probs, given), 0.0).sum(-1)
    else:
        logp = torch.where(hit, true, 0.0).sum(-1).clamp(min=EDGE).log()
    if not gamma:
        return _reduced(-logp, given, reduction)
    return _reduced(-((-logp.expm1()).clamp(min=EDGE) ** gamma) * logp, given, reduction)


class DiceLoss(nn.Module):
    """`dice_loss`, or with alpha `self_adjusting_dice_loss`, with its options kept."""

    def __init__(self, *, alpha: float | None = None, **options: Any):
        super().__init__()
        self.options = options if alpha is None else {"alpha": alpha, **options}
        self.function = dice_loss if alpha is None else self_adjusting_dice_loss

    def forward(self, probs: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss; see `dice_loss` for shapes."""
        return self.function(probs, target, mask=mask, **self.options)


class TverskyLoss(nn.Module):
    """`tversky_loss` with its options kept."""

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options

    def forward(self, probs: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss; see `tversky_loss` for shapes."""
        return tversky_loss(probs, target, mask=mask, **self.options)


def _dice_parts(p: Tensor, y: Tensor, square: bool) -> tuple[Tensor, Tensor]:
    return 2 * p * y, (p * p + y * y) if square else p + y


def _examples(probs: Values, target: Any, mask: Any, logits: bool, one_hot: bool) -> _Examples:
    given = as_tensor(probs, "probs")
    labels = torch.as_tensor(target, device=given.device).detach()
    if not one_hot and given.dim() > 1 and given.shape == (*labels.shape, 1):
        given = given[..., 0]
    many = one_hot or labels.dim() == given.dim() - 1
    if labels.shape != (given.shape if one_hot or not many else given.shape[:-1]):
        raise BadInput(
            f"target has shape {tuple(labels.shape)}, probs {tuple(given.shape)}: give a target "
            "for each probability, or the index of a class for each row of them"
        )
    shape = tuple(given.shape[:-1] if many else given.shape)
    classes = given.shape[-1] if many else 1
    keep = as_mask(mask, torch.empty(shape, device=given.device)).reshape(-1)
    rows = given.reshape(-1, classes)
    if one_hot:
        y = labels.reshape(-1, classes).to(given)
    elif many:
        index = labels.reshape(-1)
        keep = keep & (index != IGNORED)
        _check_index(index[keep], classes)
        y = torch.nn.functional.one_hot(torch.where(keep, index, 0).long(), classes).to(given)
    else:
        y = labels.reshape(-1, 1).to(given)
        keep = keep & (y[:, 0] != IGNORED)
    rows = torch.where(keep[:, None], rows, 0.0)
    if logits:
        rows = rows.softmax(-1) if many else rows.sigmoid()
    if not ((rows >= 0) & (rows <= 1)).all():
        raise BadInput("probs must lie in [0, 1]; for logits pass logits=True")
    y = torch.where(keep[:, None], y, 0.0)
    if not ((y == 0) | (y == 1)).all():
        raise BadInput("target must hold 0 and 1, or the index of a class")
    return _Examples(torch.where(keep[:, None], rows, 0.0), y, keep, shape)


def _log_p(logits: Values, given: _Examples) -> Tensor:
    """(N, C) log-probabilities of kept rows, of no and yes where there is one logit a row."""
    z = as_tensor(logits, "probs").to(given.p.dtype).reshape(given.p.shape)
    z = torch.where(given.keep[:, None], z, 0.0)
    if z.shape[1] > 1:
        return z.log_softmax(-1)
    return torch.nn.functional.logsigmoid(torch.cat([-z, z], 1))


def _check_index(index: Tensor, classes: int) -> None:
    if index.is_floating_point() or (
        index.numel() and not (int(index.min()) >= 0 and int(index.max()) < classes)
    ):
        raise BadInput(f"target must hold indices of the {classes} classes, or {IGNORED}")


def _overlap(
    given: _Examples,
    parts: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    smooth: float,
    exclude_background: bool,
    ohem_ratio: float,
    set_level: bool,
    reduction: Reduction,
) -> Tensor:
    positive(smooth, "smooth", zero=True)
    positive(ohem_ratio, "ohem_ratio", zero=True)
    if exclude_background:
        if given.p.shape[1] == 1:
            raise BadInput("exclude_background is for several classes")
        given = given._replace(p=given.p[:, 1:], y=given.y[:, 1:])
    kept = given.keep[:, None] & _hard(given, ohem_ratio)
    if smooth == 0:
        sets = ((given.y > 0) & kept).any(0) if set_level else (given.y > 0) | ~kept
        if not sets.all():
            raise BadInput("smooth = 0 is 0/0 where a set has no positive; give it a value above 0")
    above, below = (torch.where(kept, part, 0.0) for part in parts(given.p, given.y))
    if set_level:
        whole = 1 - (above.sum(0) + smooth) / (below.sum(0) + smooth)
        return reduce(whole.sum()[None], given.keep.any()[None], "sum")
    # Where nothing is kept the fraction would be 0/0 without smoothing, and its loss is dropped.
    low = torch.where(kept, below + smooth, 1.0)
    loss = torch.where(kept, 1 - (above + smooth) / low, 0.0)
    if reduction == "mean":
        return (loss.sum(0) / kept.sum(0).clamp(min=1)).sum()
    return _reduced(loss.sum(-1), given, reduction)


def _hard(given: _Examples, ratio: float) -> Tensor:
    """(N, C) the positives of each class and its most likely negatives."""
    if not ratio:
        return torch.ones_like(given.p, dtype=torch.bool)
    right = (given.y > 0) & given.keep[:, None]
    hard = right.clone()
    for c in range(given.p.shape[1]):
        wrong = given.keep & ~right[:, c]
        count = min(math.floor(ratio * int(right[:, c].sum()) + 1e-9), int(wrong.sum()))
        p = torch.where(wrong, given.p[:, c].detach(), -1.0)
        hard[p.topk(count).indices, c] = True
    return hard


def _reduced(loss: Tensor, given: _Examples, reduction: Reduction) -> Tensor:
    out = reduce(loss, given.keep, reduction)
    return out.reshape(given.shape) if reduction == "none" else out
