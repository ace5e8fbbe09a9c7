"""The four questions that have commands of their own: their scores, and what an answer can mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nll._errors import BadInput


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a model's likelihood, and the scores that the papers found best for it.

    positive: what label 1 and a flag mean.   scores: of a text's own trace; the others are asked
    when what they take is there: a second model, drawn answers, perturbed texts, neighbours.
    given: of answers that were not written by the model itself.
    main: the score that a threshold decides by, the first of these that was computed.
    says: what a value beyond the others says, and its limit.   alone: a further limit where no
    second model was asked.
    """

    name: str
    positive: str
    flagged: str
    scores: tuple[str, ...]
    main: tuple[str, ...]
    says: str
    alone: str = ""
    reference: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    perturbed: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    given: tuple[str, ...] = ()


# The second model of a command is the one before tuning: what it asks about is the tuned one.
_RATIO = "likelihood_ratio(finetuned='trace')"

UNCERTAINTY = Question(
    name="uncertainty",
    positive="wrong",
    flagged="uncertain",
    scores=("g_nll", "perplexity", "mean_entropy", "max_nll"),
    samples=(
        "semantic_entropy", "discrete_semantic_entropy", "predictive_entropy",
        "lexical_similarity", "cocoa",
    ),
    given=("pointwise_mutual_information",),
    main=("semantic_entropy", "g_nll", "sequence_nll"),
    says="it tells how much the model hesitates, not whether an answer is true: a model can be "
    "sure and wrong",
)  # fmt: skip
MEMBERSHIP = Question(
    name="membership",
    positive="member",
    flagged="seen in training",
    scores=("min_k_plus_plus", "min_k_prob", "zlib_score", "lowercase_score", "loss_score"),
    reference=("reference_score",),
    neighbours=("neighbourhood_score",),
    main=("min_k_plus_plus",),
    says="text that is easy or common gets such values too: they are no proof that a text was "
    "trained on, nor of anything about a person",
)
DETECT = Question(
    name="detect",
    positive="machine",
    flagged="machine-written",
    scores=("fast_detect_gpt", "lrr", "log_rank_score", "log_likelihood", "entropy_score"),
    reference=("binoculars", "fast_detect_gpt(reference=True)"),
    perturbed=("perturbation_discrepancy", "npr"),
    # The last is for servers, which know the rank of some tokens only.
    main=("binoculars", "fast_detect_gpt", "log_likelihood"),
    says="formulaic, translated and well-known human text gets such values too, and an edited or "
    "unknown model's text may not: never proof that a person used a machine",
)
OOD = Question(
    name="ood",
    positive="ood",
    flagged="foreign",
    scores=("negative_likelihood(normalise=True)", "negative_likelihood", "perplexity",
            "mean_entropy"),
    reference=(_RATIO, "likelihood_ratio(finetuned='trace', normalise=True)"),
    main=(_RATIO, "negative_likelihood(normalise=True)"),
    says="foreign to this model says nothing of right or wrong",
    alone="without --reference (the model before fine-tuning) rare words look foreign too",
)  # fmt: skip
QUESTIONS = {q.name: q for q in (UNCERTAINTY, MEMBERSHIP, DETECT, OOD)}


def chosen(
    question: Question,
    *,
    reference: bool,
    samples: bool,
    perturbed: bool,
    neighbours: bool,
    own_answers: bool,
) -> list[str]:
    """The question's scores that can be computed of what there is.

    own_answers: the texts are the model's own greedy answers; G-NLL and the scores that judge such
    an answer by others ask for that, and answers that were given get the plain sum instead.
    Raises BadInput for a second model where none of the scores compares two.
    """
    scores = list(question.scores)
    if reference and not question.reference:
        raise BadInput(f"no score of 'nll {question.name}' compares two models; name one only")
    more = (
        (reference, question.reference),
        (samples, question.samples),
        (perturbed, question.perturbed),
        (neighbours, question.neighbours),
    )
    for there, names in more:
        scores += names if there else ()
    if not own_answers:
        scores = ["sequence_nll" if s == "g_nll" else s for s in scores if s != "cocoa"]
        scores += question.given
    return scores


def main_of(question: Question, labels: Sequence[str]) -> str:
    """The score among these that decides."""
    return next((name for name in question.main if name in labels), labels[0])
