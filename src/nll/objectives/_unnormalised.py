"""Energy models p = p0 / Z: the exact nll by a moving log Z (MECO), and estimates against noise.

q is a known noise distribution that covers p0. With little overlap every method here fails in its
own way, so look at the effective sample size (`log_partition_is`) beside any of these numbers.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nll._errors import BadInput
from nll.objectives._common import Values, as_mask, as_tensor, masked_mean, positive
from nll.objectives._declare import objective

PAPER = "2306.07485"
FEW = 0.05


class EnergyModel(Protocol):
    """A density without its constant."""

    def log_p0(self, x: Tensor) -> Tensor:
        """(N,) log p0 of points (N, ...), nats."""
        ...


class NoiseDistribution(Protocol):
    """A distribution that can be drawn from and whose density is known."""

    def sample(self, n: int) -> Tensor:
        """(n, ...) draws."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """(N,) log q of points (N, ...), nats."""
        ...


class MecoState:
    """The moving average u of E_q[p0 / q], as log u; None before the first step.

    ess: effective sample size of the noise at the last step, from 1 to n; nan before the first, or
    where all noise had weight 0. Below 5 % of n, log u is far too low: take noise nearer to the
    model.
    """

    def __init__(self, log_u: Tensor | float | None = None):
        self.log_u = None if log_u is None else torch.as_tensor(log_u)
        self.ess = math.nan

    def update(self, log_mean: Tensor, gamma: float) -> Tensor:
        """log u after a step: log((1 - gamma) u + gamma mean); a mean of 0 is passed over."""
        seen = bool(log_mean > -math.inf)
        if self.log_u is None:
            if not seen:
                return log_mean
            self.log_u = log_mean
        elif seen:
            kept = self.log_u.to(log_mean)
            if gamma < 1:
                self.log_u = torch.logaddexp(kept + math.log1p(-gamma), log_mean + math.log(gamma))
            else:
                self.log_u = log_mean
        return self.log_u.to(log_mean)

    def state_dict(self) -> dict[str, float | None]:
        """For a checkpoint."""
        return {"log_u": None if self.log_u is None else float(self.log_u)}

    def load_state_dict(self, held: dict[str, float | None]) -> None:
        """Back from a checkpoint."""
        log_u = held["log_u"]
        self.log_u = None if log_u is None else torch.tensor(log_u, dtype=torch.float64)


class Partition(NamedTuple):
    """log_z: () estimate of log Z, nats.   ess: () effective sample size, from 1 to n."""

    log_z: Tensor
    ess: Tensor


@objective(
    descent="the data more likely under the normalised model",
    unit="nats",
    paper=PAPER,
    range=(-math.inf, math.inf),
)
def meco_loss(
    log_p0: Values,
    noise_log_p0: Values,
    noise_log_q: Values,
    state: MecoState | None = None,
    *,
    gamma: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """MECO: nll of an energy model, -mean log p0(data) + log u; nats, minimised.

    log_p0: (B,) of the data, with mask (B,).   noise_log_p0, noise_log_q: (n,) of points drawn from
    q, log q a constant.   state: keeps u between steps and is moved by this call; None for one step
    alone.   gamma: how much of u a step replaces; 1 is the plain minibatch log-mean-exp, whose bias
    is O(1/n).
    The value is the moving estimate of the nll; the gradient is
    -mean grad log p0(data) + mean(exp(log p0 - log q - log u) grad log p0)(noise).
    An empty batch leaves the partition term. Raises BadInput unless 0 < gamma <= 1 and the noise is
    not empty. References: Wang et al. 2023, arXiv 2306.07485.
    """
    if not 0 < gamma <= 1:
        raise BadInput(f"gamma must be above 0 and at most 1, not {gamma}")
    data = as_tensor(log_p0, "log_p0")
    keep = as_mask(mask, data)
    noise = as_tensor(noise_log_p0, "noise_log_p0")
    difference = noise.detach() - _noise(noise, noise_log_q)
    state = MecoState() if state is None else state
    with torch.no_grad():
        log_mean = _log_mean_exp(difference)
        log_u = state.update(log_mean, gamma)
        state.ess = float(_sample_size(difference, log_mean))
        log_weight = difference - log_u
        weight = torch.where(log_weight.isnan(), 0.0, log_weight.exp())
    pulled = (weight * torch.where(weight > 0, noise, 0.0)).mean()
    # Its gradient is the partition term's; its value is replaced by log u.
    return -masked_mean(data, keep) + (pulled - pulled.detach()) + log_u


@objective(
    descent="data told apart from noise", unit="nats", paper="Gutmann & Hyvarinen 2010",
    range=(0, math.inf),
)  # fmt: skip
def nce_loss(
    log_p0: Values,
    log_q: Values,
    noise_log_p0: Values,
    noise_log_q: Values,
    *,
    log_z: Tensor | float = 0.0,
    nu: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Noise-contrastive estimation with nu noise points for each datum; nats, minimised.

    G(x) = log p0(x) - log_z - log q(x) - log nu; the loss is mean softplus(-G(data)) + nu * mean
    softplus(G(noise)). log_p0, log_q: (B,) of the data, with mask (B,).   noise_*: (n,).
    log_z: the constant c, learned beside the model.   nu: n / B unless given.
    No nll: its value cannot be compared between models. All-masked: the noise term alone.
    Raises BadInput unless nu > 0. References: Gutmann and Hyvarinen 2010, AISTATS.
    """
    data, noise = as_tensor(log_p0, "log_p0"), as_tensor(noise_log_p0, "noise_log_p0")
    keep = as_mask(mask, data)
    ratio = nu if nu is not None else len(noise) / max(int(keep.sum()), 1)
    positive(ratio, "nu")
    shift = torch.as_tensor(log_z, dtype=data.dtype, device=data.device) + math.log(ratio)
    own_q = torch.where(keep, as_tensor(log_q, "log_q").detach().to(data), 0.0)
    right = torch.where(keep, data, 0.0) - own_q - shift
    wrong = noise - _noise(noise, noise_log_q) - shift
    return masked_mean(softplus(-right), keep) + ratio * softplus(wrong).mean()


