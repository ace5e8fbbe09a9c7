"""ROUGE and the stemmer give what the package rouge_score gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import BadInput
from nll.negatives import porter_stem, rouge

# What rouge_score's stemmer makes of them.
STEMS = {
    "running": "run", "runs": "run", "runner": "runner", "copies": "copi", "caresses": "caress",
    "ponies": "poni", "ties": "tie", "agreed": "agre", "plastered": "plaster", "bled": "bled",
    "motoring": "motor", "sing": "sing", "conflated": "conflat", "troubled": "troubl",
    "sized": "size", "hopping": "hop", "falling": "fall", "hissing": "hiss", "filing": "file",
    "happy": "happi", "enjoy": "enjoy", "relational": "relat", "conditional": "condit",
    "hopefulness": "hope", "formality": "formal", "sensibiliti": "sensibl", "electrical": "electr",
    "goodness": "good", "revival": "reviv", "allowance": "allow", "adjustment": "adjust",
    "adoption": "adopt", "homologou": "homolog", "effective": "effect", "probate": "probat",
    "cease": "ceas", "controll": "control", "roll": "roll", "dying": "die", "skies": "sky",
    "tied": "tie", "carried": "carri", "proceed": "proceed", "generically": "gener",
    "biology": "biolog", "geology": "geolog", "by": "by", "usage": "usag", "yearly": "yearli",
}  # fmt: skip


@pytest.mark.parametrize(("word", "stem"), STEMS.items())
def test_stems(word, stem):
    assert porter_stem(word) == stem


def test_oracle():
    found = rouge("running runs ran", "run runner")
    assert found == pytest.approx((1 / 3, 1 / 2, 0.4))
    assert rouge("2,500 copies", "2500 copies")[:2] == pytest.approx((1 / 3, 1 / 2))
    assert rouge("running runs ran", "run runner", stemmer=False).precision == 0
    assert rouge("abc def", "abx dey", stemmer=lambda w: w[:2]).f1 == 1


WORDS = ["the", "running", "runs", "cities", "city", "relational", "2,500", "don't", "übung", "A"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
orders = st.sampled_from([1, 2, 3, "L"])


@settings(deadline=None)
@given(texts, texts, orders, st.booleans())
def test_laws(a, b, ngram, stemmer):
    found, turned = (rouge(x, y, ngram=ngram, stemmer=stemmer) for x, y in ((a, b), (b, a)))
    assert found == pytest.approx((turned.recall, turned.precision, turned.f1))
    assert all(0 <= v <= 1 for v in found)
    assert found.f1 <= max(found[:2]) + 1e-12
    same = rouge(a, a, ngram=ngram, stemmer=stemmer)
    assert same.f1 in (0, 1)
    assert rouge(a.upper(), b, ngram=ngram, stemmer=stemmer) == found


@settings(deadline=None)
@given(texts, texts)
def test_equal_to_rouge_score(a, b):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    for stemmer in (True, False):
        theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
        want = theirs.score(b, a)
        for name, ngram in (("rouge1", 1), ("rouge2", 2), ("rougeL", "L")):
            w = want[name]
            got = rouge(a, b, ngram=ngram, stemmer=stemmer)
            assert got == pytest.approx((w.precision, w.recall, w.fmeasure))


PIECES = ["s", "es", "ies", "ied", "ed", "eed", "ing", "y", "ational", "alli", "logi", "fulli",
          "ation", "ness", "ment", "ion", "e", "ll", "iveness", "ic", "able", "ous"]  # fmt: skip


@settings(deadline=None)
@given(
    st.text(alphabet="aeioubcdlnrstyzw", max_size=6),
    st.lists(st.sampled_from(PIECES), max_size=2).map("".join),
)
def test_stemmer_is_that_of_nltk(root, end):
    stem = pytest.importorskip("nltk.stem.porter").PorterStemmer().stem
    word = root + end
    assert porter_stem(word) == stem(word)


def test_edges():
    assert rouge("", "a b") == (0, 0, 0)
    assert rouge("日本語", "日本語") == (0, 0, 0)
    assert rouge("one", "one", ngram=2) == (0, 0, 0)
    for ngram in (0, "2", 1.5):
        with pytest.raises(BadInput, match="ngram must be"):
            rouge("a", "b", ngram=ngram)
