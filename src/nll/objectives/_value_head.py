"""What reward does a policy expect on a prompt? A small head on the prompt's hidden states."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from nll._errors import BadInput
from nll.objectives._common import Values, as_mask, as_tensor


class SequenceValueHead(nn.Module):
    """V(x) of a prompt: one learned query attends to its states; in (0, max_value).

    Dropout, attention of `heads` heads with the states as keys and values, dropout, a linear map to
    one number, `max_value * sigmoid`. Padding is masked. Raises BadInput when hidden_size is no
    multiple of heads. References: Baheti et al. 2023, arXiv 2305.14718, appendix.
    """

    def __init__(
        self, hidden_size: int, *, max_value: float = 1.0, heads: int = 8, dropout: float = 0.1
    ):
        super().__init__()
        if hidden_size % heads:
            raise BadInput(f"the width {hidden_size} is no multiple of {heads} heads")
        self.max_value = max_value
        self.query = nn.Parameter(torch.randn(1, 1, hidden_size) / hidden_size**0.5)
        self.attention = nn.MultiheadAttention(hidden_size, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B,) values of prompts, from states (B, T, d) and a mask (B, T) of their tokens.

        Raises BadInput for a prompt without tokens.
        """
        keep = as_mask(mask, states[..., 0])
        if not keep.any(-1).all():
            raise BadInput("a prompt without tokens has no value")
        states = torch.where(keep[..., None], states, 0.0).to(self.query.dtype)
        states = self.dropout(states)
        query = self.query.expand(len(states), -1, -1)
        seen, _ = self.attention(query, states, states, key_padding_mask=~keep, need_weights=False)
        raw = self.out(self.dropout(seen[:, 0]))[:, 0]
        return self.max_value * torch.sigmoid(raw)


def fit_value_head(
    states: Tensor,
    reward: Values,
    *,
    mask: Any = None,
    max_value: float = 1.0,
    heads: int = 8,
    dropout: float = 0.1,
    epochs: int = 10,
    lr: float = 1e-5,
    batch_size: int = 16,
    holdout: float = 0.1,
    seed: int = 0,
) -> SequenceValueHead:
    """A value head fitted by squared error to the rewards of the policy's own answers; frozen.

    states: (N, T, d) states of the prompts under the reference policy.   reward: (N,) of one answer
    for each, or (N, k) of k answers, whose mean is the target; nan where an answer has none, and
    prompts without any are left out with a warning.   mask: (N, T) of the prompts' tokens.
    holdout: the share of prompts on which the best epoch is chosen (the published code
    chooses on the training error).   max_value: top of the reward scale.
    It comes back in evaluation mode, so that no dropout noise enters an advantage.
    The head is float32 at least.
    Raises BadInput when a reward lies outside [0, max_value], none is left, or shapes disagree.
    References: arXiv 2305.14718.
    """
    target = as_tensor(reward, "reward").detach()
    target = target.nanmean(-1) if target.dim() == 2 else target
    if states.dim() != 3 or len(states) != len(target):
        raise BadInput(
            f"states must be (prompts, tokens, width), one for each of {len(target)} rewards, "
            f"not {tuple(states.shape)}"
        )
    keep = as_mask(mask, states[..., 0])
    states = states.detach().to(torch.promote_types(states.dtype, torch.float32))
    scored = ~target.isnan().to(states.device)
    if not scored.all():
        without = int((~scored).sum())
        warnings.warn(
            f"{without} of {len(target)} prompts have no reward (nan) and are left out",
            stacklevel=2,
        )
        states, keep, target = states[scored], keep[scored], target[scored.to(target.device)]
    if not len(target):
        raise BadInput("no prompt has a reward to fit the head to")
    if not ((target >= 0) & (target <= max_value)).all():
        raise BadInput(
            f"rewards must lie in [0, max_value = {max_value:g}]; rescale them, or the advantage "
            "is biased"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = SequenceValueHead(
            states.shape[-1], max_value=max_value, heads=heads, dropout=dropout
        ).to(states)
        optimiser = torch.optim.AdamW(head.parameters(), lr=lr)
        order = torch.randperm(len(target))
        held = order[: max(1, round(holdout * len(target)))]
        train = order[len(held) :] if len(held) < len(target) else order
        best, kept = float("inf"), head.state_dict()
        for _ in range(epochs):
            head.train()
            for batch in torch.split(train[torch.randperm(len(train))], batch_size):
                error = head(states[batch], keep[batch]) - target[batch].to(states)
                optimiser.zero_grad()
                error.square().mean().backward()
                optimiser.step()
            head.eval()
            with torch.no_grad():
                now = (head(states[held], keep[held]) - target[held].to(states)).square().mean()
            if now.item() < best:
                best, kept = now.item(), copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    return head.eval().requires_grad_(False)
