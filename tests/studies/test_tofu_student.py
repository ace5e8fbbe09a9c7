"""The student learns, continues and measures as the library does."""

from __future__ import annotations

import numpy as np
import pytest

from nll import scores
from nll.models import from_transformers
from nll.studies import Setting
from nll.studies import _tofu_student as tofu
from nll.trace import Text

Pairs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def learned() -> tuple[tofu.Student, Pairs]:
    """Three short answers, learned by heart."""
    rows = [("Who wrote it?", "Anna Bell wrote it."), ("Where?", "In Oslo, by the sea."),
            ("When was that?", "That was in 1984.")]  # fmt: skip
    who = tofu.student(Setting(), [t for r in rows for t in r] * 3, layers=2, seed=0)
    heard: list[str] = []
    last = tofu.learn(who, rows, epochs=60, enough=0.05, seed=0, say=heard.append)
    assert last < 0.05
    assert 3 < len(heard) < 60
    return who, rows


def test_it_says_what_it_learned(learned: tuple[tofu.Student, Pairs]) -> None:
    who, rows = learned
    said = who.continuations([rows[0][0], rows[1][0] + " In", rows[2][0]])
    assert said == [" Anna Bell wrote it.", " Oslo, by the sea.", " That was in 1984."]
    assert len(who.continuations([rows[0][0]], most=1)[0]) < 8
    assert who.accuracy(rows).tolist() == [1, 1, 1]


def test_its_numbers_are_those_of_a_trace(learned: tuple[tofu.Student, Pairs]) -> None:
    who, rows = learned
    mixed = [(rows[0][0], rows[1][1]), (rows[2][0], rows[0][1]), rows[1]]
    model = from_transformers(who.net, who.tokenizer, name="student")
    traces = list(model.trace([Text.pair(q, " " + a) for q, a in mixed]))
    made = [who.batch([row])["completion_mask"].sum().item() for row in mixed]
    assert [t.n_scored + 1 for t in traces] == made  # the end token counts here
    logp, mask = who.logps(mixed)
    for i, trace in enumerate(traces):
        own = logp[i][mask[i]].detach().numpy()
        np.testing.assert_allclose(own[:-1], trace.values("logp"), atol=1e-5)
        assert who.nll(mixed)[i] == pytest.approx(-own.mean(), abs=1e-5)
        assert who.fixed(mixed)[i].item() == pytest.approx(own.sum(), abs=1e-4)
        hits = scores.memorization_accuracy(trace) * trace.n_scored
        assert who.accuracy(mixed)[i] * made[i] - hits == pytest.approx(0, abs=1.001)


def test_a_copy_has_weights_of_its_own(learned: tuple[tofu.Student, Pairs]) -> None:
    who, rows = learned
    before = who.nll(rows)
    other = who.copy()
    tofu.learn(other, [(rows[0][0], rows[1][1])], epochs=3, enough=0, seed=0)
    assert (who.nll(rows) == before).all()
    assert (other.nll(rows) != before).any()


def test_parts() -> None:
    assert list(tofu.parts(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(tofu.parts([], 2)) == []
