"""Temperature sweeps on reading times that were made from surprisal at a known temperature."""

from __future__ import annotations

import numpy as np
import pytest

import nll
from nll import metrics, scores
from nll.tasks import sweep_fields, temperature_sweep
from nll.testing import trace_from_logits
from nll.trace import Fields, Provenance

GRID = (1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0)
TRUE = 2.5


def text(seed: int, n_words: int = 150):
    """A text whose words have one to three tokens."""
    rng = np.random.default_rng(seed)
    pieces = rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15], size=n_words)
    total = int(pieces.sum())
    written = " ".join("abc"[:k] for k in pieces)
    spans, at = [], 0
    for k in pieces:
        for i in range(k):
            end = at + (1 if i or at == 0 else 2)  # a word's first token has the space before it
            spans.append((at, end))
            at = end
    logits = rng.normal(size=(total, 30)) * 3
    targets = [rng.choice(30, p=np.exp(z - z.max()) / np.exp(z - z.max()).sum()) for z in logits]
    fields = sweep_fields(GRID, boundary=True)
    return trace_from_logits(
        logits, targets, text=written, spans=spans, betas=fields.betas, boundary_ids=range(20),
        end_logits=np.zeros(30), provenance=Provenance(vocab_size=30),
    )  # fmt: skip


TEXTS = [text(1), text(2)]


def joined(score, **options):
    return np.concatenate([score(t, **options) for t in TEXTS])


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    plain, hot = (joined(scores.word_surprisal, temperature=t) for t in (1.0, TRUE))
    story = np.repeat([1, 2], 150)
    several = joined(scores.word_pieces) > 1
    length = rng.integers(2, 9, size=300).astype(float)

    def times(s):
        before = np.where(np.arange(300) % 150 == 0, s.mean(), np.roll(s, 1))
        return 250 + 12 * s + 4 * before + 3 * length + rng.normal(size=300)

    return {
        "story": story, "length": length, "rt": times(hot), "plain": times(plain),
        "mixed": times(np.where(several, hot, plain)), "weight": rng.integers(1, 5, size=300),
    }  # fmt: skip


def test_the_best_temperature_is_that_of_the_times(table):
    found = temperature_sweep(TEXTS, table, "length", GRID, group="story")
    assert found.best == TRUE
    assert list(found.temperatures) == list(GRID)
    assert found.gain == pytest.approx(found.delta[3] / found.delta[0] - 1)
    assert found.n == 300 - 2 * 2  # two lags within each story
    cold = temperature_sweep(TEXTS, table, "length", GRID, group="story", response="plain")
    assert (cold.best, cold.gain) == (1.0, 0.0)


def test_each_point_is_a_fit_of_its_own(table):
    options = {"weights": "weight", "keep": np.arange(300) % 7 > 0, "spillover": 1}
    found = temperature_sweep(
        TEXTS, table, "length", GRID, group="story", control_pieces=True, **options
    )
    pieces = joined(scores.word_pieces)
    for t, delta in zip(GRID, found.delta, strict=True):
        columns = {**table, "s": joined(scores.word_surprisal, temperature=t), "k": pieces}
        want = metrics.delta_log_likelihood(
            columns, "s", ["length", "k", "k@1"], group="story", **options
        )
        assert delta == want


def test_words_of_several_tokens_may_be_the_only_ones_rescaled(table):
    options = {"group": "story", "response": "mixed"}
    several, one, both = (
        temperature_sweep(TEXTS, table, "length", (1.0, TRUE), rescale=r, **options)
        for r in ("several", "one", "all")
    )
    assert several.delta[1] > max(one.delta[1], both.delta[1]) + 0.1
    assert several.delta[0] == one.delta[0] == both.delta[0]


def test_corrected_boundaries_and_given_words(table):
    words = [t.text.split() for t in TEXTS]
    plain = temperature_sweep(TEXTS, table, "length", GRID, group="story", words=words)
    assert plain.best == TRUE
    corrected = temperature_sweep(
        TEXTS, table, "length", (1.0, TRUE), boundary="corrected", group="story"
    )
    assert corrected.delta[1] != plain.delta[3]
    assert np.isfinite(corrected.delta).all()


def test_what_the_traces_must_hold():
    assert sweep_fields((1.0, 2.0, np.inf)) == Fields(betas=(0.5,))
    assert sweep_fields((1.0, np.inf), boundary=True) == Fields(betas=(0.0,), boundary=True)
    assert len(sweep_fields().betas) == 26


def test_without_temperature_one_there_is_no_gain(table):
    found = temperature_sweep(TEXTS, table, "length", (2.0, TRUE), group="story")
    assert np.isnan(found.gain)
    short = {k: v[:5] for k, v in table.items()}
    few = temperature_sweep([text(3, 5)], short, "length", (1.0, TRUE), group="story")
    assert np.isnan(few.best)
    assert np.isnan(few.gain)
    assert few.n == 0


def test_refusals(table):
    with pytest.raises(nll.BadInput, match="lengths differ"):
        temperature_sweep(TEXTS[:1], table, "length", GRID)
    with pytest.raises(nll.BadInput, match="needs a temperature"):
        temperature_sweep(TEXTS, table, "length", ())
    with pytest.raises(nll.BadInput, match="temperature must be above 0"):
        temperature_sweep(TEXTS, table, "length", (0.0,))
    with pytest.raises(nll.BadInput, match="rescale"):
        temperature_sweep(TEXTS, table, rescale="many")
    with pytest.raises(nll.BadInput, match="1 lists of words for 2 texts"):
        temperature_sweep(TEXTS, table, words=[["a"]])
    with pytest.raises(nll.MissingField, match="betas"):
        temperature_sweep(TEXTS, table, "length", (1.7,))
