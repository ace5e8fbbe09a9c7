"""What a page keeps of traces that come one after another."""

from __future__ import annotations

import dataclasses
import gc
import json
import weakref

import numpy as np
import pytest

from nll.trace import Trace
from nll.web import Drawing, report_html
from nll.web._traces import Strings, packed
from tests.web.samples import HOSTILE, PLAIN, sample, trace


def wide(i: int) -> Trace:
    """Eight tokens with six alternatives each, whose strings no other text has."""
    rng = np.random.default_rng(i)
    vocab = {j: f"t{i}.{j}" for j in range(30)}
    top = np.stack([rng.permutation(30)[:6] for _ in range(8)])
    logp = np.log(np.sort(rng.dirichlet(np.ones(6), 8))[:, ::-1])
    return trace(PLAIN, id=f"w{i}", vocab=vocab, ids=top[:, i % 6], top_ids=top, top_logp=logp)


def test_a_page_of_traces_as_they_come_is_that_of_all_at_once() -> None:
    traces, scores = sample()
    drawn = Drawing()
    for one in traces:
        drawn.add(one)
    assert report_html(drawn, scores, title="t") == report_html(traces, scores, title="t")
    assert report_html(iter(traces), scores, title="t") == report_html(traces, scores, title="t")


@pytest.mark.parametrize("texts", [1, 2, 3, 4, 5])
def test_alternatives_are_cut_as_if_the_length_had_been_known(monkeypatch, texts: int) -> None:
    monkeypatch.setattr("nll.web._traces._ALTERNATIVES", ((16, 6), (32, 4)))
    monkeypatch.setattr("nll.web._traces._FEWEST", 2)
    traces = [trace(HOSTILE[:8], id="h"), *map(wide, range(texts - 1))]
    k = {1: 6, 2: 6, 3: 4, 4: 4, 5: 2}[texts]
    strings = Strings()
    wanted = [packed(t, strings, k) for t in traces]
    drawn = Drawing.of(traces)
    assert drawn.alternatives == (min(k, 6) if texts > 1 else 4)
    assert [json.loads(t.data) for t in drawn.texts] == wanted
    assert list(drawn.strings.place) == list(strings.place)


def test_no_trace_is_kept() -> None:
    drawn, one = Drawing(), trace()
    gone = weakref.ref(one.logp)
    drawn.add(one)
    del one
    gc.collect()
    assert gone() is None


def test_sums_and_ways() -> None:
    other = dataclasses.replace(trace().provenance, model="another")
    drawn = Drawing.of([trace(), trace(bos=False), trace(provenance=other)])
    assert (drawn.tokens, drawn.scored, drawn.total) == (24, 23, 84.0)
    assert drawn.nll.tolist() == [*range(8), *range(1, 8), *range(8)]
    assert [t.run for t in drawn.texts] == [0, 0, 1]
    assert list(drawn.runs.values()) == [2, 1]
    assert [t.mean for t in drawn.texts] == [3.5, 4.0, 3.5]
