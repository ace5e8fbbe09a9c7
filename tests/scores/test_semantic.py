"""Clusters of equal meaning and their entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll._bundle import Samples
from nll.scores import (
    cluster_answers,
    discrete_semantic_entropy,
    entailment_equivalence,
    num_semantic_sets,
    semantic_entropy,
    semantic_negentropy,
)
from nll.trace import Trace

logps = st.lists(st.floats(-9, -0.01), min_size=1, max_size=4)
drawn = st.lists(st.tuples(logps, st.integers(0, 3)), min_size=1, max_size=8)
FORMS = ("rao", "mean", "direct", "cluster_mean")


def samples(rows) -> Samples:
    traces = [Trace(logp=logp, text=f"answer {label}") for logp, label in rows]
    return Samples(traces, clusters=[label for _, label in rows])


def test_clusters_gather_around_the_first_member():
    def near(a, b):
        return abs(int(a) - int(b)) <= 1

    assert cluster_answers(["1", "2", "3", "4"], near) == [0, 0, 1, 1]
    assert cluster_answers(["2", "1", "3", "4"], near) == [0, 0, 0, 1]
    assert cluster_answers(["1", "3", "2"], near) == [0, 1, 0]
    assert cluster_answers(["1", "3", "2"], near, overwrite=True) == [0, 1, 1]
    assert cluster_answers([]) == []


def test_answers_are_equal_up_to_case_spaces_and_outer_punctuation():
    assert cluster_answers(["Paris", " paris.", "Lyon", "PARIS!"]) == [0, 0, 1, 0]
    assert cluster_answers(["-5", "5", "3.5", "35"]) == [0, 1, 2, 3]


def written(text: str, *ends: int) -> Trace:
    """An answer of tokens that end at these characters."""
    edges = [0, *ends]
    return Trace(logp=[-1.0] * len(ends), text=text, spans=list(zip(edges, ends, strict=False)))


def test_the_end_token_is_no_part_of_what_an_answer_says():
    ended, cut = written("Paris<|im_end|>", 5, 15), written("Paris", 5)
    assert Samples([ended, cut]).answers == ["Paris", "Paris"]
    assert num_semantic_sets(Samples([ended, cut])) == 1
    nothing = written("<|im_end|>", 10)
    assert Samples([nothing]).answers == [""]
    # An answer that says these characters in other tokens has not ended with that token.
    assert Samples([written("<s>x</s>", 4, 6, 8)]).answers == ["<s>x</s>"]
    after_prompt = Trace(
        logp=[np.nan, -1, -2], text="Q: Lyon</s>", spans=[[0, 3], [3, 7], [7, 11]], prompt_tokens=1
    )
    assert Samples([after_prompt]).answers == ["Lyon"]


def test_answers_without_their_text_cannot_be_told_apart():
    blank = [Trace(logp=[-1.0]), Trace(logp=[-2.0])]
    for score in (num_semantic_sets, semantic_entropy, discrete_semantic_entropy):
        with pytest.raises(nll.MissingField, match="no text"):
            score(Samples(blank))
        assert score(Samples(blank, clusters=[0, 1])) > 0
    with pytest.raises(nll.MissingField, match="no text"):
        semantic_entropy(Samples(blank, clusters=[0, 0]), unique=True)


@pytest.mark.parametrize(
    ("forth", "back", "loose", "strict"),
    [
        ("entailment", "entailment", True, True),
        ("entailment", "neutral", True, False),
        ("neutral", "neutral", False, False),
        ("entailment", "contradiction", False, False),
        ("contradiction", "contradiction", False, False),
    ],
)
def test_entailment_rule_in_its_two_forms(forth, back, loose, strict):
    seen = []

    def classify(a, b):
        seen.append((a, b))
        return forth if a.endswith("x") else back

    assert entailment_equivalence(classify, question="Who?")("x", "y") is loose
    assert entailment_equivalence(classify, strict=True)("x", "y") is strict
    assert seen == [("Who? x", "Who? y"), ("Who? y", "Who? x"), ("x", "y"), ("y", "x")]


def test_an_unknown_class_is_an_error():
    with pytest.raises(nll.BadInput, match="maybe"):
        entailment_equivalence(lambda a, b: "maybe")("x", "y")


@settings(deadline=None)
@given(drawn)
def test_every_form_is_its_definition(rows):
    labels = [label for _, label in rows]
    for normalize in (False, True):
        weight = [math.exp(sum(x) / (len(x) if normalize else 1)) for x, _ in rows]
        P = {c: sum(w for w, k in zip(weight, labels, strict=True) if k == c) for c in labels}
        whole = sum(P.values())
        want = {
            "rao": -sum(p / whole * math.log(p / whole) for p in P.values()),
            "mean": -np.mean([math.log(P[c]) for c in labels]),
            "direct": -sum(P[c] * math.log(P[c]) for c in labels),
            "cluster_mean": -np.mean([math.log(p) for p in P.values()]),
        }
        for form in FORMS:
            got = semantic_entropy(samples(rows), estimator=form, normalize=normalize)
            assert got == pytest.approx(want[form], abs=1e-9)


@settings(deadline=None)
@given(drawn, st.randoms())
def test_order_of_samples_and_names_of_clusters_do_not_matter(rows, random):
    other = [(logp, 7 - label) for logp, label in rows]
    random.shuffle(other)
    for form in FORMS:
        for options in ({}, {"unique": True}, {"class_probability": "frequency"}):
            if options.get("unique"):  # the same text may have been drawn with another trace
                rows = [(rows[0][0], label) for _, label in rows]
                other = [(rows[0][0], label) for _, label in other]
            a = semantic_entropy(samples(rows), estimator=form, **options)
            b = semantic_entropy(samples(other), estimator=form, **options)
            assert a == pytest.approx(b, abs=1e-9)


@settings(deadline=None)
@given(drawn)
def test_entropy_is_at_most_the_log_of_what_there_is(rows):
    n, kinds = len(rows), len({label for _, label in rows})
    s = samples(rows)
    assert 0 <= semantic_entropy(s) <= math.log(kinds) + 1e-9
    assert 0 <= discrete_semantic_entropy(s) <= math.log(kinds) + 1e-9 <= math.log(n) + 2e-9
    assert num_semantic_sets(s) == kinds
    frequency = semantic_entropy(s, class_probability="frequency", estimator="mean")
    assert frequency == pytest.approx(discrete_semantic_entropy(s), abs=1e-9)
    if n > 1:
        want = 1 - discrete_semantic_entropy(s) / math.log(n)
        assert semantic_negentropy(s) == pytest.approx(want, abs=1e-9)
    else:
        assert "one answer" in semantic_negentropy(s).reason


def test_clusters_come_from_the_option_the_samples_or_the_texts():
    traces = [Trace(logp=[-1.0], text=t) for t in ("Yes", "yes.", "no")]
    assert num_semantic_sets(Samples(traces)) == 2
    assert num_semantic_sets(Samples(traces, clusters=[0, 1, 2])) == 3
    assert num_semantic_sets(Samples(traces, clusters=[0, 1, 2]), clusters=[5, 5, 5]) == 1
    with pytest.raises(nll.BadInput, match="2 clusters for 3"):
        semantic_entropy(Samples(traces), clusters=[0, 1])


def test_labels_alone_are_enough_for_the_discrete_form():
    assert discrete_semantic_entropy([0, 0, 1, 0, 2]) == pytest.approx(0.950270539233)
    assert discrete_semantic_entropy([4, 4]) == 0
    assert discrete_semantic_entropy([]).reason == "no answer was drawn"


def test_repeated_answers_may_count_once():
    """Likelihoods .6 .6 .6 .3 of one meaning and .1 of another: sums 2.1 and .1, once .9 and .1."""
    like, texts = [0.6, 0.6, 0.6, 0.3, 0.1], ["a", "a", "a", "b", "c"]
    s = Samples(
        [Trace(logp=[math.log(p)], text=t) for p, t in zip(like, texts, strict=True)],
        clusters=[0, 0, 0, 0, 1],
    )
    assert semantic_entropy(s, unique=True) == pytest.approx(
        -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    )
    p = 2.1 / 2.2
    assert semantic_entropy(s) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_undefined_without_answers_or_without_any_probability():
    assert semantic_entropy(Samples([])).reason == "no answer was drawn"
    impossible = Samples([Trace(logp=[-math.inf]), Trace(logp=[-math.inf])], clusters=[0, 1])
    assert "probability 0" in semantic_entropy(impossible).reason
    assert semantic_entropy(impossible, estimator="mean") == math.inf
    assert semantic_entropy(impossible, estimator="direct") == 0
    one = Samples([Trace(logp=[-1.0]), Trace(logp=[-math.inf]), Trace(logp=[])], clusters=[0, 1, 2])
    assert semantic_entropy(one) == 0
    with pytest.raises(nll.BadInput, match="estimator"):
        semantic_entropy(one, estimator="median")
    with pytest.raises(nll.BadInput, match="class_probability"):
        semantic_entropy(one, class_probability="mean")
