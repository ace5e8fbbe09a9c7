"""Which negatives shall be unlearned, and how strongly? Gains to a selection and to weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nll._errors import BadInput
from nll.negatives._gains import finite, is_tensor, vector


class Selected(list[int]):
    """Indices, the best first; a list that also says what was left out.

    undefined: how many had no gain (nan).   harmful: how many had a gain of 0 or less.
    reason: in words why there are fewer than asked for; empty otherwise.
    """

    def __init__(
        self, indices: Iterable[int], *, undefined: int = 0, harmful: int = 0, reason: str = ""
    ):
        super().__init__(indices)
        self.undefined, self.harmful, self.reason = undefined, harmful, reason


def select_negatives(gain: Any, m: int = 1024) -> Selected:
    """Indices of the m largest gains above 0, the largest first; equal gains in their order.

    gain: (n,) of `alignment_gain`, or of another influence library in the same sense (above 0 =
    unlearning helps).   m > n: all that help. nan marks an example to drop; none above 0: an empty
    selection, since unlearning anything would hurt; `.reason` says so.
    Raises BadInput when m is negative. References: U2A, arXiv 2504.06659.

    >>> select_negatives([2, -1, 0, 0.5], 2)
    [0, 3]
    """
    if m < 0:
        raise BadInput(f"m is how many to select, 0 or more, not {m}")
    values = _numbers(gain, "gain")
    undefined, harmful = int(np.isnan(values).sum()), int((values <= 0).sum())
    order = np.argsort(-values, kind="stable")
    chosen = [int(i) for i in order if values[i] > 0][:m]
    reason = ""
    if len(chosen) < m:
        total = len(values)
        reason = f"only {total - undefined - harmful} of {total} examples have a gain above 0"
        if not total:
            reason = "there are no examples"
        elif not chosen:
            reason = "no example has a gain above 0: unlearning any of them would hurt"
    return Selected(chosen, undefined=undefined, harmful=harmful, reason=reason)


def mirror_ascent_step(weights: Any, gain: Any, eta: float, total: float = 1.0) -> Any:
    """(n,) new weights `w_i exp(eta g_i)`, scaled so that they sum to `total`.

    Exponentiated gradient on the simplex: what helps more weighs more (the released code shrinks
    it; the derivation does not). weights: (n,), 0 or positive, not all 0; a weight of 0 stays 0.
    gain: (n,); an example whose gain is nan is dropped (weight 0).   eta: step size, 0 or more.
    total: n makes the mean weight 1. Gains of any size are safe. Tensors give a tensor.
    Raises BadInput on sizes that disagree, negative or all-zero weights, or infinite gains.
    References: U2A, arXiv 2504.06659.

    >>> mirror_ascent_step([0.25] * 4, [2, -1, 0, 0.5], 0.1).round(5).tolist()
    [0.29238, 0.2166, 0.23938, 0.25165]
    """
    w, g = vector(weights, "weights"), vector(gain, "gain")
    if len(w) != len(g):
        raise BadInput(f"there are {len(w)} weights but {len(g)} gains")
    if not (0 <= eta < float("inf") and 0 < total < float("inf")):
        raise BadInput(f"eta must be 0 or more and total above 0, not {eta} and {total}")
    if not bool(((w >= 0) & finite(w)).all()):
        raise BadInput("weights must be finite, 0 or positive")
    if not len(w):
        return w
    if is_tensor(w):
        import torch

        xp: Any = torch
        g = torch.as_tensor(g, dtype=w.dtype, device=w.device)
    else:
        xp = np
        g = np.asarray(g.cpu() if is_tensor(g) else g, dtype=np.float64)
    if bool((abs(g) == float("inf")).any()):
        raise BadInput("a gain is infinite")
    kept = (w > 0) & (g == g)
    if not bool(kept.any()):
        raise BadInput("no example has a weight above 0 and a gain")
    power = xp.where(kept, eta * g, -float("inf"))
    grown = xp.where(kept, w, 0.0) * xp.exp(power - power.max())
    return grown / grown.sum() * total


def _numbers(values: Any, name: str) -> Any:
    found = vector(values, name)
    return found.cpu().double().numpy() if is_tensor(found) else found
