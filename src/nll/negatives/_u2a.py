"""U2A as a whole: rounds of gains, weights and weighted unlearning, until alignment gains no more.

Two functions say all that the driver knows of the task: the preference losses of some pairs, and
the unlearning losses of some negatives, each under the model as it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.negatives._gains import Curvature, alignment_gain, hessian_vector_product
from nll.negatives._selection import Selected, mirror_ascent_step, select_negatives

if TYPE_CHECKING:
    from torch import Tensor

Losses: TypeAlias = "Callable[[Sequence[int]], Tensor]"
PATIENCE = 4


class Round(NamedTuple):
    """One outer round: J before and after it, the gains and weights of the selected, the updates.

    stopped: why the inner epochs ended early, empty when they did not.
    """

    before: float
    after: float
    gains: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    steps: int
    stopped: str


class U2AResult(NamedTuple):
    """The gains of all negatives at the start, which were selected, and what each round did."""

    gains: npt.NDArray[np.float64]
    selected: Selected
    rounds: list[Round]


@dataclass(frozen=True)
class U2A:
    """Settings of the bi-level problem; `run` solves it. Defaults are the released ones.

    m: how many negatives to select.   rounds, epochs, batch, lr: outer rounds, and the epochs,
    batch size and AdamW's step size within each.   eta: of the mirror step.   lam: weight of the
    squared distance to the start.   curvature, damping: as in `alignment_gain`; `cg` multiplies
    with the Hessian of the inner objective at the current weights.   threshold: stop when a round
    lowers J by no more than this.   max_bad_loss: stop a round when the negatives' mean nll was
    above it four batches in a row.   seed: of the batches' order.
    References: arXiv 2504.06659.
    """

    m: int = 1024
    rounds: int = 3
    epochs: int = 2
    batch: int = 8
    lr: float = 5e-5
    eta: float = 1e-2
    lam: float = 0.1
    curvature: Curvature = "identity"
    damping: float | None = None
    threshold: float = 0.0
    max_bad_loss: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.m, self.rounds, self.epochs, self.batch) < 1:
            raise BadInput("m, rounds, epochs and batch must be at least 1")
        if self.curvature == "exact":
            raise BadInput("the driver forms no whole Hessian; use identity, diag or cg")

    def run(
        self,
        params: Sequence[Tensor],
        outer: Losses,
        inner: Losses,
        *,
        pairs: int,
        negatives: int,
        forget_nll: Losses | None = None,
    ) -> U2AResult:
        """Unlearn the negatives that help; params (all trainable) are changed in place.

        outer: indices among `pairs` -> (B,) preference losses with their graph (`dpo_loss` with
        reduction `none`).   inner: indices among `negatives` -> (B,) unlearning losses (`npo_loss`,
        `ga_loss`).   forget_nll: indices -> (B,) mean nll of negatives, read for max_bad_loss.
        Nothing is changed when no gain is above 0; `selected.reason` says so.
        Raises BadInput without pairs, or for max_bad_loss without forget_nll.
        """
        if pairs < 1:
            raise BadInput("the outer problem needs a preference pair")
        if self.max_bad_loss is not None and forget_nll is None:
            raise BadInput("max_bad_loss needs forget_nll")
        held = list(params)
        start = [p.detach().clone() for p in held]
        everything = list(range(negatives))
        value, slope = self._outer(held, outer, pairs)
        gains = self._gains(held, slope, inner, everything, np.ones(negatives))
        chosen = select_negatives(gains, self.m)
        done: list[Round] = []
        weights, at = np.ones(len(chosen)), gains[list(chosen)] if chosen else gains[:0]
        for number in range(self.rounds if chosen else 0):
            if number:
                at = self._gains(held, slope, inner, chosen, weights)
                weights = mirror_ascent_step(weights, at, self.eta, total=len(chosen))
            steps, stopped = self._epochs(held, start, inner, chosen, weights, forget_nll, number)
            before = value
            value, slope = self._outer(held, outer, pairs)
            done.append(Round(before, value, at, weights, steps, stopped))
            if before - value <= self.threshold:
                break
        return U2AResult(gains, chosen, done)

    def _outer(self, params: list[Tensor], outer: Losses, pairs: int) -> tuple[float, Tensor]:
        """J and its gradient, the average over all pairs whatever the batch size."""
        value, slope = 0.0, _flat(params[0].sum() * 0, params)
        for part in _parts(range(pairs), self.batch):
            loss = outer(part).sum() / pairs
            value += float(loss.detach())
            slope += _flat(loss, params)
        return value, slope

    def _gains(
        self,
        params: list[Tensor],
        slope: Tensor,
        inner: Losses,
        indices: Sequence[int],
        weights: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        each: Any = (_flat(inner([i]).sum(), params) for i in indices)
        if self.curvature == "diag":
            each = list(each)
        product = None
        if self.curvature == "cg":
            product = self._product(params, inner, indices, weights)
        found = alignment_gain(
            slope, each, curvature=self.curvature, damping=self.damping, hessian=product
        )
        out: npt.NDArray[np.float64] = found.cpu().double().numpy()
        return out

    def _product(
        self,
        params: list[Tensor],
        inner: Losses,
        indices: Sequence[int],
        weights: npt.NDArray[np.float64],
    ) -> Callable[[Tensor], Tensor]:
        def product(v: Tensor) -> Tensor:
            total = 2 * self.lam * v
            for part in _parts(range(len(indices)), self.batch):
                loss = inner([indices[i] for i in part])
                weighed = (loss * loss.new_tensor(weights[part])).sum() / len(indices)
                total = total + hessian_vector_product(weighed, params, v)
            return total

        return product

    def _epochs(
        self,
        params: list[Tensor],
        start: list[Tensor],
        inner: Losses,
        chosen: Sequence[int],
        weights: npt.NDArray[np.float64],
        forget_nll: Losses | None,
        number: int,
    ) -> tuple[int, str]:
        import torch

        from nll.objectives import weighted_unlearning_loss

        optimiser = torch.optim.AdamW(params, lr=self.lr)
        draw = np.random.default_rng((self.seed, number))
        steps, bad = 0, 0
        for _ in range(self.epochs):
            for part in _parts(draw.permutation(len(chosen)), self.batch):
                indices = [chosen[i] for i in part]
                if self.max_bad_loss is not None and forget_nll is not None:
                    with torch.no_grad():
                        bad = (
                            bad + 1 if float(forget_nll(indices).mean()) > self.max_bad_loss else 0
                        )
                    if bad >= PATIENCE:
                        return steps, f"the negatives' nll was above {self.max_bad_loss:g}"
                losses = inner(indices)
                loss = weighted_unlearning_loss(
                    losses, losses.new_tensor(weights[part]), params=params, params0=start,
                    lam=self.lam,
                )  # fmt: skip
                for p, slope in zip(
                    params, torch.autograd.grad(loss, params, allow_unused=True), strict=True
                ):
                    p.grad = slope
                optimiser.step()
                optimiser.zero_grad()
                steps += 1
        return steps, ""


def _parts(indices: Sequence[int] | range | npt.NDArray[Any], size: int) -> Iterator[list[int]]:
    for first in range(0, len(indices), size):
        yield [int(i) for i in indices[first : first + size]]


def _flat(loss: Tensor, params: list[Tensor]) -> Tensor:
    """(P,) gradient; zeros where the loss does not depend on a parameter."""
    import torch

    found = torch.autograd.grad(loss, params, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
    return torch.cat([g.reshape(-1) for g in flat])
