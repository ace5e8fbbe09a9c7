"""lm-polygraph's and UQLM's own code gives our numbers on the same stored outputs; make test-slow.

Where a definition of theirs differs, the relation to ours is what is checked.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

import numpy as np
import pytest
from standins import peer

from nll import metrics, scores
from nll._bundle import Samples
from nll.testing import trace_from_logits
from nll.trace import Provenance, Trace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

V, K = 40, 15
GREEDY = Provenance(vocab_size=V, decoding="greedy")
# Words without a stem (theirs stems, ours does not) and of equal number, so that BLEU, which is
# not symmetric, is the same in both directions.
ANSWERS = (
    "the red fox sat on the mat", "a red fox sat on the mat", "the blue cat sat on one rug",
    "the red fox sat on the mat", "no fox was at the old mat", "the blue cat sat on one mat",
)  # fmt: skip
CLUSTERS = [0, 0, 1, 0, 2, 1]
TOLERANCE = {"rel": 1e-6, "abs": 1e-6}  # traces are float32


def answer(draw: np.random.Generator, text: str, tokens: int, *, likeliest: bool = False):
    """A trace of an answer and the full log-probabilities that it was made from."""
    logits = draw.normal(scale=2.5, size=(tokens, V))
    ids = logits.argmax(1) if likeliest else draw.integers(0, V, tokens)
    cuts = np.linspace(0, len(text), tokens + 1).astype(int)
    trace = trace_from_logits(
        logits, ids, text=text, spans=np.stack([cuts[:-1], cuts[1:]], 1), top_k=K, betas=(0.5,),
        provenance=GREEDY if likeliest else Provenance(vocab_size=V),
    )  # fmt: skip
    return trace, logits - np.log(np.exp(logits).sum(1, keepdims=True))


def classes_of(labels: list[int]) -> list[list[int]]:
    """Which answers each cluster holds."""
    return [np.flatnonzero(np.array(labels) == c).tolist() for c in sorted(set(labels))]


class Stored:
    """A question's outputs as both sides keep them."""

    def __init__(self, seed: int):
        draw = np.random.default_rng(seed)
        order = [*draw.permutation(len(ANSWERS))[:4], 0, 3]
        texts = [ANSWERS[i] for i in order]
        self.greedy, self.full = answer(draw, "the red fox sat on one mat", 5, likeliest=True)
        self.alone, _ = answer(draw, self.greedy.text, 5)  # the answer without its prompt
        self.drawn = [answer(draw, t, int(draw.integers(2, 9)))[0] for t in texts]
        # One text has one likelihood: a repeated answer is the same sequence.
        self.drawn = [self.drawn[texts.index(t)] for t in texts]
        self.labels = [CLUSTERS[i] for i in order]
        self.samples = Samples(self.drawn, greedy=self.greedy, clusters=self.labels)

    def polygraph(self) -> dict[str, object]:
        lists = [t.values("logp").tolist() for t in self.drawn]
        classes = classes_of(self.labels)
        near = [1 - scores.token_f1_distance(a, self.greedy.text) for a in self.samples.answers]
        return {
            "greedy_log_likelihoods": [self.greedy.values("logp")],
            "greedy_lm_log_likelihoods": [self.alone.values("logp")],
            "greedy_log_probs": [self.full],
            "entropy": [self.greedy.values("entropy")],
            "sample_log_likelihoods": [lists],
            "sample_log_probs": [[math.fsum(row) for row in lists]],
            "sample_tokens": [[list(range(len(row))) for row in lists]],
            "sample_texts": [self.samples.answers],
            "semantic_classes_entail": {
                "class_to_sample": [classes],
                "sample_to_class": [{i: c for c, held in enumerate(classes) for i in held}],
            },
            "greedy_sentence_similarity": [np.array(near)],
        }  # fmt: skip


STORED = [Stored(seed) for seed in range(8)]


def module(name: str) -> ModuleType:
    found = peer(name)
    if found is None:
        pytest.skip(f"{name.partition('.')[0]} is not in .venv/peers (make test-slow installs it)")
    return found


def later(function, **options):
    return functools.partial(function, **options)


def negative(function, **options):
    return lambda x: -function(x, **options)


