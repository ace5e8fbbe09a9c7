"""What the U2A study does with its language model: gains predicted, effects measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll.studies._study import Setting
from nll.studies._tofu_student import Pair, Rows, Student, parts, step

if TYPE_CHECKING:
    from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float64]

BAD, PAIRS, ALONE, CHOSEN = 120, 60, 40, 30
DPO_BETA, NPO_BETA = 0.3, 0.1
STEPS, SEEDS, EPOCHS, BATCH = 5, 5, 3, 8
ARMS = ("largest gains", "random", "smallest gains", "U2A, three rounds")


class Preference(NamedTuple):
    """Pairs of a better and a worse answer, with their log-probs under the start model."""

    better: list[Pair]
    worse: list[Pair]
    ref_better: Tensor
    ref_worse: Tensor


class Task(NamedTuple):
    """The start model's answers: false ones and true ones it learned, and preference pairs."""

    bad: list[Pair]
    good: list[Pair]
    wanted: Preference
    held_out: Preference


class Arm(NamedTuple):
    """What unlearning a selection did, against the start: J and preference accuracy."""

    lowered: float
    lowered_held_out: float
    accuracy: float


def divide(
    rows: Rows, seed: int
) -> tuple[list[Pair], list[Pair], tuple[list[Pair], list[Pair]], tuple[list[Pair], list[Pair]]]:
    """False and true answers to learn; preference pairs and others held out, of unseen answers."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(rows)).tolist()
    bad = [(rows[i]["question"], rows[i]["perturbed_answer"][0]) for i in order[:BAD]]
    good = [(rows[i]["question"], rows[i]["answer"]) for i in order[BAD:]]
    asked = draw.permutation(len(rows)).tolist()

    def pairs(indices: Sequence[int]) -> tuple[list[Pair], list[Pair]]:
        better = [(rows[i]["question"], rows[i]["paraphrased_answer"]) for i in indices]
        return better, [(rows[i]["question"], rows[i]["perturbed_answer"][1]) for i in indices]

    return bad, good, pairs(asked[:PAIRS]), pairs(asked[PAIRS : 2 * PAIRS])


def preference(who: Student, better: list[Pair], worse: list[Pair]) -> Preference:
    """The pairs with the reference's log-probs."""
    return Preference(better, worse, who.fixed(better), who.fixed(worse))


def last_blocks(net: Any) -> list[Any]:
    """The parameters of the last two blocks; the rest is frozen."""
    import torch

    stacks = [m for m in net.modules() if isinstance(m, torch.nn.ModuleList)]
    blocks = max(stacks, key=len)[-2:]
    net.requires_grad_(False)
    params = [p for block in blocks for p in block.parameters()]
    for p in params:
        p.requires_grad_(True)
    return params


def preference_losses(who: Student, held: Preference, indices: Sequence[int]) -> Tensor:
    """(B,) DPO losses of some pairs."""
    from nll.objectives import dpo_loss

    at = list(indices)
    return dpo_loss(
        who.sums([held.better[i] for i in at]), held.ref_better[at],
        who.sums([held.worse[i] for i in at]), held.ref_worse[at],
        beta=DPO_BETA, reduction="none",
    )  # fmt: skip


def preference_loss(who: Student, held: Preference) -> float:
    """J: the mean DPO loss of all pairs."""
    import torch

    with torch.no_grad():
        found = [preference_losses(who, held, p) for p in parts(range(len(held.better)))]
    return float(torch.cat(found).mean())


def accuracy(who: Student, held: Preference) -> float:
    """How often the better answer's ratio to the reference rose above the worse one's."""
    margin = who.fixed(held.better) - held.ref_better - who.fixed(held.worse) + held.ref_worse
    return float((margin > 0).double().mean())


def predicted(who: Student, params: list[Any], task: Task) -> tuple[Floats, dict[str, Floats]]:
    """Gains of the bad answers, and by name other things known of them and of the good ones."""
    import torch

    from nll.negatives import alignment_gain

    slope = sum(
        _flat(preference_losses(who, task.wanted, p).sum() / len(task.wanted.better), params)
        for p in parts(range(len(task.wanted.better)), 20)
    )
    npo = _unlearning(who, [*task.bad, *task.good])
    grads = torch.stack([_flat(npo([i]).sum(), params) for i in range(len(task.bad))])
    good: Any = (_flat(npo([len(task.bad) + i]).sum(), params) for i in range(len(task.good)))
    diagonal = alignment_gain(slope, grads, curvature="diag", damping=1e-3)
    return _numpy(alignment_gain(slope, grads)), {
        "diagonal gain": _numpy(diagonal),
        "good": _numpy(alignment_gain(slope, good)),
        "gradient norm": _numpy(grads.norm(dim=1)),
        "nll": who.nll(task.bad),
    }


