"""The certificate of two sources: right numbers, and teeth (check 10)."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings

from nll import BadInput, Fields
from nll.models import Retry, compare, from_openai, parity
from nll.testing import FaultyServer, bigram_table, table_model, traces
from nll.trace import Trace

TEXTS = ["hello, world.", ("the question is ", "why?"), "a man, a plan"]
FAST = Retry(attempts=4, base=0.001)


def trace(logp: list[float], spans: list[tuple[int, int]], text: str = "abcd", **more) -> Trace:
    return Trace(np.array(logp), spans=np.array(spans), text=text, **more)


def test_a_local_model_and_a_server_agree() -> None:
    with FaultyServer(prompt_logprobs=True) as server:
        found = parity(table_model(), from_openai(server.url, retry=FAST), TEXTS)
    assert found.texts == 3
    assert found.tokens == 12 + 4 + 12
    assert found.largest < 2e-6
    assert found.within(1e-5)
    assert {f.field for f in found.fields} >= {"logp", "rank", "top_logp"}
    assert found.missing_b[:2] == ("entropy", "varentropy")
    assert found.missing_a == ()


def test_another_model_is_found_out_with_its_worst_token() -> None:
    other = table_model(bigram_table(seed=1))
    found = parity(table_model(), other, TEXTS)
    assert not found.within(0.5)
    worst = found.worst
    assert abs(worst.a - worst.b) == pytest.approx(found.largest)
    text = TEXTS[worst.text]
    whole = text if isinstance(text, str) else "".join(text)
    assert whole[worst.start : worst.end] == worst.token


def test_tokens_are_matched_by_their_place() -> None:
    a = trace([-1.0, -2.0, -3.0], [(0, 1), (1, 2), (2, 4)])
    b = trace([-1.5, -9.0, -3.25], [(0, 1), (1, 3), (2, 4)])
    found = compare({0: a}, {0: b})
    assert (found.tokens, found.only_a, found.only_b) == (2, 1, 1)
    assert (found.largest, found.mean) == (0.5, 0.375)
    assert found.per_text == pytest.approx(abs(6 - 13.75))
    assert not found.within(10), "a token that only one has is no parity"


def test_tokens_that_share_a_character_are_matched_in_order() -> None:
    spans = [(0, 1), (0, 1), (1, 4)]
    found = compare({0: trace([-1, -2, -3], spans)}, {0: trace([-1, -2.5, -3], spans)})
    assert (found.tokens, found.largest) == (3, 0.5)


def test_what_neither_says_is_not_compared() -> None:
    a = trace([math.nan, -2.0], [(0, 2), (2, 4)])
    found = compare({0: a}, {0: a})
    assert (found.tokens, found.largest, found.within(0)) == (1, 0.0, True)
    nothing = trace([math.nan, math.nan], [(0, 2), (2, 4)])
    empty = compare({0: nothing}, {0: nothing})
    assert math.isnan(empty.largest)
    assert not empty.within(1), "nothing compared is nothing shown"
    assert empty.worst is None
    assert json.loads(json.dumps(empty.to_json()))["largest"] is None


def test_ranks_that_are_not_known_are_left_out() -> None:
    spans = [(0, 2), (2, 4)]
    a = trace([-1.0, -2.0], spans, rank=np.array([1, 7]))
    b = trace([-1.0, -2.0], spans, rank=np.array([1, -1]))
    (rank,) = (f for f in compare({0: a}, {0: b}).fields if f.field == "rank")
    assert (rank.compared, rank.largest) == (1, 0)


def test_impossible_tokens_agree_with_each_other_only() -> None:
    spans = [(0, 2), (2, 4)]
    a, b = trace([-math.inf, -2.0], spans), trace([-1.0, -2.0], spans)
    assert compare({0: a}, {0: a}).largest == 0
    assert compare({0: a}, {0: b}).largest == math.inf
    assert compare({0: a}, {0: b}).to_json()["largest"] == "inf"


def test_texts_that_only_one_can_score_are_told() -> None:
    with FaultyServer(faults={TEXTS[0]: ["400"]}) as server:
        found = parity(table_model(), from_openai(server.url, retry=FAST), TEXTS)
    assert found.texts == 2
    assert [(r.index, r.reason) for r in found.rejected_b] == [(0, "refused")]
    assert not found.within(1)


def test_different_texts_and_no_texts_are_mistakes() -> None:
    with pytest.raises(BadInput, match="at least one"):
        parity(table_model(), table_model(), [])
    with pytest.raises(BadInput, match="not the same text"):
        compare({0: trace([-1.0], [(0, 1)], "a")}, {0: trace([-1.0], [(0, 1)], "b")})


def test_fields_that_both_give_are_compared_too() -> None:
    found = parity(table_model(), table_model(), TEXTS, fields=Fields(kl_uniform=True))
    assert {f.field for f in found.fields} >= {"entropy", "varentropy", "kl_uniform"}
    assert all(f.largest == 0 for f in found.fields)


@settings(max_examples=60, deadline=None)
@given(traces(min_tokens=1))
def test_law_a_source_agrees_with_itself_and_a_shift_shows(trace: Trace) -> None:
    same = compare({0: trace}, {0: trace})
    assert same.tokens == trace.n_scored
    assert same.within(0) == (trace.n_scored > 0)
    moved = dataclasses.replace(trace, logp=trace.logp - 0.25)
    found = compare({0: trace}, {0: moved})
    back = compare({0: moved}, {0: trace})
    assert found.largest == back.largest or math.isnan(found.largest)
    if np.isfinite(trace.logp[trace.scored]).any():
        assert found.largest == pytest.approx(0.25)
