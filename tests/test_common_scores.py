"""What must hold of every declared score. A new score joins by one row in DIRECTION."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll._bundle import Samples
from nll.testing import trace_from_logits, traces
from nll.trace import Fields, Provenance, Trace, same

BETAS = (0.4, 2.0)
FULL = {"top_k": 15, "betas": BETAS, "boundary_ids": range(10)}
GREEDY = Provenance(vocab_size=20, decoding="greedy")
SHARP, FLAT = np.linspace(9, 0, 20), np.linspace(0.2, 0, 20)
SHARP = np.concatenate([[14.0], SHARP[1:]])


def made(row, target, *, n=6, **options) -> Trace:
    logits = np.tile(row, (n, 1))
    return trace_from_logits(
        logits, [target] * n, end_logits=row, reference_logits=logits, provenance=GREEDY,
        vocab=[" abcde"] * 20, **FULL, **options,
    )  # fmt: skip


expected = made(SHARP, 0)
foreign = made(SHARP, 15)
second = made(SHARP, 1)
unsure = made(FLAT, 0)
one_piece = made(SHARP, 0)
two_pieces = dataclasses.replace(
    one_piece,
    text=" abcd" * 3,
    spans=np.array([[0, 3], [3, 5], [5, 8], [8, 10], [10, 13], [13, 15]]),
)


def answers(*texts: str, trace=expected, greedy=" yes", clusters=()) -> tuple[Samples]:
    """What a score of samples takes: drawn answers of these texts, all with the same trace."""
    said = [dataclasses.replace(trace, text=text) for text in texts]
    return (Samples(said, greedy=dataclasses.replace(trace, text=greedy), clusters=clusters),)


agreeing, differing = answers(" yes", " yes"), answers(" no", " perhaps")
unsure_answers = answers(" yes", " yes", trace=unsure)

# score -> what a higher value speaks for, a trace that deserves the lower one, and the higher one
# (or a tuple of all that the score takes).
DIRECTION = {
    "answer_log_odds": ("negative", made(SHARP[::-1], 19), expected),
    "binoculars": ("human", expected, foreign),
    "cocoa": ("uncertain", agreeing, differing),
    "consistency_and_confidence": ("certain", differing, agreeing),
    "dc_pdd": ("member", foreign, expected),
    "discrete_semantic_entropy": ("uncertain", agreeing, differing),
    "entropy_score": ("machine", expected, unsure),
    "exact_match_consistency": ("certain", differing, agreeing),
    "fast_detect_gpt": ("machine", foreign, expected),
    "g_nll": ("uncertain", expected, unsure),
    "gltr_fraction": ("machine", foreign, expected),
    "instability_signal": ("unstable", expected, unsure),
    "instability_strength": ("unstable", expected, unsure),
    "lexical_similarity": ("certain", differing, agreeing),
    "likelihood_ratio": ("foreign", (unsure, expected), (expected, unsure)),
    "log_likelihood": ("machine", foreign, expected),
    "log_rank_score": ("machine", foreign, expected),
    "loss_score": ("member", foreign, expected),
    "lowercase_score": ("member", (foreign, foreign), (expected, foreign)),
    "lrr": ("machine", foreign, expected),
    "max_nll": ("uncertain", expected, unsure),
    "mean_entropy": ("uncertain", expected, unsure),
    "mean_logp": ("natural", foreign, expected),
    "mean_nll": ("uncertain", expected, unsure),
    "memorization_accuracy": ("memorised", foreign, expected),
    "min_k_plus_plus": ("member", foreign, expected),
    "min_k_prob": ("member", foreign, expected),
    "min_token_prob": ("certain", unsure, expected),
    "mode_gap": ("greedy misses the mode", agreeing, (Samples([expected], greedy=unsure),)),
    "monte_carlo_probability": ("certain", unsure_answers, agreeing),
    "negative_likelihood": ("foreign", expected, foreign),
    "neighbourhood_score": ("member", (foreign, [foreign]), (expected, [foreign])),
    "npr": ("machine", (foreign, [foreign]), (second, [foreign])),
    "num_semantic_sets": ("uncertain", agreeing, differing),
    "perplexity": ("uncertain", expected, unsure),
    "perturbation_discrepancy": ("machine", (foreign, [foreign]), (expected, [foreign])),
    "pointwise_mutual_information": ("certain", (unsure, unsure), (expected, unsure)),
    "predictive_entropy": ("uncertain", agreeing, unsure_answers),
    "probability_margin": ("certain", unsure, expected),
    "rank_score": ("machine", foreign, expected),
    "reference_score": ("member", (foreign, foreign), (expected, foreign)),
    "renyi_entropy": ("uncertain", expected, unsure),
    "sample_variation_ratio": ("uncertain", agreeing, differing),
    "sample_variation_ratio_original": ("uncertain", agreeing, differing),
    "segment_max_entropy": ("uncertain", expected, unsure),
    "segment_max_nll": ("uncertain", expected, unsure),
    "segment_mean_entropy": ("uncertain", expected, unsure),
    "segment_mean_nll": ("uncertain", expected, unsure),
    "self_certainty": ("certain", unsure, expected),
    "semantic_entropy": ("uncertain", agreeing, differing),
    "semantic_negentropy": ("certain", differing, agreeing),
    "sequence_nll": ("uncertain", expected, unsure),
    "step_drop": ("natural", foreign, expected),
    "step_logp": ("natural", foreign, expected),
    "surp": ("member", foreign, expected),
    "surprisal": ("surprising", expected, foreign),
    "top_k_entropy": ("uncertain", expected, unsure),
    "top_k_negentropy": ("certain", unsure, expected),
    "word_pieces": ("split into more tokens", one_piece, two_pieces),
    "word_surprisal": ("surprising", expected, foreign),
    "zero_one_uncertainty": ("uncertain", expected, unsure),
    "zlib_score": ("member", foreign, expected),
}

# Options that reach the code a default call does not; each runs through the whole suite too.
VARIANTS = {
    "cocoa": [{"base": "mean_nll"}, {"base": "entropy"}],
    "consistency_and_confidence": [{"normalize": False}],
    "instability_signal": [{"k": 5, "lam": 0.5}],
    "instability_strength": [{"k": 5, "lam": 0.0, "window": 4}],
    "lexical_similarity": [{"distance": "rouge1"}, {"distance": "bleu"}, {"distance": "exact"}],
    "monte_carlo_probability": [{"normalize": False}],
    "pointwise_mutual_information": [{"normalize": True}],
    "predictive_entropy": [{"normalize": True}],
    "segment_max_nll": [{"separators": "w1", "match": "contains"}],
    "segment_mean_nll": [{"separators": "w1", "match": "contains"}],
    "segment_max_entropy": [{"separators": "w1", "match": "contains"}],
    "segment_mean_entropy": [{"separators": "w1", "match": "contains"}],
    "semantic_entropy": [
        {"estimator": "mean"},
        {"estimator": "direct", "unique": True},
        {"estimator": "cluster_mean", "normalize": True},
        {"class_probability": "frequency"},
    ],
    "semantic_negentropy": [{"class_probability": "sum"}],
    "fast_detect_gpt": [{"reference": True}],
    "likelihood_ratio": [{"normalise": True}, {"finetuned": "trace"}],
    "negative_likelihood": [{"normalise": True}],
    "perturbation_discrepancy": [{"normalise": False}],
    "renyi_entropy": [{"order": 1}, {"order": 0.4}, {"order": 0}, {"order": math.inf}],
    "sequence_nll": [{"normalize": True}],
    "surprisal": [{"temperature": 2.5}, {"temperature": math.inf}, {"base": "bits"}],
    "top_k_negentropy": [{"reduce": "min"}],
    "word_surprisal": [
        {"temperature": 2.5},
        {"boundary": "corrected"},
        {"temperature": 2.5, "boundary": "corrected"},
    ],
}

# Options without which a score cannot be called.
ENOUGH: dict[str, dict] = {
    "answer_log_odds": {"negative_ids": range(0, 20, 2), "positive_ids": range(1, 20, 2)},
    "dc_pdd": {"token_freq": np.full(20, 0.05)},
}

DECLARED = {n: d for n, d in nll.declarations().items() if n in dir(nll.scores)}
CALLS = [
    (d, {**ENOUGH.get(n, {}), **p}) for n, d in DECLARED.items() for p in ({}, *VARIANTS.get(n, []))
]
every_call = pytest.mark.parametrize(
    ("declaration", "options"), CALLS, ids=[f"{d.name}{p or ''}" for d, p in CALLS]
)
every_score = pytest.mark.parametrize("declaration", DECLARED.values(), ids=DECLARED)


def mixed(*, seed=0, n=12, dtype=np.float64, greedy=True, sharpness=4.0, **options) -> Trace:
    """A trace with something of everything; greedy, so that no score refuses it."""
    logits = np.random.default_rng(seed).normal(size=(n + 1, 20)) * sharpness
    targets = logits[:n].argmax(axis=1) if greedy else np.arange(n) % 20
    reference = logits[:n] * 0.8 + 0.1
    trace = trace_from_logits(
        logits[:n], targets, end_logits=logits[n], reference_logits=reference,
        provenance=GREEDY, **FULL, **options,
    )  # fmt: skip
    return cast(trace, dtype)


def given_to(declaration, make=mixed, **options) -> list:
    """What the score takes, by role; the reference trace is of the same text."""
    seed = options.pop("seed", 0)
    if declaration.name == "npr":  # it is undefined where every token ranks first
        options.setdefault("greedy", False)
    roles = {
        "trace": lambda: make(seed=seed, **options),
        "reference": lambda: make(seed=seed, sharpness=3.0, **options),
        "lower": lambda: make(seed=seed + 10, **options),
        "alone": lambda: make(seed=seed, sharpness=3.0, **options),
        "neighbours": lambda: [make(seed=seed + s, **options) for s in (20, 21, 22)],
        "perturbed": lambda: [make(seed=seed + s, **options) for s in (30, 31, 32)],
        "samples": lambda: Samples(
            [make(seed=seed + s, **options) for s in (40, 41, 42)],
            greedy=make(seed=seed, **options),
            clusters=[0, 1, 0],
        ),
    }
    return [roles[name]() for name in declaration.takes]


def traces_in(given) -> list[Trace]:
    """Every trace among what a score takes."""
    if isinstance(given, Trace):
        return [given]
    if isinstance(given, Samples):
        return [*given.drawn, given.greedy]
    return [trace for part in given for trace in traces_in(part)]


def changed(given, change):
    """What a score takes with every trace in it changed."""
    if isinstance(given, Trace):
        return change(given)
    if isinstance(given, Samples):
        drawn = [change(t) for t in given.drawn]
        return dataclasses.replace(given, drawn=drawn, greedy=change(given.greedy))
    return [changed(part, change) for part in given]


def cast(trace: Trace, dtype) -> Trace:
    floats = {
        f.name: value.astype(dtype)
        for f in dataclasses.fields(Trace)
        if isinstance(value := getattr(trace, f.name), np.ndarray) and value.dtype.kind == "f"
    }
    return dataclasses.replace(trace, **floats)


def after(trace: Trace, *, text: str, scored: bool, prompt: bool) -> Trace:
    """The same trace behind one more token."""

    def grow(value):
        first = value[:1].copy()
        if not scored:
            first = np.full_like(first, np.nan if value.dtype.kind == "f" else -1)
        return np.concatenate([first, value])

    arrays = {
        f.name: grow(value)
        for f in dataclasses.fields(Trace)
        if isinstance(value := getattr(trace, f.name), np.ndarray)
    }
    arrays["spans"] = np.vstack([[[0, len(text)]], trace.spans + len(text)])
    return dataclasses.replace(trace, **arrays, text=text + trace.text, prompt_tokens=int(prompt))


def is_reasoned_nan(value) -> bool:
    return isinstance(value, nll.Undefined) and value != value and len(value.reason) > 5


@every_score
def test_direction_is_the_declared_one(declaration):
    means, low, high = DIRECTION[declaration.name]
    assert declaration.higher_means == means
    cases = (x if isinstance(x, tuple) else (x,) for x in (low, high))
    lower, higher = (
        np.mean(declaration.function(*case, **ENOUGH.get(declaration.name, {}))) for case in cases
    )
    assert lower < higher


@every_call
def test_same_value_in_any_order_of_texts(declaration, options):
    made_of = ({"seed": 1, "n": 5}, {"seed": 2, "n": 17}, {"seed": 3, "n": 1})
    texts = [given_to(declaration, **m) for m in made_of]
    alone = [declaration.function(*given_to(declaration, **m), **options) for m in made_of]
    for order in ([0, 1, 2], [2, 0, 1]):
        for i in order:
            np.testing.assert_array_equal(declaration.function(*texts[i], **options), alone[i])


@every_call
def test_prompt_tokens_do_not_count(declaration, options):
    plain = given_to(declaration)
    behind = changed(plain, lambda t: after(t, text="Prompt", scored=True, prompt=True))
    got, want = declaration.function(*behind, **options), declaration.function(*plain, **options)
    if declaration.shape == "token":
        assert np.isnan(got[0])
        got = got[1:]
    np.testing.assert_array_equal(got, want)


@every_call
def test_an_unscored_first_token_does_not_count(declaration, options):
    plain = given_to(declaration)
    behind = changed(plain, lambda t: after(t, text="", scored=False, prompt=False))
    got, want = declaration.function(*behind, **options), declaration.function(*plain, **options)
    if declaration.shape != "text":
        if declaration.name != "word_pieces":
            assert np.isnan(got[0])
        got, want = got[1:], want[1 if declaration.shape == "word" else 0 :]
    np.testing.assert_allclose(got, want, rtol=1e-14)


def blank(*, n, **_) -> Trace:
    """A text of which nothing was scored."""
    nothing = np.full((n, 20), np.nan)
    return trace_from_logits(nothing, [0] * n, reference_logits=nothing, provenance=GREEDY, **FULL)


@every_call
@pytest.mark.parametrize("n", [0, 5])
def test_nothing_scored_is_undefined_and_never_zero(declaration, options, n):
    value = declaration.function(*given_to(declaration, blank, n=n), **options)
    if declaration.shape == "text":
        assert is_reasoned_nan(value)
    elif declaration.name != "word_pieces":
        assert len(value) == n
        assert np.isnan(value).all()


@every_call
def test_one_token_is_enough(declaration, options):
    n = 2 if declaration.name == "step_drop" else 1  # a step's first token does not count
    value = np.ravel(declaration.function(*given_to(declaration, n=n), **options))
    assert value.shape == (1,)
    assert not np.isnan(value).any()


@every_call
def test_single_precision_gives_the_same_to_single_precision(declaration, options):
    for greedy in (True, False):
        given = given_to(declaration, greedy=greedy)
        double = declaration.function(*given, **options)
        single = declaration.function(*changed(given, lambda t: cast(t, np.float32)), **options)
        np.testing.assert_allclose(single, double, rtol=3e-5, atol=1e-6)
        assert np.asarray(single).dtype == np.float64


@every_call
def test_traces_are_left_as_they_were(declaration, options):
    given = given_to(declaration)
    declaration.function(*given, **options)
    fresh = traces_in(given_to(declaration))
    assert all(same(a, b) for a, b in zip(traces_in(given), fresh, strict=True))


@every_call
def test_reads_no_more_than_it_declares(declaration, options):
    """With only the declared fields, and those its options ask for, the value is the same."""
    given = given_to(declaration)
    asked = declaration.fields(**{**declaration.parameters, **options})
    kept = {"logp", *declaration.reads}
    kept |= {"lse_at"} if asked.betas else set()
    kept |= {"boundary", "boundary_at"} if asked.boundary else set()
    kept |= {"top_logp"} if asked.top_k else set()
    kept |= {"cross_mean", "cross_var"} if options.get("reference") else set()
    kept |= {"entropy"} if options.get("order") == 1 or options.get("base") == "entropy" else set()

    def bare(trace):
        arrays = {
            f.name: None
            for f in dataclasses.fields(Trace)
            if isinstance(getattr(trace, f.name), np.ndarray) and f.name not in kept
        }
        return dataclasses.replace(trace, **arrays)

    np.testing.assert_array_equal(
        declaration.function(*changed(given, bare), **options),
        declaration.function(*given, **options),
    )


@every_score
def test_reads_all_it_declares(declaration):
    given = given_to(declaration)
    for name in set(declaration.reads) - {"logp"}:
        without = changed(given, lambda t, name=name: dataclasses.replace(t, **{name: None}))
        with pytest.raises(nll.MissingField, match=name):
            declaration.function(*without, **ENOUGH.get(declaration.name, {}))


@settings(max_examples=150, deadline=None)
@given(
    trace=traces(top_k=15, max_vocabulary=16, betas=BETAS),
    others=st.lists(
        traces(top_k=15, max_vocabulary=16, betas=BETAS, max_tokens=5), min_size=2, max_size=2
    ),
)
def test_values_stay_in_the_declared_range(trace, others):
    def drawn(*, seed, sharpness=4.0, greedy=True):
        one = [trace, *others][seed % 3]
        greedy = dataclasses.replace(one.provenance, decoding="greedy")
        return dataclasses.replace(one, logp=one.logp * sharpness / 4, provenance=greedy)

    for declaration, options in CALLS:
        value = declaration.function(*given_to(declaration, drawn), **options)
        if declaration.shape == "text" and value != value:
            assert is_reasoned_nan(value), declaration.name
        values = np.ravel(value)
        values = values[~np.isnan(values)]
        low, high = declaration.range
        assert ((values >= low - 1e-9) & (values <= high + 1e-9)).all(), declaration.name


@every_score
def test_declaration_is_complete(declaration):
    assert declaration.summary.endswith(".")
    assert declaration.paper.strip()
    assert declaration.unit in {"nats", "bits", "1", "nats/byte", "tokens"}
    assert declaration.question in {
        "uncertainty",
        "membership",
        "machine_text",
        "ood",
        "surprisal",
        "bias",
        "selection",
        "reasoning",
    }
    low, high = declaration.range
    assert low < high
    assert isinstance(declaration.fields(**declaration.parameters), Fields)
    for name in declaration.reads:
        assert name in {f.name for f in dataclasses.fields(Trace)}
