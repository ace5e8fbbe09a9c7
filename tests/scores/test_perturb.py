"""Span perturbation: how many, how far apart, what fillers return, what is refused."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import fill_spans, perturb_spans, unigram_filler
from nll.testing import trace_from_logits
from nll.trace import Trace

TEXT = " ".join(f"w{i}" for i in range(40))
MASK = re.compile(r"<extra_id_(\d+)>")


def caught(text=TEXT, n=1, **options):
    """The masked texts that a filler is given, and what comes back."""
    seen = []

    def filler(masked):
        seen.extend(masked)
        return [MASK.sub("X", m) for m in masked]

    return seen, perturb_spans(text, filler, n=n, **options)


@settings(max_examples=60, deadline=None)
@given(
    words=st.integers(14, 120), length=st.integers(1, 3), buffer=st.integers(0, 2),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_masks_are_as_many_and_as_far_apart_as_the_papers_say(words, length, buffer, seed):
    text = " ".join(f"w{i}" for i in range(words))
    count = math.floor(0.3 * words / (length + 2 * buffer) + 1e-9)
    if count == 0:
        with pytest.raises(nll.BadText, match=f"{words} words"):
            perturb_spans(text, list, span_length=length, buffer=buffer)
        return
    (masked,), (filled,) = caught(text, span_length=length, buffer=buffer, seed=seed)
    held = masked.split(" ")
    at = [i for i, w in enumerate(held) if MASK.fullmatch(w)]
    assert [int(MASK.fullmatch(held[i])[1]) for i in at] == list(range(count))
    assert all(b - a > buffer for a, b in itertools.pairwise(at))
    # Every mask stands for exactly `length` words, and the rest is in place.
    assert len(held) == words - count * (length - 1)
    pattern = MASK.sub(" ".join([r"\\S+"] * length), masked)
    assert re.fullmatch(pattern, text)
    assert filled == MASK.sub("X", masked)


def test_starts_are_uniform_over_the_free_places():
    text = " ".join("abcdefghijklmn")
    starts = [caught(text, seed=s)[0][0].split(" ").index("<extra_id_0>") for s in range(3000)]
    counts = np.bincount(starts, minlength=12)
    assert len(counts) == 12
    assert abs(counts - 250).max() < 5 * math.sqrt(250)


def test_too_short_a_text_is_refused():
    assert len(perturb_spans("a b c d e f g h i j k l m n", unigram())) == 1
    with pytest.raises(nll.BadText, match="13 words") as caught_error:
        perturb_spans("a b c d e f g h i j k l m", unigram())
    assert caught_error.value.reason == "too_short"
    with pytest.raises(nll.BadText, match="mask"):
        perturb_spans("<extra_id_0> " + TEXT, unigram())


def test_copies_differ_and_the_seed_decides_them():
    seen, results = caught(n=5)
    assert len(set(seen)) == len(results) == 5
    assert caught(n=5)[1] == results
    assert caught(n=5, seed=1)[1] != results


def test_missing_fills_are_masked_anew_up_to_ten_times():
    rounds = []

    def lazy(masked):
        rounds.append(list(masked))
        if len(rounds) < 3:
            return ["", *masked[1:]]
        return [MASK.sub("X", m) for m in masked]

    assert len(perturb_spans(TEXT, lazy, n=2)) == 2
    assert [len(r) for r in rounds] == [2, 2, 2]
    assert rounds[0] != rounds[1]
    rounds.clear()

    def never(masked):
        rounds.append(list(masked))
        return [""] * len(masked)

    assert perturb_spans(TEXT, never, n=2) == []
    assert len(rounds) == 10


def test_some_fills_missing_leaves_the_others():
    first = []

    def one(masked):
        first.append(1)
        return ["done", *[""] * (len(masked) - 1)] if len(first) == 1 else [""] * len(masked)

    assert perturb_spans(TEXT, one, n=3) == ["done"]


@pytest.mark.parametrize(
    ("options", "match"),
    [({"n": 0}, "1 or more"), ({"share": 0}, "share"), ({"buffer": -1}, "buffer"),
     ({"share": 1.0, "buffer": 0, "span_length": 20}, "do not fit")],
)  # fmt: skip
def test_impossible_settings_are_refused(options, match):
    with pytest.raises(nll.BadInput, match=match):
        perturb_spans(TEXT, unigram(), **options)


def test_a_filler_must_answer_every_text():
    with pytest.raises(nll.BadInput, match="1 texts for 2"):
        perturb_spans(TEXT, lambda masked: ["x"], n=2)


def test_a_t5s_answer_fills_the_masks():
    masked = "The <extra_id_0> sat on <extra_id_1> mat."
    answer = "<pad> <extra_id_0> big cat<extra_id_1> the old <extra_id_2></s>"
    assert fill_spans(masked, answer) == "The big cat sat on the old mat."
    # Cut off inside the last fill: it is not known to be whole, so it does not count.
    assert fill_spans(masked, "<extra_id_0> big cat <extra_id_1> the o") == ""
    assert fill_spans(masked, "nothing") == ""
    assert fill_spans("no mask", "nothing") == "no mask"


def unigram(**options):
    trace = trace_from_logits(np.zeros((4, 3)), [0, 0, 0, 1], vocab=[" aa", " bb", " cc"])
    return unigram_filler([trace], **options)


def test_unigram_fills_follow_the_frequencies():
    (filled,) = unigram(tokens=4000)(["<extra_id_0>"])
    words = filled.split()
    assert set(words) == {"aa", "bb"}
    assert words.count("aa") / len(words) == pytest.approx(0.75, abs=0.03)
    assert unigram()([TEXT]) == [TEXT]
    assert unigram(seed=3)(["x <extra_id_0> y"] * 20) == unigram(seed=3)(["x <extra_id_0> y"] * 20)
    with pytest.raises(nll.BadInput, match="traces"):
        unigram_filler([Trace(logp=[-1.0])])


def test_perturbed_texts_keep_their_other_words():
    (result,) = perturb_spans(TEXT, unigram())
    kept = [w for w in result.split(" ") if w.startswith("w")]
    assert len(kept) == 40 - 2 * 3
    assert kept == sorted(kept, key=lambda w: int(w[1:]))
