"""Negatives: making, mining, weighting and judging what a model should find unlikely."""

from nll.negatives._gains import (
    CGSolution,
    alignment_gain,
    conjugate_gradient,
    hessian_vector_product,
    implicit_weight_gradient,
)
from nll.negatives._inverted_facts import (
    Inverted,
    InvertedFacts,
    invert_facts,
    meow_rows,
    meow_targets,
    parse_inverted,
    select_inverted_facts,
)
from nll.negatives._memo import (
    MemoScore,
    extraction_likelihood,
    greedy_continuations,
    memo_cuts,
    memo_score,
    memo_scores,
    ngram_overlap,
)
from nll.negatives._porter import porter_stem
from nll.negatives._rouge import Rouge, rouge
from nll.negatives._selection import Selected, mirror_ascent_step, select_negatives
from nll.negatives._swap_facts import swap_facts
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
    "Inverted",
    "InvertedFacts",
    "MemoScore",
    "Rouge",
    "Round",
    "Selected",
    "U2AResult",
    "adversarial_negative",
    "adversarial_positive",
    "alignment_gain",
    "conjugate_gradient",
    "distant_states",
    "extraction_likelihood",
    "greedy_continuations",
    "hessian_vector_product",
    "implicit_weight_gradient",
    "invert_facts",
    "memo_cuts",
    "memo_score",
    "memo_scores",
    "meow_rows",
    "meow_targets",
    "mirror_ascent_step",
    "ngram_overlap",
    "parse_inverted",
    "porter_stem",
    "restore_likelihood",
    "rouge",
    "select_inverted_facts",
    "select_negatives",
    "swap_facts",
]
