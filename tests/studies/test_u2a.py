"""The U2A study's arithmetic on a student that knows nothing yet, and its verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nll.studies import Finding, Setting
from nll.studies import _tofu_student as tofu
from nll.studies import _u2a as study
from nll.studies import _u2a_tofu as inner


@pytest.fixture(scope="module")
def who() -> tofu.Student:
    torch.manual_seed(0)
    forget, _ = tofu.tofu_rows(Setting())
    return tofu.student(Setting(), tofu.texts_of(forget[:8]), layers=3, seed=0)


@pytest.fixture(scope="module")
def task(who: tofu.Student) -> inner.Task:
    rows = tofu.tofu_rows(Setting())[0][:6]
    bad = [(r["question"], r["perturbed_answer"][0]) for r in rows[:4]]
    good = [(r["question"], r["answer"]) for r in rows[4:]]
    better = [(r["question"], r["paraphrased_answer"]) for r in rows[:3]]
    worse = [(r["question"], r["perturbed_answer"][1]) for r in rows[:3]]
    held = inner.preference(who, better, worse)
    return inner.Task(bad, good, held, held)


def test_the_material_is_divided_without_overlap() -> None:
    forget, retain = tofu.tofu_rows(Setting())
    rows = [*retain, *forget]
    bad, good, wanted, held_out = inner.divide(rows, 0)
    assert (len(bad), len(good)) == (inner.BAD, 200 - inner.BAD)
    assert len({q for q, _ in (*bad, *good)}) == len({r["question"] for r in rows})
    assert not set(wanted[0]) & set(held_out[0])
    learned = {*bad, *good}
    for better, worse in (wanted, held_out):
        assert len(better) == len(worse) == inner.PAIRS
        assert not {*better, *worse} & learned
    assert inner.divide(rows, 0)[0] == bad != inner.divide(rows, 1)[0]


def test_only_the_last_two_blocks_change(who: tofu.Student) -> None:
    params = inner.last_blocks(who.net)
    blocks = who.net.model.layers
    assert sum(p.numel() for p in params) == sum(
        p.numel() for b in blocks[1:] for p in b.parameters()
    )
    assert not any(p.requires_grad for p in blocks[0].parameters())


def test_a_gain_is_what_a_small_step_does(who: tofu.Student, task: inner.Task) -> None:
    params = inner.last_blocks(who.net)
    before = [p.detach().clone() for p in params]
    gains, others = inner.predicted(who, params, task)
    assert gains.shape == (4,)
    assert others["good"].shape == (2,)
    assert (np.abs(gains) <= others["gradient norm"] * 1e3).all()
    size = 1e-5
    found = inner.measured(who, params, task, range(4), size)
    np.testing.assert_allclose(found.lowered, inner.STEPS * size * gains, rtol=0.1, atol=5e-6)
    assert (found.forgotten > 0).all()
    assert all((a == b).all() for a, b in zip(before, params, strict=True))


def test_at_the_start_j_is_log_2(who: tofu.Student, task: inner.Task) -> None:
    assert inner.preference_loss(who, task.wanted) == pytest.approx(math.log(2), abs=1e-6)
    assert inner.accuracy(who, task.wanted) == pytest.approx(0, abs=1)


def test_every_arm_starts_from_the_same_model(
    who: tofu.Student, task: inner.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CHOSEN": 2, "SEEDS": 1, "EPOCHS": 2}.items():
        monkeypatch.setattr(inner, name, value)
    params = inner.last_blocks(who.net)
    before = [p.detach().clone() for p in params]
    gains = np.array([1.0, -1, 2, -2])
    arms = inner.selections(Setting(), who, params, task, gains)
    assert set(arms) == set(inner.ARMS)
    assert all(len(many) == 1 for many in arms.values())
    assert all((a == b).all() for a, b in zip(before, params, strict=True))


@pytest.mark.parametrize(
    ("rho", "gains", "margins", "verdict"),
    [
        (0.8, [1, 1, -1], ([0.1, 0.2], [0.3, 0.4]), "supported"),
        (0.2, [1, 1, -1], ([0.1, 0.2], [0.3, 0.4]), "not supported"),
        (0.8, [1, 1, 1], ([0.1, 0.2], [0.3, 0.4]), "not supported"),
        (0.8, [-1, -1, 0], ([0.1, 0.2], [0.3, 0.4]), "not supported"),
        (0.5, [1, 1, -1], ([0.1, 0.2], [0.3, 0.4]), "inconclusive"),
        (0.8, [1, -1, -1], ([0.1, 0.2], [0.3, 0.4]), "inconclusive"),
        (0.8, [1, 1, -1], ([0.3, 0.4], [0.1, 0.2]), "inconclusive"),
        (0.8, [1, 1, -1], ([-0.3, 0.1], [0.1, 0.2]), "inconclusive"),
    ],
)
def test_verdicts(rho, gains, margins, verdict) -> None:
    values = np.array(gains, float)
    share = Finding("share", float((values <= 0).mean()))
    found = study.judge(
        Finding("rho", rho), share, values, [np.array(m) for m in margins], np.array([-0.2])
    )
    assert found[0] == verdict
    assert "raise it by 0.200" in found[1]