# their class and its options -> ours, of the greedy trace or of the samples
OF_GREEDY = [
    ("MaximumSequenceProbability", {}, scores.g_nll),
    ("MaximumSequenceProbability", {}, scores.sequence_nll),
    ("Perplexity", {}, scores.mean_nll),
    ("MeanTokenEntropy", {}, scores.mean_entropy),
    ("SelfCertainty", {}, negative(scores.self_certainty)),
    (
        "RenyiNeg",
        {"alpha": 0.5, "temperature": 1},
        lambda t: -float(np.nanmean(scores.renyi_entropy(t, order=0.5))) - math.log(V),
    ),
]  # fmt: skip
OF_SAMPLES = [
    ("MonteCarloSequenceEntropy", {}, scores.predictive_entropy),
    (
        "MonteCarloNormalizedSequenceEntropy", {},
        later(scores.predictive_entropy, normalize=True),
    ),
    ("SemanticEntropy", {}, later(scores.semantic_entropy, estimator="mean")),
    (
        "SemanticEntropy", {"entropy_estimation": "direct"},
        later(scores.semantic_entropy, estimator="direct"),
    ),
    (
        "SemanticEntropy", {"use_unique_responses": True},
        later(scores.semantic_entropy, estimator="mean", unique=True),
    ),
    (
        "SemanticEntropy", {"class_probability_estimation": "frequency"},
        later(scores.semantic_entropy, estimator="mean", class_probability="frequency"),
    ),
    ("LexicalSimilarity", {"metric": "rougeL"}, negative(scores.lexical_similarity)),
    (
        "LexicalSimilarity", {"metric": "rouge1"},
        negative(scores.lexical_similarity, distance="rouge1"),
    ),
    (
        "LexicalSimilarity", {"metric": "BLEU"},
        negative(scores.lexical_similarity, distance="bleu"),
    ),
    ("CocoaMSP", {}, later(scores.cocoa, base="nll")),
    ("CocoaPPL", {}, later(scores.cocoa, base="mean_nll")),
    ("CocoaMTE", {}, later(scores.cocoa, base="entropy")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "ours"), OF_GREEDY)
def test_lm_polygraph_on_the_greedy_answer(name: str, options: dict, ours) -> None:
    theirs = getattr(module("lm_polygraph.estimators"), name)(**options)
    for stored in STORED:
        (value,) = theirs(stored.polygraph())
        assert ours(stored.greedy) == pytest.approx(value, **TOLERANCE)


@pytest.mark.parametrize(("name", "options", "ours"), OF_SAMPLES)
def test_lm_polygraph_on_sampled_answers(name: str, options: dict, ours) -> None:
    theirs = getattr(module("lm_polygraph.estimators"), name)(**options)
    for stored in STORED:
        (value,) = theirs(stored.polygraph())
        assert ours(stored.samples) == pytest.approx(value, **TOLERANCE)


def test_lm_polygraph_semantic_entropy_by_frequency_is_the_discrete_one() -> None:
    """-(1/N) sum over answers of ln(n_c / N) is -sum over classes of n_c / N ln(n_c / N)."""
    estimators = module("lm_polygraph.estimators")
    theirs = estimators.SemanticEntropy(class_probability_estimation="frequency")
    for stored in STORED:
        (value,) = theirs(stored.polygraph())
        assert scores.discrete_semantic_entropy(stored.samples) == pytest.approx(value, **TOLERANCE)


def test_lm_polygraph_pmi_takes_nothing_off_the_first_token() -> None:
    """Theirs is -(logp_0 + the gain of the rest) / T; ours leaves out what nothing predicted."""
    estimators = module("lm_polygraph.estimators")
    for stored in STORED:
        (value,) = estimators.MeanPointwiseMutualInformation()(stored.polygraph())
        logp = stored.greedy.values("logp")
        shorter = Trace(
            logp=np.concatenate([[np.nan], stored.alone.logp[1:]]), ids=stored.alone.ids
        )
        with_prompt = Trace(logp=stored.greedy.logp, ids=stored.alone.ids)
        ours = scores.pointwise_mutual_information(with_prompt, shorter, normalize=True)
        rest = (-value * len(logp) - logp[0]) / (len(logp) - 1)
        assert ours == pytest.approx(rest, **TOLERANCE)


