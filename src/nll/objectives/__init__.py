"""What can be minimised: pure functions from log-probs and masks to a loss, in nats."""

from nll.objectives._critical import (
    contrastive_estimation,
    critical_token_by_rollout,
    critical_token_scores,
    select_negatives_top_p,
)
from nll.objectives._declare import Objective, objectives
from nll.objectives._divergence import retain_kl
from nll.objectives._likelihood import nll_loss
from nll.objectives._linear import linear_logps
from nll.objectives._logps import (
    SequenceLogps,
    TokenLogps,
    sequence_logps,
    token_logps,
)
from nll.objectives._preference import (
    cdpo_loss,
    dpo_loss,
    kto_baseline,
    kto_loss,
    kto_unpaired_loss,
    rpo_loss,
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
from nll.objectives._weighted import weighted_unlearning_loss

__all__ = [
    "Objective",
    "SequenceLogps",
    "TokenLogps",
    "cdpo_loss",
    "contrastive_estimation",
    "critical_token_by_rollout",
    "critical_token_scores",
    "dpo_loss",
    "ga_loss",
    "grad_diff_loss",
    "idk_loss",
    "kto_baseline",
    "kto_loss",
    "kto_unpaired_loss",
    "linear_logps",
    "meow_loss",
    "nll_loss",
    "npo_loss",
    "npo_weight",
    "objectives",
    "retain_kl",
    "retain_nll",
    "rpo_loss",
    "select_negatives_top_p",
    "sequence_logps",
    "simnpo_loss",
    "token_logps",
    "weighted_unlearning_loss",
    "wga_loss",
]
