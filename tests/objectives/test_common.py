"""What holds for every objective: gradients, masks, empty batches, order of rows, reductions.

A new objective joins by a row in CASES (see cases.Case for what a row says).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import nll
from nll import objectives
from nll._errors import BadInput
from nll.objectives._common import reduce
from nll.objectives._declare import objective
from tests.objectives.cases import B, Case, T, logps, normal, ragged_mask

# Public, but no objectives: types, log-probs, weights; each has a test that names it.
PLAIN = {
    "DiceLoss", "EnergyModel", "MecoState", "NoiseDistribution", "Objective", "Partition",
    "SequenceLogps", "SequenceValueHead", "Subspace", "TokenLogps", "TverskyLoss", "advantage",
    "advantage_priority_weights", "contrastive_estimation", "critical_token_by_rollout",
    "critical_token_scores", "fit_value_head", "grpo_advantages", "head_gradient_inner",
    "importance_ratio", "kto_baseline", "length_scaled_reward", "likelihood_displacement",
    "linear_logps", "log_partition_is", "npo_weight", "nsr_advantages", "objectives",
    "pool_states", "positive_subspace", "projection_residual", "residual_token_weights",
    "resrl_advantages", "select_negatives_top_p", "sequence_logps", "token_logps",
}  # fmt: skip


def likelihood(**options: str) -> Case:
    return Case(
        objectives.nll_loss, {"logp": logps(1)}, masks={"mask": ragged_mask()},
        covers={"mask": ("logp",)}, options=options,
        units="tokens" if options.get("token_reduction", "token") == "token" else "rows",
    )  # fmt: skip


def tokens_and_reference(function: Callable[..., Tensor], **options: object) -> Case:
    """(B, T) answers and their reference under one mask with an empty row."""
    return Case(
        function, {"seq_logp": logps(1)}, {"ref_seq_logp": logps(2)},
        masks={"mask": ragged_mask(4, 2, 0, 1, 4)},
        covers={"mask": ("seq_logp", "ref_seq_logp")}, options=options,
    )  # fmt: skip


def sums(function: Callable[..., Tensor], **constants: object) -> Case:
    """(B,) sums, one row left out."""
    return Case(
        function, {"seq_logp": 5 * logps(1, B)}, constants,
        masks={"mask": torch.tensor([1, 1, 0, 1, 1])}, covers={"mask": ("seq_logp",)},
    )  # fmt: skip


def plain_tokens(function: Callable[..., Tensor], **options: object) -> Case:
    return Case(
        function, {"logp": logps(1)}, masks={"mask": ragged_mask()},
        covers={"mask": ("logp",)}, options=options, units="tokens",
    )  # fmt: skip


def weighted_ascent() -> Case:
    weight = torch.exp(0.7 * logps(1))
    return replace(
        plain_tokens(objectives.wga_loss, beta=0.7),
        stopped=lambda logp, reduction="mean": reduce(weight * logp, ragged_mask(), reduction),
    )


def rewarded(function: Callable[..., Tensor], *more: str, **options: object) -> Case:
    """(B, T) answers of every length, whose rewards weigh them; the weights are held in `stopped`.

    more: ref_logp, value.
    """
    mask, logp = ragged_mask(4, 2, 3, 1, 4), logps(1)
    given: dict[str, Tensor] = {"reward": torch.linspace(0.9, 0.1, B, dtype=torch.float64)}
    if "ref_logp" in more:
        given["ref_logp"] = logp + 0.3 * normal(2, B, T)
    if "value" in more:
        given["value"] = torch.full((B,), 0.4, dtype=torch.float64)
    leaf = logp.clone().requires_grad_()
    function(leaf, mask=mask, reduction="sum", **given, **options).backward()
    weight = leaf.grad  # what each token's log-prob is weighed by, constants of the objective
    assert weight is not None
    extra = 0.0
    if options.get("variant") == "kl":
        extra = -float(options["kl_beta"]) * torch.where(mask, given["ref_logp"], 0.0).sum(-1)
    return Case(
        function, {"logp": logp}, given, masks={"mask": mask},
        covers={"mask": ("logp", *(n for n in more if n == "ref_logp"))}, options=options,
        stopped=lambda logp, reduction="mean": reduce(
            torch.where(mask, weight * logp, 0.0).sum(-1) + extra, mask.any(-1), reduction
        ),
    )  # fmt: skip


def probabilities(function: Callable[..., Tensor], **options: object) -> Case:
    """(B, T) probabilities of a rare class."""
    return Case(
        function, {"probs": torch.sigmoid(normal(1, B, T))},
        {"target": (normal(2, B, T) > 0.5).double()}, masks={"mask": ragged_mask()},
        covers={"mask": ("probs", "target")}, options=options, units="tokens",
    )  # fmt: skip


def energies(function: Callable[..., Tensor], **options: object) -> Case:
    """(B,) data, and noise of which nothing is masked."""
    noise, log_q = normal(2, B), normal(3, B)
    given = {"noise_log_q": log_q}
    if function is objectives.nce_loss:
        given["log_q"] = normal(4, B)
    return Case(
        function, {"log_p0": normal(1, B), "noise_log_p0": noise}, given,
        masks={"mask": torch.tensor([1, 1, 0, 1, 1])}, covers={"mask": ("log_p0",)},
        options=options, no_reduction=True, all_masked="noise",
    )  # fmt: skip


def clipped(**options: object) -> Case:
    logp = logps(1)
    return Case(
        objectives.clipped_policy_loss, {"logp": logp},
        {"old_logp": logp + 0.4 * normal(2, B, T), "adv": normal(3, B)},
        masks={"mask": ragged_mask()}, covers={"mask": ("logp", "old_logp")}, options=options,
        units="tokens" if options.get("token_reduction") == "token" else "rows",
    )  # fmt: skip


def two_batches(function: Callable[..., Tensor], first: str, **options: object) -> Case:
    return Case(
        function, {f"{first}_logp": logps(1), "retain_logp": logps(2)},
        masks={f"{first}_mask": ragged_mask(), "retain_mask": ragged_mask(1, 0, 4, 2, 2)},
        covers={f"{first}_mask": (f"{first}_logp",), "retain_mask": ("retain_logp",)},
        options=options, no_reduction=True,
    )  # fmt: skip


def divergence(direction: str) -> Case:
    return Case(
        objectives.retain_kl, {"logits": normal(1, B, T, 6)}, {"ref_logits": normal(2, B, T, 6)},
        masks={"mask": ragged_mask()}, covers={"mask": ("logits", "ref_logits")},
        options={"direction": direction}, units="tokens",
    )  # fmt: skip


def distilled(**options: float) -> Case:
    labels = torch.arange(B * T).reshape(B, T) % 6
    return Case(
        objectives.distill_loss, {"student_logits": normal(1, B, T, 6)},
        {"teacher_logits": normal(2, B, T, 6), "labels": labels},
        masks={"mask": ragged_mask()}, covers={"mask": ("student_logits", "teacher_logits")},
        options=options, units="tokens",
    )  # fmt: skip


def weighted_examples() -> Case:
    return Case(
        objectives.weighted_unlearning_loss,
        {"loss_i": normal(1, B), "weights": normal(2, B).abs()},
        masks={"mask": torch.tensor([1, 1, 0, 1, 1])}, covers={"mask": ("loss_i", "weights")},
        no_reduction=True,
    )  # fmt: skip


def pairs(function: Callable[..., Tensor], *covered: str, **options: object) -> Case:
    """Chosen and rejected of unequal lengths, one pair without any token."""
    rejected = {"ref_r": logps(4), **{name: logps(5).exp() for name in covered}}
    return Case(
        function, {"logp_c": logps(1), "logp_r": logps(2)}, {"ref_c": logps(3), **rejected},
        masks={"mask_c": ragged_mask(4, 2, 0, 1, 4), "mask_r": ragged_mask(1, 3, 0, 0, 2)},
        covers={"mask_c": ("logp_c", "ref_c"), "mask_r": ("logp_r", *rejected)}, options=options,
    )  # fmt: skip


def vectors(**options: object) -> Case:
    """(B, d) vectors of sources, targets and their hard pairs, one row left out."""
    names = ("source", "target", "negative", "positive")
    return Case(
        objectives.contrastive_sequence_loss,
        {name: normal(i, B, 3) for i, name in enumerate(names)},
        masks={"mask": torch.tensor([1, 1, 0, 1, 1])}, covers={"mask": names},
        options={"tau": 0.5, **options},
    )  # fmt: skip


def answers_and_vectors() -> Case:
    return Case(
        objectives.claps_loss, {"logp": logps(9), **vectors().inputs},
        masks={"mask": ragged_mask(4, 2, 0, 1, 4)}, covers={"mask": ("logp",)},
        options={"beta": 0.7}, no_reduction=True,
    )  # fmt: skip


# name of the objective, then of the variant after a colon
CASES: dict[str, Callable[[], Case]] = {
    "meco_loss": lambda: energies(objectives.meco_loss, gamma=1.0),
    "nce_loss": lambda: energies(objectives.nce_loss, nu=2.0),
    "snl_loss": lambda: energies(objectives.snl_loss, log_z=0.3),
    "dice_loss": lambda: probabilities(objectives.dice_loss),
    "dice_loss:set": lambda: replace(
        probabilities(objectives.dice_loss, set_level=True), no_reduction=True
    ),
    "tversky_loss": lambda: probabilities(objectives.tversky_loss, alpha=0.3, beta=0.7),
    "self_adjusting_dice_loss": lambda: probabilities(objectives.self_adjusting_dice_loss),
    "focal_loss": lambda: probabilities(objectives.focal_loss),
    "weighted_bc_loss": lambda: rewarded(objectives.weighted_bc_loss),
    "reward_gold_loss": lambda: rewarded(objectives.reward_gold_loss),
    "r_lol_loss": lambda: rewarded(objectives.r_lol_loss, "ref_logp"),
    "a_lol_loss": lambda: rewarded(objectives.a_lol_loss, "ref_logp", "value"),
    "a_lol_loss:ref_free": lambda: rewarded(
        objectives.a_lol_loss, "ref_logp", "value", variant="ref_free"
    ),
    "a_lol_loss:seq": lambda: rewarded(objectives.a_lol_loss, "ref_logp", "value", variant="seq"),
    "a_lol_loss:kl": lambda: rewarded(
        objectives.a_lol_loss, "ref_logp", "value", variant="kl", kl_beta=0.2
    ),
    "clipped_policy_loss": clipped,
    "clipped_policy_loss:token": lambda: clipped(token_reduction="token", dual_clip=1.1),
    "nll_loss": likelihood,
    "nll_loss:sequence": lambda: likelihood(token_reduction="sequence"),
    "nll_loss:sum": lambda: likelihood(token_reduction="sum"),
    "ga_loss": lambda: plain_tokens(objectives.ga_loss),
    "ga_loss:sum": lambda: replace(
        plain_tokens(objectives.ga_loss, token_reduction="sum"), units="rows"
    ),
    "npo_loss": lambda: tokens_and_reference(objectives.npo_loss),
    "npo_loss:sums": lambda: sums(objectives.npo_loss, ref_seq_logp=5 * logps(2, B)),
    "simnpo_loss": lambda: sums(objectives.simnpo_loss, length=torch.tensor([3, 1, 2, 0, 4])),
    "simnpo_loss:tokens": lambda: Case(
        objectives.simnpo_loss, {"seq_logp": logps(1)}, masks={"mask": ragged_mask(4, 2, 0, 1, 4)},
        covers={"mask": ("seq_logp",)}, options={"gamma": 0.3},
    ),
    "wga_loss": weighted_ascent,
    "grad_diff_loss": lambda: two_batches(objectives.grad_diff_loss, "forget", alpha=0.5),
    "retain_nll": lambda: plain_tokens(objectives.retain_nll),
    "retain_kl": lambda: divergence("forward"),
    "retain_kl:reverse": lambda: divergence("reverse"),
    "distill_loss": distilled,
    "distill_loss:teacher": lambda: distilled(T=0.7, alpha=1.0),
    "idk_loss": lambda: two_batches(objectives.idk_loss, "idk"),
    "idk_loss:joint": lambda: two_batches(objectives.idk_loss, "idk", joint=True),
    "meow_loss": lambda: plain_tokens(objectives.meow_loss),
    "weighted_unlearning_loss": weighted_examples,
    "dpo_loss": lambda: pairs(objectives.dpo_loss, label_smoothing=0.1),
    "dpo_loss:unlearning": lambda: pairs(objectives.dpo_loss, scale=20.0),
    "rpo_loss": lambda: pairs(objectives.rpo_loss, alpha=0.5),
    "rpo_loss:token": lambda: pairs(objectives.rpo_loss, token_reduction="token"),
    "contrastive_sequence_loss": vectors,
    "contrastive_sequence_loss:released": lambda: vectors(pos_tau=False),
    "claps_loss": answers_and_vectors,
    "cdpo_loss": lambda: pairs(objectives.cdpo_loss, "scores_r"),
    "kto_loss": lambda: tokens_and_reference(objectives.kto_loss, z=0.2),
    "kto_unpaired_loss": lambda: replace(
        tokens_and_reference(objectives.kto_unpaired_loss, z=0.2, undesirable_weight=0.5),
        constants={"ref_seq_logp": logps(2), "label": torch.tensor([1, 0, 1, 1, 0])},
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def leaves(case: Case) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_() for name, value in case.inputs.items()}


def gradients(case: Case, **changed: object) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradient of each input, where an input may be among the changed ones."""
    given = {n: v.clone().requires_grad_() for n, v in {**case.inputs, **changed}.items()
             if n in case.inputs}  # fmt: skip
    loss = case(**{**changed, **given})
    found = torch.autograd.grad(loss.sum(), list(given.values()), allow_unused=True)
    return loss.detach(), {
        name: torch.zeros_like(given[name]) if g is None else g
        for name, g in zip(given, found, strict=True)
    }


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=1e-10, atol=1e-12) for name in a)


