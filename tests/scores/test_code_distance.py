"""CodeBLEU as a distance: laws, its four parts one by one, code that does not parse."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import codebleu_distance, variation_ratio

SUM = "def total(xs):\n    s = 0\n    for x in xs:\n        s = s + x\n    return s\n"
RENAMED = (
    SUM.replace("total", "f").replace("xs", "ys").replace("s ", "acc ").replace(" s\n", " acc\n")
)
OTHER = "def total(xs):\n    return len(xs)\n"
code = st.one_of(
    st.sampled_from([SUM, OTHER, "x = 1", "    return a + b", "while True: pass", "def (", ""]),
    st.text(max_size=30),
)  # fmt: skip
PART = {"ngram": (1, 0, 0, 0), "weighted": (0, 1, 0, 0), "tree": (0, 0, 1, 0), "flow": (0, 0, 0, 1)}


@settings(deadline=None)
@given(code, code)
def test_laws(a, b):
    distance = codebleu_distance(a, b)
    assert 0 <= distance <= 1
    assert codebleu_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_empty_code_is_far_from_any_other():
    assert codebleu_distance("", "") == codebleu_distance(" \n", "") == 0
    assert codebleu_distance("", "x = 1") == codebleu_distance("x = 1", "") == 1


def test_names_count_for_tokens_alone():
    assert codebleu_distance(RENAMED, SUM, weights=PART["tree"]) == 0
    assert codebleu_distance(RENAMED, SUM, weights=PART["flow"]) == 0
    assert codebleu_distance(RENAMED, SUM, weights=PART["ngram"]) > 0.3
    assert codebleu_distance(RENAMED, SUM) < codebleu_distance(OTHER, SUM)


def test_tokens_are_compared_as_by_hand():
    # all tokens but one: p1 = 2/3, p2 = 1/2, p3 = 0.1/1
    got = codebleu_distance("x = 2", "x = 1", weights=PART["ngram"])
    assert got == pytest.approx(1 - (2 / 3 * 1 / 2 * 0.1) ** (1 / 3), abs=1e-12)
    # the keyword weighs 1, the name 0.2
    got = codebleu_distance("return x", "return y", weights=PART["weighted"])
    assert got == pytest.approx(1 - math.sqrt(1.0 / 1.2 * 0.1), abs=1e-12)


def test_a_short_output_pays_for_its_brevity():
    got = codebleu_distance("a b", "a b c d", weights=PART["ngram"])
    want = math.exp(1 - 4 / 2) * (1 * 1 * 0.1 * 0.1) ** 0.25
    assert got == pytest.approx(1 - want, abs=1e-12)


def test_trees_are_compared_as_by_hand():
    # subtrees of `x = y + 1`: module, assignment, sum; with `z` instead only none but z is alike
    assert codebleu_distance("x = y + 1", "a = b + 2", weights=PART["tree"]) == 0
    got = codebleu_distance("f(y + 1)", "x = y + 1", weights=PART["tree"])
    assert got == pytest.approx(1 - 1 / 3)  # the sum alone is in both


def test_data_flow_is_compared_as_by_hand():
    reference = "a = 1\nb = a\nreturn_ = b"
    assert codebleu_distance("x = 1\ny = x\nz = y", reference, weights=PART["flow"]) == 0
    got = codebleu_distance("x = 1\ny = x\nz = x", reference, weights=PART["flow"])
    assert got == pytest.approx(1 / 3)


def test_what_the_reference_lacks_does_not_count():
    assert codebleu_distance("f()", "f()", weights=(0, 0, 1, 1)) == 0
    with pytest.raises(nll.BadInput, match="none of what"):
        codebleu_distance("f()", "f(", weights=PART["tree"])


def test_code_that_was_cut_off_is_read_as_far_as_it_parses():
    cut = SUM + "    while s > (1"
    assert codebleu_distance(cut, SUM, weights=PART["tree"]) == 0
    assert codebleu_distance("def (", SUM, weights=PART["tree"]) == 1
    assert codebleu_distance("    y = 1", "y = 1") == 0  # a body without its function


def test_it_is_a_distance_of_outputs():
    outputs = [SUM, OTHER, RENAMED]
    pairs = [codebleu_distance(a, b) for a, b in itertools.permutations(outputs, 2)]
    assert variation_ratio(outputs, "codebleu") == pytest.approx(sum(pairs) / 6)


def test_wrong_weights_are_refused():
    for weights in ((1, 1, 1), (0, 0, 0, 0), (1, 1, 1, -1)):
        with pytest.raises(nll.BadInput, match="weights"):
            codebleu_distance("a", "a", weights=weights)