def test_lm_polygraph_tokens_are_ours_without_the_last() -> None:
    estimators = module("lm_polygraph.estimators")
    for stored in STORED:
        (nll,) = estimators.MaximumTokenProbability()(stored.polygraph())
        (entropy,) = estimators.TokenEntropy()(stored.polygraph())
        np.testing.assert_allclose(nll, stored.greedy.nll[:-1], rtol=1e-6)
        np.testing.assert_allclose(entropy, stored.greedy.entropy[:-1], rtol=1e-6)


def test_lm_polygraph_number_of_semantic_sets() -> None:
    estimators = module("lm_polygraph.estimators")
    for stored in STORED:
        same = np.equal.outer(stored.labels, stored.labels).astype(float)
        stats = stored.polygraph()
        stats |= {"semantic_matrix_entail": same[None], "semantic_matrix_contra": 1 - same[None]}
        (value,) = estimators.NumSemSets()(stats)
        assert scores.num_semantic_sets(stored.samples) == value


def judged(seed: int, n: int = 60):
    draw = np.random.default_rng(seed)
    quality = draw.random(n)
    uncertainty = 1 - quality + draw.normal(scale=0.4, size=n)
    return uncertainty, quality, (quality > 0.5).astype(int)


@pytest.mark.parametrize("most", [1.0, 0.5, 0.3])
def test_lm_polygraph_prediction_rejection_ratio(most: float) -> None:
    area = module("lm_polygraph.ue_metrics.pred_rej_area").PredictionRejectionArea(most)
    base = module("lm_polygraph.ue_metrics.ue_metric")
    for seed in range(5):
        u, q, y = judged(seed)
        for target in (q, y):
            exact = float(base.normalize(target).mean())  # the mean over all orders
            theirs = base.normalize_metric(area(u, target), area(-target, target), exact)
            ours = metrics.prr(u, target, max_rejection=most)
            assert ours == pytest.approx(theirs, abs=1e-12)
            shuffled = base.get_random_scores(area, target)
            theirs = base.normalize_metric(area(u, target), area(-target, target), shuffled)
            assert ours == pytest.approx(theirs, abs=0.02)


def test_lm_polygraph_metrics() -> None:
    room = "lm_polygraph.ue_metrics"
    curve = module(f"{room}.risk_cov_curve").RiskCoverageCurveAUC()
    roc, pr = module(f"{room}.roc_auc").ROCAUC(), module(f"{room}.pr_auc").PRAUC()
    kendall = module(f"{room}.kendalltau").KendallTauCorrelation()
    spearman = module(f"{room}.spearmanr").SpearmanRankCorrelation()
    ece = module(f"{room}.ece").ECE()
    for seed in range(5):
        u, q, y = judged(seed)
        assert metrics.rcc_auc(u, q) == pytest.approx(curve(u, q), abs=1e-12)
        assert metrics.auroc(1 - y, u) == pytest.approx(roc(u, 1 - y), abs=1e-12)
        assert metrics.average_precision(1 - y, u) == pytest.approx(pr(u, 1 - y), abs=1e-12)
        assert metrics.kendall_tau(u, -q) == pytest.approx(kendall(u, q), abs=1e-12)
        assert metrics.spearman(u, -q) == pytest.approx(spearman(u, q), abs=1e-12)
        confidence = 1 / (1 + np.exp(u))
        theirs = ece(-confidence, y)
        assert metrics.ece(confidence, y, bins=20) == pytest.approx(theirs, abs=1e-12)


def provider(trace: Trace) -> list[dict[str, object]]:
    """A trace as the log-probabilities of a provider's answer."""
    return [
        {"token": "t", "logprob": float(p), "top_logprobs": [{"logprob": float(x)} for x in top]}
        for p, top in zip(trace.values("logp"), trace.top_logp, strict=True)
    ]


