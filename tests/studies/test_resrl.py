"""The ResRL study: what it reads from a model, its labels, its four losses and its verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nll.studies import Finding, Setting
from nll.studies import _resrl as inner
from nll.studies import _resrl_geometry as still
from nll.studies import _resrl_rlvr as moving
from nll.studies import _small_lm as small
from nll.testing import random_model

ANSWERS = ["he is a baker", "a baker he is", "he is a smith", "he is a spy"]


@pytest.fixture(scope="module")
def model() -> object:
    return random_model("".join(chr(c) for c in range(32, 127)) + "\n")


@pytest.fixture(scope="module")
def read(model: object) -> list[still.Answer]:
    return still.read(model, "who is he?", ANSWERS)


def test_answers_are_read_as_traces_are(model, read) -> None:  # type: ignore[no-untyped-def]
    from nll import Text

    texts = [Text.pair("Question: who is he?\nAnswer:", " " + a) for a in ANSWERS]
    for trace, own in zip(model.trace(texts), read, strict=True):
        expected = -trace.logp[-len(own.ids) :]
        assert len(own.ids) == len(own.penultimate) == len(own.last)
        np.testing.assert_allclose(own.nll, expected, rtol=1e-4)
    logits = read[0].last @ model.network.head.weight.float().T
    ids = torch.tensor(read[0].ids)
    one_hot = torch.nn.functional.one_hot(ids, logits.shape[-1])
    assert torch.allclose(read[0].delta, one_hot - torch.softmax(logits, -1), atol=1e-5)


def test_differing_tokens() -> None:
    assert still.differing([1, 2, 9, 4], [1, 2, 3, 4]) == [False, False, True, False]
    assert still.differing([5], [1]) == [True]
    assert still.differing([1, 2], [1, 2]) == [False, False]


def test_a_question(read: list[still.Answer]) -> None:
    found = still.look(read[:2], read[2:], 0)
    assert found is not None
    assert set(found.areas) == set(still.SCORES)
    assert all(0 <= a <= 1 for a in found.areas.values())
    assert found == still.look(read[:2], read[2:], 0)
    assert still.look(read[:1], read[:1], 0) is None


def test_displacement_is_that_of_a_step_on_the_unembedding(read, model) -> None:  # type: ignore[no-untyped-def]
    found = still.look(read[:2], read[2:], 0)
    assert found is not None
    head = model.network.head.weight.detach().double().clone()

    def logp(answers: list[still.Answer], weight: torch.Tensor) -> torch.Tensor:
        rows = [
            torch.log_softmax(a.last.double() @ weight.T, -1)[range(len(a.ids)), a.ids]
            for a in answers
        ]
        return torch.cat(rows)

    leaf = head.clone().requires_grad_()
    logp(read[2:], leaf).mean().backward()
    lr = 1e-5
    moved = head - lr * leaf.grad
    change = (logp(read[:1], moved) - logp(read[:1], head)).sum() / lr
    assert found.displaced["uniform"] == pytest.approx(float(change), rel=1e-2)


@pytest.mark.parametrize("method", moving.METHODS)
def test_losses_push_wrong_answers_down(method: str) -> None:
    net = small.network(0, width=16)
    texts = ["17+8+5+4=25;30;34."] * 2 + ["17+8+5+4=25;31.34."] * 6
    reward = torch.tensor([1.0] * 2 + [0.0] * 6)
    before = small.answer_logps(net, small.encode(texts), moving.PROMPT).detach()
    loss = moving.loss_of(net, method, small.encode(texts), reward)
    assert loss is not None
    small.step(net, small.adam(net, 1e-3), loss)
    after = small.answer_logps(net, small.encode(texts), moving.PROMPT).detach()
    gain = (after - before).sum(-1)
    assert gain[0] > gain[-1]
    assert gain[-1] < 0


@pytest.mark.parametrize("method", ["GRPO", "NSR", "ResRL"])
def test_nothing_is_learned_from_right_answers_alone(method: str) -> None:
    net = small.network(0, width=16)
    ids = small.encode(["17+8+5+4=25;30;34."] * 8)
    assert moving.loss_of(net, method, ids, torch.ones(8)) is None


def test_learning_and_judging() -> None:
    net = small.network(0, width=16)
    own = moving.learned(net, "W-REINFORCE", steps=2, seed=0)
    assert any(not torch.equal(a, b) for a, b in zip(own.parameters(), net.parameters()))  # noqa: B905
    found = moving.judged(own, 0, n=2, many=5)
    assert set(found) == {"greedy accuracy", "pass@2"}


def between(low: float, high: float) -> Finding:
    return Finding("x", (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("area", "chance", "kinder", "gain", "verdict"),
    [
        (between(0.6, 0.8), 0.5, between(0.7, 0.9), between(0.01, 0.1), "supported"),
        (between(0.6, 0.8), 0.5, between(0.7, 0.9), between(-0.1, 0.1), "inconclusive"),
        (between(0.6, 0.8), 0.9, between(0.7, 0.9), between(0.01, 0.1), "inconclusive"),
        (between(0.5, 0.8), 0.5, between(0.7, 0.9), between(0.01, 0.1), "inconclusive"),
        (between(0.6, 0.8), 0.5, between(0.4, 0.9), between(0.01, 0.1), "inconclusive"),
        (between(0.5, 0.6), 0.5, between(0.7, 0.9), between(0.01, 0.1), "not supported"),
        (between(0.6, 0.8), 0.5, between(0.3, 0.7), between(0.01, 0.1), "not supported"),
    ],
)
def test_verdicts(
    area: Finding, chance: float, kinder: Finding, gain: Finding, verdict: str
) -> None:
    areas = {"penultimate": area, "random subspace": Finding("r", chance), "nll": Finding("n", 0.5)}
    found = inner.judge(areas, kinder, {"ResRL minus NSR, greedy accuracy": gain})
    assert found[0] == verdict


def test_the_study_runs_on_a_tiny_model(model, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    base = small.network(0, width=16)
    monkeypatch.setattr(Setting, "model", model)
    monkeypatch.setattr(inner, "base_model", lambda *_, **__: (base, 0.4, 1))
    monkeypatch.setattr(inner, "learned", lambda net, *_, **__: net)
    monkeypatch.setattr(inner, "judged", lambda *_: {"greedy accuracy": 0.5, "pass@16": 0.9})
    rows = [{"question": "who?", "answer": ANSWERS[0], "paraphrased_answer": ANSWERS[1],
             "perturbed_answer": ANSWERS[2:]}] * 4  # fmt: skip
    monkeypatch.setattr(inner, "read_json_lines", lambda _: rows)
    found = inner.resrl(Setting())
    assert found.figure is not None
    assert found.findings[0].n == 4
