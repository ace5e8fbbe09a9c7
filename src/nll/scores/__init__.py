"""Scores: plain functions of a trace, each declared with direction, unit, range and paper."""

from nll._declare import alias as _alias
from nll.scores._machine_logits import binoculars_from_logits, fast_detect_gpt_from_logits
from nll.scores._machine_text import (
    binoculars,
    entropy_score,
    fast_detect_gpt,
    gltr_fraction,
    gltr_fractions,
    log_likelihood,
    log_rank_score,
    lrr,
    npr,
    npr_from_log_ranks,
    perturbation_discrepancy,
    rank_score,
)
from nll.scores._membership import (
    dc_pdd,
    loss_score,
    lowercase_score,
    min_k_plus_plus,
    min_k_prob,
    neighbourhood_score,
    recall_score,
    reference_score,
    surp,
    zlib_score,
)
from nll.scores._ood import likelihood_ratio, negative_likelihood, qa_ratio
from nll.scores._perturb import fill_spans, perturb_spans, unigram_filler
from nll.scores._surprisal import (
    renyi_entropy,
    renyi_from_logits,
    surprisal,
    word_pieces,
    word_surprisal,
)
from nll.scores._uncertainty import (
    g_nll,
    max_nll,
    mean_entropy,
    mean_nll,
    min_token_prob,
    perplexity,
    probability_margin,
    self_certainty,
    sequence_nll,
    top_k_negentropy,
    zero_one_uncertainty,
)
from nll.scores._words import Words, align_words

# What people type for scores whose papers' sheets use a longer name.
_alias("zlib", "zlib_score")
_alias("log_rank", "log_rank_score")
_alias("rank", "rank_score")
_alias("entropy", "mean_entropy")
_alias("nll", "mean_nll")
_alias("loss", "loss_score")
_alias("min_token_probability", "min_token_prob")
_alias("maximum_sequence_probability_nll", "g_nll")
_alias("gltr_fractions", *(f"gltr_fraction(cut={cut})" for cut in (10, 100, 1000)))

__all__ = [
    "Words",
    "align_words",
    "binoculars",
    "binoculars_from_logits",
    "dc_pdd",
    "entropy_score",
    "fast_detect_gpt",
    "fast_detect_gpt_from_logits",
    "fill_spans",
    "g_nll",
    "gltr_fraction",
    "gltr_fractions",
    "likelihood_ratio",
    "log_likelihood",
    "log_rank_score",
    "loss_score",
    "lowercase_score",
    "lrr",
    "max_nll",
    "mean_entropy",
    "mean_nll",
    "min_k_plus_plus",
    "min_k_prob",
    "min_token_prob",
    "negative_likelihood",
    "neighbourhood_score",
    "npr",
    "npr_from_log_ranks",
    "perplexity",
    "perturb_spans",
    "perturbation_discrepancy",
    "probability_margin",
    "qa_ratio",
    "rank_score",
    "recall_score",
    "reference_score",
    "renyi_entropy",
    "renyi_from_logits",
    "self_certainty",
    "sequence_nll",
    "surp",
    "surprisal",
    "top_k_negentropy",
    "unigram_filler",
    "word_pieces",
    "word_surprisal",
    "zero_one_uncertainty",
    "zlib_score",
]
