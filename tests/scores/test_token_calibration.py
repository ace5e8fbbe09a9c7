"""Calibration of next-token probabilities against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

import nll
from nll.scores import classwise_calibration_error, expected_calibration_error
from nll.testing import trace_from_logits
from nll.trace import Trace

RNG = np.random.default_rng(3)
LOGITS = np.round(RNG.normal(size=(60, 5)) * 2, 1)
IDS = RNG.integers(5, size=60)


def softmax(z, temperature=1.0):
    p = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def counted(confidence, hit, bins):
    """The definition, bin by bin."""
    out = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = (confidence > low) & (confidence <= high)
        if b == 0:
            inside |= confidence == 0
        if inside.any():
            gap = abs(hit[inside].mean() - confidence[inside].mean())
            out += inside.mean() * gap
    return out


def trace(**options) -> Trace:
    return trace_from_logits(LOGITS, IDS, top_k=1, betas=(0.4, 1 / 7, 0.0), **options)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 7.0])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_it_is_the_gap_of_confidence_and_accuracy_in_bins(temperature, bins):
    p = softmax(LOGITS, temperature)
    ranked_first = LOGITS[np.arange(60), IDS] == LOGITS.max(1)
    want = counted(p.max(1), ranked_first.astype(float), bins)
    got = expected_calibration_error(trace(), bins, temperature=temperature)
    assert got == pytest.approx(want, abs=1e-12)
    halves = [
        trace_from_logits(LOGITS[i], IDS[i], top_k=2, betas=(0.4, 1 / 7))
        for i in (slice(0, 13), slice(13, None))
    ]
    together = expected_calibration_error(halves, bins, temperature=temperature)
    assert together == pytest.approx(want, abs=1e-12)
    classes = [counted(p[:, v], (v == IDS).astype(float), bins) for v in range(5)]
    assert classwise_calibration_error(LOGITS, IDS, bins, temperature=temperature) == pytest.approx(
        np.mean(classes), abs=1e-12
    )


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated():
    rows = np.log([[0.75, 0.25]] * 4)
    right = trace_from_logits(rows, [0, 0, 0, 1], top_k=1)
    assert expected_calibration_error(right) == pytest.approx(0, abs=1e-15)
    assert classwise_calibration_error(rows, [0, 0, 0, 1]) == pytest.approx(0, abs=1e-15)
    sure = Trace(logp=[-5.0], rank=[2], top_logp=[[0.0]], top_ids=[[1]])
    assert expected_calibration_error(sure) == 1.0


def test_an_edge_belongs_to_the_bin_below():
    half = Trace(
        logp=[-0.7, -0.7], rank=[1, 2], top_logp=np.log([[0.5], [0.25]]), top_ids=[[0], [0]]
    )
    assert expected_calibration_error(half, 2) == pytest.approx(abs(0.5 - 0.375))


def test_the_prompt_and_unscored_tokens_do_not_count():
    whole = trace(prompt_tokens=20)
    alone = trace_from_logits(LOGITS[20:], IDS[20:], top_k=1)
    assert expected_calibration_error(whole) == expected_calibration_error(alone)


def test_flat_distributions_at_infinite_temperature():
    hit = (LOGITS[np.arange(60), IDS] == LOGITS.max(1)).mean()
    got = expected_calibration_error(trace(), temperature=np.inf)
    assert got == pytest.approx(abs(hit - 0.2))


def test_refusals():
    assert "no token" in expected_calibration_error([]).reason
    assert "no token" in classwise_calibration_error(np.empty((0, 3)), []).reason
    unranked = Trace(logp=[-1.0], rank=[-1], top_logp=[[-1.0]], top_ids=[[0]])
    assert "no rank" in expected_calibration_error(unranked).reason
    with pytest.raises(nll.MissingField, match="top_k"):
        expected_calibration_error(Trace(logp=[-1.0], rank=[1]))
    with pytest.raises(nll.MissingField, match="betas"):
        expected_calibration_error(trace(), temperature=3.0)
    with pytest.raises(nll.BadInput, match="bins"):
        expected_calibration_error(trace(), 0)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(nll.BadInput, match="temperature"):
            expected_calibration_error(trace(), temperature=temperature)
    with pytest.raises(nll.BadInput, match="expected"):
        classwise_calibration_error(LOGITS, IDS[:3])
    with pytest.raises(nll.BadInput, match="from 0 to 4"):
        classwise_calibration_error(LOGITS, IDS + 1)
