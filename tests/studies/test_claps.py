"""The CLAPS study: its split, its measures of translations, its losses and its verdict."""

from __future__ import annotations

import pytest
import torch

from nll.studies import Finding, Setting
from nll.studies import _claps as inner
from nll.studies import _claps_net as net_of
from nll.studies._claps_net import Pairs, Size


@pytest.fixture(scope="module")
def held() -> Pairs:
    return net_of.cut(inner._lines(Setting()), held=20, train=60, seed=0)


@pytest.fixture(scope="module")
def net(held: Pairs) -> torch.nn.Module:
    return net_of.translator(held, Size(16, 1), 0)


def test_no_tested_sentence_was_trained_on(held: Pairs) -> None:
    assert len(held.train) == 60
    assert len(held.held) == 20
    assert not {e for e, _ in held.held} & {e for e, _ in held.train}
    assert held.train == net_of.cut(inner._lines(Setting()), held=20, train=60, seed=0).train


def test_bleu_and_chrf() -> None:
    assert net_of.bleu(["a b c d e"], [["a b c d e"]]) == pytest.approx(100)
    assert net_of.bleu(["a b c d"], [["x y z w"]]) == pytest.approx(
        100 * (1 / 8 * 1 / 12 * 1 / 16 * 1 / 16) ** 0.25
    )
    # the best of several references, and the penalty of a short text: exp(1 - 6/4)
    assert net_of.bleu(["a b c d"], [["a b c d x y"]]) == pytest.approx(100 * 2.718281828**-0.5)
    assert net_of.bleu(["a b c d"], [["x", "a b c d"]]) == pytest.approx(100)
    assert net_of.bleu([""], [["a b"]]) == 0
    assert net_of.chrf(["abcdef"], [["x", "abcdef"]]) == pytest.approx(100)
    assert net_of.chrf(["abc"], [["xyz"]]) == 0
    # characters: 2 of 2 and 2 of 4; pairs 1 of 1 and 1 of 3
    precision, recall = 1.0, (2 / 4 + 1 / 3) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert net_of.chrf(["ab"], [["abcd"]]) == pytest.approx(expected)


@pytest.mark.parametrize("arm", inner.ARMS)
def test_every_loss_reaches_the_network_but_not_through_the_pairs(
    net: torch.nn.Module, held: Pairs, arm: str
) -> None:
    net.zero_grad()
    net.eval()
    given = net_of.batch_of(held.train[:6], held.words)
    loss = inner.loss_of(net, given, arm)
    plain = inner.loss_of(net, given, "MLE")
    assert loss.isfinite()
    assert (loss > plain) == (arm != "MLE")
    loss.backward()
    reached = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert ("projection.weight" in reached) == (arm != "MLE")
    assert "target.weight" in reached


def test_mle_is_the_nll_of_the_labels(net: torch.nn.Module, held: Pairs) -> None:
    net.eval()
    given = net_of.batch_of(held.train[:4], held.words)
    memory = net.encode(given.source)
    states = net.states(memory, given.source, net_of.shifted(given.labels))
    expected = torch.nn.functional.cross_entropy(
        (states @ net.target.weight.T).flatten(0, 1), given.labels.flatten(), ignore_index=-100
    )
    assert torch.allclose(inner.loss_of(net, given, "MLE"), expected, rtol=1e-5)


def test_a_state_knows_nothing_of_later_words_and_of_padding(
    net: torch.nn.Module, held: Pairs
) -> None:
    net.eval()
    pairs = sorted(held.train, key=lambda p: len(net_of.split(p[1])))
    given = net_of.batch_of([pairs[0], pairs[-1]], held.words)
    alone = net_of.batch_of([pairs[0]], held.words)
    both, one = (
        net.states(net.encode(b.source), b.source, net_of.shifted(b.labels)) for b in (given, alone)
    )
    assert torch.allclose(both[0, : one.shape[1]], one[0], atol=1e-5)


def test_mechanism(net: torch.nn.Module, held: Pairs) -> None:
    found = inner.mechanism(net, held, 0)
    assert all(a > b for a, b in zip(found["imposter"], found["target"], strict=True))
    assert found["imposter"] == sorted(found["imposter"])
    assert 0 <= found["near"] <= 1
    assert len(found["words"]) == 5


def between(low: float, high: float) -> Finding:
    return Finding("x", (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("gain", "loss", "verdict"),
    [
        (between(0.1, 2), between(1, 2), "supported"),
        (between(-1, 2), between(1, 2), "inconclusive"),
        (between(-2, -0.1), between(1, 2), "not supported"),
        (between(0.1, 2), between(-1, 2), "not supported"),
    ],
)
def test_verdicts(gain: Finding, loss: Finding, verdict: str) -> None:
    assert inner.judge(gain, loss, between(1, 2), between(3, 4))[0] == verdict


def test_the_study_runs_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real = inner.cut
    monkeypatch.setattr(
        inner, "cut", lambda lines, *, held, train, seed: real(lines, held=8, train=40, seed=seed)
    )
    monkeypatch.setattr(inner, "Size", lambda *_: Size(16, 1))
    trained = inner.trained
    monkeypatch.setattr(inner, "trained", lambda h, a, **o: trained(h, a, **{**o, "epochs": 1}))
    found = inner.claps(Setting())
    assert found.figure is not None
    assert len(found.tables["Held-out sentences, mean over seeds"]) == len(inner.ARMS)
    assert all(f.low is not None for f in found.findings)