class Effects(NamedTuple):
    """Of each answer unlearned alone: how far J fell, and how far its own nll rose."""

    lowered: Floats
    forgotten: Floats


def measured(
    who: Student, params: list[Any], task: Task, indices: Sequence[int], size: float
) -> Effects:
    """What STEPS plain gradient steps of the unlearning loss on one bad answer do."""
    import torch

    npo = _unlearning(who, task.bad)
    before, own = preference_loss(who, task.wanted), who.nll(task.bad)
    lowered, forgotten = [], []
    for i in indices:
        with restored(params):
            for _ in range(STEPS):
                slopes = torch.autograd.grad(npo([i]).sum(), params)
                with torch.no_grad():
                    for p, g in zip(params, slopes, strict=True):
                        p -= size * g
            lowered.append(before - preference_loss(who, task.wanted))
            forgotten.append(float(who.nll([task.bad[i]])[0] - own[i]))
    return Effects(np.array(lowered), np.array(forgotten))


def selections(
    setting: Setting, who: Student, params: list[Any], task: Task, gains: Floats
) -> dict[str, list[Arm]]:
    """Unlearn 30 bad answers chosen in each way; the same number of updates for all."""
    import torch

    from nll.negatives import U2A

    npo = _unlearning(who, task.bad)
    before = [preference_loss(who, held) for held in (task.wanted, task.held_out)]
    lr = 3e-4 if setting.quick else 1e-5
    out: dict[str, list[Arm]] = {name: [] for name in ARMS}
    for seed in range(setting.seed, setting.seed + SEEDS):
        draw = np.random.default_rng(seed)
        chosen = {
            "largest gains": np.argsort(-gains, kind="stable")[:CHOSEN].tolist(),
            "random": draw.permutation(len(gains))[:CHOSEN].tolist(),
            "smallest gains": np.argsort(gains, kind="stable")[:CHOSEN].tolist(),
        }
        for name in ARMS:
            with restored(params):
                if name in chosen:
                    optimiser = torch.optim.AdamW(params, lr=lr)
                    for _ in range(EPOCHS):
                        for part in parts(draw.permutation(chosen[name]), BATCH):
                            step(optimiser, npo(part).mean())
                else:
                    driver = U2A(
                        m=CHOSEN, rounds=EPOCHS, epochs=1, batch=BATCH, lr=lr, eta=1e-2, lam=0.0,
                        threshold=-0.5, seed=seed,
                    )  # fmt: skip
                    driver.run(
                        params, lambda i: preference_losses(who, task.wanted, i), npo,
                        pairs=len(task.wanted.better), negatives=len(task.bad),
                    )  # fmt: skip
                after = [preference_loss(who, held) for held in (task.wanted, task.held_out)]
                out[name].append(
                    Arm(before[0] - after[0], before[1] - after[1], accuracy(who, task.held_out))
                )
        setting.say(f"u2a: unlearned four selections, seed {seed}")
    return out


@contextmanager
def restored(params: Sequence[Any]) -> Iterator[None]:
    """The parameters are afterwards what they were before."""
    import torch

    held = [p.detach().clone() for p in params]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(params, held, strict=True):
                p.copy_(old)


def _unlearning(who: Student, rows: Sequence[Pair]) -> Any:
    """Indices -> (B,) NPO losses, the reference being the student as it is now."""
    from nll.objectives import npo_loss

    ref = who.fixed(rows)

    def npo(indices: Sequence[int]) -> Tensor:
        at = [int(i) for i in indices]
        return npo_loss(who.sums([rows[i] for i in at]), ref[at], beta=NPO_BETA, reduction="none")

    return npo


def _flat(loss: Tensor, params: list[Any]) -> Tensor:
    import torch

    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params)])


def _numpy(values: Any) -> Floats:
    out: Floats = values.cpu().double().numpy()
    return out
