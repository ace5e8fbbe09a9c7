"""Attention weights: what they are, whose they are, and the model stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

import nll
from nll.models import attention
from nll.models._attention import eager
from nll.testing import random_model, table_model
from tests.models.tiny import hf_model, tiny


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "mistral"])
def test_rows_are_causal_shares(kind):
    seen = attention(tiny(kind), "is it so?")
    layers, heads, n, _ = seen.weights.shape
    assert (layers, heads, n) == (2, 4, 9)
    np.testing.assert_allclose(seen.weights.sum(axis=-1), 1, atol=1e-5)
    assert np.triu(seen.weights, 1).max() == 0
    assert [seen.text[a:b] for a, b in seen.spans] == list("is it so?")


def test_the_model_is_afterwards_as_it_was():
    model = tiny("llama")
    before = hf_model("llama").config._attn_implementation
    (first,) = model.trace(["is it so?"])
    attention(model, "is it so?")
    (after,) = model.trace(["is it so?"])
    assert hf_model("llama").config._attn_implementation == before != "eager"
    np.testing.assert_array_equal(first.logp, after.logp)
    with pytest.raises(RuntimeError, match="inside"), eager(hf_model("llama")):
        raise RuntimeError("inside")
    assert hf_model("llama").config._attn_implementation == before


def test_an_earlier_row_knows_nothing_of_later_tokens():
    model = random_model(seed=3)
    short, long = attention(model, "is it"), attention(model, "is it so?")
    np.testing.assert_allclose(short.weights, long.weights[:, :, :5, :5], atol=1e-6)


def test_of_a_pair_only_the_prompt_is_read_and_a_bos_has_a_row():
    model = random_model(seed=3)
    pair = attention(model, nll.Text.pair("is it", " so?"))
    assert pair.text == "is it"
    np.testing.assert_allclose(pair.weights, attention(model, "is it").weights, atol=1e-6)
    with_bos = tiny("llama", bos="bos")
    assert attention(with_bos, "is it").spans.tolist()[:2] == [[0, 0], [0, 1]]


def test_refusals():
    with pytest.raises(nll.BadInput, match="local model only"):
        attention(object(), "a")
    with pytest.raises(nll.BadText):
        attention(random_model(), "")
    with pytest.raises(nll.BadInput, match="reads 1 to 8"):
        attention(random_model(context=8), "longer than that")
    with pytest.raises(nll.BadModel, match="attention"):
        attention(table_model(), "no layers at all")
    with pytest.raises(nll.BadModel, match="attention"):
        attention(tiny("mamba"), "recurrent")
