"""No public score escapes the common suite, an oracle, or a declaration."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import nll
from tests import test_common_scores

HERE = Path(__file__).parent
# Public, but no scores: results and helpers, each with a test under tests/scores that names it.
PLAIN = {
    "BinaryDecisionReport", "CaslFit", "HeadScore", "InstabilityMonitor",
    "LabelReadout", "StepLengthReport",
    "StepParts", "Words", "align_words", "aslec_casl", "aslec_drop", "binary_decision_report",
    "binoculars_from_logits", "debias_threshold", "fast_detect_gpt_from_logits", "fill_spans",
    "fit_aslec_casl", "gltr_fractions", "label_log_odds", "label_positions", "label_readout",
    "label_readout_from_logp", "local_logp", "negative_attention_score", "negative_bias",
    "npr_from_log_ranks", "perturb_spans", "precision_recall_gap", "qa_ratio",
    "rank_negative_heads", "recall_score", "renyi_from_logits", "select_top_k", "split_steps",
    "step_length_report", "step_parts", "step_spans", "unigram_filler",
    "Peak", "PerturbationPoints", "Perturbed", "SegmentScores", "StepUtilities", "Utility",
    "answer_entropy", "answer_mentions", "answer_nll", "answer_traces", "bleu_distance",
    "candidates_used",
    "classify_instability", "classwise_calibration_error", "cluster_answers", "codebleu_distance",
    "conditional_answer_entropy",
    "conditional_answer_nll", "early_stop_step", "embedding_cosine_distance",
    "entailment_equivalence", "exact_distance", "expected_calibration_error", "instability_peak",
    "jensen_shannon", "maximum_sequence_probability_nll", "perturb",
    "perturbation_points", "prefix_instability", "reasoning_utility",
    "rouge1_distance", "rouge_l_distance", "segment_scores", "step_utilities",
    "token_f1_distance", "variation_ratio", "variation_ratio_original",
}  # fmt: skip


def built_in() -> set[str]:
    found = nll.declarations().values()
    return {d.name for d in found if d.function.__module__.startswith("nll.scores")}


def test_every_public_name_is_declared():
    assert set(nll.scores.__all__) - PLAIN == built_in()
    for name in built_in():
        assert getattr(nll.scores, name) is nll.declarations()[name].function


def test_every_public_function_of_the_room_is_exported():
    for module in pkgutil.iter_modules(nll.scores.__path__):
        if module.name == "_common":
            continue
        room = importlib.import_module(f"nll.scores.{module.name}")
        defined = {
            n
            for n, f in inspect.getmembers(room, inspect.isfunction)
            if f.__module__ == room.__name__ and not n.startswith("_")
        }
        internal = {
            "answers_of",
            "labels_of",
            "named_distance",
            "no_answers",
            "normalized",
            "not_greedy",
            "segment_starts",
            "standardised",
        }
        assert defined - internal <= set(nll.scores.__all__), module.name


def test_every_score_has_a_direction_in_the_common_suite():
    assert set(test_common_scores.DIRECTION) == built_in()
    assert set(test_common_scores.DECLARED) == built_in()


def test_every_score_has_an_oracle():
    cases = [c for p in HERE.glob("oracle/*.json") for c in json.loads(p.read_text())["cases"]]
    covered = {name for case in cases for name, _, _ in case["expect"]}
    assert built_in() - covered == set()


def test_every_helper_is_tested():
    tests = "".join(path.read_text() for path in (HERE / "scores").glob("test_*.py"))
    functions = {name for name in PLAIN if name.islower()}
    assert {name for name in functions if name not in tests} == set()


def test_a_score_outside_the_suite_would_be_noticed(monkeypatch):
    monkeypatch.setattr(nll.scores, "__all__", [*nll.scores.__all__, "escaped"])
    assert set(nll.scores.__all__) - PLAIN != built_in()
