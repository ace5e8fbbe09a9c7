import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nll import BadInput, Fields
from nll.kernels import (
    Head,
    block_rows_for,
    cross,
    hidden,
    moments,
    reducers_for,
    reference,
    token_stats,
    visit,
    visit_logits,
)  # fmt: skip

ALL = Fields(top_k=5, betas=(0.5, 2.0), boundary=True, kl_uniform=True)


def setting(N=150, d=12, V=700, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, d, generator=g).to(dtype)
    head = Head(torch.randn(V, d, generator=g).to(dtype), torch.randn(V, generator=g), 0.7, 9.0)
    return rows, torch.randint(0, V, (N,), generator=g), head


@pytest.mark.parametrize("V", [2, 7, 1000, 49152])
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_check_2_states_to_statistics_equal_the_float64_oracle(kernel, V, softcap):
    rows, y, head = setting(N=17, V=V)
    head = Head(head.weight, head.bias, 0.5, softcap)
    z = reference.head_logits(rows, head.weight, head.bias, 0.5, softcap)
    out = visit(rows, y, head, reducers_for(ALL, boundary_ids=[0, 1]), block_rows=5)
    truth = reference.stats(z, y, k=5, betas=ALL.betas, group=[0, 1])
    for name, tolerance in [("logp", 1e-5), ("lse", 1e-5), ("entropy", 1e-4), ("lse_at", 1e-4)]:
        np.testing.assert_allclose(out[name], truth[name], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(out["varentropy"], truth["varentropy"], rtol=1e-3, atol=1e-6)
    exact = reference.stats(head.logits(rows).numpy(), y, k=5)
    for name in ("rank", "ties", "top_ids"):
        np.testing.assert_array_equal(out[name], exact[name])


@pytest.mark.parametrize("block_rows", [1, 7, 64, 149, 1000])
def test_the_size_of_a_block_changes_nothing(kernel, block_rows):
    rows, y, head = setting()
    reducers = reducers_for(ALL, boundary_ids=[0, 1], with_reference=True)
    other = (rows[:, :5].flip(0), Head(torch.randn(700, 5)))
    whole = visit(rows, y, head, reducers, reference=other)
    cut = visit(rows, y, head, reducers, reference=other, block_rows=block_rows)
    assert whole.keys() == cut.keys()
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-5, atol=1e-5)


def test_blocks_are_about_equal():
    rows, y, head = setting(N=65)
    sizes = []

    def size(block):
        sizes.append(len(block.logits))
        return {}

    visit(rows, y, head, [size], block_rows=64)
    assert sizes == [32, 33]


class Largest(TorchDispatchMode):
    """The most numbers that any tensor held, leaving aside what was there before."""

    def __init__(self, known):
        super().__init__()
        self.known, self.numel, self.storages = known, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.data_ptr() not in self.known:
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
                if leaf.numel() >= 64 * 1000:
                    self.storages.add(leaf.untyped_storage().data_ptr())
        return out


@pytest.mark.parametrize("N", [640, 1280])
def test_check_24_no_tensor_spans_rows_and_vocabulary(kernel, N):
    V = 1000
    rows, y, head = setting(N=N, d=8, V=V)
    other = (rows, head)
    reducers = reducers_for(ALL, boundary_ids=range(300), with_reference=True)
    with Largest({rows.data_ptr(), head.weight.data_ptr()}) as seen:
        visit(rows, y, head, reducers, reference=other, block_rows=64)
    assert 64 * V <= seen.numel <= 64 * V + V
    if kernel == "c":  # one buffer a model; the twin and the cross sums add cache-sized scratch
        with Largest({rows.data_ptr(), head.weight.data_ptr()}) as seen:
            visit(rows, y, head, reducers_for(ALL, boundary_ids=range(300)), block_rows=64)
        assert len(seen.storages) == 1


def test_check_24_default_blocks_stay_within_the_stated_memory():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert block_rows_for(49152, cpu) * 49152 * 4 <= 32 << 20
    assert block_rows_for(49152, cpu, models=2) * 49152 * 4 * 2 <= 32 << 20
    assert block_rows_for(262144, gpu) * 262144 * 4 <= 1 << 29
    assert 64 <= block_rows_for(2, cpu) <= 256


