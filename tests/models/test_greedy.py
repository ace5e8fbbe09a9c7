"""Greedy answers on exact models: the path of the likeliest tokens, ties, stops, the length cap."""

from __future__ import annotations

import numpy as np
import pytest

import nll
from nll.models import decode_greedy
from nll.scores import g_nll
from nll.testing import ALPHABET, bigram_table, table_model

MODEL = table_model()


def test_it_is_the_path_of_the_likeliest_tokens():
    answer = decode_greedy(MODEL, "the ", max_new_tokens=9)
    table = bigram_table() - np.logaddexp.reduce(bigram_table(), axis=1, keepdims=True)
    at, total, path = ALPHABET.index(" "), 0.0, ""
    for _ in range(9):
        total -= table[at].max()
        at = int(table[at].argmax())
        path += ALPHABET[at]
    assert answer.scored_text == path
    assert g_nll(answer) == pytest.approx(total, rel=1e-6)
    assert answer.provenance.decoding == "greedy"
    assert answer.provenance.finish_reason == "length"


def test_of_equally_likely_tokens_the_lowest_id_is_taken():
    table = np.where(np.arange(len(bigram_table())) == 0, -50.0, 0.0) * np.ones_like(bigram_table())
    answer = decode_greedy(table_model(table), "b", max_new_tokens=3)
    assert answer.ids[-3:].tolist() == [1, 1, 1]
    assert g_nll(answer) == pytest.approx(3 * np.log(len(table) - 1), rel=1e-6)


def test_an_answer_that_ends_at_once_is_as_uncertain_as_its_end():
    flat = table_model(np.zeros_like(bigram_table()))  # the end-of-text token has the lowest id
    answer = decode_greedy(flat, "b", max_new_tokens=3)
    assert (answer.n_scored, answer.provenance.finish_reason) == (1, "stop")
    assert g_nll(answer) == pytest.approx(np.log(len(bigram_table())), rel=1e-6)


def test_a_stop_string_ends_it_and_does_not_count():
    whole = decode_greedy(MODEL, "the ", max_new_tokens=9)
    text = whole.scored_text
    cut = decode_greedy(MODEL, "the ", max_new_tokens=9, stop=[text[2:4]])
    assert cut.scored_text == text[: text.index(text[2:4])]
    assert cut.provenance.finish_reason == "stop"
    n = cut.n_scored
    assert g_nll(cut) == pytest.approx(-whole.values("logp")[:n].sum())


def test_a_prompt_that_cannot_be_continued():
    with pytest.raises(nll.BadText, match="empty"):
        decode_greedy(MODEL, "")
