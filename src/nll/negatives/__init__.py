"""Negatives: making, mining, weighting and judging what a model should find unlikely."""

from nll.negatives._gains import (
    CGSolution,
    alignment_gain,
    conjugate_gradient,
    hessian_vector_product,
    implicit_weight_gradient,
)
from nll.negatives._selection import Selected, mirror_ascent_step, select_negatives
from nll.negatives._u2a import U2A, Round, U2AResult
from nll.objectives._adversarial import (
    adversarial_negative,
    adversarial_positive,
    distant_states,
    restore_likelihood,
)

__all__ = [
    "U2A",
    "CGSolution",
    "Round",
    "Selected",
    "U2AResult",
    "adversarial_negative",
    "adversarial_positive",
    "alignment_gain",
    "conjugate_gradient",
    "distant_states",
    "hessian_vector_product",
    "implicit_weight_gradient",
    "mirror_ascent_step",
    "restore_likelihood",
    "select_negatives",
]
