"""The same loss and gradient as TRL's own code on the same log-probs; `make test-slow`."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.objectives.cases import logps, normal, ragged_mask
from torch import Tensor

from nll import objectives as o

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
]
MASK = ragged_mask(4, 2, 3, 1, 1, 3, 4, 2)


class FakeModel:
    """Answers with given log-probs, and with zeros where TRL only wants them for its log."""

    training = True

    def __init__(self, logp: Tensor):
        self.logp = logp

    def __call__(self, **_: Any) -> SimpleNamespace:
        zeros = torch.zeros_like(self.logp)
        return SimpleNamespace(
            log_probs=torch.where(MASK, self.logp, 0.0), entropy=zeros, mean_logits=zeros,
            is_top1=zeros.bool(),
        )  # fmt: skip


def trainer(logp: Tensor, **settings: Any) -> SimpleNamespace:
    accelerator = SimpleNamespace(
        device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda m: m
    )
    return SimpleNamespace(
        model=FakeModel(logp), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, _tp_size=1,
        **settings,
    )  # fmt: skip


def batch(**more: Any) -> dict[str, Any]:
    """Eight rows of a prompt token and up to four answer tokens."""
    completion = torch.cat([torch.zeros(8, 1, dtype=torch.bool), MASK], 1).long()
    ids = torch.ones_like(completion)
    return {
        "input_ids": ids, "attention_mask": ids, "completion_mask": completion, **more
    }  # fmt: skip


def same(theirs: Tensor, ours: Tensor, logp: Tensor) -> None:
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-9)
    slopes = [torch.autograd.grad(loss, logp)[0] for loss in (theirs, ours)]
    assert torch.allclose(*slopes, rtol=0, atol=1e-9)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("losses", [["sigmoid"], ["sigmoid", "sft"]])
def test_dpo(beta: float, losses: list[str]) -> None:
    trl = pytest.importorskip("trl")
    logp, ref = logps(1, 8, 4).requires_grad_(), logps(2, 8, 4)
    sums = torch.where(MASK, ref, 0.0).sum(-1)
    weights = [1.0, 0.7][: len(losses)]
    them = trainer(logp, loss_types=losses, loss_weights=weights, beta=beta)
    data = batch(ref_chosen_logps=sums[:4], ref_rejected_logps=sums[4:])
    theirs = trl.DPOTrainer._compute_loss(them, them.model, data, False)
    pair = (logp[:4], ref[:4], logp[4:], ref[4:])
    options: dict[str, Any] = {"mask_c": MASK[:4], "mask_r": MASK[4:], "beta": beta}
    if len(losses) == 1:
        ours = o.dpo_loss(*pair, **options)
    else:
        ours = o.rpo_loss(*pair, **options, alpha=0.7, token_reduction="token")
    same(theirs, ours, logp)


def test_conservative_dpo_has_trls_robust_numerator() -> None:
    """TRL's robust loss is (1 - e) l(m) - e l(-m) over 1 - 2e; with ours of +e both parts agree."""
    trl = pytest.importorskip("trl")
    logp, ref = logps(1, 8, 4).requires_grad_(), logps(2, 8, 4)
    sums, e = torch.where(MASK, ref, 0.0).sum(-1), 0.2
    them = trainer(logp, loss_types=["robust"], loss_weights=[1.0], beta=0.1, label_smoothing=e)
    data = batch(ref_chosen_logps=sums[:4], ref_rejected_logps=sums[4:])
    theirs = trl.DPOTrainer._compute_loss(them, them.model, data, False)
    pair = (logp[:4], ref[:4], logp[4:], ref[4:])
    options: dict[str, Any] = {"mask_c": MASK[:4], "mask_r": MASK[4:], "beta": 0.1}
    plain = o.dpo_loss(*pair, **options)
    smooth = o.dpo_loss(*pair, **options, label_smoothing=e)
    same(theirs, (2 * (1 - e) * plain - smooth) / (1 - 2 * e), logp)


def test_kto() -> None:
    trl = pytest.importorskip("trl")
    logp, ref = logps(1, 8, 4).requires_grad_(), logps(2, 8, 4)
    sums = torch.where(MASK, ref, 0.0).sum(-1)
    label = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0])
    kl, ref_kl = normal(3, 8) - 1, normal(4, 8) - 2
    them = trainer(
        logp, loss_type="kto", beta=0.3, desirable_weight=1.5, undesirable_weight=0.5,
        calculate_KL=True, _compute_kl_logps=lambda *_: kl,
    )  # fmt: skip
    data = batch(label=label, ref_logps=sums, ref_KL_logps=ref_kl)
    theirs = trl.KTOTrainer._compute_loss(them, them.model, data, False)
    z = o.kto_baseline(kl, ref_kl, beta=0.3).clamp(min=0)
    assert z > 0
    ours = o.kto_unpaired_loss(
        logp, sums, label, z=z, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, mask=MASK
    )
    same(theirs, ours, logp)
