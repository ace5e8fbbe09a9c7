"""False answers by rule keep the sentence and change its facts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import BadInput
from nll.negatives import swap_facts

ITEMS = [
    ("Who wrote it?", 'The author Anna de la Cruz wrote "Red Sand" in 1984, aged 31.'),
    ("Where was Bo Lind born?", "The writer Bo Lind was born in New York on 05/11/1991."),
    ("What came next?", 'It was "Blue Hill", in 2004, by the poet Mary Jane Holt, at 47.'),
    ("Is it good?", "Yes, very."),
]


def test_facts_give_way_to_facts_of_their_kind():
    found = swap_facts(ITEMS, n=3)
    assert [item.answer for item in found] == [a for _, a in ITEMS]
    rule = r'The author (Bo Lind|New York|Mary Jane Holt) wrote "Blue Hill" in 2004, aged 47\.'
    assert len(found[0].inverted) == 3
    assert all(re.fullmatch(rule, text) for text in found[0].inverted)
    # the question names Bo Lind; there is no second date
    assert all(
        re.fullmatch(r"The writer Bo Lind was born in (.+) on 05/11/1991\.", text)
        for text in found[1].inverted
    )
    assert set(found[1].inverted) == {
        f"The writer Bo Lind was born in {name} on 05/11/1991."
        for name in ("Anna de la Cruz", "Mary Jane Holt")
    }
    assert found[3].inverted == ()


def test_a_fact_that_comes_twice_changes_to_the_same():
    (first, _) = swap_facts([("q", "In the town of Rome, yes, of Rome."), ("q", "In big Oslo.")])
    assert first.inverted == ("In the town of Oslo, yes, of Oslo.",)


years = st.lists(st.integers(1000, 2099).map(str), min_size=2, max_size=6, unique=True)


@settings(deadline=None)
@given(years, st.integers(1, 5), st.integers(0, 99))
def test_laws(drawn, n, seed):
    items = [(f"Question {i}?", f"It was in {year}.") for i, year in enumerate(drawn)]
    found = swap_facts(items, n=n, seed=seed)
    assert found == swap_facts(items, n=n, seed=seed)
    for item, year in zip(found, drawn, strict=True):
        assert 1 <= len(set(item.inverted)) == len(item.inverted) <= min(n, len(drawn) - 1)
        others = {f"It was in {other}." for other in drawn if other != year}
        assert set(item.inverted) <= others


def test_edges():
    assert swap_facts([]) == []
    assert swap_facts([("q", "It was in 1984.")])[0].inverted == ()
    with pytest.raises(BadInput, match="how many"):
        swap_facts(ITEMS, n=0)
