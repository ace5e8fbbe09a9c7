"""The words a prompt lets choose from are found in its list, not at their first mention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nll
from nll.scores import label_positions


def characters(text):
    return [(i, i + 1) for i in range(len(text))]


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("Is it?\nAnswer Yes or No.", 14, 21),
        ("Is it?\nAnswer No or Yes.", 20, 14),
        ("Yes or No. Really, Yes/No: No idea", 19, 23),
        ("No. Yesterday? Answer Yes, No or I don't know.", 22, 27),
    ],
)
def test_the_list_counts(text, yes, no):
    assert label_positions(text, characters(text)) == (yes, no)
    assert text[yes : yes + 3] == "Yes"
    assert text[no : no + 2] == "No"


def test_a_token_may_hold_the_space_before_the_word():
    text = "Answer Yes or No."
    spans = [(0, 6), (6, 10), (10, 13), (13, 16), (16, 17)]
    assert label_positions(text, spans) == (1, 3)


@given(st.text(alphabet="Yesno .", max_size=30))
def test_what_stands_before_changes_nothing_but_the_place(front):
    text = f"{front}\n{'-' * 20} Yes or No"
    n = len(text)
    assert label_positions(text, characters(text)) == (n - 9, n - 2)


@pytest.mark.parametrize(
    "text", ["Answer Yes.", "Yes, and much later there is a No", "Not Yesterday"]
)
def test_without_a_list_it_refuses(text):
    with pytest.raises(nll.BadInput, match="lists no candidates"):
        label_positions(text, characters(text))


def test_tokens_that_cannot_tell_the_words_apart_are_refused():
    with pytest.raises(nll.BadInput, match="one token"):
        label_positions("Yes or No", [(0, 9)])
    with pytest.raises(nll.BadInput, match="no token holds the word 'No'"):
        label_positions("Yes or No", [(0, 4)])
    assert label_positions("x or y", characters("x or y"), "x", "y") == (0, 5)
