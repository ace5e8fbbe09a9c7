"""The embedded 135M model: what it says is known (checks 3, 7, 11 and 24 on real weights)."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import nll
from nll.trace import Fields

pytestmark = pytest.mark.model
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(2)
    return nll.load()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [p.read_text(encoding="utf-8") for p in sorted((ROOT / "examples").glob("*.txt"))]


def test_paris_is_likely(model) -> None:
    text = "The quick brown fox jumps over the lazy dog. The capital of France is"
    paris, london = model.options(text, [" Paris", " London"])
    assert paris == pytest.approx(-0.12, abs=0.01)
    assert london < -4


def test_statistics_equal_a_float64_log_softmax(model, texts) -> None:
    """Every statistic on real text against the model's own logits in float64; ranks exactly."""
    trace = next(model.trace([texts[0][:1200]], fields=Fields(top_k=10, betas=(0.5,))))
    with torch.inference_mode():
        z = model.network.hf(torch.from_numpy(trace.ids).long()[None], use_cache=False).logits[0]
    z = z.double()[:-1]
    y = torch.from_numpy(trace.ids[1:]).long()[:, None]
    logp = torch.log_softmax(z, -1)
    p = logp.exp()
    entropy = -(p * logp).sum(-1)
    own = logp.gather(1, y)[:, 0]
    np.testing.assert_allclose(trace.logp[1:], own.numpy(), atol=1e-4)
    np.testing.assert_allclose(trace.entropy[1:], entropy.numpy(), atol=1e-4)
    var = (p * logp**2).sum(-1) - entropy**2
    np.testing.assert_allclose(trace.varentropy[1:], var.numpy(), rtol=1e-3, atol=1e-4)
    lse = torch.logsumexp(0.5 * logp, -1)
    np.testing.assert_allclose(trace.lse_at[1:, 0], lse.numpy(), atol=1e-4)
    rank = 1 + (logp > own[:, None]).sum(-1).numpy()
    gap = (logp - own[:, None]).abs()
    gap.scatter_(1, y, math.inf)
    clear = (gap.min(-1).values > 1e-4).numpy()
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(trace.rank[1:][clear], rank[clear])
    top = logp.topk(10, -1)
    np.testing.assert_allclose(trace.top_logp[1:], top.values.numpy(), atol=1e-4)
    assert (trace.top_ids[1:] == top.indices.numpy()).mean() > 0.99


def test_check_03_real_numbers_do_not_depend_on_the_batch(model, texts) -> None:
    pieces = [t[:n] for t, n in zip(texts, (200, 420, 90, 333, 150, 260), strict=False)]
    pieces += [pieces[0] + " And on.", pieces[0] + " Or not."]
    together = list(model.trace(pieces))
    for piece, trace in zip(pieces, together, strict=True):
        alone = next(model.trace([piece]))
        np.testing.assert_allclose(trace.logp, alone.logp, atol=5e-5)


def test_check_07_laws_hold_on_real_text(model, texts) -> None:
    fields = Fields(top_k=10, betas=(0.5, 1.0, 2.0), boundary=True, kl_uniform=True)
    trace = next(model.trace([texts[0][:800]], fields=fields))
    s = slice(1, None)
    size = trace.provenance.vocab_size
    assert (trace.logp[s] <= 0).all()
    assert ((trace.entropy[s] >= 0) & (trace.entropy[s] <= math.log(size))).all()
    assert (trace.varentropy[s] >= 0).all()
    assert ((trace.rank[s] >= 1) & (trace.rank[s] <= size)).all()
    np.testing.assert_array_equal(trace.rank[s] == 1, trace.top_ids[s, 0] == trace.ids[s])
    np.testing.assert_allclose(trace.lse(1.0), 0, atol=1e-6)
    assert (trace.boundary[s] <= 1e-6).all()
    assert (trace.kl_uniform[s] >= 0).all()
    assert (np.diff(trace.top_logp[s], axis=1) <= 0).all()


def test_chat_answers_are_scored_with_their_end(model) -> None:
    chat = [
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "4"},
    ]
    trace = next(model.trace([chat]))
    assert trace.scored_text == "4<|im_end|>"
    assert trace.n_scored == 2


def test_spans_tile_the_text_whatever_it_holds(model) -> None:
    text = "  Naïve 👩‍👩‍👧 العربية\u202e\x07 </script>\n\n\tend "
    trace = next(model.trace([text]))
    assert trace.spans[0, 0] == 0
    assert trace.spans[-1, 1] == len(text)
    assert (trace.spans[1:, 0] <= trace.spans[:-1, 1]).all()
    whole = {i: trace.token_text(i) for i in range(len(trace))}
    assert all(whole.values())


def test_greedy_answers_are_greedy_and_rescore_to_the_same(model) -> None:
    ((answer,),) = model.generate(["The capital of France is"], max_new_tokens=6)
    assert answer.text.startswith("The capital of France is Paris")
    assert (answer.completion.rank == 1).all()
    prompt = answer.text[: answer.spans[answer.prompt_tokens, 0]]
    again = next(model.trace([(prompt, answer.text[len(prompt) :])]))
    np.testing.assert_allclose(again.completion.logp, answer.completion.logp, atol=1e-4)


def _peak(work) -> float:
    """MiB above the resident memory at the start, sampled every 5 ms."""
    process = psutil.Process()
    start = process.memory_info().rss
    seen, done = [start], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(process.memory_info().rss)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return (max(seen) - start) / 2**20


def test_check_24_memory_is_bounded_and_no_vocabulary_sized_table_exists(model) -> None:
    """No tensor of [tokens x vocabulary] is ever made while tracing."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple | list) else [out]:
                if isinstance(value, torch.Tensor) and value.dim() >= 2:
                    rows, width = value.flatten(0, -2).shape
                    own = value.untyped_storage().data_ptr() != weight
                    if width == 49_152 and own and value.is_floating_point():
                        largest = max(largest, rows)
            return out

    weight = model.network.head.weight.untyped_storage().data_ptr()
    text = "word " * 700
    with Watch():
        trace = next(model.trace([text]))
    assert len(trace) > 600
    assert 0 < largest <= 256


@pytest.mark.slow
def test_check_24_a_long_text_costs_little_more_than_its_bare_forward(model) -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, 40_000, 4096))
    text = model.tokenizer.hf.decode(ids)
    count = len(next(model.trace([text[:40]])).ids)
    assert count > 0

    def bare() -> None:
        with torch.inference_mode():
            model.network.base(ids[None], use_cache=False)

    def traced() -> None:
        next(model.trace([text]))

    bare()
    first = _peak(bare)
    traced()
    assert _peak(traced) <= first + 300
