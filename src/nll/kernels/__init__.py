"""Hidden states x unembedding -> per-token statistics, in bounded memory."""

from nll.kernels._head import Head
from nll.kernels._reducers import (
    candidates,
    cross,
    group_mass,
    hidden,
    kl_uniform,
    lse_grid,
    moments,
    reducers_for,
    top_k,
)
from nll.kernels._row_kernel import row_kernel
from nll.kernels._token_stats import token_stats
from nll.kernels._visit import Block, Reducer, block_rows_for, visit, visit_logits

__all__ = [
    "Block", "Head", "Reducer", "block_rows_for", "candidates", "cross", "group_mass", "hidden",
    "kl_uniform", "lse_grid", "moments", "reducers_for", "row_kernel", "token_stats", "top_k",
    "visit", "visit_logits",
]  # fmt: skip
