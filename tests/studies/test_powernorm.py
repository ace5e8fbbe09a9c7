"""The PowerNorm study: its model is causal, its arms start alike, its verdicts follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nll.studies import Finding, Setting
from nll.studies import _powernorm as inner
from nll.studies import _powernorm_lm as lm
from nll.studies._common import seeds_finding

TOY = lm.Size(
    layers=2, width=8, heads=2, context=8, batch=4, updates=12, warmup=3, lr=5e-3, test=12
)
WORDS = "the cat sat on the mat and the dog sat on the cat " * 30
TEXT = lm.encode(WORDS, WORDS[:200], WORDS[7:200])


def test_rare_characters_share_an_id() -> None:
    held = lm.encode("ab" * 30 + "z", "az?", "b")
    assert (held.vocabulary, held.test.tolist(), held.other.tolist()) == (3, [1, 0, 0], [2])


@pytest.mark.parametrize("name", list(lm.arms(TOY)))
def test_every_arm_trains_and_its_state_survives_the_tests(name: str) -> None:
    found = lm.train(name, TEXT, TOY, 0, drift_every=4)
    assert all(math.isfinite(v) for v in found[:4])
    assert found.nll < math.log(TEXT.vocabulary) + 0.5
    again = lm.train(name, TEXT, TOY, 0, drift_every=4)
    assert found[:4] == again[:4]
    keys = {lm.LN: set(), "RMSNorm": set(), lm.BN: {"mean", "variance"}}
    assert set(found.drift) == keys.get(name, {"quadratic_mean"})
    for path in found.drift.values():
        assert path.shape == (3, 2 * TOY.layers)
    if not found.drift:
        assert found.own == pytest.approx(found.nll, abs=1e-6)


@pytest.mark.parametrize("name", list(lm.arms(TOY)))
def test_no_likelihood_sees_what_comes_after(name: str) -> None:
    torch.manual_seed(0)
    model = lm.network(lm.arms(TOY)[name], TEXT.vocabulary, TOY).eval()
    ids = torch.randint(TEXT.vocabulary, (2, TOY.context))
    other = ids.clone()
    other[:, 5:] = 0
    torch.testing.assert_close(model(ids)[:, :5], model(other)[:, :5])


def test_arms_of_a_seed_start_from_the_same_weights() -> None:
    made = []
    for name in (lm.LN, lm.BN, lm.PN):
        torch.manual_seed(3)
        made.append(lm.network(lm.arms(TOY)[name], TEXT.vocabulary, TOY).head.weight)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_statistics_of_the_batch_are_put_back() -> None:
    torch.manual_seed(0)
    model = lm.network(lm.arms(TOY)[lm.BN], TEXT.vocabulary, TOY)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    lm._with_batch_statistics(model, lm._blocks(TEXT.test, TOY), 4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_counted_baselines() -> None:
    text = lm.Text(np.array([0, 1] * 50), np.array([0, 1, 0, 1]), np.array([0]), 2)
    found = inner.counted(text)
    assert found["characters alone, test nll"] == pytest.approx(math.log(2))
    pairs = -(2 * math.log(51 / 52) + math.log(50 / 51)) / 3
    assert found["pairs of characters, test nll"] == pytest.approx(pairs)


def test_independent_values_drift_as_their_number_says() -> None:
    size = TOY._replace(batch=16, context=64, width=32)
    found = inner.independent(size, 0)
    spread = math.sqrt(2 / 1024) * math.sqrt(1 + 1 / 19) * math.sqrt(2 / math.pi)
    assert found["quadratic mean"] == pytest.approx(spread, rel=0.1)
    assert set(found) == {"mean", "variance", "quadratic mean"}


def test_carried_text_is_there() -> None:
    text = inner.material(Setting())
    assert 80 < text.vocabulary < 110
    assert len(text.train) == pytest.approx(9 * len(text.test), rel=0.01)


def test_a_whole_run_of_toy_size(monkeypatch) -> None:
    monkeypatch.setattr(inner, "material", lambda _: TEXT)
    monkeypatch.setattr(inner, "Size", lambda: TOY._replace(updates=20))
    outcome = inner.powernorm(Setting())
    (rows,) = outcome.tables.values()
    assert [r["normalisation"] for r in rows] == list(lm.arms(TOY))
    assert outcome.figure is not None
    assert all(f.low <= f.value <= f.high for f in outcome.findings)


def finding(value: float, half: float) -> Finding:
    return Finding("x", value, value - half, value + half, 3)


@pytest.mark.parametrize(
    ("batch", "layer", "diverged", "quadratic", "verdict"),
    [
        ((-0.1, 0.02), (-0.1, 0.02), False, 0.1, "supported"),
        ((-0.1, 0.02), (-0.1, 0.02), True, 0.1, "not supported"),
        ((0.01, 0.02), (-0.1, 0.02), False, 0.1, "not supported"),
        ((-0.1, 0.2), (-0.1, 0.02), False, 0.1, "inconclusive"),
        ((-0.1, 0.02), (0.0, 0.02), False, 0.1, "inconclusive"),
        ((-0.1, 0.02), (-0.1, 0.02), False, 0.9, "inconclusive"),
    ],
)
def test_verdicts(batch, layer, diverged, quadratic, verdict: str) -> None:
    drift = {
        "BatchNorm, mean": 0.2,
        "BatchNorm, variance": 0.3,
        "PowerNorm, quadratic mean": quadratic,
    }
    assert inner._judge(finding(*batch), finding(*layer), diverged, drift)[0] == verdict


def test_few_seeds_have_wide_intervals() -> None:
    found = seeds_finding("x", [1.0, 2.0, 3.0])
    assert (found.value, found.n) == (2, 3)
    assert found.high - found.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    bounded = seeds_finding("x", [0.9, 1.0, 1.0], share=True)
    assert bounded.low < 0.9 < bounded.high == 1.0
    assert seeds_finding("x", [1.0]).low is None