@objective(
    descent="a bound of the nll, tight where log_z is the log partition",
    unit="nats",
    paper="Self-normalised likelihood 2023",
    range=(-math.inf, math.inf),
)
def snl_loss(
    log_p0: Values,
    noise_log_p0: Values,
    noise_log_q: Values,
    *,
    log_z: Tensor | float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Self-normalised likelihood: -mean log p0 + c + Z e^-c - 1, above the nll; nats, minimised.

    c = log_z is one learned number; the bound is tight at c = log Z, whose estimate, mean(p0 / q)
    over the noise, is unbiased here. Arguments as in `meco_loss`.
    """
    data, noise = as_tensor(log_p0, "log_p0"), as_tensor(noise_log_p0, "noise_log_p0")
    shift = torch.as_tensor(log_z, dtype=data.dtype, device=data.device)
    mass = (noise - _noise(noise, noise_log_q) - shift).exp().mean()
    return -masked_mean(data, as_mask(mask, data)) + shift + mass - 1


def log_partition_is(noise_log_p0: Values, noise_log_q: Values, *, warn: bool = True) -> Partition:
    """log Z by importance sampling, log mean(p0 / q) over points of q, with the effective sample
    size (sum w)^2 / sum w^2.

    Low by Jensen's inequality where the ESS is small: below 5 % of the points it is warned of.
    Raises BadInput without points.
    """
    noise = as_tensor(noise_log_p0, "noise_log_p0")
    difference = noise - _noise(noise, noise_log_q)
    log_z = _log_mean_exp(difference)
    ess = _sample_size(difference, log_z)
    if warn and not ess >= FEW * len(difference):
        warnings.warn(
            f"the effective sample size is {float(ess):.3g} of {len(difference)} noise points; "
            "this log Z is too low, take noise nearer to the model",
            stacklevel=2,
        )
    return Partition(log_z, ess)


def _noise(noise: Tensor, log_q: Values) -> Tensor:
    found = as_tensor(log_q, "noise_log_q").detach().to(noise)
    if noise.dim() != 1 or found.shape != noise.shape or not len(noise):
        raise BadInput(
            f"the noise needs log p0 and log q of the same points, (n,) and not empty, not "
            f"{tuple(noise.shape)} and {tuple(found.shape)}"
        )
    return found


def _sample_size(difference: Tensor, log_mean: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of weights given by their logs and the log of their mean."""
    log_sum = log_mean + math.log(len(difference))
    return (2 * log_sum - torch.logsumexp(2 * difference, 0)).exp()


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values, 0) - math.log(len(values))
