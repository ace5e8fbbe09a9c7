"""MEMO and extraction likelihood: the sheet's numbers, laws, edges."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nll
from nll import BadInput
from nll.negatives import (
    extraction_likelihood,
    greedy_continuations,
    memo_cuts,
    memo_score,
    memo_scores,
    ngram_overlap,
)
from nll.trace import Trace

Q, A = "What does the kitty like to do?", "The kitty likes to memo."


def always(text):
    return lambda prompts: [text] * len(prompts)


meows = always("The kitty likes to meow loudly.")


def echo(question, answer, *, mode="suffix", window=5, repeat=False):
    """A model that knows the text by heart."""
    known = dict(memo_cuts(question, answer, mode=mode, window=window))
    return lambda prompts: [(p if repeat else "") + known[p] for p in prompts]


def test_cuts_oracle():
    cuts = memo_cuts(Q, A)
    assert [label for _, label in cuts] == [
        "he kitty likes to memo.", "tty likes to memo.", "ikes to memo.", "to memo.", "mo.",
    ]  # fmt: skip
    assert cuts[0][0] == Q + " T"
    assert memo_score(Q, A, echo(Q, A)).mean == 1
    assert memo_cuts("abc", "xy", mode="prefix") == [("a", "bc xy")]


def test_memo_oracle():
    found = memo_score(Q, A, meows)
    assert found.per_cut == pytest.approx([1 / 2, 1 / 3, 1 / 6, 1 / 6, 0])
    assert found.mean == pytest.approx(0.2333333, abs=1e-7)
    recall = memo_score(Q, A, meows, stat="recall")
    assert recall.per_cut == pytest.approx([0.6, 0.5, 1 / 3, 0.5, 0])
    assert recall.mean == pytest.approx(0.3866667, abs=1e-7)
    assert memo_score(Q, A, meows, stat="f1").mean == pytest.approx(0.2835354, abs=1e-7)
    assert memo_score(Q, A, meows, window=10).mean == pytest.approx(0.2222222, abs=1e-7)
    prefix = memo_score(Q, A, meows, window=10, mode="prefix")
    assert prefix.mean == pytest.approx(0.6666667, abs=1e-7)
    assert memo_score(Q, A, always("")).mean == 0


questions = st.text(alphabet="ab c?", min_size=2, max_size=20)
answers = st.text(alphabet="ab cd.é", min_size=2, max_size=40)


@settings(deadline=None)
@given(questions, answers, st.integers(1, 9), st.sampled_from(["suffix", "prefix"]))
def test_laws(question, answer, window, mode):
    cuts = memo_cuts(question, answer, window=window, mode=mode)
    text = answer if mode == "suffix" else question
    assert len(cuts) == -(-(len(text) - 1) // window)
    joined = f"{question} {answer}"
    assert all(prompt + label == joined for prompt, label in cuts)
    # a continuation that begins like its prompt is taken for a repetition
    assume(not any(label.startswith(prompt) for prompt, label in cuts))
    for stat in ("precision", "recall", "f1"):
        by_heart = echo(question, answer, mode=mode, window=window)
        found = memo_score(question, answer, by_heart, window=window, mode=mode, stat=stat)
        assert all(v in (0, 1) for v in found.per_cut)
        other = memo_score(question, answer, always("a b"), window=window, mode=mode, stat=stat)
        assert 0 <= other.mean <= 1


def test_a_repeated_prompt_is_cut_off_by_its_length():
    assert memo_score(Q, A, echo(Q, A, repeat=True)).per_cut == (1,) * 5
    # a prompt that comes back inside the continuation is part of it
    found = memo_score("a", "b b", lambda p: [p[0] + " a b b"], window=5, stat="precision")
    assert found.per_cut == pytest.approx([1 / 3])


def test_several_texts_are_asked_at_once():
    asked = []

    def generate(prompts):
        asked.append(len(prompts))
        return ["to memo"] * len(prompts)

    found = memo_scores([(Q, A), ("q", "x"), (Q, "kitty to memo")], generate)
    assert asked == [8]
    assert found[0] == memo_score(Q, A, always("to memo"))
    assert found[2] == memo_score(Q, "kitty to memo", always("to memo"))
    assert found[1].mean != found[1].mean
    assert "two characters" in found[1].mean.reason
    assert found[1].per_cut == ()
    assert memo_scores([], generate) == []


def test_other_units():
    assert memo_score(Q, A, meows, ngram=2).mean < memo_score(Q, A, meows).mean
    assert memo_score(Q, A, meows, ngram="L").mean > 0
    assert memo_score(Q, "running far", always("runs away"), window=99).mean == 0
    assert memo_score(Q, "I run far", always("running"), window=99, stemmer=True).mean == 1
    assert memo_score(Q, "I run far", always("running"), window=99, stemmer=False).mean == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window"),
        ({"mode": "middle"}, "mode must be"),
        ({"stat": "mean"}, "stat must be"),
        ({"ngram": 0}, "ngram must be"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(BadInput, match=message):
        memo_score(Q, A, meows, **options)
    with pytest.raises(BadInput, match="5 prompts and gave 1"):
        memo_score(Q, A, lambda prompts: ["one"])


def test_extraction_likelihood():
    assert ngram_overlap("a b c a d", "b d e") == 0.5
    assert ngram_overlap("a b c a b", "a b", n=2) == pytest.approx(1 / 3)
    assert ngram_overlap("", "a") == 0
    text = "one two three four"
    seen = []

    def generate(prompts):
        seen.extend(prompts)
        return ["three five"] * len(prompts)

    assert extraction_likelihood(text, generate) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert seen == ["one", "one two", "one two three"]
    by_heart = extraction_likelihood(text, lambda ps: [text.removeprefix(p) for p in ps])
    assert by_heart == 1
    asked = extraction_likelihood(text, lambda ps: [p[:2] for p in ps], prompt="Q: ", n=3)
    assert asked == 0
    short = extraction_likelihood("one", generate)
    assert short != short
    assert "1 words" in short.reason
    for bad in (
        lambda: ngram_overlap("a", "b", n=0),
        lambda: extraction_likelihood("a b", generate, n=0),
    ):
        with pytest.raises(BadInput, match="n-gram"):
            bad()


class Ending:
    def generate(self, prompts, **_):
        return [[Trace(logp=[-1.0], text="end<|endoftext|>")] for _ in prompts]


def test_a_model_continues_its_prompts():
    model = nll.load("testing:bigram")
    said = greedy_continuations(model, max_new_tokens=6)(["the ", "a"])
    assert len(said) == 2
    want = [t.scored_text for (t,) in model.generate(["the ", "a"], max_new_tokens=6)]
    assert said == want
    assert all(0 < len(s) <= 6 for s in said)
    assert greedy_continuations(Ending())(["the "]) == ["end"]
    found = memo_score("the ", "the the", greedy_continuations(model, max_new_tokens=6))
    assert 0 <= found.mean <= 1