def test_check_6_statistics_of_a_low_precision_model_are_those_of_float32_logits(kernel):
    rows, y, head = setting(N=40, d=64, V=3000, dtype=torch.bfloat16)
    seen = []

    def dtype(block):
        seen.append(block.logits.dtype)
        return {}

    out = visit(rows, y, head, [dtype, moments], block_rows=16)
    assert seen == [torch.float32] * 3
    z = reference.head_logits(rows.float(), head.weight.float(), head.bias, 0.7, 9.0)
    truth = reference.stats(z, y)
    np.testing.assert_allclose(out["logp"], truth["logp"], atol=1e-5)


def test_labels_shifted_by_one_are_seen(kernel):
    rows, y, head = setting()
    right = visit(rows, y, head, [moments])["logp"]
    wrong = visit(rows, y.roll(1), head, [moments])["logp"]
    assert (right - wrong).abs().max() > 1


def test_nothing_given_is_changed(kernel):
    rows, y, head = setting(N=10)
    z = head.logits(rows)
    kept = [x.clone() for x in (rows, y, head.weight, head.bias, z)]
    visit(rows, y, head, reducers_for(ALL, boundary_ids=[0]))
    visit_logits(z, y, [*reducers_for(ALL, boundary_ids=[0]), cross], reference=z)
    for before, after in zip(kept, (rows, y, head.weight, head.bias, z), strict=True):
        assert torch.equal(before, after)


def test_logits_and_states_give_the_same(kernel):
    rows, y, head = setting(N=70)
    reducers = reducers_for(ALL, boundary_ids=[0, 3])
    a, b = visit(rows, y, head, reducers), visit_logits(head.logits(rows), y, reducers)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-6)


def test_logits_of_other_layouts_and_dtypes_are_read(kernel):
    z = torch.randn(6, 40, dtype=torch.float64)
    y = torch.arange(6)
    truth = reference.stats(z.numpy(), y)
    for same in (z, z.T.contiguous().T, torch.stack([z, z], 1)[:, 0]):
        out = visit_logits(same, y, [moments])
        np.testing.assert_allclose(out["logp"], truth["logp"], atol=1e-6)


def test_no_rows_give_empty_columns(kernel):
    _, _, head = setting()
    out = visit(
        torch.empty(0, 12), torch.empty(0, dtype=torch.int64), head,
        [*reducers_for(ALL, boundary_ids=[0]), hidden],
    )  # fmt: skip
    assert out["logp"].shape == (0,)
    assert out["top_ids"].shape == (0, 5)
    assert out["hidden"].shape == (0, 12)


def test_a_reducer_as_wide_as_the_vocabulary_is_refused():
    rows, y, head = setting(N=5, V=2000)
    with pytest.raises(BadInput, match="never as wide as the vocabulary"):
        visit(rows, y, head, [lambda block: {"probabilities": block.logits.softmax(-1)}])
    with pytest.raises(BadInput, match=r"\(rows,\)"):
        visit(rows, y, head, [lambda block: {"one": torch.zeros(1)}])


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (torch.zeros(4, dtype=torch.int64), "targets must be"),
        (torch.zeros(5), "int64"),
        (torch.full((5,), 700), "below the vocabulary"),
        (torch.full((5,), -2), "span -2"),
    ],
)
def test_bad_targets_are_told(targets, says):
    rows, _, head = setting(N=5)
    with pytest.raises(BadInput, match=says):
        visit(rows, targets, head, [moments])
    with pytest.raises(BadInput, match=says):
        visit_logits(head.logits(rows), targets, [moments])


def test_token_stats_take_and_give_numpy(kernel):
    rows, y, head = setting(N=9)
    out = token_stats(
        rows.numpy(), head, [*y[:8].tolist(), -1], fields=Fields(top_k=3, hidden=True),
        reference=(rows.numpy(), head.weight.numpy()),
    )  # fmt: skip
    assert all(isinstance(value, np.ndarray) for value in out.values())
    assert math.isnan(out["logp"][8])
    assert out["rank"][8] == out["ties"][8] == -1
    np.testing.assert_array_equal(out["hidden"], rows.numpy())
    assert {"cross_mean", "cross_var", "top_ids"} <= out.keys()
