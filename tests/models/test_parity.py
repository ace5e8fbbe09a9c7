"""Numbers do not depend on how they were computed (RELIABILITY checks 3, 4, 5 and 6)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from nll.models import from_transformers
from nll.models._layout import Segment, plan
from nll.testing import ALPHABET, character_tokenizer
from nll.trace import Fields

from .tiny import CONFIGS, hf_model, tiny

EXACT = 5e-5


def some_texts(seed: int = 0, count: int = 14, longest: int = 60) -> list[str]:
    draw = np.random.default_rng(seed)
    letters = list(ALPHABET[2:])
    texts = ["".join(draw.choice(letters, n)) for n in draw.integers(1, longest, count)]
    shared = "a header that several texts begin with, "
    return texts + [shared + t for t in texts[:4]] + [texts[0]]


def plain_logp(kind: str, text: str, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """One text alone through the model's own forward, in float64 from its logits on."""
    hf = hf_model(kind, dtype)
    ids = torch.tensor([character_tokenizer()(text, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        logits = hf(ids, use_cache=False).logits[0].double()
    logp = torch.log_softmax(logits, -1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    return np.concatenate([[np.nan], logp.numpy()])


@pytest.mark.parametrize("kind", CONFIGS)
def test_check_03_05_every_architecture_equals_its_plain_forward(kind: str) -> None:
    texts = some_texts()
    for model in (tiny(kind), tiny(kind, pack=False), tiny(kind, batch_tokens=48)):
        for text, trace in zip(texts, model.trace(texts), strict=True):
            np.testing.assert_allclose(trace.logp, plain_logp(kind, text), atol=EXACT)


@pytest.mark.parametrize(
    ("kind", "packs"),
    [
        ("llama", True),
        ("gpt2", True),
        ("gemma2", True),
        ("qwen3", True),
        ("mamba", False),
        ("roberta", False),
    ],
)
def test_packing_is_used_where_it_was_proved_and_only_there(kind: str, packs: bool) -> None:
    assert (tiny(kind).network.pack_limit > 0) == packs


def test_a_head_that_is_not_a_plain_map_is_noticed_and_said() -> None:
    with pytest.warns(UserWarning, match="the model's own logits are used"):
        model = from_transformers(hf_model("roberta"), character_tokenizer(), name="roberta")
    assert model.network.head is None


def test_sliding_windows_bound_what_may_be_packed() -> None:
    assert tiny("mistral").network.pack_limit == 16
    assert tiny("gemma2").network.pack_limit == 24


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_check_03_order_and_batch_size_move_nothing(kind: str) -> None:
    texts = some_texts(1)
    reference = [next(tiny(kind).trace([t])) for t in texts]
    order = np.random.default_rng(2).permutation(len(texts))
    for batch_tokens in (1, 17, 64, 4096):
        model = tiny(kind, batch_tokens=batch_tokens)
        for i, trace in zip(order, model.trace([texts[i] for i in order]), strict=True):
            alone = reference[i]
            for name in ("logp", "entropy", "varentropy"):
                np.testing.assert_allclose(
                    getattr(trace, name), getattr(alone, name), atol=2e-5, rtol=1e-5
                )
            gap = trace.rank != alone.rank
            assert not gap.any() or (np.abs(np.diff(alone.top_logp[gap])) < 1e-4).any(axis=1).all()


def test_check_04_neighbours_in_a_pack_are_not_read() -> None:
    model = tiny("llama", batch_tokens=512)
    text = "the text whose numbers must not move"
    before = next(model.trace([text, "one neighbour", "another"]))
    after = next(model.trace([text, "zzzzzzzzzzzzz", "???,,,.", "and some more"]))
    np.testing.assert_allclose(before.logp, after.logp, atol=2e-5)


def test_check_04_a_model_that_reads_its_neighbours_is_not_packed() -> None:
    """The self-check has teeth: a mask that is ignored is noticed, and packing is off."""
    hf = hf_model("llama")
    inner = type(hf.base_model).forward

    def leaky(self, *args, attention_mask=None, **kwargs):  # type: ignore[no-untyped-def]
        return inner(self, *args, attention_mask=None, **kwargs | {"position_ids": None})

    hf.base_model.forward = leaky.__get__(hf.base_model)
    # the signature must still offer positions, as a real leaking model's would
    hf.base_model.forward.__func__.__signature__ = __import__("inspect").signature(inner)
    try:
        model = from_transformers(hf, character_tokenizer(), name="leaky")
    finally:
        del hf.base_model.forward
    assert model.network.pack_limit == 0


def test_check_05_absolute_positions_matter_and_are_given() -> None:
    """Packing without restarting positions changes a GPT-2 by far more than the tolerance."""
    model = tiny("gpt2")
    ids = [np.arange(2, 14), np.arange(5, 20)]
    (batch,) = plan([Segment(i, s, 1, 0) for i, s in enumerate(ids)], budget=512, pack=True)
    rows = torch.from_numpy(batch.rows)
    right = model.network.states(batch, rows)
    running = np.arange(batch.ids.shape[1])[None].repeat(len(batch.ids), 0)
    wrong = model.network.states(dataclasses.replace(batch, positions=running), rows)
    assert float((right - wrong).abs().max()) > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_check_06_low_precision_is_no_worse_than_the_plain_path(dtype: torch.dtype) -> None:
    texts = some_texts(3)
    ours = list(tiny("llama", dtype).trace(texts))
    worst_ours = worst_plain = 0.0
    for text, trace in zip(texts, ours, strict=True):
        truth = plain_logp("llama", text)
        plain = plain_logp("llama", text, dtype)
        assert trace.logp.dtype == np.float32
        if len(truth) > 1:
            worst_ours = max(worst_ours, np.nanmax(np.abs(trace.logp - truth)))
            worst_plain = max(worst_plain, np.nanmax(np.abs(plain - truth)))
    assert worst_ours <= worst_plain + 1e-3


def test_windows_score_every_token_once_with_the_stated_context() -> None:
    model = tiny("llama", batch_tokens=256)
    model.network.context = 40
    text = "".join(np.random.default_rng(5).choice(list(ALPHABET[2:]), 150))
    trace = next(model.trace([text], stride=12))
    assert np.isnan(trace.logp[0])
    assert not np.isnan(trace.logp[1:]).any()
    assert trace.provenance.window == 40
    for t in (1, 39, 40, 51, 52, 149):
        seen = int(trace.left_context[t])
        assert seen >= min(t, 40 - 12)
        alone = plain_logp("llama", text[t - seen : t + 1])[-1]
        assert abs(trace.logp[t] - alone) < EXACT


def test_windows_with_a_bos_state_their_context() -> None:
    model = tiny("llama", bos="bos")
    model.network.context = 20
    text = "".join(np.random.default_rng(6).choice(list(ALPHABET[2:]), 70))
    trace = next(model.trace([text], stride=7))
    assert not np.isnan(trace.logp).any()
    for t in (0, 18, 19, 20, 30, 69):
        seen = int(trace.left_context[t])
        start = ALPHABET[1] if t == seen else ""
        alone = plain_logp("llama", start + text[t - seen : t + 1])[-1]
        assert abs(trace.logp[t] - alone) < EXACT


def test_a_window_option_out_of_range_is_refused() -> None:
    from nll import BadInput

    with pytest.raises(BadInput, match="stride must be between"):
        list(tiny("llama").trace(["abc"], stride=0))


def test_two_models_share_one_walk_and_equal_a_plain_computation() -> None:
    performer, observer = tiny("llama"), tiny("qwen3")
    text = "cross moments of two models"
    trace = next(performer.trace([text], reference=observer))
    ids = torch.tensor([character_tokenizer()(text)["input_ids"]])
    with torch.inference_mode():
        logp = torch.log_softmax(hf_model("llama")(ids).logits[0].double(), -1)
        q = torch.softmax(hf_model("qwen3")(ids).logits[0].double(), -1)
    mean = (q * logp).sum(-1)[:-1].numpy()
    var = (q * logp**2).sum(-1)[:-1].numpy() - mean**2
    np.testing.assert_allclose(trace.cross_mean[1:], mean, atol=1e-4)
    np.testing.assert_allclose(trace.cross_var[1:], var, atol=1e-3)
    assert trace.provenance.reference == "tiny-qwen3"


def test_a_reference_over_another_vocabulary_is_refused() -> None:
    from nll import BadModel
    from nll.testing import table_model

    other = table_model(alphabet="\x03\x02abc")
    with pytest.raises(BadModel, match="do not share a vocabulary"):
        list(tiny("llama").trace(["abc"], reference=other))


def test_hidden_states_are_those_of_the_prediction() -> None:
    model = tiny("llama")
    trace = next(model.trace(["hidden states"], fields=Fields(hidden=True)))
    logits = model.network.head.logits(torch.from_numpy(trace.hidden[1:]))
    again = torch.log_softmax(logits, -1).gather(1, torch.from_numpy(trace.ids[1:]).long()[:, None])
    np.testing.assert_allclose(trace.logp[1:], again[:, 0].numpy(), atol=1e-5)
    assert np.isnan(trace.hidden[0]).all()
