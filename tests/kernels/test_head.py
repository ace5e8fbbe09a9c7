import numpy as np
import pytest
import torch

from nll import BadInput
from nll.kernels import Head, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (2.0, 5.0)])
def test_logits_equal_the_float64_formula(dtype, keep, bias, scale, softcap):
    torch.manual_seed(0)
    rows, weight, b = torch.randn(5, 16).to(dtype), torch.randn(37, 16).to(dtype), torch.randn(37)
    head = Head(weight, b if bias else None, scale, softcap, keep_float32=keep)
    truth = reference.head_logits(
        rows.double().numpy(), weight.double().numpy(), b.numpy() if bias else None, scale, softcap
    )
    np.testing.assert_allclose(head.logits(rows).numpy(), truth, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_check_6_logits_are_float32_for_a_low_precision_model(dtype):
    torch.manual_seed(1)
    rows, weight = torch.randn(4, 64).to(dtype), torch.randn(100, 64).to(dtype)
    truth = rows.double() @ weight.double().T
    ours, plain = Head(weight).logits(rows), rows @ weight.T
    assert ours.dtype == torch.float32
    assert (ours - truth).abs().max() < 1e-5
    assert (plain - truth).abs().max() > 1e-3  # what the test would see without the rule


def test_check_6_the_users_precision_settings_do_not_reach_the_head():
    torch.manual_seed(2)
    rows, head = torch.randn(4, 64), Head(torch.randn(100, 64))
    truth = head.logits(rows)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(head.logits(rows), truth)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_low_precision_weight_is_converted_once():
    head = Head(torch.randn(10, 4).bfloat16())
    assert head._weight32 is head._weight32
    assert Head(torch.randn(10, 4).bfloat16(), keep_float32=False)._weight32 is None


def test_slices_of_a_large_weight_join_up(monkeypatch):
    monkeypatch.setattr("nll.kernels._head._SLICE_BYTES", 4 * 8 * 3)
    weight, rows = torch.randn(10, 8).bfloat16(), torch.randn(2, 8)
    sliced, whole = Head(weight, keep_float32=False), Head(weight, keep_float32=True)
    torch.testing.assert_close(sliced.logits(rows), whole.logits(rows))


@pytest.mark.parametrize("V", [1, 1023, 1024, 3000])
def test_one_thread_multiplies_slice_by_slice_and_several_at_once_alike(V):
    before, rows, head = torch.get_num_threads(), torch.randn(3, 8), Head(torch.randn(V, 8))
    try:
        torch.set_num_threads(1)
        one = head.logits(rows)
        torch.set_num_threads(2)
        torch.testing.assert_close(one, head.logits(rows))
    finally:
        torch.set_num_threads(before)


def test_logits_go_into_the_given_buffer_and_leave_weights_and_rows_alone():
    rows, weight = torch.randn(3, 8), torch.randn(11, 8, requires_grad=True)
    before, buffer = weight.detach().clone(), torch.empty(3, 11)
    out = Head(weight, torch.ones(11), 3.0, 10.0).logits(rows, out=buffer)
    assert out.data_ptr() == buffer.data_ptr()
    assert not out.requires_grad
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Head(torch.zeros(3)), r"\(V, d\)"),
        (lambda: Head(torch.zeros(3, 2, dtype=torch.int64)), "float"),
        (lambda: Head(torch.zeros(3, 2), torch.zeros(2)), "bias"),
        (lambda: Head(torch.zeros(3, 2), softcap=0.0), "softcap"),
        (lambda: Head(torch.zeros(3, 2)).logits(torch.zeros(5, 3)), "hidden states"),
        (lambda: Head(torch.zeros(3, 2)).logits(torch.zeros(5, 2), torch.zeros(6, 3)), "buffer"),
    ],
)
def test_shapes_that_disagree_are_told(make, says):
    with pytest.raises(BadInput, match=says):
        make()
