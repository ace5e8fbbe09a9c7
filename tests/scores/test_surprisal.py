"""Surprisal of tokens and words: identities, alignment, refusals."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import align_words, renyi_entropy, surprisal, word_pieces, word_surprisal
from nll.testing import trace_from_logits, traces
from nll.trace import Fields, Provenance, Trace

LOGITS = np.random.default_rng(5).normal(size=(4, 6)) * 3


def spelt(text, spans, *, logits=LOGITS, **options) -> Trace:
    n = len(spans)
    return trace_from_logits(
        logits[:n], np.arange(n) % 6, text=text, spans=spans, boundary_ids=[0, 1],
        end_logits=np.zeros(6), **options,
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(trace=traces(betas=(0.4,), impossible=False))
def test_temperature_is_the_softmax_of_scaled_logits(trace):
    identity = 0.4 * surprisal(trace) + 0.6 * renyi_entropy(trace, order=0.4)
    np.testing.assert_allclose(surprisal(trace, temperature=2.5), identity, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 2.5, 10.0])
def test_temperature_equals_scaling_the_logits(temperature):
    targets = [0, 5, 2, 3]
    trace = trace_from_logits(LOGITS, targets, betas=(1 / temperature,))
    scaled = trace_from_logits(LOGITS / temperature, targets)
    np.testing.assert_allclose(surprisal(trace, temperature=temperature), scaled.nll, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(trace=traces())
def test_temperature_one_is_the_plain_surprisal_bit_for_bit(trace):
    plain = np.where(trace.scored, trace.nll, np.nan)
    np.testing.assert_array_equal(surprisal(trace, temperature=1.0), plain)
    np.testing.assert_array_equal(surprisal(trace), plain)


def test_infinite_temperature_counts_pieces():
    trace = spelt("ab cd", [[0, 1], [1, 2], [2, 5]])
    got = word_surprisal(trace, temperature=np.inf)
    np.testing.assert_allclose(got, word_pieces(trace) * np.log(6))
    unknown = dataclasses.replace(trace, provenance=Provenance())
    with pytest.raises(nll.MissingField, match="vocab_size"):
        surprisal(unknown, temperature=np.inf)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    for score in (surprisal, word_surprisal):
        with pytest.raises(nll.BadInput, match="temperature"):
            score(spelt("a", [[0, 1]]), temperature=temperature)


def test_the_boundary_at_infinite_temperature_is_the_share_of_word_starts():
    spans = [[0, 3], [3, 5], [5, 8]]
    trace = spelt("ab cd ef", spans, betas=(0.0,), provenance=Provenance(vocab_size=6))
    assert nll.declarations()["word_surprisal"].fields(
        temperature=np.inf, boundary="corrected"
    ) == Fields(betas=(0.0,), boundary=True)
    plain = word_surprisal(trace, temperature=np.inf, words=["ab cd", "ef"])
    corrected = word_surprisal(
        trace, temperature=np.inf, boundary="corrected", words=["ab cd", "ef"]
    )
    share = np.log(2 / 6)  # two of six tokens begin a word
    np.testing.assert_allclose(plain, [2 * np.log(6), np.log(6)])
    np.testing.assert_allclose(corrected, [2 * np.log(6) - share, np.log(6)])
    with pytest.raises(nll.MissingField, match="betas=\\(0,\\)"):
        word_surprisal(spelt("ab cd ef", spans), temperature=np.inf, boundary="corrected")


def test_order_zero_counts_the_possible_tokens_where_the_trace_tells():
    logits = np.array([[1.0, 2.0, -np.inf, 0.0]])
    counted = trace_from_logits(logits, [0], betas=(0.0,))
    np.testing.assert_allclose(renyi_entropy(counted, order=0), [np.log(3)])
    np.testing.assert_allclose(renyi_entropy(trace_from_logits(logits, [0]), order=0), [np.log(4)])


def test_missing_temperature_says_how_to_get_it():
    with pytest.raises(nll.MissingField, match=r"lse_at.*betas"):
        surprisal(spelt("a", [[0, 1]]), temperature=2.5)
    with pytest.raises(nll.MissingField, match=r"0\.4.*betas=\(0\.4,\)"):
        surprisal(spelt("a", [[0, 1]], betas=(0.5,)), temperature=2.5)
    with pytest.raises(nll.MissingField, match="boundary=True"):
        word_surprisal(Trace(logp=[-1.0], spans=[[0, 1]], text="a"), boundary="corrected")


def test_fields_ask_for_what_the_options_need():
    known = nll.declarations()
    asked = {
        spec: nll._declare.requests(spec)[0].fields
        for spec in (
            "surprisal", "surprisal(temperature=2.5)", "renyi_entropy", "renyi_entropy(order=1)",
            "renyi_entropy(order=1e999)", "word_surprisal",
            "word_surprisal(temperature=2.5,boundary='corrected')",
        )
    }  # fmt: skip
    assert known["surprisal"].shape == "token"
    assert list(asked.values()) == [
        Fields(), Fields(betas=(0.4,)), Fields(betas=(2.0,)), Fields(), Fields(top_k=1), Fields(),
        Fields(betas=(0.4,), boundary=True),
    ]  # fmt: skip


@pytest.mark.parametrize("score", [surprisal, renyi_entropy, word_surprisal])
def test_bits_are_nats_over_ln_2(score):
    trace = spelt("ab cd", [[0, 1], [1, 2], [2, 5]], betas=(2.0,))
    np.testing.assert_allclose(score(trace, base="bits"), score(trace) / np.log(2))
    with pytest.raises(nll.BadInput, match="base"):
        score(trace, base="bans")


@settings(max_examples=100, deadline=None)
@given(trace=traces(betas=(0.4, 2.0), top_k=1))
def test_renyi_entropy_falls_with_its_order(trace):
    ladder = [renyi_entropy(trace, order=a) for a in (0, 0.4, 1, 2, np.inf)]
    for higher, lower in itertools.pairwise(ladder):
        scored = trace.scored
        assert (higher[scored] >= lower[scored] - 1e-9).all()


def test_renyi_order_must_not_be_negative():
    with pytest.raises(nll.BadInput, match="order"):
        renyi_entropy(spelt("a", [[0, 1]]), order=-0.5)


def test_words_take_the_white_space_before_and_the_punctuation_on_them():
    #        The    cat,         sat    trailing newline
    text = "The cat,\n\n sat. \n"
    spans = [[0, 3], [3, 7], [7, 8], [8, 10], [10, 14], [14, 15], [15, 17]]
    trace = spelt(text, spans, logits=np.tile(LOGITS, (2, 1)))
    words = align_words(trace)
    assert [text[a:b] for a, b in words.spans] == ["The", "cat,", "sat."]
    assert words.first.tolist() == [0, 1, 3]
    assert words.last.tolist() == [1, 3, 6]
    np.testing.assert_array_equal(word_pieces(trace), [1, 2, 3])
    nll_ = trace.nll
    np.testing.assert_allclose(
        word_surprisal(trace), [nll_[0], nll_[1:3].sum(), nll_[3:6].sum()], atol=1e-12
    )


def test_bytes_of_one_character_belong_to_its_word():
    trace = spelt("a \N{WAVING HAND SIGN}!", [[0, 1], [1, 3], [2, 3], [3, 4]])
    np.testing.assert_array_equal(word_pieces(trace), [1, 3])


def test_a_word_without_tokens_is_nan_not_zero():
    trace = spelt("ab cd ef", [[0, 2], [5, 8]])
    got = word_surprisal(trace)
    assert np.isnan(got).tolist() == [False, True, False]


def test_an_unscored_first_token_leaves_its_word_nan():
    logits = LOGITS.copy()
    logits[0] = np.nan
    trace = spelt("ab cd", [[0, 1], [1, 2], [2, 5]], logits=logits)
    assert np.isnan(word_surprisal(trace)).tolist() == [True, False]
    assert np.isnan(word_surprisal(trace, boundary="corrected")).tolist() == [True, False]


def test_first_word_of_a_text_has_no_boundary_before_it():
    spans = [[0, 2], [2, 5]]
    trace = spelt("ab cd", spans)
    b, s = trace.boundary, trace.nll
    np.testing.assert_allclose(
        word_surprisal(trace, boundary="corrected"), [s[0] - b[1], s[1] + b[1] - b[2]]
    )
    led = spelt(" ab cd", [[0, 3], [3, 6]])
    np.testing.assert_allclose(
        word_surprisal(led, boundary="corrected"), [s[0] + b[0] - b[1], s[1] + b[1] - b[2]]
    )


def test_corrected_word_probabilities_of_one_piece_words_sum_to_one():
    """All words c w with w one word-start piece, plus longer ones: sum p(w | c) = 1."""
    rng = np.random.default_rng(1)
    row, after = rng.normal(size=4), rng.normal(size=(4, 4))
    # After any piece the word ends with the mass of starts {0, 1}, or goes on with {2, 3} once and
    # then surely ends: the correction must spread exactly the mass 1 over these words.
    sure = np.array([0.0, 0.0, -np.inf, -np.inf])
    total = 0.0
    for first in (0, 1):
        one = trace_from_logits(
            row[None], [first], text=" a", spans=[[0, 2]], boundary_ids=[0, 1],
            end_logits=after[first],
        )  # fmt: skip
        total += np.exp(-word_surprisal(one, boundary="corrected")[0])
        for second in (2, 3):
            two = trace_from_logits(
                [row, after[first]], [first, second], text=" ab", spans=[[0, 2], [2, 3]],
                boundary_ids=[0, 1], end_logits=sure,
            )  # fmt: skip
            total += np.exp(-word_surprisal(two, boundary="corrected")[0])
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_piece_across_two_words_is_refused_by_name():
    trace = spelt("ab cd", [[0, 1], [1, 4], [4, 5]])
    with pytest.raises(nll.BadInput, match=r"token 1 'b c' spans two words, 'ab' and 'cd'"):
        word_surprisal(trace)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ab", "xd"], "word 1 'xd'"),
        (["ab"], "goes on: ' cd'"),
        (["b", "cd"], "word 0 'b'"),
        (["ab", ""], "word 1 ''"),
        (["ab", "cd", "ef"], "word 2 'ef'"),
    ],
)
def test_words_that_do_not_align_are_named(words, message):
    with pytest.raises(nll.BadInput, match=message):
        word_surprisal(spelt("ab cd", [[0, 2], [2, 5]]), words=words)


def test_given_words_may_split_what_white_space_does_not():
    trace = spelt("don't go", [[0, 2], [2, 5], [5, 8]])
    np.testing.assert_array_equal(word_pieces(trace, words=["do", "n't", "go"]), [1, 1, 1])


def test_only_the_answer_has_words_and_it_knows_its_context():
    prompted = spelt("ab cd ef", [[0, 2], [2, 5], [5, 8]], prompt_tokens=1)
    b, s = prompted.boundary, prompted.nll
    np.testing.assert_allclose(word_surprisal(prompted), s[1:])
    np.testing.assert_allclose(
        word_surprisal(prompted, boundary="corrected"), s[1:] + b[1:3] - b[2:4]
    )


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_cut_into_characters_aligns(text):
    spans = np.stack([np.arange(len(text)), np.arange(len(text)) + 1], axis=1)
    trace = Trace(logp=-np.ones(len(text)), spans=spans, text=text)
    words = text.split()
    assert len(word_surprisal(trace)) == len(words)
    tail = len(text) - len(text.rstrip())
    assert word_pieces(trace).sum() == len(text) - (tail if words else len(text))
