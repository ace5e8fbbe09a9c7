"""What can be minimised: pure functions from log-probs and masks to a loss, in nats."""

from nll.objectives._contrastive import claps_loss, contrastive_sequence_loss, pool_states
from nll.objectives._critical import (
    contrastive_estimation,
    critical_token_by_rollout,
    critical_token_scores,
    select_negatives_top_p,
)
from nll.objectives._declare import Objective, objectives
from nll.objectives._distillation import distill_loss
from nll.objectives._divergence import retain_kl
from nll.objectives._group_rl import (
    clipped_policy_loss,
    grpo_advantages,
    length_scaled_reward,
    nsr_advantages,
)
from nll.objectives._likelihood import nll_loss
from nll.objectives._linear import linear_logps
from nll.objectives._logps import (
    SequenceLogps,
    TokenLogps,
    sequence_logps,
    token_logps,
)
from nll.objectives._offline_rl import (
    a_lol_loss,
    advantage,
    advantage_priority_weights,
    importance_ratio,
    r_lol_loss,
    reward_gold_loss,
    weighted_bc_loss,
)
from nll.objectives._overlap import (
    DiceLoss,
    TverskyLoss,
    dice_loss,
    focal_loss,
    self_adjusting_dice_loss,
    tversky_loss,
)
from nll.objectives._preference import (
    cdpo_loss,
    dpo_loss,
    kto_baseline,
    kto_loss,
    kto_unpaired_loss,
    rpo_loss,
)
from nll.objectives._residual import (
    Subspace,
    head_gradient_inner,
    likelihood_displacement,
    positive_subspace,
    projection_residual,
    residual_token_weights,
    resrl_advantages,
)
from nll.objectives._unlearning import (
    ga_loss,
    grad_diff_loss,
    idk_loss,
    meow_loss,
    npo_loss,
    npo_weight,
    retain_nll,
    simnpo_loss,
    wga_loss,
)
from nll.objectives._unnormalised import (
    EnergyModel,
    MecoState,
    NoiseDistribution,
    Partition,
    log_partition_is,
    meco_loss,
    nce_loss,
    snl_loss,
)
from nll.objectives._value_head import SequenceValueHead, fit_value_head
from nll.objectives._weighted import weighted_unlearning_loss

__all__ = [
    "DiceLoss",
    "EnergyModel",
    "MecoState",
    "NoiseDistribution",
    "Objective",
    "Partition",
    "SequenceLogps",
    "SequenceValueHead",
    "Subspace",
    "TokenLogps",
    "TverskyLoss",
    "a_lol_loss",
    "advantage",
    "advantage_priority_weights",
    "cdpo_loss",
    "claps_loss",
    "clipped_policy_loss",
    "contrastive_estimation",
    "contrastive_sequence_loss",
    "critical_token_by_rollout",
    "critical_token_scores",
    "dice_loss",
    "distill_loss",
    "dpo_loss",
    "fit_value_head",
    "focal_loss",
    "ga_loss",
    "grad_diff_loss",
    "grpo_advantages",
    "head_gradient_inner",
    "idk_loss",
    "importance_ratio",
    "kto_baseline",
    "kto_loss",
    "kto_unpaired_loss",
    "length_scaled_reward",
    "likelihood_displacement",
    "linear_logps",
    "log_partition_is",
    "meco_loss",
    "meow_loss",
    "nce_loss",
    "nll_loss",
    "npo_loss",
    "npo_weight",
    "nsr_advantages",
    "objectives",
    "pool_states",
    "positive_subspace",
    "projection_residual",
    "r_lol_loss",
    "residual_token_weights",
    "resrl_advantages",
    "retain_kl",
    "retain_nll",
    "reward_gold_loss",
    "rpo_loss",
    "select_negatives_top_p",
    "self_adjusting_dice_loss",
    "sequence_logps",
    "simnpo_loss",
    "snl_loss",
    "token_logps",
    "tversky_loss",
    "weighted_bc_loss",
    "weighted_unlearning_loss",
    "wga_loss",
]
