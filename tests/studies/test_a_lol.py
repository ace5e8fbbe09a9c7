"""The A-LoL study: its rows, values, measures, losses and verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nll.studies import Finding, Setting
from nll.studies import _a_lol as inner
from nll.studies import _a_lol_tofu as tofu
from nll.studies._npo_tofu import answer_logps


@pytest.fixture(scope="module")
def held() -> tofu.Answers:
    whole = tofu.answers(Setting(), 0)
    return whole._replace(rows=whole.rows[:9], asked=whole.asked[:3])


@pytest.fixture(scope="module")
def net(held: tofu.Answers) -> torch.nn.Module:
    return tofu.network(len(held.words.words), 0, width=16, layers=1)


def test_rows() -> None:
    held = tofu.answers(Setting(), 0)
    assert len(held.asked) == 20
    assert [r.question for r in held.rows] == [i for i in range(20) for _ in range(3)]
    for i, row in enumerate(held.rows):
        asked = held.asked[row.question]
        assert row.pair[0] == asked["question"]
        if i % 3:
            assert row.pair[1] in asked["perturbed_answer"]
            assert 0 <= row.reward < 0.7
        else:
            assert row.pair[1] == asked["paraphrased_answer"]
            assert row.reward == 0.9
    assert [r.reward for r in tofu.answers(Setting(), 1).rows] != [r.reward for r in held.rows]


def test_the_nearest_known_answer() -> None:
    known = [
        tofu.Row(("q", "He writes books of war."), 0.9, 0),
        tofu.Row(("q", "She paints."), 0.1, 0),
    ]
    assert tofu.nearest("he writes of peace", known).reward == 0.9
    assert tofu.nearest("she paints .", known).reward == 0.1


def test_share_of_the_true_answer(net: torch.nn.Module, held: tofu.Answers) -> None:
    row = held.asked[0]
    one = held._replace(asked=[row])
    p = []
    for answer in (row["paraphrased_answer"], *row["perturbed_answer"]):
        with torch.no_grad():
            logp, _ = answer_logps(net, held.words, [(row["paraphrased_question"], answer)])
        kept = logp[logp != 0]
        p.append(float(kept.mean().exp()))
    assert tofu.truth_share(net, one) == pytest.approx(p[0] / sum(p), rel=1e-4)


def test_samples_and_values(net: torch.nn.Module, held: tofu.Answers) -> None:
    questions = [r["question"] for r in held.asked]
    found = tofu.sampled(net, held, questions, 2, 0)
    assert [len(many) for many in found] == [2, 2, 2]
    assert found == tofu.sampled(net, held, questions, 2, 0)
    assert all(len(t.split()) <= tofu.LONGEST for many in found for t in many)
    value = tofu.values(net, held, 0, n=2)
    rewards = [r.reward for r in held.rows]
    assert all(min(rewards) <= v <= max(rewards) for v in value)


def test_distinct_2() -> None:
    assert tofu.distinct_2(["a b a b"]) == pytest.approx(2 / 3)
    assert tofu.distinct_2(["a b", "a b"]) == 0.5
    assert np.isnan(tofu.distinct_2(["a"]))


def test_losses(net: torch.nn.Module, held: tofu.Answers) -> None:
    """At the reference the clipped forms are the reference-free one, rows of no advantage add 0."""
    value = [0.5] * 3
    part = held.rows[:6]
    loss = {m: float(inner.loss_of(net, net, m, held, value, part).detach()) for m in inner.METHODS}
    assert loss["A-LoL"] == pytest.approx(loss["A-LoL ref-free"], rel=1e-4)
    assert loss["A-LoL seq"] == pytest.approx(loss["A-LoL ref-free"], rel=1e-4)
    assert loss["A-LoL KL"] == pytest.approx(loss["A-LoL ref-free"], rel=1e-4)
    assert loss["R-LoL"] == pytest.approx(loss["wBC"], rel=1e-4)
    with torch.no_grad():
        logp, mask = answer_logps(net, held.words, [r.pair for r in part])
    nll = -torch.where(mask, logp, 0.0).sum(-1)
    assert loss["NLL"] == pytest.approx(float(nll.mean()), rel=1e-4)
    gain = torch.tensor([max(r.reward - 0.5, 0) for r in part])
    assert loss["A-LoL ref-free"] == pytest.approx(float((gain * nll).mean()), rel=1e-4)
    assert (gain == 0).sum() >= 2


def test_a_copy_is_trained(net: torch.nn.Module, held: tofu.Answers) -> None:
    value = [0.5] * 3
    before = float(inner.loss_of(net, net, "wBC", held, value, held.rows).detach())
    own = inner.trained(net, "wBC", held, value, range(9), steps=5, seed=0)
    assert float(inner.loss_of(own, net, "wBC", held, value, held.rows).detach()) < before
    assert float(inner.loss_of(net, net, "wBC", held, value, held.rows).detach()) == before


def between(low: float, high: float) -> Finding:
    return Finding("x", (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("ours", "nll", "verdict"),
    [
        (between(0.01, 0.1), 0.2, "supported"),
        (between(-0.01, 0.1), 0.2, "inconclusive"),
        (between(0.01, 0.1), 0.6, "inconclusive"),
        (between(-0.1, 0.05), 0.2, "not supported"),
    ],
)
def test_verdicts(ours: Finding, nll: float, verdict: str) -> None:
    share = {"NLL": [nll], "wBC": [0.3], "R-GOLD": [0.3], "A-LoL ref-free": [0.4], "A-LoL": [0.4]}
    assert inner.judge(ours, share)[0] == verdict


@pytest.mark.slow
def test_the_study_runs_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real, trained, reference = inner.answers, inner.trained, inner.reference

    def few(setting: Setting, seed: int) -> tofu.Answers:
        whole = real(setting, seed)
        return whole._replace(rows=whole.rows[:6], asked=whole.asked[:2])

    monkeypatch.setattr(inner, "answers", few)
    monkeypatch.setattr(inner, "trained", lambda *a, **o: trained(*a, **{**o, "steps": 1}))
    monkeypatch.setattr(
        inner, "reference", lambda h, **o: reference(h, **{**o, "size": (16, 1), "epochs": 1})
    )
    found = inner.a_lol(Setting())
    assert found.figure is not None
    assert len(found.tables["Paraphrased questions, mean over seeds"]) == 11
