"""Declarations and score specs: what is typed, what comes of it, what is refused."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

import nll
from nll import _declare
from nll._declare import requests
from nll.trace import Trace


def labels(specs):
    return [request.label for request in requests(specs)]


def test_undefined_is_a_nan_that_keeps_its_reason():
    value = nll.Undefined("no token was scored")
    assert value != value
    assert pickle.loads(pickle.dumps(value)).reason == value.reason


@pytest.mark.parametrize(
    ("spec", "name", "parameters"),
    [
        ("lrr", "lrr", {}),
        (" lrr ", "lrr", {}),
        ("min_k_prob(k=0.1)", "min_k_prob", {"k": 0.1}),
        ("min_k_prob(k=1)", "min_k_prob", {"k": 1}),
        ("min_k_prob()", "min_k_prob", {}),
        ("zlib_score(text='a(b')", "zlib_score", {"text": "a(b"}),
        ("word_surprisal(temperature=2.5, base='bits')", "word_surprisal",
         {"temperature": 2.5, "base": "bits"}),
        ("zlib", "zlib_score", {}),
        ("log_rank", "log_rank_score", {}),
        ("entropy", "mean_entropy", {}),
        ("maximum_sequence_probability_nll", "g_nll", {}),
    ],
)  # fmt: skip
def test_specs_are_read(spec, name, parameters):
    (request,) = requests(spec)
    assert (request.declaration.name, dict(request.parameters)) == (name, parameters)
    assert request.label == spec.strip()


def test_gltr_fractions_are_three_scores():
    assert labels("gltr_fractions") == [
        "gltr_fraction(cut=10)", "gltr_fraction(cut=100)", "gltr_fraction(cut=1000)",
    ]  # fmt: skip


def test_the_scores_of_the_first_release_are_reachable_by_name():
    names = ["sequence_nll", "mean_nll", "perplexity", "entropy", "surprisal", "word_surprisal",
             "min_k_prob", "min_k_plus_plus", "zlib", "log_rank", "lrr", "fast_detect_gpt",
             "gltr_fractions", "min_token_prob", "self_certainty"]  # fmt: skip
    assert len(requests(names)) == len(names) + 2


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("min_k_prop", "unknown score 'min_k_prop'; did you mean min_k_prob"),
        ("zzzzz", "unknown score 'zzzzz'; `nll scores` lists them"),
        ("min_k_prob(q=1)", "no option 'q'.*it has: k"),
        ("lrr(k=1)", "it has: none"),
        ("min_k_prob(k='a')", "'k' of score 'min_k_prob' must be a number, not 'a'"),
        ("min_k_prob(k=True)", "must be a number"),
        ("surprisal(base=2)", "must be a str"),
        ("min_k_prob(0.1)", "cannot read score"),
        ("min_k_prob(k=0.1", "cannot read score"),
        ("min_k_prob(k=__import__('os'))", "cannot read score"),
        ("gltr_fractions(cut=5)", "cannot read score"),
        ("", "unknown score ''"),
        ([], "no score was asked for"),
    ],
)
def test_bad_specs_are_refused_in_one_line(spec, match):
    with pytest.raises(nll.BadInput, match=match) as caught:
        requests(spec)
    assert "\n" not in str(caught.value)


def test_a_function_that_is_no_score_is_refused():
    with pytest.raises(nll.BadInput, match="not a declared score"):
        requests(len)


def test_repeated_specs_count_once_and_a_name_outweighs_all():
    assert labels(["lrr", "lrr", nll.scores.lrr]) == ["lrr"]
    wanted = {r.label: r for r in requests(["all", "lrr"])}
    assert not wanted["lrr"].optional
    assert wanted["mean_nll"].optional


def test_two_scores_cannot_share_a_name(monkeypatch):
    monkeypatch.setattr(_declare, "_registry", dict(nll.declarations()))

    def lrr(trace: Trace) -> float:
        """Another one."""
        return 0.0

    attach = nll.declare_score(
        higher_means="x", reads=(), unit="1", range=(0, 1), paper="none", question="test"
    )
    with pytest.raises(nll.BadInput, match="two scores are called 'lrr'"):
        attach(lrr)


def test_an_outside_score_joins_by_its_declaration(monkeypatch):
    monkeypatch.setattr(_declare, "_registry", dict(nll.declarations()))

    @nll.declare_score(
        higher_means="odd", reads=("logp",), unit="nats", range=(0, np.inf), paper="none",
        question="test",
    )  # fmt: skip
    def worst(trace: Trace, *, scale: float = 1.0) -> float:
        """Largest nll, scaled."""
        return float(-trace.values("logp").min() * scale)

    assert worst(Trace(logp=[-1.0, -3.0])) == 3.0
    table = nll.score([Trace(logp=[-1.0, -3.0])], "worst(scale=2)")
    assert table["worst(scale=2)"].to_pylist() == [6.0]
    assert nll.declarations()["worst"].summary == "Largest nll, scaled."


def test_positional_parameters_are_what_a_score_takes():
    found = nll.declarations()
    assert found["lrr"].takes == ("trace",)
    assert found["lowercase_score"].takes == ("trace", "lower")
    assert found["npr"].takes == ("trace", "perturbed")
    assert found["dc_pdd"].required == ("token_freq",)
    assert found["dc_pdd"].parameters == {"token_freq": None, "cap": 0.01}


def test_a_score_must_name_its_traces_by_role(monkeypatch):
    monkeypatch.setattr(_declare, "_registry", dict(nll.declarations()))
    attach = nll.declare_score(
        higher_means="x", reads=(), unit="1", range=(0, 1), paper="none", question="test"
    )

    def two(trace: Trace, other: Trace) -> float:
        """Two traces."""
        return 0.0

    def none(*, k: int = 1) -> float:
        """No trace."""
        return 0.0

    with pytest.raises(nll.BadInput, match=r"takes \(trace, other\).*reference.*keyword-only"):
        attach(two)
    with pytest.raises(nll.BadInput, match="takes"):
        attach(none)
    assert not {"two", "none"} & set(nll.declarations())


def test_all_leaves_out_what_one_trace_or_no_option_cannot_give():
    brought = set(labels("all"))
    assert {"mean_nll", "negative_likelihood"} <= brought
    assert not {"npr", "reference_score", "likelihood_ratio", "dc_pdd"} & brought


def test_an_option_without_default_must_be_given():
    with pytest.raises(nll.BadInput, match=r"needs option 'token_freq'.*partial"):
        requests("dc_pdd")
    with pytest.raises(nll.BadInput, match="needs option 'token_freq'"):
        requests(nll.scores.dc_pdd)
    bound = partial(nll.scores.dc_pdd, token_freq={0: 0.5}, cap=1.0)
    (request,) = requests(bound)
    assert request(Trace(logp=[-1.0], ids=[0])) == bound(Trace(logp=[-1.0], ids=[0]))
    with pytest.raises(nll.BadInput, match="not a declared score"):
        requests(partial(nll.scores.lrr, Trace(logp=[-1.0])))
