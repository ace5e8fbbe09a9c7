"""Distances between short texts."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import (
    bleu_distance,
    embedding_cosine_distance,
    exact_distance,
    rouge1_distance,
    rouge_l_distance,
    token_f1_distance,
)
from nll.scores._distance import DISTANCES

words = st.lists(st.sampled_from(["red", "green", "blue", "a", "the", "!"]), max_size=7).map(
    " ".join
)


@pytest.mark.parametrize(
    ("a", "b", "rule", "f1"),
    [
        ("paris is capital", "capital of france is paris", "bag", 0.75),
        ("paris is capital", "capital of france is paris", "set", 0.75),
        ("paris paris rome", "paris paris", "set", 0.4),
        ("paris paris rome", "paris paris", "bag", 0.8),
        ("The Paris!", "paris", "bag", 1.0),
        ("", "the", "bag", 1.0),
        ("", "paris", "bag", 0.0),
        ("rome", "paris", "set", 0.0),
    ],
)
def test_token_f1_is_that_of_the_sheet(a, b, rule, f1):
    assert token_f1_distance(a, b, rule=rule) == pytest.approx(1 - f1, abs=1e-12)


def test_rouge_counts_words_and_their_order():
    assert rouge1_distance("the cat sat", "sat the cat") == 0
    assert rouge_l_distance("the cat sat", "sat the cat") == pytest.approx(1 / 3)
    assert rouge_l_distance("a b c d", "a x c") == pytest.approx(1 - 2 * 0.5 * (2 / 3) / (7 / 6))


def test_bleu_is_the_product_of_precisions_and_the_brevity_penalty():
    reference = "the cat is on the mat"
    assert bleu_distance(reference, reference) == pytest.approx(0, abs=1e-12)
    short = bleu_distance("the cat is on", reference)
    assert short == pytest.approx(1 - math.exp(1 - 6 / 4))
    one_off = bleu_distance("the cat is on the rug", reference)
    assert one_off == pytest.approx(1 - (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert bleu_distance("the the the", reference, order=1) == pytest.approx(
        1 - 2 / 3 * math.exp(1 - 2)
    )
    assert bleu_distance("the cat sat", "the cat sat") == 1  # no 4-gram in three words
    assert bleu_distance("the cat sat", "the cat sat", order=3) == pytest.approx(0)
    assert bleu_distance("", "") == 0
    assert bleu_distance("", "x") == bleu_distance("x", "") == 1


def test_exact_distance_forgives_case_and_outer_punctuation_only():
    assert exact_distance(" Paris. ", "paris") == 0
    assert exact_distance("-5", "5") == exact_distance("3.5", "35") == 1


def test_embedding_distance_is_one_where_there_is_no_direction():
    table = {"x": [1.0, 0.0], "y": [1.0, 1.0], "none": [0.0, 0.0], "minus": [-1.0, 0.0]}
    apart = partial(
        embedding_cosine_distance, embed=lambda texts: np.array([table[t] for t in texts])
    )
    assert apart("x", "x") == 0
    assert apart("x", "y") == pytest.approx(1 - math.sqrt(0.5))
    assert apart("x", "none") == apart("none", "none") == apart("x", "minus") == 1


@settings(deadline=None)
@given(words, words)
def test_distances_lie_between_0_and_1_and_most_are_symmetric(a, b):
    for name, distance in DISTANCES.items():
        assert 0 <= distance(a, b) <= 1
        if name not in ("bleu", "codebleu"):
            assert distance(a, b) == distance(b, a)
        if name != "bleu":
            assert distance(a, a) == pytest.approx(0, abs=1e-12)
    assert 0 <= token_f1_distance(a, b, rule="set") <= 1


def test_wrong_options_are_refused():
    with pytest.raises(nll.BadInput, match="rule"):
        token_f1_distance("a", "b", rule="list")
    with pytest.raises(nll.BadInput, match="order"):
        bleu_distance("a", "b", order=0)
