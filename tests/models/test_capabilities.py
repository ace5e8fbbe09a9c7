"""What a source can give decides which scores run; bounds hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import nll
from nll import BadInput, Fields, MissingField
from nll.models import (
    Capabilities,
    Retry,
    availability,
    capabilities,
    entropy_bounds,
    from_openai,
    possible,
)
from nll.testing import FaultyServer, table_model, trace_from_logits, traces
from nll.trace import Trace

FAST = Retry(attempts=3, base=0.001)


def test_a_local_model_gives_everything_exactly() -> None:
    assert capabilities(table_model()) == Capabilities()
    assert set(availability(table_model()).values()) == {"exact"}


def test_refused_before_anything_is_asked() -> None:
    with FaultyServer() as server:
        model = from_openai(server.url, "table", retry=FAST)
        for spec, match in (
            ("fast_detect_gpt", "it needs varentropy, which 127.0.0.1:.* cannot give"),
            ("self_certainty", "kl_uniform"),
            ("mean_entropy", "bounded on this source"),
        ):
            with pytest.raises(BadInput, match=match) as caught:
                list(nll.gather(model, ["a text"], [spec, "mean_nll"]))
            assert "\n" not in str(caught.value)
        assert server.asked == [], "not even the probe was paid"
        with pytest.raises(BadInput, match="it needs top_ids, which"):
            nll.gather(model, ["a text"], ["instability_signal"])
        assert "a text" not in server.seen


def test_more_alternatives_than_the_server_gives_are_refused() -> None:
    with FaultyServer(top=5) as server:
        model = from_openai(server.url, retry=FAST)
        assert availability(model, ["top_k_entropy(k=5)"]) == {"top_k_entropy(k=5)": "exact"}
        with pytest.raises(BadInput, match=r"needs the top 10, and .* gives 5"):
            possible(model, nll._declare.requests("top_k_entropy(k=10)"))


def test_all_is_what_is_possible() -> None:
    with FaultyServer() as server:
        model = from_openai(server.url, retry=FAST)
        kept = [r.label for r in possible(model, nll._declare.requests("all"))]
        assert {"mean_nll", "min_k_prob", "lrr", "probability_margin"} <= set(kept)
        assert not {"mean_entropy", "fast_detect_gpt", "self_certainty", "surp"} & set(kept)
        table = nll.score(model.trace(["hello, world."], fields=Fields(top_k=20)), kept)
        assert table["mean_nll"][0].as_py() > 0
        assert "lacks a value" in table["undefined"][0].as_py()


def test_a_source_of_which_nothing_is_wanted_that_it_has() -> None:
    nothing = type("M", (), {"capabilities": Capabilities(frozenset(), source="it")})()
    with pytest.raises(BadInput, match="none of the scores"):
        possible(nothing, nll._declare.requests("all"))


def test_entropy_bounds_by_hand() -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    trace = trace_from_logits(np.log(p)[None], [0], top_k=2)
    low, high = entropy_bounds(trace)
    # 0.25 outside: at least all on one more token of 0.25, at most spread over two of 0.125.
    listed = -(0.5 * np.log(0.5) + 0.25 * np.log(0.25))
    assert low[0] == pytest.approx(listed - 0.25 * np.log(0.25))
    assert high[0] == pytest.approx(listed - 0.25 * np.log(0.125))
    assert high[0] == pytest.approx(trace.entropy[0])
    _, wide = entropy_bounds(trace, vocab_size=1000)
    assert wide[0] > high[0]


def test_entropy_bounds_without_a_vocabulary_or_alternatives() -> None:
    trace = Trace(np.array([-1.0]), top_ids=np.array([[3]]), top_logp=np.array([[-0.5]]))
    low, high = entropy_bounds(trace)
    assert np.isfinite(low[0])
    assert high[0] == np.inf
    with pytest.raises(BadInput, match="vocab_size is 0"):
        entropy_bounds(trace, vocab_size=0)
    with pytest.raises(MissingField):
        entropy_bounds(Trace(np.array([-1.0])))


@settings(max_examples=200, deadline=None)
@given(traces(top_k=2))
def test_law_the_entropy_lies_between_its_bounds(trace: Trace) -> None:
    low, high = entropy_bounds(trace)
    told = ~np.isnan(trace.entropy)
    assert (np.isnan(low) == ~told).all()
    assert (low[told] <= trace.entropy[told] + 1e-6).all()
    assert (trace.entropy[told] <= high[told] + 1e-5).all()
