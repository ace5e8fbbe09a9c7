"""Scores by segment, points of an answer, and answers that leave it there."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.scores import (
    max_nll,
    mean_entropy,
    mean_nll,
    perturb,
    perturbation_points,
    segment_max_entropy,
    segment_max_nll,
    segment_mean_entropy,
    segment_mean_nll,
    segment_scores,
)
from nll.testing import bigram_table, table_model, traces
from nll.trace import Fields, Trace

WORDS = ["The", " cat", " sat", ".", " It", " slept", "."]
P = [0.5, 0.25, 0.8, 0.9, 0.4, 0.1, 0.95]
H = [1.2, 2.0, 0.6, 0.3, 1.5, 2.5, 0.2]


def spelled(words, *, p=None, entropy=None, prompt=0) -> Trace:
    ends = np.cumsum([len(w) for w in words])
    return Trace(
        logp=np.log(P[: len(words)] if p is None else p),
        entropy=H[: len(words)] if entropy is None else entropy,
        text="".join(words),
        spans=np.stack([ends - [len(w) for w in words], ends], axis=1),
        prompt_tokens=prompt,
    )


def test_segments_are_those_of_the_sheet():
    got = segment_scores(spelled(WORDS), ["."])
    np.testing.assert_allclose(got, [1.844439727057, 0.846021387624, 2.25, 1.2125, 2], atol=1e-11)
    assert segment_scores(spelled(WORDS)) == got == segment_scores(spelled(WORDS), ".")


def test_the_four_scores_are_those_of_the_tuple():
    trace = spelled(WORDS)
    scores = (segment_max_nll, segment_mean_nll, segment_max_entropy, segment_mean_entropy)
    assert tuple(f(trace) for f in scores) == segment_scores(trace)[:4]


def test_tokens_of_unknown_entropy_are_passed_over():
    held = [1.2, math.nan, 0.6, 0.3, math.nan, math.nan, math.nan]
    got = segment_scores(spelled(WORDS, entropy=held))
    assert got.max_entropy == 1.2  # of the first segment alone
    assert got.mean_entropy == pytest.approx(0.7)
    assert got.max_nll == pytest.approx(1.844439727057)
    assert got.n_segments == 2
    split = [math.nan, 2.0, 0.6, math.nan, 1.5, math.nan, 0.5]
    assert segment_max_entropy(spelled(WORDS, entropy=split)) == 1.75
    assert segment_mean_entropy(spelled(WORDS, entropy=split)) == pytest.approx(1.15)
    none = segment_max_entropy(spelled(WORDS, entropy=[math.nan] * 7))
    assert "lacks a value" in none.reason


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([" a", "b", ".", " .", "?", ".\n", "x.y"]), max_size=12), st.data())
def test_scores_are_those_of_a_plain_loop(words, data):
    """Segments in lists, means by hand."""
    draw = st.floats(0, 9)
    p = data.draw(st.lists(st.floats(0.01, 1), min_size=len(words), max_size=len(words)))
    entropy = data.draw(
        st.lists(draw | st.just(math.nan), min_size=len(words), max_size=len(words))
    )
    segments: list[list[int]] = [[]]
    for t, word in enumerate(words):
        segments[-1].append(t)
        if word.strip() in (".", "?"):
            segments.append([])
    segments = [s for s in segments if s]

    def over(values, reduce):
        parts = [[values[t] for t in s if values[t] == values[t]] for s in segments]
        found = [reduce(part) for part in parts if part]
        return np.mean(found) if found else math.nan

    loss = [-math.log(x) for x in p]
    want = [over(v, r) for v in (loss, entropy) for r in (max, np.mean)]
    got = segment_scores(spelled(words, p=p, entropy=entropy))
    np.testing.assert_allclose(got[:4], want, atol=1e-12)
    assert got.n_segments == len(segments)


def test_what_follows_the_last_separator_is_a_segment_too():
    assert segment_scores(spelled(WORDS[:6])).n_segments == 2
    assert segment_scores(spelled([".", ".", "a"])).n_segments == 3


@pytest.mark.parametrize(
    ("words", "separators", "match", "n"),
    [
        ([" a", " .", " b"], "sentence", "exact", 2),
        ([" a", ".\n", " b"], "sentence", "exact", 2),  # the stripped token
        ([" a", ".)", " b"], "sentence", "exact", 1),
        ([" a", ".)", " b"], "sentence", "contains", 2),
        (["a", "\n", "b"], "line", "exact", 2),
        (["a", "\n\n", "b"], "line", "exact", 1),
        (["a", "\n\n", "b"], "line", "contains", 2),
        (["a", "。", "b"], "sentence", "exact", 2),
        (["a", "\U00011047", "b", "\U000115cb", "c"], "sentence", "exact", 3),
        (["a", ";", "b", ",", "c"], [";", ","], "exact", 3),
    ],
)
def test_what_ends_a_segment(words, separators, match, n):
    assert segment_scores(spelled(words), separators, match=match).n_segments == n


def test_the_prompt_opens_no_segment():
    trace = spelled(WORDS, prompt=3)
    assert segment_scores(trace).n_segments == 2
    assert segment_max_nll(trace) == pytest.approx((-math.log(0.9) - math.log(0.1)) / 2)


@settings(deadline=None)
@given(traces(min_tokens=1))
def test_one_segment_is_the_unsegmented_text(trace):
    got = segment_scores(trace, ["no such token"])
    if not trace.n_scored:
        assert got[0].reason
        assert got.n_segments == 0
        return
    assert got.n_segments == 1
    assert got.max_nll == max_nll(trace)
    assert got.mean_nll == pytest.approx(mean_nll(trace), abs=1e-12)
    assert got.mean_entropy == pytest.approx(mean_entropy(trace), abs=1e-12)
    assert got.max_entropy == trace.values("entropy").max()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([".", " a"]), st.floats(0.01, 1)), min_size=1))
def test_segments_are_cut_as_by_hand(rows):
    words, p = zip(*rows, strict=True)
    segments = [[]]
    for word, x in rows:
        segments[-1].append(-math.log(x))
        if word == ".":
            segments.append([])
    segments = [s for s in segments if s]
    got = segment_scores(spelled(words, p=p, entropy=np.ones(len(p))))
    assert got.n_segments == len(segments)
    assert got.max_nll == pytest.approx(np.mean([max(s) for s in segments]))
    assert got.mean_nll == pytest.approx(np.mean([np.mean(s) for s in segments]))


def test_an_unknown_match_is_refused():
    with pytest.raises(nll.BadInput, match="match"):
        segment_scores(spelled(WORDS), match="starts")


@pytest.mark.parametrize(
    ("entropy", "points"),
    [
        ([0.9, 0.1, 1.4, 2.0, 0.05, 1.9], (3, 4, 5)),
        ([0.7], (0, 0, 0)),
        ([1, 1, 1], (0, 0, 1)),
        ([3, 2, 1], (0, 2, 1)),  # the least fall
        ([1, 2, 1, 2], (1, 0, 1)),
        ([math.nan, 2, 3], (2, 1, 2)),
        ([2, math.nan, 3], (2, 0, 2)),
    ],
)
def test_points_of_an_answer(entropy, points):
    assert perturbation_points(entropy) == points


def test_no_entropy_has_no_points():
    for empty in ([], [math.nan], [[1.0]]):
        with pytest.raises(nll.BadInput, match="entropy"):
            perturbation_points(empty)


@pytest.fixture(scope="module")
def model():
    return table_model()


@pytest.fixture(scope="module")
def greedy(model):
    ((trace,),) = model.generate(["ab"], max_new_tokens=6, fields=Fields(top_k=5))
    return trace


def greedily(text, n):
    """What the table says comes next, by hand."""
    table, alphabet = bigram_table(), nll.testing.ALPHABET
    for _ in range(n):
        token = int(table[alphabet.index(text[-1])].argmax())
        text += alphabet[token]
        if token == 0:
            break
    return text


@pytest.mark.parametrize("point", [0, 1, 3])
def test_each_alternative_is_followed_greedily(model, greedy, point):
    answer = greedy.completion
    n = len(answer)
    got = perturb(model, "ab", greedy, point, 2, end=["\x03"])
    table, alphabet = bigram_table(), nll.testing.ALPHABET
    before = ("ab" + answer.text)[point + 1]
    order = np.argsort(-table[alphabet.index(before), : len(alphabet)])[1:3]
    assert got.ids == order.tolist()
    for token, text, exact in zip(order, got.texts, got.exact, strict=True):
        assert exact
        kept = answer.text[:point]
        if token == 0:
            assert text == kept
        else:
            assert text == greedily("ab" + kept + alphabet[token], n - point - 1)[2:]
    suffixes = perturb(model, "ab", greedy, point, 2, end=["\x03"], suffix_only=True)
    assert [answer.text[:point] + s for s in suffixes.texts] == got.texts


def test_the_last_point_is_not_continued(model, greedy):
    last = len(greedy.completion) - 1
    got = perturb(model, "ab", greedy, last, 2, end=[])
    assert all(len(t) == len(greedy.completion.text) for t in got.texts)
    longer = perturb(model, "ab", greedy, last, 1, end=[], max_new_tokens=last + 3)
    assert len(longer.texts[0]) > len(greedy.completion.text) or "\x03" in longer.texts[0]


def test_an_answer_that_ended_by_itself_sets_no_limit(model, greedy):
    ended = dataclasses.replace(
        greedy, provenance=dataclasses.replace(greedy.provenance, finish_reason="stop")
    )
    got = perturb(model, "ab", ended, 1, 1, end=["\x03"])
    start = "ab" + greedy.completion.text[:1] + nll.testing.ALPHABET[got.ids[0]]
    assert got.texts == [greedily(start, 62)[2:]]
    stopped = perturb(model, "ab", ended, 1, 1, end=["\x03"], stop=[got.texts[0][4]])
    assert len(stopped.texts[0]) < len(got.texts[0])
    assert got.texts[0].startswith(stopped.texts[0])


def test_an_alternative_that_holds_a_stop_string_ends_there(model, greedy):
    free = perturb(model, "ab", greedy, 1, 2, end=[])
    kept, piece = greedy.completion.text[:1], nll.testing.ALPHABET[free.ids[0]]
    stopped = perturb(model, "ab", greedy, 1, 2, end=[], stop=[piece])
    assert stopped.texts[0] == kept
    assert piece not in "".join(stopped.texts)
    assert perturb(model, "ab", greedy, 1, 1, end=[], stop=[piece], suffix_only=True).texts == [""]


class Ending:
    """A model that says "x" and ends."""

    def generate(self, prompts, *, max_new_tokens, stop):
        for prompt in prompts:
            n = len(prompt)
            yield [
                Trace(logp=[-1] * 3, ids=[5, 6, 7], text=f"{prompt}x</s>", prompt_tokens=1,
                      spans=[[0, n], [n, n + 1], [n + 1, n + 5]])
            ]  # fmt: skip


def test_an_end_token_is_no_part_of_a_perturbed_answer(greedy):
    first = perturb(Ending(), "ab", greedy, 0, 1)
    piece = nll.testing.ALPHABET[first.ids[0]]
    assert first.texts == [piece + "x"]
    assert perturb(Ending(), "ab", greedy, 0, 1, end=["s>", "</s>"]).texts == [piece + "x"]
    assert perturb(Ending(), "ab", greedy, 0, 1, end=[""]).texts == [piece + "x</s>"]


class Retokenizing:
    """A model whose tokenizer reads text back as other tokens."""

    def generate(self, prompts, *, max_new_tokens, stop):
        yield [Trace(logp=[-1, -1, -1], ids=[5, 6, 7], text=prompts[0], prompt_tokens=2,
                     spans=[[0, 1], [1, 2], [2, 2]])]  # fmt: skip


def test_text_that_reads_back_as_other_tokens_is_flagged(greedy):
    assert perturb(Retokenizing(), "ab", greedy, 0, 1, end=[]).exact == [False]


@pytest.fixture(scope="module")
def merging():
    """A random model whose tokenizer writes "a" + "b" as one token of its own."""
    import tokenizers as tk
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocab = {"$": 0, "a": 1, "b": 2, "c": 3, "ab": 4}
    inner = tk.Tokenizer(tk.models.BPE(vocab, [("a", "b")]))
    inner.decoder = tk.decoders.Fuse()
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=5, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=0, eos_token_id=0, initializer_range=0.7,
        )
    )  # fmt: skip
    hf = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="$")
    return nll.models.from_transformers(network.eval(), hf, name="merging", bos="none")


def test_an_alternative_is_read_as_the_token_that_it_is(merging):
    """ "a" then "b" is not "ab": the model goes on from the answer's tokens, not from its text."""
    made = dataclasses.replace(merging.provenance, finish_reason="length")
    trace = Trace(
        logp=[math.nan, -1, -1, -1, -1], ids=[3, 1, 3, 3, 3], text="caccc", prompt_tokens=1,
        spans=[[i, i + 1] for i in range(5)], vocab={1: "a", 2: "b", 3: "c", 4: "ab"},
        top_ids=[[-1, -1], [1, 3], [3, 2], [3, 2], [3, 2]], provenance=made,
    )  # fmt: skip
    got = perturb(merging, "c", trace, 1, 1)
    assert (got.ids, got.exact) == ([2], [True])
    ((whole,),) = merging.continue_ids([[3, 1, 2]], max_new_tokens=2)
    np.testing.assert_array_equal(whole.ids[:3], [3, 1, 2])
    assert got.texts == ["ab" + whole.completion.text]
    import torch

    with torch.inference_mode():
        logits = merging.network.hf(torch.tensor([[3, 1, 2]])).logits[0, -1]
    assert int(whole.ids[3]) == int(logits.argmax())
    assert whole.logp[3] == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)
    for other in (
        dataclasses.replace(trace, text="baccc"),
        dataclasses.replace(trace, provenance=dataclasses.replace(made, tokenizer="another")),
    ):
        assert perturb(merging, "c", other, 1, 1).exact == [False]


def test_points_and_candidates_must_be_there(model, greedy):
    for point in (-1, len(greedy.completion)):
        with pytest.raises(nll.BadInput, match="outside"):
            perturb(model, "ab", greedy, point)
    with pytest.raises(nll.MissingField, match="top_k=6"):
        perturb(model, "ab", greedy, 0, 5)
    with pytest.raises(nll.BadInput, match="n_alternatives"):
        perturb(model, "ab", greedy, 0, 0)
    with pytest.raises(nll.MissingField, match="string of token"):
        perturb(model, "ab", Trace(logp=[-1], ids=[1], top_ids=[[1, 2]], spans=[[0, 1]]), 0, 1)