def reductions(case: Case) -> list[dict[str, str]]:
    return [{}] if case.no_reduction else [{"reduction": r} for r in ("mean", "sum", "none")]


def test_gradient_against_finite_differences(case: Case) -> None:
    names = list(case.inputs)
    function = case.stopped or case
    for how in reductions(case):
        assert torch.autograd.gradcheck(
            lambda *values, how=how: function(**dict(zip(names, values, strict=True)), **how),
            tuple(leaves(case).values()),
        )
        if case.stopped:
            given = leaves(case)
            frozen = case.stopped(**given, **how)
            own, found = gradients(case, **how)
            assert torch.allclose(own, frozen.detach(), rtol=1e-10, atol=1e-12)
            expected = torch.autograd.grad(frozen.sum(), list(given.values()))
            assert equal(found, dict(zip(given, expected, strict=True)))


def spoiled(case: Case, filling: float) -> dict[str, Tensor]:
    """The arguments with their masked places overwritten."""
    out: dict[str, Tensor] = {}
    everything = {**case.inputs, **case.constants}
    for mask, names in case.covers.items():
        for name in names:
            value, keep = everything[name], case.masks[mask].bool()
            # a mask over tokens also covers whatever hangs at each token
            keep = keep.reshape(*keep.shape, *(1,) * (value.dim() - keep.dim()))
            if value.is_floating_point():
                out[name] = torch.where(keep, out.get(name, value), filling)
    return out


