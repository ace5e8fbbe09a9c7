"""TOFU's measures: the published losses of two Llama-2-7B models, small numbers, laws."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nll import BadInput, Undefined, metrics
from nll.studies import Setting


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    path = Setting().file("npo", "llama2_forget10_losses.json.gz")
    held: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return held


def ratios(part: dict[str, Any], **options: Any) -> np.ndarray:
    return metrics.truth_ratio(
        part["avg_paraphrased_loss"], part["average_perturb_loss"], **options
    )


@pytest.mark.parametrize(
    ("average", "first", "ks", "p"),
    [
        ("geometric", 0.24523372, 0.3966666667, 1.834066e-21),
        ("arithmetic", 0.27325198, 0.41, 6.0319e-23),
    ],
)
def test_published_models(
    published: dict[str, Any], average: str, first: float, ks: float, p: float
) -> None:
    full, retain = (ratios(published[m], average=average) for m in ("full", "retain90"))
    assert full[0] == pytest.approx(first, abs=1e-8)
    found = metrics.forget_quality(full, retain)
    assert found.ks == pytest.approx(ks, abs=1e-9)
    assert found.p == pytest.approx(p, rel=1e-4)
    assert metrics.forget_quality(1 / full, 1 / retain).ks == pytest.approx(ks, abs=1e-9)


def test_published_forget_truth_ratios(published: dict[str, Any]) -> None:
    full, retain = (ratios(published[m]) for m in ("full", "retain90"))
    assert metrics.mean_truth_ratio(full, of="forget") == pytest.approx(0.5159854, abs=1e-7)
    assert metrics.mean_truth_ratio(retain, of="forget") == pytest.approx(0.6740193, abs=1e-7)
    assert metrics.mean_truth_ratio(full, of="retain") == pytest.approx(
        np.maximum(0, 1 - full).mean()
    )


def test_small_samples_get_the_exact_p() -> None:
    found = metrics.forget_quality([0.2, 0.5, 0.7, 0.9], [0.6, 0.8, 1.1, 1.3, 1.5, math.nan])
    assert found.ks == pytest.approx(0.6)
    assert found.p == pytest.approx(0.2857142857)
    assert found.p.n == 9
    same = metrics.forget_quality([1, 2, 3], [1, 2, 3])
    assert same == (0, 1)


def test_normalized_probability() -> None:
    assert metrics.normalized_probability([0, math.log(4)]).tolist() == pytest.approx([1, 0.25])
    p = metrics.normalized_probability([math.log(4)], [[math.log(2), math.log(4)]])
    assert p.tolist() == pytest.approx([0.25])
    far = metrics.normalized_probability([2000.0], [[2000.0, 2000.0, 2000.0]])
    assert far.tolist() == pytest.approx([0.25])


@given(st.lists(st.floats(0, 30), min_size=3, max_size=6), st.floats(-5, 5))
def test_truth_ratio_laws(nll: list[float], shift: float) -> None:
    right, wrong = [nll[0]], [nll[1:]]
    geometric = metrics.truth_ratio(right, wrong)
    arithmetic = metrics.truth_ratio(right, wrong, average="arithmetic")
    assert arithmetic[0] >= geometric[0] * (1 - 1e-9)
    moved = metrics.truth_ratio([nll[0] + shift], [[x + shift for x in nll[1:]]])
    assert moved[0] == pytest.approx(geometric[0], rel=1e-9)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
def test_utility_laws(parts: list[float]) -> None:
    found = metrics.model_utility(parts)
    assert min(parts) - 1e-12 <= found <= sum(parts) / len(parts) + 1e-12
    assert metrics.model_utility(parts[::-1]) == pytest.approx(found)
    assert metrics.model_utility([*parts, 0.0]) == 0


def test_undefined() -> None:
    for value in (
        metrics.mean_truth_ratio([math.nan], of="forget"),
        metrics.forget_quality([], [1.0]).p,
        metrics.model_utility({}),
        metrics.model_utility({"probability": math.nan}),
    ):
        assert isinstance(value, Undefined)
        assert value.reason
    assert metrics.mean_truth_ratio([0.0, math.nan], of="forget") == 0
    assert metrics.mean_truth_ratio([math.inf], of="forget") == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.truth_ratio([1.0], [1.0]), r"must be \(items, answers\)"),
        (lambda: metrics.truth_ratio([1.0], [[1.0], [2.0]]), "lengths differ"),
        (lambda: metrics.truth_ratio([1.0, 2.0], [[1.0], [2.0, 3.0]]), "as many for every item"),
        (lambda: metrics.truth_ratio([1.0], [[1.0]], average="harmonic"), "average must be"),
        (lambda: metrics.mean_truth_ratio([-1.0], of="forget"), "0 or more"),
        (lambda: metrics.mean_truth_ratio([1.0], of="both"), "forget or retain"),
        (lambda: metrics.model_utility({"rouge": -0.1}), "part 'rouge' of the utility is negative"),
    ],
)
def test_bad_arguments(call: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()


def test_answers_that_are_next_to_impossible() -> None:
    inf = math.inf
    right, wrong = [800.0, 1, inf, inf], [[1.0, 2], [inf, inf], [1, 2], [inf, inf]]
    for average in ("geometric", "arithmetic"):
        found = metrics.truth_ratio(right, wrong, average=average)
        assert found[:3].tolist() == [inf, 0, inf]
        assert math.isnan(found[3])
    found = metrics.normalized_probability([800.0, 1, inf, inf], [[801.0], [inf], [1], [inf]])
    assert found[:3] == pytest.approx([1 / (1 + math.exp(-1)), 1, 0])
    assert math.isnan(found[3])
    assert metrics.mean_truth_ratio([1e-320, inf, 0], of="forget") < 1e-300
    assert metrics.model_utility([1e-320, 1]) == 0
