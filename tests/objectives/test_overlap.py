"""Dice, Tversky, self-adjusting dice and focal losses (arXiv 1911.02855)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nll._errors import BadInput
from nll.objectives import (
    DiceLoss,
    TverskyLoss,
    dice_loss,
    focal_loss,
    self_adjusting_dice_loss,
    tversky_loss,
)

P, Y = [0.9, 0.6, 0.2, 0.05], [1, 1, 0, 0]
MANY = [[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]
LOUD = pytest.mark.filterwarnings("ignore:with alpha")


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


ORACLE = [
    (dice_loss, {}, [0.0035587189, 0.0677966102, 0.0384615385, 0.0024937656]),
    (
        dice_loss,
        {"square_denominator": False},
        [0.0344827586, 0.1538461538, 0.1666666667, 0.0476190476],
    ),
    (tversky_loss, {}, [0.0256410256, 0.1111111111, 0.0909090909, 0.0243902439]),
    (
        tversky_loss,
        {"alpha": 0.6, "beta": 0.4},
        [0.0206185567, 0.0909090909, 0.1071428571, 0.0291262136],
    ),
    (
        self_adjusting_dice_loss,
        {"square_denominator": False},
        [0.0418426589, 0.1562799602, 0.1663569755, 0.0475957908],
    ),
    (
        self_adjusting_dice_loss,
        {"square_denominator": False, "alpha": 1.0},
        [0.4354066986, 0.3392857143, 0.1379310345, 0.0453460621],
    ),
    (focal_loss, {}, [0.0010536052, 0.0817320998, 0.0089257421, 0.0001282332]),
]


@LOUD
@pytest.mark.parametrize(("loss", "options", "wanted"), ORACLE)
def test_oracle_of_single_examples(loss, options, wanted) -> None:
    found = loss(f64(P), f64(Y), reduction="none", **options)
    assert found.tolist() == pytest.approx(wanted, abs=1e-10)
    mean = loss(P, Y, **options).item()
    assert mean == pytest.approx(sum(wanted) / 4, abs=1e-10)


def test_oracle_of_means() -> None:
    assert dice_loss(P, Y).item() == pytest.approx(0.0280776583, abs=1e-10)
    assert dice_loss(P, Y, square_denominator=False).item() == pytest.approx(0.1006536567)
    assert focal_loss(P, Y).item() == pytest.approx(0.0229599201, abs=1e-10)
    assert focal_loss(P, Y, gamma=0).item() == pytest.approx(0.2226557463, abs=1e-10)


@LOUD
@pytest.mark.parametrize(
    ("loss", "options", "wanted"),
    [
        (dice_loss, {}, 0.0504451039),
        (dice_loss, {"square_denominator": False}, 0.1578947368),
        (self_adjusting_dice_loss, {"square_denominator": False, "alpha": 1.0}, 0.5307420495),
    ],
)
def test_oracle_of_sets(loss, options, wanted) -> None:
    assert loss(P, Y, set_level=True, **options).item() == pytest.approx(wanted, abs=1e-10)


@LOUD
@pytest.mark.parametrize(
    ("alpha", "slopes"),
    [
        (1.0, [-0.2456952151, 0.0, 0.1195790816, 0.5494379707]),
        (0.01, [-0.56318978, -0.47322417, -0.43497227, -0.32175434]),
    ],
)
def test_oracle_of_slopes(alpha: float, slopes: list[float]) -> None:
    p = f64([0.3, 0.5, 0.6, 0.9]).requires_grad_()
    self_adjusting_dice_loss(
        p, [1] * 4, alpha=alpha, square_denominator=False, reduction="sum"
    ).backward()
    assert p.grad.tolist() == pytest.approx(slopes, abs=1e-8)


def test_oracle_of_several_classes() -> None:
    found = self_adjusting_dice_loss(MANY, [0, 2, 2], reduction="none")
    assert found.tolist() == pytest.approx([0.0865482199, 0.5295942896, 0.0370419409], abs=1e-10)
    assert self_adjusting_dice_loss(MANY, [0, 2, 2]).item() == pytest.approx(0.2177281502)
    official = [[0.9, 0.03, 0.03, 0.03], [0.03, 0.9, 0.03, 0.03]]
    found = self_adjusting_dice_loss(official, [0, 1], reduction="none")
    assert found.tolist() == pytest.approx([0.0079300274] * 2, abs=1e-10)


def test_one_hot_targets_and_logits_say_the_same() -> None:
    by_index = dice_loss(MANY, [0, 2, 2]).item()
    assert dice_loss(MANY, torch.eye(3)[[0, 2, 2]], one_hot=True).item() == pytest.approx(by_index)
    assert dice_loss(f64(MANY).log(), [0, 2, 2], logits=True).item() == pytest.approx(by_index)
    odds = torch.special.logit(f64(P))
    assert dice_loss(odds, Y, logits=True).item() == pytest.approx(dice_loss(P, Y).item())


def test_the_background_can_be_left_out() -> None:
    rest = dice_loss(f64(MANY)[:, 1], [0, 0, 0]) + dice_loss(f64(MANY)[:, 2], [0, 1, 1])
    found = dice_loss(MANY, [0, 2, 2], exclude_background=True)
    assert found.item() == pytest.approx(rest.item())


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.booleans(), min_size=20))
@settings(max_examples=100, deadline=None)
def test_on_hard_predictions_the_set_loss_is_one_minus_f1(y, p) -> None:
    p = p[: len(y)]
    true = sum(a and b for a, b in zip(p, y, strict=True))
    total = sum(p) + sum(y)
    wanted = 1 - 2 * true / total if total else 0.0
    smooth = 1e-12
    for square in (True, False):
        found = dice_loss(
            f64(p), f64(y), set_level=True, smooth=smooth, square_denominator=square
        ).item()
        assert found == pytest.approx(wanted, abs=1e-9)


@given(st.floats(0.0, 1.0), st.booleans(), st.floats(0.01, 2.0))
@settings(max_examples=100, deadline=None)
def test_a_set_of_one_is_an_example_and_losses_stay_in_range(p, y, smooth) -> None:
    for loss in (dice_loss, tversky_loss, self_adjusting_dice_loss):
        alone = loss(f64([p]), [int(y)], smooth=smooth).item()
        together = loss(f64([p]), [int(y)], smooth=smooth, set_level=True).item()
        assert alone == pytest.approx(together)
        assert -1e-12 <= alone < 1


@given(st.floats(0.0, 1.0), st.booleans(), st.floats(0.01, 2.0))
@settings(max_examples=50, deadline=None)
def test_even_tversky_is_dice_with_half_the_smoothing(p, y, smooth) -> None:
    a = tversky_loss(f64([p]), [int(y)], smooth=smooth).item()
    b = dice_loss(f64([p]), [int(y)], smooth=2 * smooth, square_denominator=False).item()
    assert a == pytest.approx(b)


def test_the_weight_taken_as_a_constant_pulls_towards_one() -> None:
    p = f64([0.9]).requires_grad_()
    with pytest.warns(UserWarning, match=r"above p = 0\.50"):
        self_adjusting_dice_loss(p, [1], alpha=1.0, square_denominator=False).backward()
    assert p.grad.item() > 0
    p.grad = None
    self_adjusting_dice_loss(
        p, [1], alpha=1.0, square_denominator=False, detach_weight=True
    ).backward()
    assert p.grad.item() < 0


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_predictions_have_a_gradient(p: float) -> None:
    leaf = f64([p]).requires_grad_()
    for y in (0, 1):
        (self_adjusting_dice_loss(leaf, [y]) + focal_loss(leaf, [y])).backward()
    assert leaf.grad.isfinite().all()


def test_hard_negatives_are_kept() -> None:
    p, y = [0.9, 0.8, 0.7, 0.1, 0.05], [1, 1, 0, 0, 0]
    kept = dice_loss(p, y, ohem_ratio=0.5, reduction="none")
    every = dice_loss(p, y, reduction="none")
    assert torch.equal(kept[:3], every[:3])
    assert kept[3:].tolist() == [0, 0]
    assert dice_loss(p, y, ohem_ratio=0.4, reduction="none")[2] == 0
    assert dice_loss(p, y, ohem_ratio=0.5).item() == pytest.approx(every[:3].mean().item())
    unused = dice_loss(p, [0] * 5, ohem_ratio=0.5)
    assert unused.item() == 0


def test_nothing_at_all_is_zero_without_a_gradient() -> None:
    for loss in (dice_loss, tversky_loss, self_adjusting_dice_loss, focal_loss):
        for options in ({}, {"set_level": True}) if loss is not focal_loss else ({},):
            assert loss(f64([]), f64([]), **options).item() == 0
            leaf = f64(P).requires_grad_()
            found = loss(leaf, Y, mask=[0] * 4, **options)
            found.backward()
            assert found.item() == 0
            assert leaf.grad.tolist() == [0] * 4


def test_tokens_are_examples_and_ignored_labels_are_masked() -> None:
    p = torch.stack([f64(P), f64([0.3, 0.3, float("nan"), float("nan")])])
    y = torch.tensor([Y, [1, 0, -100, -100]])
    found = dice_loss(p, y, set_level=True).item()
    assert found == pytest.approx(dice_loss([*P, 0.3, 0.3], [*Y, 1, 0], set_level=True).item())
    each = dice_loss(p, y, reduction="none")
    assert each.shape == (2, 4)
    assert each[1, 2:].tolist() == [0, 0]


def test_focal_equals_torchvision_s_formula() -> None:
    logits, y = torch.randn(50, dtype=torch.float64), (torch.rand(50) < 0.2).double()
    ce = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
    pt = torch.exp(-ce)
    wanted = ((1 - pt) ** 2 * ce).mean()
    torch.testing.assert_close(focal_loss(logits, y, logits=True), wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_from_logits_pulls_where_the_model_is_surely_wrong(gamma: float) -> None:
    z = torch.tensor([-200.0, 200.0, -200.0, float("nan")], requires_grad=True)
    y = torch.tensor([1, 0, 0, -100])
    loss = focal_loss(z, y, logits=True, gamma=gamma, reduction="none")
    assert loss.tolist() == pytest.approx([200, 200, 0, 0], abs=1e-6)
    loss.sum().backward()
    assert z.grad.tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-3)
    two = torch.stack([torch.zeros(3), z.detach()[:3]], 1)
    assert focal_loss(two, y[:3], logits=True, gamma=gamma, reduction="none").tolist() == (
        pytest.approx(loss[:3].tolist(), abs=1e-6)
    )


def test_modules_keep_their_options() -> None:
    y = torch.tensor(Y)
    assert torch.equal(DiceLoss(smooth=0.5)(f64(P), y), dice_loss(f64(P), y, smooth=0.5))
    mine = DiceLoss(alpha=0.01)(f64(P), y)
    assert torch.equal(mine, self_adjusting_dice_loss(f64(P), y))
    assert torch.equal(TverskyLoss(alpha=0.3)(f64(P), y), tversky_loss(f64(P), y, alpha=0.3))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: dice_loss([1.5], [1]), r"must lie in \[0, 1\]"),
        (lambda: dice_loss(P, Y[:3]), "target has shape"),
        (lambda: dice_loss(P, [2, 0, 0, 0]), "target must hold 0 and 1"),
        (lambda: dice_loss(MANY, [0, 1, 3]), "indices of the 3 classes"),
        (lambda: dice_loss(P, [0] * 4, smooth=0, set_level=True), "smooth = 0"),
        (lambda: dice_loss(P, Y, smooth=0), "smooth = 0"),
        (lambda: dice_loss(P, Y, smooth=-1), "smooth must be"),
        (lambda: dice_loss(P, Y, exclude_background=True), "several classes"),
        (lambda: tversky_loss(P, Y, alpha=-1), "alpha must be"),
        (lambda: focal_loss(P, Y, gamma=-1), "gamma must be"),
    ],
)
def test_what_cannot_be_is_told(call, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call()


def test_without_smoothing_a_set_with_a_positive_will_do() -> None:
    assert dice_loss(P, Y, smooth=0, set_level=True).item() == pytest.approx(
        1 - 2 * 1.5 / (0.81 + 0.36 + 0.04 + 0.0025 + 2)
    )


@pytest.mark.parametrize("loss", [dice_loss, tversky_loss, self_adjusting_dice_loss, focal_loss])
def test_one_output_of_a_network_is_the_positive_class(loss) -> None:
    column = f64(P)[:, None]
    assert torch.equal(loss(column, torch.tensor(Y)), loss(f64(P), torch.tensor(Y)))
    logits = torch.logit(column)
    assert loss(logits, torch.tensor(Y), logits=True).item() == pytest.approx(
        loss(f64(P), torch.tensor(Y)).item()
    )
    each = loss(column[None], torch.tensor(Y)[None], reduction="none")
    assert each.shape == (1, 4)