@pytest.mark.parametrize("filling", [float("nan"), float("-inf"), float("inf"), 1e30])
def test_masked_entries_reach_neither_loss_nor_gradient(case: Case, filling: float) -> None:
    for how in reductions(case):
        clean, slopes = gradients(case, **how)
        changed = spoiled(case, filling)
        dirty, found = gradients(case, **changed, **how)
        assert torch.isfinite(dirty).all()
        assert torch.allclose(clean, dirty, rtol=1e-10, atol=1e-12)
        assert equal(slopes, found)
        for mask, names in case.covers.items():
            for name in set(names) & set(found):
                assert (found[name][~case.masks[mask].bool()] == 0).all()


def test_nothing_valid(case: Case) -> None:
    if not case.masks:
        pytest.skip("takes no mask")
    nothing = {name: torch.zeros_like(mask) for name, mask in case.masks.items()}
    for how in reductions(case):
        if case.all_masked == "error":
            with pytest.raises(BadInput):
                case(**nothing, **how)
            continue
        loss, slopes = gradients(case, **nothing, **how)
        if case.all_masked == "noise":
            masked = [slopes[name] for names in case.covers.values() for name in names]
            assert loss.isfinite().all()
            assert all((g == 0).all() for g in masked)
            continue
        assert (loss == 0).all()
        assert all((g == 0).all() for g in slopes.values())


