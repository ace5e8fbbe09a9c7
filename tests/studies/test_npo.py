"""The NPO study's arithmetic is that of the library's objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nll import objectives
from nll.studies import Setting
from nll.studies import _npo as inner
from nll.studies import _npo_tofu as tofu
from nll.studies._npo import Method, World


@pytest.fixture(scope="module")
def small() -> World:
    """A world after few steps of fitting, which is all that its arithmetic needs."""
    with pytest.MonkeyPatch.context() as patch:
        real = inner.fit
        patch.setattr(inner, "fit", lambda sets: real(sets, steps=300))
        return inner.world(0)


@pytest.mark.parametrize(
    "method", [Method(None, 0, 0.1), Method(None, 0.5, 0.1), Method(0.3, 0, 0.1), Method(1, 2, 0.1)]
)
def test_slopes_are_those_of_the_objectives(small: World, method: Method) -> None:
    theta = torch.tensor(small.start + 0.1, requires_grad=True)

    def logp(side: inner.Side, at: torch.Tensor) -> torch.Tensor:
        sign = torch.tensor(2 * side.y - 1)
        return torch.nn.functional.logsigmoid(sign * (torch.tensor(side.x) @ at))

    own, ref = logp(small.forget, theta), logp(small.forget, torch.tensor(small.start))
    if method.beta is None:
        loss = objectives.ga_loss(own[:, None], token_reduction="sum")
    else:
        loss = objectives.npo_loss(own, ref, beta=method.beta)
    loss = loss + method.retain * objectives.retain_nll(logp(small.retain, theta)[:, None])
    loss.backward()
    found = inner.slope(small.start + 0.1, small, method)
    np.testing.assert_allclose(found, theta.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_a_world_is_the_same_twice_and_its_parts_are_what_they_say(small: World) -> None:
    assert small.forget.x.shape == (200, 128)
    assert len(small.retain.y) == len(small.fresh_retain.y) == 1000
    assert inner.kl(small, small.retrained, "retained") == 0
    assert inner.kl(small, small.start, "forgotten") > inner.kl(small, small.start, "retained")


def test_drift_is_told_apart() -> None:
    t = np.arange(1, 200)
    assert inner._linear({"step": t, "drift": 3.0 * t}) > 0
    assert inner._linear({"step": t, "drift": np.log(t)}) < 0


def run(drift: str, kept: float) -> dict[str, list[float]]:
    t = np.arange(1.0, 41)
    return {"step": [*t], "drift": [*(t if drift == "line" else np.log(t))], "kept": [kept] * 40}


@pytest.mark.parametrize(
    ("ours", "shares", "verdict"),
    [
        ([run("log", 0.1), run("log", 0.2)], [0.5, 0.6], "supported"),
        ([run("line", 0.1), run("line", 0.2)], [0.5, 0.6], "not supported"),
        ([run("log", 3), run("log", 4)], [0.5, 0.6], "not supported"),
        ([run("log", 0.1), run("log", 0.2)], [0.9, 1.3], "not supported"),
        ([run("log", 0.1), run("log", 1.5)], [0.5, 0.6], "inconclusive"),
        ([run("log", 0.1), run("log", 0.2)], [0.5, 1.1], "inconclusive"),
    ],
)
def test_verdicts(ours: list[dict[str, list[float]]], shares: list[float], verdict: str) -> None:
    ga = [run("line", 1), run("line", 1)]
    runs = {"GA+RT": ga, "NPO+RT, beta 1": ours if verdict == "supported" else ga}
    assert inner._judge(ga, ours, runs, shares)[0] == verdict
    if verdict == "supported":
        turned = {"GA+RT": ours, "NPO+RT, beta 1": ga}
        assert inner._judge(ga, ours, turned, shares)[0] == "inconclusive"


def test_material() -> None:
    held = tofu.material(Setting())
    assert (len(held.forget), len(held.retain), len(held.refusals)) == (20, 60, 100)
    whole = tofu.material(Setting(quick=False))
    assert (len(whole.forget), len(whole.retain)) == (40, 160)
    assert sorted(held.words.values()) == list(range(3, len(held.words) + 3))
    asked = {r["question"] for r in whole.forget} & {r["question"] for r in whole.retain}
    assert asked == set()


@pytest.fixture(scope="module")
def learned() -> tuple[tofu.Material, object]:
    """Two rows to forget and three to keep, learned for a few epochs."""
    whole = tofu.material(Setting())
    held = whole._replace(forget=whole.forget[:2], retain=whole.retain[:3])
    rows = [*tofu.pairs(held.forget), *tofu.pairs(held.retain)]
    return held, tofu.learn(held, rows, epochs=8, seed=0)


def test_a_model_learns_and_is_made_to_forget(learned: tuple[tofu.Material, object]) -> None:
    held, net = learned
    untrained = tofu.network(held, 0)
    bad = tofu.pairs(held.forget)
    assert tofu.mean_nll(net, held, bad) < tofu.mean_nll(untrained, held, bad) - 1
    before = [p.clone() for p in net.parameters()]
    for method in tofu.METHODS:
        curve = tofu.forget(held, net, method, epochs=2, seed=0)
        assert len(curve.forget) == len(curve.retain) == 3
        assert curve.ratios.shape == (2,)
        assert np.isfinite([*curve.forget, *curve.retain]).all()
        if method in ("GA", "NPO"):
            assert curve.forget[-1] > curve.forget[0] + 0.1
    assert all((a == b).all() for a, b in zip(before, net.parameters(), strict=True))


def test_equal_forgetting() -> None:
    a = tofu.Curve([1, 2, 4], [1, 3, 9], np.zeros(0))
    b = tofu.Curve([1, 3, 2.5], [1, 2, 2], np.zeros(0))
    assert tofu.kept_at_equal_forgetting(a, b) == (3, 6, 2)
