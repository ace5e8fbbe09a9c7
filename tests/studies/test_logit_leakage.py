"""The study of logit leakage: a whole run on a small model, its verdicts, its parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nll.models
from nll.studies import Setting, run_study
from nll.studies._logit_leakage import _judge, _log_softmax, _top_alone
from nll.testing import ALPHABET, character_tokenizer
from nll.theory import hidden_dimension

H = 12


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(ALPHABET) + 1, hidden_size=H, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    hf = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim == 2:
                weight.mul_(20)
    tiny = nll.models.from_transformers(hf, character_tokenizer(), name="tiny")
    folder: Path = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nll.models, "load", lambda *_, **__: tiny)
        run_study("logit-leakage", Setting(), folder)
    assert (folder / "logit-leakage" / "figure.svg").stat().st_size > 1000
    return json.loads((folder / "logit-leakage" / "result.json").read_text())


def test_a_whole_run_finds_the_size_and_writes_it_down(result) -> None:
    assert result["verdict"] == "supported"
    at = {f["name"]: f["value"] for f in result["findings"]}
    assert at["hidden size, centred log-probabilities"] == at["true hidden size"] == H
    assert at["output projection, relative error"] < 1e-5
    own, tuned, other = (
        at[f"outside the image, rows of: {n}"] for n in ("own", "tuned copy", "another model")
    )
    assert own < 1e-5 < tuned < other
    base = {f["name"]: f["value"] for f in result["baselines"]}
    assert base["hidden size, log-probabilities not centred"] == H + 1
    assert base["numerical rank of log-probabilities with 4 decimals"] > H


def test_more_decimals_and_contexts_leak_more(result) -> None:
    tables = list(result["tables"].values())
    gaps = {r["answers"]: r["gap"] for r in tables[1]}
    assert gaps["4 decimals"] > gaps["3 decimals"] > gaps["2 decimals"] > gaps["1 decimal"]
    hides = {r["settings"]: r for r in tables[2]}
    assert hides["top 20"]["leaks"] == "nothing found"
    assert hides["all values"]["hidden size found"] == H
    assert hides["top 5, bias, 3 decimals"]["rows per 1,000 queries"] < 200
    by_rows = {r["contexts"]: r["hidden size found"] for r in tables[3]}
    assert by_rows[H // 2] == "not clear"
    assert by_rows[max(by_rows)] == H


def test_the_verdict_follows_the_falsifier() -> None:
    rng = np.random.default_rng(0)
    clear = hidden_dimension(rng.normal(size=(20, 8)) @ rng.normal(size=(8, 60)))
    assert _judge(clear, 8, 1e-6, 900)[0] == "supported"
    assert _judge(clear, 9, 1e-6, 900)[0] == "supported"
    assert _judge(clear, 10, 1e-6, 900)[0] == "not supported"
    assert _judge(clear, 8, 0.5, 900)[0] == "not supported"
    assert _judge(clear, 8, float("nan"), 900)[0] == "not supported"
    assert _judge(clear, 8, 1e-6, 10_000)[0] == "inconclusive"
    hidden = clear._replace(dimension=None)
    assert _judge(hidden, 8, 1e-6, 900)[0] == "not supported"


def test_parts() -> None:
    z = np.array([[1.0, 2.0, 3.0, 900.0]], np.float32)
    np.testing.assert_allclose(np.exp(_log_softmax(z)).sum(axis=1), 1)
    np.testing.assert_array_equal(
        _top_alone(np.array([[-3.0, -1.0, -2.0, -4.0]]), 2), [[0, -1, -2, 0]]
    )