def rows_first(case: Case) -> dict[str, Tensor]:
    given = {**case.inputs, **case.constants, **case.masks}
    return {n: v for n, v in given.items() if isinstance(v, Tensor) and v.dim() > 0}


def test_order_of_rows(case: Case) -> None:
    if not case.rows:
        pytest.skip("the order of rows matters")
    given = rows_first(case)
    (count,) = {len(v) for v in given.values()}
    order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    moved = {name: value[order] for name, value in given.items()}
    for how in reductions(case):
        here, there = case(**how), case(**moved, **how)
        expected = here[order] if how.get("reduction") == "none" else here
        assert torch.allclose(there, expected, rtol=1e-10, atol=1e-12)


def test_mean_sum_and_none_agree(case: Case) -> None:
    if case.no_reduction:
        pytest.skip("has one way of reducing")
    each, total, mean = (case(reduction=r) for r in ("none", "sum", "mean"))
    assert each.dim() == (2 if case.units == "tokens" else 1)
    assert torch.allclose(each.sum(), total, rtol=1e-10)
    counts = range(1, each.numel() + 1)
    assert any(torch.allclose(mean * n, total, rtol=1e-10) for n in counts) or total == 0
    if case.masks and case.units == "tokens":
        (mask,) = case.masks.values()
        assert torch.allclose(mean, total / mask.sum())
    with pytest.raises(BadInput, match="reduction must be"):
        case(reduction="median")


