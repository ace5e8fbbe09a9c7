"""The embedded model without transformers says exactly what transformers says."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import nll
from nll.models._embedded import embedded_folder
from nll.models._light import open_light

pytestmark = pytest.mark.model
TEXTS = ["Hello  world, ünïcode \n\n 日本 🙂 <|im_end|> x", "a", " \t", "don't 12345"]


@pytest.fixture(scope="module")
def light():
    return open_light(embedded_folder())


@pytest.mark.parametrize("masked", [False, True])
def test_states_equal_those_of_transformers(light, masked: bool) -> None:
    model, _ = light
    ids = torch.randint(0, 49_152, (2, 40), generator=torch.Generator().manual_seed(0))
    given = {}
    if masked:
        hidden = torch.ones(40, 40).triu(1).bool()
        hidden[20:, :20] = True  # two texts in a row
        lowest = torch.finfo(torch.float32).min
        given["attention_mask"] = torch.zeros(2, 1, 40, 40).masked_fill(hidden, lowest)
        given["position_ids"] = torch.cat([torch.arange(20)] * 2).expand(2, 40)
    with torch.inference_mode():
        mine = model(ids, **given).logits
        theirs = model.whole(ids, use_cache=False, **given).logits
    torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=0)


def test_both_share_one_set_of_weights(light) -> None:
    model, _ = light
    own = {n: p.data_ptr() for n, p in model.whole.state_dict().items()}
    assert own == {n: p.data_ptr() for n, p in model.state_dict().items()}


def test_the_tokenizer_equals_that_of_transformers(light) -> None:
    _, mine = light
    theirs = mine.whole
    given = {"add_special_tokens": False, "return_offsets_mapping": True}
    found, wanted = mine(TEXTS, **given), theirs(TEXTS, **given)
    for key in ("input_ids", "offset_mapping", "attention_mask"):
        assert found[key] == wanted[key]
    for ids in found["input_ids"]:
        assert mine.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
    assert mine.get_vocab() == theirs.get_vocab()
    assert (mine.eos_token_id, mine.bos_token_id) == (theirs.eos_token_id, theirs.bos_token_id)
    assert mine.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert mine("don't") == dict(theirs("don't"))


def test_a_chat_is_written_by_transformers(light) -> None:
    _, mine = light
    assert "<|im_start|>user\nHi<|im_end|>" in mine.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )


def test_what_it_does_not_do_is_said(light) -> None:
    model, tokenizer = light
    with pytest.raises(ValueError, match="keeps no cache"):
        model(torch.tensor([[1]]), use_cache=True)
    with pytest.raises(ValueError, match="never cleans up"):
        tokenizer.decode([1], clean_up_tokenization_spaces=True)
    with pytest.raises(AttributeError):
        tokenizer.no_such_attribute  # noqa: B018


def test_a_text_is_traced_without_importing_transformers() -> None:
    code = (
        "import sys, nll; t = next(nll.load().trace(['The capital of France is Paris.'])); "
        "assert 'transformers' not in sys.modules; print(t.values('logp').sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole = nll.models.from_transformers(*(x.whole for x in open_light(embedded_folder())))
    (trace,) = whole.trace(["The capital of France is Paris."])
    np.testing.assert_allclose(float(done.stdout), trace.values("logp").sum(), atol=1e-4)
