"""What likelihood training does, and what its outputs give away."""

from nll.theory._endpoint import (
    Answer,
    LeakageReport,
    LocalEndpoint,
    leakage_audit,
    mitigation_table,
)
from nll.theory._leakage import (
    Alignment,
    HiddenDimension,
    align_projection,
    complete_row,
    hidden_dimension,
    identified_set_tv,
    image_residual,
    linear_cka,
    logprob_by_bisection,
    logprobs_from_bias,
    output_subspace,
)

__all__ = [
    "Alignment",
    "Answer",
    "HiddenDimension",
    "LeakageReport",
    "LocalEndpoint",
    "align_projection",
    "complete_row",
    "hidden_dimension",
    "identified_set_tv",
    "image_residual",
    "leakage_audit",
    "linear_cka",
    "logprob_by_bisection",
    "logprobs_from_bias",
    "mitigation_table",
    "output_subspace",
]