def test_constants_get_no_gradient(case: Case) -> None:
    floats = {n: v.clone().requires_grad_() for n, v in case.constants.items()
              if isinstance(v, Tensor) and v.is_floating_point()}  # fmt: skip
    loss = case(**leaves(case), **floats)
    loss.sum().backward()
    assert all(v.grad is None for v in floats.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(case: Case, dtype: torch.dtype) -> None:
    given = {**case.inputs, **case.constants}
    floats = {n: v.to(dtype) for n, v in given.items()
              if isinstance(v, Tensor) and v.is_floating_point()}  # fmt: skip
    loss = case(**floats)
    assert loss.dtype == dtype
    assert torch.allclose(loss.double(), case(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reckoned_in_float32(case: Case, dtype: torch.dtype) -> None:
    given = {**case.inputs, **case.constants}
    halves = {n: v.to(dtype) for n, v in given.items()
              if isinstance(v, Tensor) and v.is_floating_point()}  # fmt: skip
    loss = case(**halves)
    assert loss.dtype == torch.float32
    exact = case(**{name: value.double() for name, value in halves.items()})
    assert torch.allclose(loss.double(), exact, rtol=1e-4, atol=1e-5)


def test_arguments_are_left_as_they_were(case: Case) -> None:
    given = rows_first(case)
    before = {name: value.clone() for name, value in given.items()}
    case(**given)
    assert all(torch.equal(before[name], given[name]) for name in given)


def test_a_mask_of_another_shape_is_refused(case: Case) -> None:
    for name, mask in case.masks.items():
        with pytest.raises(BadInput, match="shape"):
            case(**{name: torch.cat([mask, mask])})


TWO, OTHER = [[-1.0, -2.0], [-3.0]], [[-1.0], [-2.0, -3.0]]
PAIRED: dict[str, Callable[[], Tensor]] = {
    "npo_loss": lambda: objectives.npo_loss(TWO, OTHER),
    "kto_loss": lambda: objectives.kto_loss(TWO, OTHER),
    "dpo_loss": lambda: objectives.dpo_loss(TWO, TWO, TWO, OTHER),
    "cdpo_loss": lambda: objectives.cdpo_loss(TWO, TWO, TWO, TWO, OTHER),
    "r_lol_loss": lambda: objectives.r_lol_loss(TWO, OTHER, [1, 1]),
    "importance_ratio": lambda: objectives.importance_ratio(TWO, OTHER),
    "clipped_policy_loss": lambda: objectives.clipped_policy_loss(TWO, OTHER, [1, 1]),
    "other widths": lambda: objectives.npo_loss(torch.zeros(2, 3), torch.zeros(2, 1)),
    "ratios of other widths": lambda: objectives.importance_ratio(
        torch.zeros(2, 3), torch.zeros(2, 1)
    ),
}


@pytest.mark.parametrize("name", PAIRED)
def test_tokens_of_another_row_are_no_partners(name: str) -> None:
    with pytest.raises(BadInput, match="must have the same tokens in every row"):
        PAIRED[name]()


def test_direction_unit_and_paper(case: Case) -> None:
    declared = objectives.objectives()[case.function.__name__]
    assert declared.descent
    assert declared.unit in {"nats", "1"}
    assert declared.paper
    assert declared.summary.endswith((".", "`"))
    low, high = declared.range
    assert low - 1e-9 <= float(case().detach().mean()) <= high + 1e-9
    shown = inspect.getdoc(case.function) or ""
    assert "nats" in shown or declared.unit == "1"
    assert "minimised" in shown


def in_suite() -> set[str]:
    return {name.partition(":")[0] for name in CASES}


def escaped() -> set[str]:
    """Public names that are neither objectives of the suite nor known helpers."""
    return set(objectives.__all__) - in_suite() - PLAIN


def test_no_objective_is_missing() -> None:
    assert escaped() == set()
    assert in_suite() == set(objectives.objectives())
    assert in_suite() <= set(objectives.__all__)
    for name, declared in objectives.objectives().items():
        assert getattr(objectives, name) is declared.function
    for name, build in CASES.items():
        assert build().function is getattr(objectives, name.partition(":")[0])


def test_every_helper_is_tested() -> None:
    own = Path(__file__)
    tests = "".join(p.read_text() for p in own.parent.glob("test_*.py") if p != own)
    assert {name for name in PLAIN if name.islower() and f"{name}(" not in tests} == set()


def test_an_objective_outside_the_suite_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "__all__", [*objectives.__all__, "escaped_loss"])
    assert escaped() == {"escaped_loss"}


@pytest.mark.parametrize("missing", ["descent", "unit", "paper"])
def test_an_objective_without_a_declaration_is_refused(missing: str) -> None:
    words = {"descent": "x less likely", "unit": "nats", "paper": "2404.05868"} | {missing: ""}
    with pytest.raises(BadInput, match="needs a docstring, descent, unit and paper"):

        @objective(**words, range=(0, 1))
        def some_loss(logp: Tensor) -> Tensor:
            """Some loss."""
            return logp


def test_an_objective_without_a_docstring_or_with_a_taken_name_is_refused() -> None:
    words = {"descent": "x less likely", "unit": "nats", "paper": "2404.05868", "range": (0, 1)}

    def bare_loss(logp: Tensor) -> Tensor:
        return logp

    with pytest.raises(BadInput, match="needs a docstring"):
        objective(**words)(bare_loss)

    def nll_loss(logp: Tensor) -> Tensor:
        """Another one."""
        return logp

    with pytest.raises(BadInput, match="two objectives are called 'nll_loss'"):
        objective(**words)(nll_loss)


def test_the_room_is_reached_from_the_top() -> None:
    assert nll.objectives is objectives
