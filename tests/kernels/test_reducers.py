"""Every statistic against the float64 oracle, on both implementations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nll import BadInput, Fields
from nll.kernels import (
    candidates,
    cross,
    group_mass,
    hidden,
    kl_uniform,
    lse_grid,
    moments,
    reducers_for,
    reference,
    top_k,
    visit_logits,
)  # fmt: skip

BETAS = (0.0, 0.25, 0.5, 1.0, 2.0, 7.5)
REAL = ("logp", "entropy", "varentropy", "lse", "kl_uniform")


def logits_of(kind, rows, V, rng):
    z = rng.normal(size=(rows, V)).astype(np.float32)
    if kind == "spread":
        z *= 4
    elif kind == "sure":
        z[np.arange(rows), rng.integers(V, size=rows)] += 30
    elif kind == "extreme":
        z = rng.choice([-1e4, 1e4, 0, 9999], size=(rows, V)).astype(np.float32)
    elif kind == "constant":
        z[:] = rng.normal(size=(rows, 1))
    elif kind == "masked":
        z[rng.random(z.shape) < 0.4] = -np.inf
        z[:, V // 2] = 1.5
    elif kind == "offset":
        z += 1e4
    elif kind == "rounded":
        z = np.round(z * 2)
    return z


def measured(z, y, **options):
    k, betas, group = options.get("k", 3), options.get("betas", BETAS), options.get("group", [0, 1])
    out = visit_logits(
        torch.from_numpy(z),
        torch.as_tensor(y),
        [moments, kl_uniform, top_k(k), lse_grid(betas), group_mass(group, betas=betas)],
    )
    return {key: value.numpy() for key, value in out.items()}


def close(ours, truth, tolerance):
    np.testing.assert_allclose(ours, truth, rtol=tolerance, atol=tolerance)


KINDS = ["plain", "spread", "sure", "extreme", "constant", "masked", "offset", "rounded"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("V", "rows"), [(2, 5), (7, 13), (1000, 33), (49152, 3)])
def test_check_2_statistics_equal_the_float64_oracle(kernel, kind, V, rows):
    rng = np.random.default_rng(V)
    z = logits_of(kind, rows, V, rng)
    y = rng.integers(V, size=rows)
    group = [0, V - 1] if V < 100 else rng.choice(V, V // 2, replace=False).tolist()
    ours = measured(z, y, k=min(10, V), group=group)
    truth = reference.stats(z, y, k=min(10, V), betas=BETAS, group=group)
    for name in (*REAL, "lse_at", "boundary", "boundary_at", "top_logp"):
        assert not np.isnan(ours[name]).any(), name
        close(ours[name], truth[name], 2e-6)
    for name in ("rank", "ties", "top_ids"):
        assert ours[name].dtype == np.int32
        np.testing.assert_array_equal(ours[name], truth[name], name)


def test_a_confident_row_keeps_the_digits_of_its_small_entropy(kernel):
    z = np.zeros((1, 300), np.float32)
    z[0, 7] = 40.0
    ours, truth = measured(z, [7]), reference.stats(z, [7])
    # exact, since the float64 oracle itself loses digits near probability 1
    tail = 299 * math.exp(-40)
    assert ours["entropy"][0] == pytest.approx(tail * 41, rel=1e-5)
    assert ours["logp"][0] == pytest.approx(-tail, rel=1e-5)
    assert ours["varentropy"][0] == pytest.approx(truth["varentropy"][0], rel=1e-5)


def test_both_implementations_agree(monkeypatch):
    rng = np.random.default_rng(0)
    z = logits_of("rounded", 67, 5003, rng)
    z[rng.random(z.shape) < 0.1] = -np.inf
    z[:, 3] = 4
    y = rng.integers(5003, size=67)
    found = {}
    for choice in ("auto", "torch"):
        monkeypatch.setenv("NLL_ROW_KERNEL", choice)
        found[choice] = measured(z, y, k=64)
    for name, value in found["auto"].items():
        if value.dtype == np.int32:
            np.testing.assert_array_equal(value, found["torch"][name], name)
        else:
            np.testing.assert_allclose(value, found["torch"][name], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("k", [65, 200])
def test_more_alternatives_than_the_compiled_kernel_holds(kernel, k):
    z = logits_of("rounded", 5, 700, np.random.default_rng(1))
    ours = measured(z, [0, 1, 2, 3, 4], k=k)
    truth = reference.stats(z, [0, 1, 2, 3, 4], k=k)
    np.testing.assert_array_equal(ours["top_ids"], truth["top_ids"])


def test_fewer_tokens_than_alternatives(kernel):
    ours = measured(np.array([[0, 1, -np.inf]], np.float32), [0], k=10)
    assert ours["top_ids"].tolist() == [[1, 0, 2]]
    assert ours["top_logp"][0, 2] == -np.inf


ROWS = st.integers(2, 40).flatmap(
    lambda V: st.tuples(
        st.lists(
            st.one_of(
                st.floats(-1e4, 1e4, width=32),
                st.sampled_from([0.0, 1.0, -1.0, -math.inf]),
                st.floats(-3, 3, width=32),
            ),
            min_size=V,
            max_size=V,
        ).filter(lambda row: max(row) > -math.inf),
        st.integers(0, V - 1),
    )
)


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ROWS)
def test_check_7_laws(kernel, row):
    z, y = np.array([row[0]], np.float32), row[1]
    V = z.shape[1]
    out = {
        k: v[0] for k, v in measured(z, [y], k=V, betas=(1.0, 0.0), group=list(range(V))).items()
    }
    assert out["logp"] <= 0
    assert 0 <= out["entropy"].astype(float) <= math.log(V)
    assert 0 <= out["varentropy"] < math.inf
    assert out["kl_uniform"] >= 0
    assert 1 <= out["rank"] <= V
    assert 0 <= out["ties"] <= V - out["rank"]
    assert (out["rank"] == 1) == (z[0, y] == z.max())
    assert abs(np.exp(out["top_logp"].astype(float)).sum() - 1) < 1e-5
    assert (out["top_logp"][1:] <= out["top_logp"][:-1]).all()
    assert abs(out["lse_at"][0]) < 1e-5  # temperature 1 changes nothing
    assert out["lse_at"][1] == pytest.approx(math.log(np.isfinite(z).sum()), abs=1e-6)
    assert abs(out["boundary"]) < 1e-5
    assert np.abs(out["boundary_at"]).max() < 1e-5


def test_check_9_constant_logits_are_all_ties(kernel):
    out = measured(np.full((2, 1000), 3.25, np.float32), [0, 999], k=4)
    assert out["rank"].tolist() == [1, 1]
    assert out["ties"].tolist() == [999, 999]
    assert out["top_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert out["varentropy"].tolist() == [0, 0]
    close(out["entropy"], math.log(1000), 1e-6)


def test_check_9_duplicated_columns_tie(kernel):
    z = np.random.default_rng(2).normal(size=(9, 500)).astype(np.float32)
    twice = np.concatenate([z, z], axis=1)
    y = np.arange(9) * 50
    once, out = measured(z, y), measured(twice, y, k=6)
    assert (out["ties"] == 1).all()
    np.testing.assert_array_equal(out["rank"] - 1, 2 * (once["rank"] - 1))
    np.testing.assert_array_equal(out["top_ids"][:, ::2], once["top_ids"])
    np.testing.assert_array_equal(out["top_ids"][:, 1::2], once["top_ids"] + 500)
    close(out["logp"], once["logp"] - math.log(2), 1e-6)


def test_check_9_the_order_of_the_vocabulary_does_not_matter(kernel):
    rng = np.random.default_rng(3)
    z, y = logits_of("rounded", 11, 3001, rng), rng.integers(3001, size=11)
    order = rng.permutation(3001)
    out, moved = measured(z, y), measured(z[:, order], np.argsort(order)[y])
    for name in (*REAL, "lse_at", "top_logp"):
        close(moved[name], out[name], 3e-6)
    for name in ("rank", "ties"):
        np.testing.assert_array_equal(moved[name], out[name])


def test_an_impossible_label_has_log_probability_minus_infinity(kernel):
    z = np.array([[0, -np.inf, 1, -np.inf, -np.inf]], np.float32)
    out = measured(z, [1])
    assert out["logp"][0] == -np.inf
    assert out["rank"][0] == 3
    assert out["ties"][0] == 2


def test_a_row_without_a_label_keeps_what_needs_none(kernel):
    z = logits_of("plain", 3, 50, np.random.default_rng(4))
    out, truth = measured(z, [-1, 4, -1]), reference.stats(z, [-1, 4, -1], group=[0, 1])
    assert np.isnan(out["logp"]).tolist() == [True, False, True]
    assert out["rank"].tolist() == truth["rank"].tolist()
    assert out["ties"].tolist() == truth["ties"].tolist()
    close(out["entropy"], truth["entropy"], 1e-6)
    close(out["boundary"], truth["boundary"], 1e-6)


@pytest.mark.parametrize("row", [[np.nan, 0, 1], [np.inf, 0, 1], [-np.inf] * 3])
def test_rows_without_a_distribution_are_undefined_not_zero(kernel, row):
    z = np.stack([np.array(row, np.float32), np.zeros(3, np.float32)])
    out = measured(z, [1, 1])
    for name, value in out.items():
        missing = value[0] == -1 if value.dtype == np.int32 else np.isnan(value[0])
        assert np.all(missing), name
        assert not np.isnan(value[1]).any(), name


@pytest.mark.parametrize(("V", "V2"), [(300, 300), (300, 290), (290, 300)])
def test_cross_statistics_equal_the_oracle(V, V2):
    rng = np.random.default_rng(5)
    z, q = logits_of("spread", 21, V, rng), logits_of("spread", 21, V2, rng)
    out = visit_logits(
        torch.from_numpy(z), torch.zeros(21, dtype=torch.int64), [cross],
        reference=torch.from_numpy(q), block_rows=8,
    )  # fmt: skip
    truth = reference.stats(z, [0] * 21, reference=q)
    close(out["cross_mean"].numpy(), truth["cross_mean"], 2e-6)
    close(out["cross_var"].numpy(), truth["cross_var"], 2e-5)


def test_cross_statistics_with_itself_are_the_moments(kernel):
    z = torch.from_numpy(logits_of("masked", 9, 400, np.random.default_rng(6)))
    out = visit_logits(z, torch.zeros(9, dtype=torch.int64), [moments, cross], reference=z)
    close(out["cross_mean"], -out["entropy"], 1e-5)
    close(out["cross_var"], out["varentropy"], 1e-5)


def test_cross_statistics_where_the_model_excludes_what_the_reference_allows():
    z, q = torch.tensor([[0.0, -math.inf]]), torch.zeros(1, 2)
    out = visit_logits(z, torch.tensor([0]), [cross], reference=q)
    assert out["cross_mean"].item() == -math.inf
    assert out["cross_var"].item() == math.inf


def test_candidates_are_log_probabilities_in_the_order_given(kernel):
    z = logits_of("spread", 4, 99, np.random.default_rng(7))
    out = visit_logits(torch.from_numpy(z), torch.zeros(4, dtype=torch.int64), [candidates([5, 0])])
    close(out["candidates"].numpy(), reference.log_softmax(z)[:, [5, 0]], 2e-6)


def test_the_mass_of_an_unlikely_group_does_not_underflow(kernel):
    z = np.zeros((1, 10), np.float32)
    z[0, :2] = -500
    assert measured(z, [5])["boundary"][0] == pytest.approx(math.log(2) - 500 - math.log(8))


def test_oracle_min_k_prob_sheet():
    z = [[2, 1, 0, -1], [0.5, 0.5, 0.5, 0.7], [3, -2, 0, 1], [0, 4, -1, 0.5], [1, 2, 3, 4]]
    out = measured(np.array(z, np.float32), [0, 3, 1, 1, 0])
    logp = [-0.440189699, -1.240167480, -5.175515363, -0.053778624, -3.440189699]
    mean = [-0.947536964, -1.382300329, -0.556198826, -0.255288160, -0.947536964]
    var = [0.616586275, 0.008224823, 0.826564279, 0.747279319, 0.616586275]
    curve = [0.646112878, 1.567224381, -5.080885484, 0.233106359, -3.174423402]
    close(out["logp"], logp, 1e-6)
    close(-out["entropy"], mean, 1e-6)
    close(out["varentropy"], var, 1e-6)
    close((out["logp"] + out["entropy"]) / np.sqrt(out["varentropy"]), curve, 5e-6)


def test_oracle_detect_llm_sheet():
    z = [[1, 0, 2, -1, 0.5], [0, 0, 3, 0, -2], [2, 1.5, 1, 0.5, 0], [-1, 4, 0, 0, 1]]
    q = [
        [0.8, 0.1, 1.5, -0.5, 0.7],
        [0.2, -0.1, 2, 0.3, -1],
        [1, 1.5, 1.2, 0.5, 0.4],
        [-0.5, 3, 0.5, 0.2, 0.8],
    ]
    out = visit_logits(
        torch.tensor(z), torch.tensor([0, 2, 4, 3]), [moments, cross], reference=torch.tensor(q)
    )
    out = {k: v.double().numpy() for k, v in out.items()}
    close(out["logp"], [-1.574437940, -0.145051538, -2.847101646, -4.089069194], 1e-6)
    close(out["entropy"], [1.206489208, 0.561774749, 1.394284963, 0.390559523], 1e-6)
    close(out["varentropy"], [0.647363061, 1.134793137, 0.370534472, 1.009250689], 1e-6)
    assert out["rank"].tolist() == [2, 1, 5, 3]
    curve = (out["logp"] + out["entropy"]).sum() / math.sqrt(out["varentropy"].sum())
    assert curve == pytest.approx(-2.869528371, abs=1e-6)
    two = (out["logp"] - out["cross_mean"]).sum() / math.sqrt(out["cross_var"].sum())
    assert two == pytest.approx(-1.376351821, abs=1e-6)
    assert -out["cross_mean"].mean() == pytest.approx(1.316284020, abs=1e-6)


def test_fields_decide_the_reducers():
    wanted = Fields(top_k=2, betas=(0.5, 2), boundary=True, kl_uniform=True)
    z = torch.randn(3, 9)
    out = visit_logits(
        z, torch.tensor([0, 1, -1]), reducers_for(wanted, boundary_ids=[1, 2], with_reference=True),
        reference=z,
    )  # fmt: skip
    shapes = {key: tuple(value.shape) for key, value in out.items()}
    assert shapes == {
        **dict.fromkeys(("logp", "entropy", "varentropy", "rank", "ties", "lse"), (3,)),
        **dict.fromkeys(("boundary", "kl_uniform", "cross_mean", "cross_var"), (3,)),
        **dict.fromkeys(("top_ids", "top_logp", "lse_at", "boundary_at"), (3, 2)),
    }


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: top_k(0), "top_k must be at least 1"),
        (lambda: lse_grid([]), "at least one"),
        (lambda: lse_grid([-1.0]), "finite and >= 0"),
        (lambda: group_mass([]), "non-empty"),
        (lambda: reducers_for(Fields(boundary=True)), "word-start"),
        (lambda: run(group_mass([9])), r"0\.\.2"),
        (lambda: run(candidates([-1])), r"0\.\.2"),
        (lambda: run(cross), "reference"),
        (lambda: run(hidden), "only logits"),
    ],
)
def test_bad_requests_are_told(act, says):
    with pytest.raises(BadInput, match=says):
        act()


def run(reducer):
    return visit_logits(torch.zeros(1, 3), torch.tensor([0]), [reducer])
