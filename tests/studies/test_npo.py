"""The NPO study's arithmetic is that of the library's objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nll import objectives
from nll.studies import _npo as inner
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
    ("ours", "verdict"),
    [
        ([run("log", 0.1), run("log", 0.2)], "supported"),
        ([run("line", 0.1), run("line", 0.2)], "not supported"),
        ([run("log", 3), run("log", 4)], "not supported"),
        ([run("log", 0.1), run("log", 1.5)], "inconclusive"),
    ],
)
def test_verdicts(ours: list[dict[str, list[float]]], verdict: str) -> None:
    ga = [run("line", 1), run("line", 1)]
    runs = {"GA+RT": ga, "NPO+RT, beta 1": ours if verdict == "supported" else ga}
    assert inner._judge(ga, ours, runs)[0] == verdict
    if verdict == "supported":
        turned = {"GA+RT": ours, "NPO+RT, beta 1": ga}
        assert inner._judge(ga, ours, turned)[0] == "inconclusive"
