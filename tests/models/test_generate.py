"""Many prompts and many answers at once give the numbers of each alone, and of a plain forward."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from nll import BadInput, BadText, Rejected
from nll.models._continue import Continued
from nll.models._decode import _allowed, _Chance, decode
from nll.models._generate import _groups, _trace, _windows, read_prompt
from nll.models._how import How
from nll.testing import bigram_table, table_model
from nll.trace import Fields, Trace, same
from tests.models.tiny import CONFIGS, tiny

PROMPTS = [
    "a", "what is it? ", "the same one ", "a prompt that goes on, beyond each window. ",
]  # fmt: skip
FULL = Fields(top_k=3, betas=(0.5,), boundary=True, kl_uniform=True)
DRAWN = {"n": 2, "temperature": 1.0, "max_new_tokens": 6, "seed": 5}


def alone(model, prompts, *, seed=0, n=1, temperature=0.0, max_new_tokens=6) -> list[list[Trace]]:
    """Each prompt through a batch of its own, with the seed of its position."""
    how = How(max_new_tokens, n, temperature, 1.0, 0, (), FULL)
    found = []
    for place, prompt in enumerate(prompts):
        read = read_prompt(model, prompt)
        (answers,) = decode(model, [read.ids.tolist()], [(seed, place)], how)
        found.append([_trace(model, read, a, how, (seed, place)) for a in answers])
    return found


def assert_close(mine: Trace, other: Trace, atol: float = 2e-5) -> None:
    assert mine.text == other.text
    assert mine.provenance == other.provenance
    for name in ("logp", "entropy", "varentropy", "top_logp", "lse_at", "boundary", "kl_uniform"):
        values = getattr(mine, name), getattr(other, name)
        np.testing.assert_allclose(*values, atol=atol, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(mine.spans, other.spans)
    np.testing.assert_array_equal(mine.top_ids[:, 0], other.top_ids[:, 0])


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_batch_of_prompts_gives_what_each_gives_alone(kind: str) -> None:
    model = tiny(kind)
    together = list(model.generate(PROMPTS, fields=FULL, greedy=True, **DRAWN))
    greedy = alone(model, PROMPTS, max_new_tokens=6)
    drawn = alone(model, PROMPTS, **DRAWN)
    for mine, (one,), many in zip(together, greedy, drawn, strict=True):
        for trace, other in zip(mine, [one, *many], strict=True):
            assert_close(trace, other)


@pytest.mark.parametrize("kind", CONFIGS)
def test_generated_numbers_are_those_of_a_forward_over_the_whole(kind: str) -> None:
    model = tiny(kind)
    for answers in model.generate(PROMPTS[1:], fields=FULL, max_new_tokens=6):
        for trace in answers:
            prompt = trace.text[: trace.spans[trace.prompt_tokens][0]]
            again = next(model.trace([(prompt, trace.text[len(prompt) :])], fields=FULL))
            np.testing.assert_array_equal(again.ids, trace.ids)
            np.testing.assert_allclose(again.logp, trace.logp, atol=2e-5, rtol=1e-5)
            np.testing.assert_allclose(again.entropy, trace.entropy, atol=2e-5, rtol=1e-5)


def test_draws_do_not_depend_on_which_answers_have_ended() -> None:
    """The noise of an answer is that of torch.multinomial over all n rows."""
    how = How(1, 5, 1.0, 1.0, 0, (), Fields())
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    whole, part = _Chance((3, 1), how), _Chance((3, 1), how)
    source = torch.Generator().manual_seed(
        int(np.random.SeedSequence((3, 1)).generate_state(1, np.uint64)[0] >> 1)
    )
    for kept in ([0, 1, 2, 3, 4], [0, 2, 4], [4]):
        drawn = whole.draw(logits, range(5))
        plain = torch.multinomial(_allowed(logits, how), 1, generator=source)[:, 0]
        torch.testing.assert_close(drawn, plain)
        torch.testing.assert_close(part.draw(logits[kept], kept), drawn[kept])


def test_answers_that_end_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    table = bigram_table()
    table[:, 0] = np.log(0.3)
    model = table_model(table)
    rows: list[int] = []
    real = Continued.step

    def step(self: Continued, tokens: torch.Tensor) -> None:
        rows.append(len(tokens))
        real(self, tokens)

    monkeypatch.setattr(Continued, "step", step)
    ((*answers,),) = model.generate(["x"], n=20, temperature=1.0, max_new_tokens=30)
    # Each row is stepped once per token but the one that ended it.
    written = sum(t.n_scored - (t.provenance.finish_reason == "stop") for t in answers)
    capped = sum(t.provenance.finish_reason == "length" for t in answers)
    assert sum(rows) == written - capped
    assert rows[0] > rows[-1]


def test_a_prompt_is_read_once_for_its_greedy_and_its_drawn_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = table_model()
    read: list[tuple[int, ...]] = []
    real = Continued._read

    def noted(self: Continued, ids: torch.Tensor, positions: torch.Tensor) -> None:
        read.append(tuple(ids.shape))
        real(self, ids, positions)

    assert model.network.pad_limit
    monkeypatch.setattr(Continued, "_read", noted)
    list(model.generate(["abc", "defg"], n=4, temperature=1.0, max_new_tokens=3, greedy=True))
    assert read == [(2, 4), (10, 1), (10, 1)]


def test_padding_is_only_used_where_it_moves_nothing() -> None:
    how = How(8, 3, 1.0, 1.0, 0, (), Fields(), greedy=True)
    for kind in ("llama", "mamba", "mistral"):
        model = tiny(kind)
        window = [w for ws in _windows(model, PROMPTS, how, None) for w in ws]
        for group in _groups(model, window, how):
            lengths = {len(a.read) for a in group}
            longest = max(lengths) + how.max_new_tokens
            assert len(lengths) == 1 or longest <= model.network.pad_limit
    assert tiny("llama").network.pad_limit == 512
    assert tiny("mistral").network.pad_limit == 16


def test_batches_stay_small_and_the_first_comes_soon() -> None:
    model = table_model()
    taken = itertools.count()

    def endless() -> Iterator[str]:
        while True:
            yield "abc"[: 1 + next(taken) % 3]

    answers = model.generate(endless(), n=9, temperature=1.0, max_new_tokens=2, greedy=True)
    assert len(next(answers)) == 10
    assert next(taken) <= 2
    list(itertools.islice(answers, 30))
    assert next(taken) < 40


def test_prompts_that_cannot_be_continued_are_told_and_the_others_keep_their_draws() -> None:
    model = table_model(context=16)
    prompts = ["ab", "a" * 14, None, "", "\ud800", "cd"]
    rejected: list[Rejected] = []
    options = {"n": 4, "temperature": 1.0, "max_new_tokens": 4, "seed": 2}
    found = list(model.generate(prompts, on_reject=rejected.append, **options))
    assert {r.index: r.reason for r in rejected} == {
        1: "too_long", 2: "null", 3: "empty", 4: "surrogates"
    }  # fmt: skip
    whole = list(model.generate(["ab", "x", "x", "x", "x", "cd"], **options))
    for mine, other in zip(found, [whole[0], whole[5]], strict=True):
        assert all(map(same, mine, other))
    stream = model.generate(prompts, **options)
    assert len(next(stream)) == 4
    with pytest.raises(BadInput, match="exceeds the context"):
        next(stream)
    with pytest.raises(BadText, match="lone surrogate"):
        list(model.generate(["\ud800"]))


def test_greedy_beside_temperature_0_and_a_lone_string_are_mistakes() -> None:
    with pytest.raises(BadInput, match="leave greedy out"):
        table_model().generate(["a"], greedy=True)
    with pytest.raises(BadInput, match="several prompts"):
        table_model().generate("a")


def test_a_batch_too_large_for_memory_is_taken_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    model = table_model()
    whole = list(model.generate(PROMPTS, **DRAWN))
    real = Continued.step

    def small(self: Continued, tokens: torch.Tensor) -> None:
        if len(tokens) > 4:
            raise torch.OutOfMemoryError("too much")
        real(self, tokens)

    monkeypatch.setattr(Continued, "step", small)
    for mine, other in zip(model.generate(PROMPTS, **DRAWN), whole, strict=True):
        assert all(map(same, mine, other))
    with pytest.raises(torch.OutOfMemoryError):
        list(model.generate(["ab"], n=5, temperature=1.0))