def test_uqlm_single_generation() -> None:
    white_box = module("uqlm.white_box")
    given = [provider(s.greedy) for s in STORED]
    single = white_box.SingleLogprobsScorer().evaluate(given)
    whole = white_box.SingleLogprobsScorer(length_normalize=False).evaluate(given)
    top = white_box.TopLogprobsScorer().evaluate(given)
    lowest = later(scores.top_k_negentropy, reduce="min")
    pairs = [
        (single["min_probability"], scores.min_token_prob),
        (single["sequence_probability"], lambda t: 1 / scores.perplexity(t)),
        (whole["sequence_probability"], lambda t: math.exp(-scores.g_nll(t))),
        (whole["sequence_probability"], lambda t: 1 - scores.zero_one_uncertainty(t)),
        (top["mean_token_negentropy"], scores.top_k_negentropy),
        (top["min_token_negentropy"], lowest),
        (top["probability_margin"], scores.probability_margin),
    ]
    for theirs, ours in pairs:
        for value, stored in zip(theirs, STORED, strict=True):
            assert ours(stored.greedy) == pytest.approx(value, **TOLERANCE)


class _Given:
    """Similarities of the drawn answers to the judged one, in place of a sentence encoder's."""

    def evaluate(self, responses, sampled_responses, progress_bar=None):
        return [
            np.mean([1 - scores.token_f1_distance(a, response) for a in drawn])
            for response, drawn in zip(responses, sampled_responses, strict=True)
        ]


@pytest.mark.parametrize("normalize", [True, False])
def test_uqlm_sampled_generations(normalize: bool) -> None:
    white_box = module("uqlm.white_box")
    scorer = white_box.SampledLogprobsScorer(
        scorers=["monte_carlo_probability", "consistency_and_confidence"],
        length_normalize=normalize,
    )
    scorer._cosine_scorer = _Given()
    found = scorer.evaluate(
        responses=[s.greedy.text for s in STORED],
        sampled_responses=[s.samples.answers for s in STORED],
        logprobs_results=[provider(s.greedy) for s in STORED],
        sampled_logprobs_results=[[provider(t) for t in s.drawn] for s in STORED],
    )
    for name, values in found.items():
        for value, stored in zip(values, STORED, strict=True):
            ours = getattr(scores, name)(stored.samples, normalize=normalize)
            assert ours == pytest.approx(value, **TOLERANCE)


@pytest.mark.parametrize("normalize", [True, False])
def test_uqlm_semantic_negentropy_counts_the_judged_answer_too(normalize: bool) -> None:
    utils = module("uqlm.nli.entropy_utils")
    for stored in STORED:
        traces = [stored.greedy, *stored.drawn]
        labels = [1, *stored.labels]
        classes = classes_of(labels)
        weights, uniform = utils.compute_response_probabilities(
            [provider(t) for t in traces], len(traces), length_normalize=normalize
        )
        whole = Samples(traces, clusters=labels)
        for kind, given in (("sum", weights), ("frequency", uniform)):
            entropy = utils.compute_semantic_entropy(
                utils.compute_cluster_probabilities(given, classes)
            )
            (share,) = utils.normalize_entropy([entropy], len(traces) - 1)
            ours = scores.semantic_negentropy(whole, class_probability=kind, normalize=normalize)
            assert ours == pytest.approx(1 - share, **TOLERANCE)
            value = scores.semantic_entropy(whole, class_probability=kind, normalize=normalize)
            assert value == pytest.approx(entropy, **TOLERANCE)


def test_uqlm_exact_match() -> None:
    match = module("uqlm.black_box.match").MatchScorer
    for stored in STORED:
        for text in {*ANSWERS, stored.greedy.text}:
            greedy, _ = answer(np.random.default_rng(0), text, 4, likeliest=True)
            theirs = match._compute_score(text, stored.samples.answers)
            ours = scores.exact_match_consistency(Samples(stored.drawn, greedy=greedy))
            assert ours == pytest.approx(theirs, abs=1e-12)


def test_uqlm_calibration() -> None:
    evaluate = module("uqlm.calibration.evaluate")._evaluate_single_calibrator
    for seed in range(5):
        u, _, y = judged(seed)
        confidence = 1 / (1 + np.exp(u))
        found = evaluate(confidence, y, plot=False)
        ours = {"ece": metrics.ece, "mce": metrics.mce, "brier_score": metrics.brier}
        for name, metric in ours.items():
            assert metric(confidence, y) == pytest.approx(found[name], abs=1e-12)
