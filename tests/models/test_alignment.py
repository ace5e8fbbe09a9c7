"""Every log-probability is the table's, on every path (RELIABILITY checks 1 and 8)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nll import BadInput, BadText, Rejected
from nll.testing import ALPHABET, bigram_table, characters, table_model
from nll.trace import Fields, Text, Trace

TABLE = bigram_table()
TEXTS = ["hello, world.", "a", "the end!", "a man, a plan, a canal", "hello, again"]
_CHAT = "{% for m in messages %}{{ m['role'][:1] + ' ' + m['content'] + '\x03' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'a ' }}{% endif %}"  # noqa: E501


def truth(text: str, *, before: str = "") -> np.ndarray:
    ids = characters(before[-1:] + text)
    logp = [TABLE[a, b] for a, b in itertools.pairwise(ids)]
    return np.array(logp if before else [math.nan, *logp])


def check(trace: Trace, expected: np.ndarray) -> None:
    np.testing.assert_allclose(trace.logp, expected, atol=1e-6, rtol=1e-6)
    shifted = np.roll(trace.logp, 1)
    both = ~np.isnan(shifted) & ~np.isnan(expected)
    if both.sum() > 3 and np.ptp(expected[both]) > 2:  # the test has teeth: one late is far off
        assert np.abs(shifted[both] - expected[both]).max() > 1


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
def test_check_01_plain(pack: bool, batch_tokens: int) -> None:
    model = table_model(TABLE, pack=pack, batch_tokens=batch_tokens)
    for text, trace in zip(TEXTS, model.trace(TEXTS), strict=True):
        check(trace, truth(text))


def test_check_01_with_a_bos_the_first_token_is_predicted() -> None:
    model = table_model(TABLE, bos="bos")
    for text, trace in zip(TEXTS, model.trace(TEXTS), strict=True):
        assert trace.provenance.bos == ALPHABET[1]
        check(trace, truth(text, before=ALPHABET[1]))


def test_check_01_prompt_and_completion() -> None:
    model = table_model(TABLE)
    pairs = [("the question is ", "why?"), ("the question is ", "how?"), ("no ", "x")]
    for (prompt, answer), trace in zip(pairs, model.trace(pairs), strict=True):
        assert trace.prompt_tokens == len(prompt)
        assert np.isnan(trace.logp[: len(prompt)]).all()
        check(trace.completion, truth(answer, before=prompt))
        assert trace.completion.text == answer == trace.scored_text
        assert trace.n_scored == len(answer)


def test_check_01_chat_scores_the_answer_with_its_end_and_nothing_after() -> None:
    model = table_model(TABLE)
    model.tokenizer.hf.chat_template = _CHAT
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    trace = next(model.trace([chat]))
    assert trace.text == "u hi\x03\na hello\x03"
    check(trace.completion, truth("hello\x03", before=" "))
    assert trace.provenance.kind == "chat"


def test_check_01_windows() -> None:
    model = table_model(TABLE, context=16)
    text = "a rather long text that needs many windows to be read, one after another."
    for stride in (1, 5, 8, 15):
        check(next(model.trace([text], stride=stride)), truth(text))


def test_check_01_shared_prefixes() -> None:
    model = table_model(TABLE)
    ends = ["one", "two", "three", "o", "on", "one"]
    prompt = "counting goes like this: "
    for end, trace in zip(ends, model.continuations(prompt, ends), strict=True):
        check(trace.completion, truth(end, before=prompt))
    expected = [truth(e, before=prompt).sum() for e in ends]
    np.testing.assert_allclose(model.options(prompt, ends), expected, atol=1e-5)


def test_a_shared_prompt_is_computed_once() -> None:
    from nll.models._layout import plan

    model = table_model(TABLE)
    prompt = "p" * 500
    chunk = next(model._chunks([(prompt, e * 10) for e in "abcdefghij"], None))
    batches = plan(model._segments(chunk, 100, False), budget=1024, pack=True)
    assert sum(b.tokens for b in batches) == 600


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.5])
def test_check_01_generated_answers_hold_the_models_own_numbers(temperature: float) -> None:
    model = table_model(TABLE)
    n = 1 if temperature == 0 else 4
    (traces,) = model.generate(
        ["say it: "],
        max_new_tokens=20,
        n=n,
        temperature=temperature,
        top_p=0.9 if n > 1 else 1.0,
        seed=3,
    )
    assert len(traces) == n
    for trace in traces:
        answer = trace.text[len("say it: ") :]
        check(trace.completion, truth(answer, before=" "))
        assert trace.provenance.decoding == ("greedy" if n == 1 else "sampled")
        again = next(model.trace([("say it: ", answer)]))
        np.testing.assert_allclose(again.completion.logp, trace.completion.logp, atol=1e-6)
        np.testing.assert_array_equal(again.completion.rank, trace.completion.rank)
        if n == 1:
            assert (trace.completion.rank == 1).all()


def test_generation_repeats_with_its_seed_and_varies_with_it() -> None:
    model = table_model(TABLE)

    def texts(seed: int) -> list[str]:
        (found,) = model.generate(["x"], n=3, temperature=1.0, max_new_tokens=12, seed=seed)
        return [t.text for t in found]

    assert texts(1) == texts(1) != texts(2)


def test_generation_samples_from_the_table() -> None:
    model = table_model(TABLE)
    (found,) = model.generate(["q"], n=4000, temperature=1.0, max_new_tokens=1, fields=Fields())
    counts = np.bincount([int(t.ids[1]) for t in found], minlength=len(TABLE)) / 4000
    p = np.exp(TABLE[ALPHABET.index("q")])
    assert np.abs(counts - p).max() < 5 * np.sqrt(p.max() / 4000)


def test_generation_stops_at_a_string_and_drops_it() -> None:
    cycle = np.full_like(TABLE, -30.0)
    order = "abc. "
    for a, b in zip(order, order[1:] + order[0], strict=True):
        cycle[ALPHABET.index(a), ALPHABET.index(b)] = 0.0
    cycle -= np.log(np.exp(cycle).sum(-1, keepdims=True))
    model = table_model(cycle)
    ((trace,),) = model.generate(["a"], stop=["."], max_new_tokens=9)
    assert trace.text == "abc"
    assert trace.provenance.finish_reason == "stop"
    ((capped,),) = model.generate(["a"], max_new_tokens=2)
    assert capped.provenance.finish_reason == "length"


def test_generation_keeps_the_end_token() -> None:
    ends = np.full_like(TABLE, -30.0)
    ends[:, 0] = 0.0
    ends -= np.log(np.exp(ends).sum(-1, keepdims=True))
    ((trace,),) = table_model(ends).generate(["a"], max_new_tokens=5)
    assert trace.text == "a\x03"
    assert trace.n_scored == 1
    assert trace.provenance.finish_reason == "stop"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n": 2}, "all be the same"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 10_000}, "exceeds the context"),
    ],
)
def test_impossible_generation_is_refused(options: dict, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        list(table_model(TABLE).generate(["a"], **options))


def test_check_08_missing_is_nan_never_zero() -> None:
    fields = Fields(top_k=3, betas=(0.5, 2.0), boundary=True, hidden=True, kl_uniform=True)
    model = table_model(TABLE)
    for trace in model.trace(["a", "ab", ("", "a")], fields=fields):
        for name in ("logp", "entropy", "varentropy", "top_logp", "lse_at", "hidden", "kl_uniform"):
            value = getattr(trace, name)
            assert np.isnan(value[0]).all(), name
            assert not np.isnan(value[1:]).any(), name
        assert trace.rank[0] == trace.ties[0] == trace.top_ids[0, 0] == -1
        assert len(trace.boundary) == len(trace) + 1
        assert not np.isnan(trace.boundary[-1])


def test_check_08_texts_that_cannot_be_scored_say_why() -> None:
    model = table_model(TABLE)
    bad = ["fine", "", None, 7, "\ud800", ("prompt", ""), "also fine", ["x"]]
    rejected: list[Rejected] = []
    traces = list(model.trace(bad, on_reject=rejected.append))
    assert [t.text for t in traces] == ["fine", "also fine"]
    assert [(r.index, r.reason) for r in rejected] == [
        (2, "null"),
        (3, "not_a_string"),
        (7, "not_a_string"),
        (1, "empty"),
        (4, "surrogates"),
        (5, "empty"),
    ]
    with pytest.raises(BadText, match="text 1: the text is empty"):
        list(model.trace(["fine", ""]))


def test_an_endless_stream_of_one_text_is_cut_into_chunks() -> None:
    endless = (text for _ in iter(int, 1) for text in ["the same text"])
    model = table_model(TABLE, batch_tokens=4096)
    first = next(model.trace(endless, fields=Fields()))
    check(first, truth("the same text"))


def test_one_string_instead_of_several_is_noticed() -> None:
    with pytest.raises(BadInput, match=r"model.trace\(\[text\]\)"):
        list(table_model(TABLE).trace("a single string"))


def test_boundary_mass_is_the_mass_of_word_starts() -> None:
    trace = next(table_model(TABLE).trace(["ab c"], fields=Fields(boundary=True)))
    starts = [ALPHABET.index(" "), ALPHABET.index("\n"), 0]
    for t, c in enumerate("ab c"):
        row = TABLE[ALPHABET.index(c)][starts]
        assert trace.boundary[t + 1] == pytest.approx(np.log(np.exp(row).sum()), abs=1e-5)


def test_chat_messages_must_end_with_an_answer() -> None:
    with pytest.raises(BadText, match="assistant"):
        Text.chat([{"role": "user", "content": "hi"}])
