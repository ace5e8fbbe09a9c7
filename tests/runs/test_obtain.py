"""Texts varied without a model: what changes, what does not, and what cannot be varied."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import BadInput, BadText
from nll.runs import GatherOptions
from nll.runs._obtain import WAYS, varied

WORD = st.text(st.sampled_from("abcdefg"), min_size=1, max_size=5)
SENTENCE = st.lists(WORD, min_size=14, max_size=60).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(SENTENCE, st.sampled_from(WAYS), st.integers(0, 99))
def test_copies_hold_the_texts_own_words_and_differ_in_few_places(text, way, seed) -> None:
    copies = varied(text, way=way, n=3, seed=seed)
    words = text.split(" ")
    most = 1 if way == "words" else int(0.3 * len(words) / 4 + 1e-9) * 2
    assert len(copies) == 3
    for copy in copies:
        found = copy.split(" ")
        assert set(found) <= set(words)
        assert len(found) == len(words)
        assert sum(a != b for a, b in zip(words, found, strict=True)) <= most
    assert varied(text, way=way, n=3, seed=seed) == copies


def test_another_seed_varies_otherwise() -> None:
    text = " ".join(f"w{i}" for i in range(80))
    for way in WAYS:
        assert varied(text, way=way, n=2, seed=0) != varied(text, way=way, n=2, seed=1)


@pytest.mark.parametrize(
    "text", ["", "  \n ", "one", "one two", "<extra_id_0> a b c d e f g h i j"]
)
def test_texts_that_cannot_be_varied_say_why(text) -> None:
    with pytest.raises(BadText):
        varied(text, way="spans", n=2, seed=0)


def test_options_are_checked() -> None:
    for wrong in ({"perturb": "t5"}, {"neighbours": ""}, {"temperature": 0.0},
                  {"temperature": float("nan")}):  # fmt: skip
        with pytest.raises(BadInput):
            GatherOptions(**wrong)
