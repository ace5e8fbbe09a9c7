"""What likelihood training does, and what its outputs give away."""

from nll.theory._audit import LeakageReport, leakage_audit, mitigation_table
from nll.theory._endpoint import Answer, AskedRow, Endpoint, LocalEndpoint, ask_row
from nll.theory._http_endpoint import HttpEndpoint
from nll.theory._leakage import (
    Alignment,
    HiddenDimension,
    align_projection,
    complete_row,
    hidden_dimension,
    identified_set_tv,
    image_residual,
    linear_cka,
    linear_map_r2,
    logprob_by_bisection,
    logprobs_from_bias,
    output_subspace,
)

__all__ = [
    "Alignment",
    "Answer",
    "AskedRow",
    "Endpoint",
    "HiddenDimension",
    "HttpEndpoint",
    "LeakageReport",
    "LocalEndpoint",
    "align_projection",
    "ask_row",
    "complete_row",
    "hidden_dimension",
    "identified_set_tv",
    "image_residual",
    "leakage_audit",
    "linear_cka",
    "linear_map_r2",
    "logprob_by_bisection",
    "logprobs_from_bias",
    "mitigation_table",
    "output_subspace",
]
