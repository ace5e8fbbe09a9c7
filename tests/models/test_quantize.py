"""int8: near the float32 numbers by as much as it declares, under an identity of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from nll import BadInput, Text
from nll.models import load
from nll.models._quantize import Int8Linear, declared
from nll.testing import character_tokenizer
from nll.trace import Provenance

from .tiny import hf_model

TEXTS = ["some text", "another text, a little longer than the first", "and a third one"]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    hf_model(request.param).save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


def logp(model, texts=TEXTS):
    return np.concatenate([t.logp for t in model.trace(texts)])


def test_the_numbers_are_near_and_the_error_is_declared(folder: Path) -> None:
    exact, rounded = load(folder), load(folder, dtype="int8")
    gap = np.abs(logp(exact) - logp(rounded))
    gap = gap[~np.isnan(gap)]
    assert 0 < gap.mean() < 0.1
    line = next(rounded.trace(["x y"])).provenance.declared_error
    found = re.fullmatch(
        r"int8: \|log p - float32\| mean (\S+), max (\S+) nats on a probe of \d+ tokens", line
    )
    assert 0 < float(found[1]) <= float(found[2])
    assert gap.mean() < 10 * float(found[1])


def test_the_identity_tells_them_apart(folder: Path) -> None:
    exact, rounded = load(folder).identity, load(folder, dtype="int8").identity
    assert rounded == load(folder, dtype="int8").identity
    assert rounded["dtype"] == "int8"
    assert {k for k in exact if exact[k] != rounded[k]} == {"dtype"}


def test_the_float32_layers_are_gone_and_the_head_is_not(folder: Path) -> None:
    model = load(folder, dtype="int8")
    layers = list(model.network.base.modules())
    assert any(isinstance(m, Int8Linear) for m in layers)
    assert not any(type(m) in (nn.Linear, Conv1D) for m in layers)
    assert torch.equal(model.network.head.weight, load(folder).network.head.weight)


def test_a_pair_shares_its_prompt_and_answers_are_made(folder: Path) -> None:
    model = load(folder, dtype="int8")
    pairs = [Text.pair("a common beginning ", end) for end in ("this", "that", "those")]
    together = [t.logp for t in model.trace(pairs)]
    alone = [next(model.trace([p])).logp for p in pairs]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)
    (answers,) = model.generate(["some"], max_new_tokens=4)
    assert 1 <= answers[0].n_scored <= 4


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 70, generator=draw)
    layer = Int8Linear(torch.randn(33, 70, generator=draw), None, torch.ones(70))
    with torch.inference_mode():
        alone, beside = layer(x[:1]), layer(torch.cat([x[:1], 1e4 * x[1:]]))[:1]
    torch.testing.assert_close(alone, beside, rtol=1e-6, atol=1e-6)


def test_a_product_is_near_with_large_features_and_at_the_ends_of_the_range() -> None:
    draw = torch.Generator().manual_seed(1)
    x, w = torch.randn(2, 20, 96, generator=draw), torch.randn(50, 96, generator=draw)
    x[..., 7] *= 1000
    bias = torch.randn(50, generator=draw)
    layer = Int8Linear(w, bias, x.abs().flatten(0, 1).amax(0))
    with torch.inference_mode():
        gap = layer(x) - nn.functional.linear(x, w, bias)
    assert gap.abs().mean() < 0.02 * (96**0.5)
    # every product at its largest: 16-bit sums of pairs must not overflow
    ones, flat = torch.ones(1, 96), torch.full((50, 96), 0.5)
    with torch.inference_mode():
        top = Int8Linear(flat, None, ones[0])(ones)
    torch.testing.assert_close(top, torch.full((1, 50), 48.0), rtol=1e-4, atol=0)


def test_zero_rows_are_zero_and_nan_stays_nan() -> None:
    layer = Int8Linear(torch.randn(5, 40), None, torch.ones(40))
    x = torch.zeros(2, 40)
    x[1, 39] = torch.nan
    with torch.inference_mode():
        y = layer(x)
    assert (y[0] == 0).all()
    assert y[1].isnan().all()


def test_low_precision_declares_an_error_and_float32_none(folder: Path) -> None:
    assert load(folder).provenance.declared_error is None
    said = load(folder, dtype="bfloat16").provenance
    assert said.declared_error.startswith("bfloat16: ")
    assert Provenance.from_json(said.to_json()) == said


def test_the_declared_line_says_mean_max_and_count() -> None:
    exact = np.array([np.nan, -1.0, -2.0], np.float32)
    assert declared("int8", exact, np.array([np.nan, -1.5, -2.25], np.float32)) == (
        "int8: |log p - float32| mean 0.38, max 0.5 nats on a probe of 2 tokens"
    )


def test_int8_is_for_the_cpu(folder: Path) -> None:
    with pytest.raises(BadInput, match="int8 is for the CPU"):
        load(folder, device="cuda:0", dtype="int8")
