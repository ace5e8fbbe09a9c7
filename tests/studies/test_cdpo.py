"""The cDPO study: its task, its small model, its scores and its verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nll.studies import Finding, Setting
from nll.studies import _cdpo as inner
from nll.studies import _cdpo_chains as chains
from nll.studies import _small_lm as small


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return small.network(0, width=16)


def test_problems() -> None:
    asked = chains.problems(50, 3)
    assert len(asked) == 50
    assert asked == chains.problems(50, 3)
    for prompt, answer in asked.items():
        assert len(prompt) == chains.PROMPT
        assert len(prompt + answer) == chains.TOTAL
        total = [int(x) for x in prompt.rstrip("=").split("+")]
        assert answer == ";".join(str(sum(total[: i + 1])) for i in (1, 2, 3)) + "."
        assert small.decode(small.encode([prompt + answer])) == [prompt + answer]


@pytest.mark.parametrize(
    ("answer", "last"), [("25;30;34.", "34"), ("25;30.34.", "30"), ("25;30;344", ""), (".", "")]
)
def test_final(answer: str, last: str) -> None:
    assert chains.final(answer) == last


def test_cached_sampling_is_the_models_distribution(net: torch.nn.Module) -> None:
    prompts = small.encode(["1+2=", "9+9="])
    found = small.sample(net, prompts, total=9, how="greedy")[:, 0]
    for end in range(4, 9):
        with torch.no_grad():
            logits = net(input_ids=found[:, :end], use_cache=False).logits[:, -1]
        assert torch.equal(logits.argmax(-1), found[:, end])
    many = small.sample(net, prompts, total=5, n=4000, generator=torch.Generator().manual_seed(0))
    assert many.shape == (2, 4000, 5)
    with torch.no_grad():
        p = torch.softmax(net(input_ids=prompts, use_cache=False).logits[:, -1], -1)
    for row in range(2):
        share = torch.bincount(many[row, :, 4], minlength=len(small.CHARACTERS)) / 4000
        assert torch.allclose(share, p[row], atol=0.03)
    assert torch.equal(small.sample(net, prompts, total=4, n=3), prompts[:, None].expand(2, 3, 4))


def test_log_probs_are_aligned(net: torch.nn.Module) -> None:
    ids = small.encode(["1+2=3;4."])
    with torch.no_grad():
        logits = net(input_ids=ids, use_cache=False).logits
        found = small.answer_logps(net, ids, 4)
    for t in range(4, 8):
        expected = torch.log_softmax(logits[0, t - 1], -1)[ids[0, t]]
        assert found[0, t - 4] == pytest.approx(float(expected), abs=1e-5)


def test_training_sets() -> None:
    asked = dict(list(chains.problems(2, 0).items()))
    (one, truth), (two, other) = asked.items()
    bad = truth[:-3] + "00."
    rare = truth[:-3] + "01."
    drawn = {one: [truth, bad, bad, bad, rare], two: [other, other]}
    right, wrong, pairs = chains.training_sets(asked, drawn, np.random.default_rng(0))
    assert right == [[one + truth], []]
    assert wrong == [[one + bad], []]
    assert pairs == [chains.Pair(0, one + truth, one + bad)]
    found = chains.first_error(pairs, asked)
    assert found.first == [next(i for i, (a, b) in enumerate(zip(bad, truth)) if a != b)]  # noqa: B905


def test_scores_come_from_the_other_half(net: torch.nn.Module, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    seen = []

    def spy(base, texts, seed):  # type: ignore[no-untyped-def]
        seen.append(list(texts))
        return base

    monkeypatch.setattr(chains, "tuned", spy)
    texts = [p + a for p, a in chains.problems(4, 1).items()]
    pairs = [chains.Pair(i % 2, t, t) for i, t in enumerate(texts)]
    held = chains.scored(pairs, [["r0"], ["r1"]], [["w0"], ["w1"]], net, 0)
    assert seen == [["r1"], ["w1"], ["r0"], ["w0"]]
    # with both copies equal the contrast is the model's own probability
    assert torch.allclose(held["s"], held["p"], atol=1e-6)
    with torch.no_grad():
        logp = small.answer_logps(net, small.encode(texts), chains.PROMPT)
    assert torch.allclose(held["p"], logp.exp(), atol=1e-6)
    assert held["rank"].min() >= 1


def test_agreement() -> None:
    told = {n: torch.tensor([[0.1, 0.9, 0.2], [0.9, 0.1, 0.1]]) for n in ("contrast", "p")}
    counts = [[30, 9, 0], [20, 20, 20]]
    found = inner.agreement(told, counts, [2, 0])
    assert found == {"exists": 0.5, "rollouts": 1.0, "contrast": 1.0, "p": 1.0}
    counts[0] = [0, 0, 0]
    told["p"][0, 2] = 1
    found = inner.agreement(told, counts, [2, 0])
    assert found == {"exists": 0.5, "rollouts": 0.0, "contrast": 1.0, "p": 0.0}


@pytest.mark.parametrize("method", inner.METHODS)
def test_training_widens_the_margin(net: torch.nn.Module, method: str) -> None:
    asked = chains.problems(8, 2)
    pairs = [chains.Pair(0, p + a, p + a[:-2] + "0.") for p, a in asked.items() if a[-2] != "0"]
    s = torch.full((len(pairs), chains.TOTAL - chains.PROMPT), 0.1)
    own = inner.preferred(net, method, pairs, s, 0)
    found = inner._standing(own, net, pairs, asked, 0)
    assert found["chosen"] > found["rejected"]
    assert inner._standing(net, net, pairs, asked, 0)["chosen"] == 0


def between(low: float, high: float) -> Finding:
    return Finding("x", (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("ours", "above", "accuracy", "chosen", "verdict"),
    [
        (0.95, between(0.01, 0.1), between(0.01, 0.1), between(0.1, 1), "supported"),
        (0.95, between(-0.1, 0.2), between(0.01, 0.1), between(0.1, 1), "inconclusive"),
        (0.95, between(0.01, 0.1), between(-0.1, 0.1), between(0.1, 1), "inconclusive"),
        (0.95, between(0.01, 0.1), between(-0.2, -0.1), between(0.1, 1), "inconclusive"),
        (0.95, between(0.01, 0.1), between(0.01, 0.1), between(-1, 1), "inconclusive"),
        (0.90, between(-0.1, 0.1), between(0.01, 0.1), between(0.1, 1), "not supported"),
    ],
)
def test_verdicts(
    ours: float, above: Finding, accuracy: Finding, chosen: Finding, verdict: str
) -> None:
    areas = {"contrast": [ours], "p": [0.9]}
    assert inner.judge(above, areas, accuracy, chosen)[0] == verdict


@pytest.mark.slow
def test_the_study_runs_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def base(seed, **_):  # type: ignore[no-untyped-def]
        made, right, steps = chains.base_model(seed, width=16, until=0.02, most=100)
        return made, right, steps

    real = chains.problems
    monkeypatch.setattr(inner, "base_model", base)
    monkeypatch.setattr(inner, "problems", lambda n, seed: real(40, seed))
    monkeypatch.setattr(inner, "rollout_successes", lambda *_: [[3, 0, 0, 0, 0, 0, 0, 0, 0]] * 3)
    found = inner.cdpo(Setting())
    assert found.figure is not None
    assert len(found.tables["After training on the same pairs, mean over seeds"]) == 4
