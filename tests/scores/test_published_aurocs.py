"""AUROCs published with Fast-DetectGPT, again from the scores of the texts behind them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from nll import metrics

FILE = Path(__file__).parents[1] / "oracle" / "detect-llm-scores.json.gz"
PANELS = json.loads(gzip.decompress(FILE.read_bytes()))["panels"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: f"{p['set']}-{p['score']}")
def test_auroc_is_the_published_one(panel):
    human, machine = panel["human"], panel["machine"]
    assert len(human) == len(machine) == 150
    got = metrics.auroc([0] * 150 + [1] * 150, np.array(human + machine))
    assert got == pytest.approx(panel["auroc"], abs=5e-5)


def test_all_panels_with_published_scores_are_there():
    """Three sets by seven scores; of the other 42 published AUROCs no scores of texts are known."""
    assert len({(p["set"], p["score"]) for p in PANELS}) == 21
