"""The same numbers as the tools that people use today (RELIABILITY check 11); `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nll
from nll.models import converted_folder

pytestmark = [pytest.mark.slow, pytest.mark.model]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """32 real paragraphs, of 10 to 150 tokens."""
    whole = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "examples").glob("*.txt"))]
    parts = [" ".join(p.split()) for text in whole for p in text.split("\n") if len(p.split()) > 8]
    words = " ".join(parts).split()
    draw = np.random.default_rng(0)
    out = []
    for _ in range(32):
        start, length = draw.integers(0, len(words) - 120), draw.integers(8, 110)
        out.append(" ".join(words[start : start + length]))
    return out


def ours(texts: list[str], bos: str) -> list[nll.Trace]:
    return list(nll.load(bos=bos).trace(texts))


@pytest.mark.filterwarnings("default")
def test_check_11_minicons(texts: list[str]) -> None:
    scorer = pytest.importorskip("minicons.scorer")
    theirs = scorer.IncrementalLMScorer(str(converted_folder()), "cpu")
    found = theirs.token_score(texts, surprisal=True)
    for text, trace in zip(found, ours(texts, "none"), strict=True):
        values = [value for _, value in text][1:]  # its first token is 0.0: nothing predicted it
        np.testing.assert_allclose(trace.nll[1:], values, atol=1e-3)


@pytest.mark.filterwarnings("default")
def test_check_11_minicons_ranks(texts: list[str]) -> None:
    scorer = pytest.importorskip("minicons.scorer")
    theirs = scorer.IncrementalLMScorer(str(converted_folder()), "cpu")
    found = theirs.token_score(texts[:6], surprisal=True, rank=True)
    for text, trace in zip(found, ours(texts[:6], "none"), strict=True):
        ranks = np.array([rank for _, _, rank in text][1:])
        assert (ranks == trace.rank[1:]).mean() > 0.99  # its ties fall by sort order


@pytest.mark.filterwarnings("default")
def test_check_11_lm_eval(texts: list[str]) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance")
    theirs = huggingface.HFLM(pretrained=str(converted_folder()), device="cpu", batch_size=4)
    requests = [instance.Instance("loglikelihood_rolling", {}, (t,), 0) for t in texts]
    found = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    mine = [t.values("logp").sum() for t in ours(texts, "bos")]
    np.testing.assert_allclose(mine, found, atol=1e-3, rtol=1e-5)


@pytest.mark.filterwarnings("default")
def test_check_11_plain_transformers(texts: list[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted_folder())
    model = AutoModelForCausalLM.from_pretrained(converted_folder(), dtype=torch.float32)
    for text, trace in zip(texts, ours(texts, "none"), strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            loss = model(ids, labels=ids).loss.item()
        assert trace.values("logp").mean() == pytest.approx(-loss, abs=1e-4)
