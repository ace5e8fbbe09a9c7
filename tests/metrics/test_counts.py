"""Counts and votes: the sheet's numbers, enumeration; baselines that find only what is there."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import BadInput, metrics


def test_oracle_counts() -> None:
    counts = metrics.EvalCounts(90, 28, 13)
    assert counts.automatic_accuracy == pytest.approx(0.311111111111, abs=1e-12)
    assert counts.manual_accuracy == pytest.approx(0.166666666667, abs=1e-12)
    assert counts.false_positive_rate == pytest.approx(0.464285714286, abs=1e-12)
    assert [round(x, 2) for x in counts.false_positive_interval[1:]] == [0.30, 0.64]
    assert "accepted" in metrics.EvalCounts(5, 0, 0).false_positive_rate.reason
    assert math.isnan(metrics.EvalCounts(0, 0, 0).automatic_accuracy)
    assert math.isnan(metrics.EvalCounts(0, 0, 0).manual_accuracy)
    with pytest.raises(BadInput):
        metrics.EvalCounts(5, 2, 3)


def test_oracle_detection() -> None:
    y = [1] * 45 + [0] * 59 + [1] * 18 + [0] * 331
    found = metrics.detection_report(y, [1] * 104 + [0] * 349)
    assert found[:4] == (45, 59, 18, 331)
    assert found[4:] == pytest.approx((0.432692307692, 0.714285714286, 0.538922155689), abs=1e-12)
    nothing = metrics.detection_report([0], [0])
    assert all(math.isnan(x) for x in nothing[4:])


def test_oracle_pass_at_k() -> None:
    assert metrics.pass_at_k(10, 3, 1) == pytest.approx(0.3, abs=1e-15)
    assert metrics.pass_at_k(10, 3, 5) == pytest.approx(0.916666666667, abs=1e-12)
    assert metrics.pass_at_k(10, 1, 5) == 0.5
    assert metrics.pass_at_k(4, 2, 3) == 1
    assert 0 < metrics.pass_at_k(10**6, 1, 10) < 1.1e-5
    for wrong in ((4, 2, 5), (4, 5, 1), (4, 2, 0)):
        with pytest.raises(BadInput):
            metrics.pass_at_k(*wrong)


@settings(deadline=None)
@given(st.integers(1, 7), st.data())
def test_pass_at_k_by_all_draws(n, data) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert metrics.pass_at_k(n, c, k) == pytest.approx(np.mean([max(d) for d in draws]))


def test_pass_at_n() -> None:
    labels, flawed = [[0, 1], [0, 0, 0], [1, 1]], [[0, 1], [0, 0, 0], [1, 0]]
    assert metrics.pass_at_n(labels) == pytest.approx(2 / 3)
    assert metrics.pass_at_n_true(labels, flawed) == pytest.approx(1 / 3)
    assert metrics.pass_at_n_true(labels) == metrics.pass_at_n(labels)
    assert "no problems" in metrics.pass_at_n([]).reason
    with pytest.raises(BadInput):
        metrics.pass_at_n_true(labels, flawed[:2])


def test_oracle_votes() -> None:
    answers, rewards = [7, 7, 12, 7, 12], [0.1, 0.3, 2.0, -0.5, 1.0]
    weights = metrics.minmax_weights(rewards)
    np.testing.assert_allclose(weights, [0.24, 0.32, 1, 0, 0.6], atol=1e-12)
    assert metrics.weighted_self_consistency(answers, weights) == 12
    assert metrics.self_consistency(answers) == 7
    assert answers[metrics.best_of_n(rewards)] == 12


def test_votes_at_the_edges() -> None:
    assert metrics.best_of_n([1.0, 3.0, 3.0, math.nan]) == 1
    assert metrics.best_of_n([-math.inf, -math.inf]) == 0
    assert metrics.self_consistency(["b", "a", "a", "b"]) == "b"
    assert metrics.self_consistency([None, None, "a"]) is None
    assert metrics.self_consistency([None, None, "a"], drop_missing=True) == "a"
    assert metrics.weighted_self_consistency(["a", "b", "b"], [0.0, 0.0, 0.0]) == "b"
    assert metrics.minmax_weights([2.0, 2.0]).tolist() == [2.0, 2.0]
    assert metrics.minmax_weights([]).tolist() == []
    for call in (
        lambda: metrics.best_of_n([]),
        lambda: metrics.best_of_n([math.nan]),
        lambda: metrics.self_consistency([]),
        lambda: metrics.self_consistency([None], drop_missing=True),
        lambda: metrics.weighted_self_consistency(["a"], [1.0, 2.0]),
        lambda: metrics.weighted_self_consistency(["a"], [math.nan]),
        lambda: metrics.minmax_weights([math.inf, 1.0]),
    ):
        with pytest.raises(BadInput):
            call()


def test_rewards_of_steps() -> None:
    assert metrics.process_reward([0.9, 0.3, 0.6]) == pytest.approx(0.6, abs=1e-15)
    assert metrics.process_reward([0.9, 0.3, 0.6], "min") == 0.3
    assert metrics.process_reward([]) == metrics.process_reward([], "min") == -math.inf
    assert metrics.best_of_n([metrics.process_reward([]), -5.0]) == 1
    with pytest.raises(BadInput, match="'mean' or 'min'"):
        metrics.process_reward([1.0], "max")


def test_the_solution_that_a_vote_hands_in() -> None:
    answers, rewards = [7, 7, 12, 7, 12], [0.1, 0.3, 2.0, -0.5, 1.0]
    assert metrics.voted_sample(answers, rewards) == 1
    assert metrics.voted_sample(answers, rewards, metrics.minmax_weights(rewards)) == 2
    assert metrics.voted_sample([7, 7, 12], [1.0, 1.0, 9.0]) == 0
    missing = [None, None, "a"]
    assert metrics.voted_sample(missing, [1.0, 2.0, 0.0]) == 1
    assert metrics.voted_sample(missing, [1.0, 2.0, 0.0], drop_missing=True) == 2
    assert metrics.voted_sample(["a", "a"], [-math.inf, -math.inf], [0.0, 0.0]) == 0
    for call in (
        lambda: metrics.voted_sample([], []),
        lambda: metrics.voted_sample(["a"], [1.0, 2.0]),
        lambda: metrics.voted_sample(["a"], [math.nan]),
    ):
        with pytest.raises(BadInput):
            call()


def test_scaling_curve() -> None:
    samples = [[(0.1, 0), (0.9, 1)], [(0.8, 1), (0.2, 0)], [(0.1, 0), (0.7, 0)]]

    def best(s) -> int:
        return metrics.best_of_n([r for r, _ in s])

    found = metrics.scaling_curve(samples, best, [1, 2], correct=lambda s: s[1] == 1)
    assert found == pytest.approx([1 / 3, 2 / 3])
    with pytest.raises(BadInput, match="between 1 and 2"):
        metrics.scaling_curve(samples, best, [3], correct=bool)
    labels = [[0, 1, 1], [False, True, np.int64(0)]]
    assert metrics.scaling_curve(labels, lambda s: len(s) - 1, [1, 2, 3]) == [0, 1, 0.5]
    for bad in ("1", 2, (0.9, 1)):
        with pytest.raises(BadInput, match="correct="):
            metrics.scaling_curve([[bad]], lambda _: 0, [1])


def test_blind_baseline_finds_a_leak_and_only_a_leak() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(20)])
    texts = [" ".join(rng.choice(words, 12)) for _ in range(120)]
    labels = np.tile([0, 1], 60)
    clean = metrics.blind_baseline(texts, labels, n=200)
    assert abs(clean.auroc.value - 0.5) < 0.16
    dated = [t + (" 2023" if y else " 2016") for t, y in zip(texts, labels, strict=True)]
    leak = metrics.blind_baseline(dated, labels, n=200)
    assert leak.auroc == (1, 1, 1)
    assert leak.tpr_at_fpr_5 == 1
    assert len(leak.scores) == 120
    np.testing.assert_array_equal(metrics.blind_baseline(dated, labels, n=9).scores, leak.scores)
    flipped = metrics.blind_baseline(dated, 1 - labels, n=9)
    np.testing.assert_allclose(flipped.scores, 1 - leak.scores, atol=0.05)


def test_a_text_is_never_scored_by_what_has_seen_it() -> None:
    """A word of its own for each text tells a classifier everything about the training texts."""
    texts = [f"own{i}" for i in range(40)]
    found = metrics.blind_baseline(texts, np.tile([0, 1], 20), min_df=0.001)
    assert np.ptp(found.scores) < 1e-6


def test_baselines_at_the_edges() -> None:
    assert "no word" in metrics.blind_baseline([f"x{i}" for i in range(40)], [0, 1] * 20)[1].reason
    assert "two texts" in metrics.blind_baseline(["a", "b", "c"], [0, 0, 1]).auroc.value.reason
    with pytest.raises(BadInput, match="lengths"):
        metrics.blind_baseline(["a"], [0, 1])
    y = np.tile([0, 1], 50)
    longer = metrics.length_baseline(y * 10 + 3, y)
    assert longer == (1, 1, 1)
    chance = metrics.random_baseline(y)
    assert chance.low < 0.5 < chance.high
    assert chance == metrics.random_baseline(y)
    assert math.isnan(metrics.random_baseline([]).value)
