"""Unlearning: make answers less likely while others stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from nll import objectives
from nll._errors import BadInput
from nll.training._policy import answer_logits
from nll.training._rows import Row, checked, encoded, label_of, number_of
from nll.training._trainer import LikelihoodTrainer, Term

FORGET = ("ga", "wga", "npo", "simnpo", "idk", "dpo", "kto", "meow")
RETAIN = ("nll", "kl")
WITH_REFERENCE = ("npo", "dpo", "kto")
WITH_REFUSAL = ("idk", "dpo", "kto")
BETA = {"npo": 0.1, "simnpo": 4.5, "dpo": 0.1, "kto": 0.1, "wga": 1.0}
REFUSALS = (
    "I don't know.",
    "I am not sure about that.",
    "I have no information on this.",
    "That is beyond what I know.",
    "I cannot answer this question.",
)


class UnlearnTrainer(LikelihoodTrainer):
    """gamma * forget + alpha * retain, each forget row with a retain row drawn anew every epoch.

    train_dataset: rows of `prompt`, `completion` and `label`, false to forget and true to keep.
    objective: ga, wga, npo, simnpo, idk, dpo, kto or meow (rows of inverted answers, learned).
    `idk`, `dpo` and `kto` take the answer to give instead from the column `alternate`, or a drawn
    line of `refusals`.   retain: `nll`, `kl` (to the reference's distribution), or None.
    beta: of the objective (default 0.1; simnpo 4.5, wga 1).   delta: SimNPO's margin as
    open-unlearning counts it (times beta in the paper's gamma).   alpha, gamma: the two weights.
    method, retain_loss_type: objective and retain by the names that open-unlearning gives them, in
    capitals or not; where given they replace the two.
    ref_model and the rest as in LikelihoodTrainer. Raises BadInput for unknown words, rows that
    lack a column, or a retain term without a row to keep.
    References: arXiv 2404.05868 and the sheets of its objectives in `nll.objectives`.
    """

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        objective: str = "npo",
        retain: str | None = "nll",
        beta: float | None = None,
        alpha: float = 1.0,
        gamma: float = 1.0,
        delta: float = 0.0,
        refusals: Sequence[str] = REFUSALS,
        method: str | None = None,
        retain_loss_type: str | None = None,
        **more: Any,
    ):
        objective = objective if method is None else method.lower()
        retain = retain if retain_loss_type is None else retain_loss_type.lower()
        if objective not in FORGET:
            raise BadInput(f"objective must be one of {', '.join(FORGET)}, not {objective!r}")
        if retain is not None and retain not in RETAIN:
            raise BadInput(f"retain must be nll, kl or None, not {retain!r}")
        if beta is not None and objective not in BETA:
            raise BadInput(f"the objective {objective} has no beta")
        if delta and objective != "simnpo":
            raise BadInput(f"delta is SimNPO's margin; {objective} has none")
        self.objective, self.retain = objective, retain
        self.beta = BETA.get(objective, 0.0) if beta is None else beta
        self.alpha, self.gamma, self.delta = alpha, gamma, delta
        self.refusals = tuple(refusals)
        self.needs_reference = objective in WITH_REFERENCE or retain == "kl"
        super().__init__(model, args, **more)

    def prepared(self, rows: Iterable[Row]) -> Pairs:
        """Forget and retain examples."""
        held = checked(rows, ("prompt", "completion", "label"), "unlearning")

        def make(row: dict[str, Any]) -> dict[str, Any]:
            example: dict[str, Any] = {**self.encoder.example(row["prompt"], row["completion"])}
            if row.get("ref_logps") is not None and self.retain != "kl":
                example["ref_logps"] = number_of(row, "ref_logps")
            others = [row["alternate"]] if row.get("alternate") else self.refusals
            if self.objective in WITH_REFUSAL and not label_of(row):
                example["instead"] = [self.encoder.example(row["prompt"], o) for o in others]
            return example

        def marked(row: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
            return label_of(row), make(row)

        done = encoded(held, marked)
        forget = [e for kept, e in done if not kept]
        keep = [e for kept, e in done if kept]
        if not forget:
            raise BadInput("no row is to be forgotten: none has label false")
        if self.retain and not keep:
            raise BadInput("retain needs rows to keep (label true); or pass retain=None")
        return Pairs(forget, keep if self.retain else [])

    def has_reference(self, examples: Any) -> bool:
        """Only what is forgotten is compared with sums that a row can bring."""
        whole = self.retain == "kl" or self.objective in WITH_REFUSAL
        return examples is None or (not whole and super().has_reference(examples.forget))

    def collated(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Roles `forget`, `instead` and `retain`."""
        out: dict[str, Any] = {"forget": self.pad([forget for forget, _, _ in examples])}
        if self.objective in WITH_REFUSAL:
            out["instead"] = self.pad([f["instead"][n % len(f["instead"])] for f, _, n in examples])
        if examples[0][1] is not None:
            out["retain"] = self.pad([keep for _, keep, _ in examples])
        return out

    def terms(self, model: Any, batch: Mapping[str, Any]) -> list[Term]:
        """The forget term and the retain term."""
        out = [self._forget(model, batch)._replace(weight=self.gamma)]
        if "retain" in batch:
            out.append(self._retain(model, batch["retain"])._replace(weight=self.alpha))
        for name, term in zip(("forget_loss", "retain_loss"), out, strict=False):
            self.note(**{name: float(term.total.detach()) / max(self.counts(batch)[term.over], 1)})
        return out

    def _forget(self, model: Any, batch: Mapping[str, Any]) -> Term:
        role = "instead" if self.objective == "idk" else "forget"
        own = self.logps(model, batch[role])
        match self.objective:
            case "ga":
                return Term(
                    objectives.ga_loss(own.logp, own.mask, reduction="sum"), "forget tokens"
                )
            case "wga":
                loss = objectives.wga_loss(own.logp, own.mask, beta=self.beta, reduction="sum")
                return Term(loss, "forget tokens")
            case "idk" | "meow":
                loss = objectives.nll_loss(own.logp, own.mask, reduction="sum")
                return Term(loss, f"{role} tokens")
            case "simnpo":
                loss = objectives.simnpo_loss(
                    own.logp, beta=self.beta, gamma=self.beta * self.delta, mask=own.mask,
                    reduction="sum",
                )  # fmt: skip
                return Term(loss, "forget rows")
        ref = self.reference_logps(batch["forget"])
        own_sums = own.logp.sum(-1)
        if self.objective == "npo":
            loss = objectives.npo_loss(own_sums, ref, beta=self.beta, reduction="sum")
            return Term(loss, "forget rows")
        other = self.logps(model, batch["instead"]).logp.sum(-1)
        other_ref = self.reference_logps(batch["instead"])
        if self.objective == "dpo":
            loss = objectives.dpo_loss(
                other, other_ref, own_sums, ref, beta=self.beta, scale=2 / self.beta,
                reduction="sum",
            )  # fmt: skip
        else:
            z = objectives.kto_baseline(other, other_ref, beta=self.beta)
            loss = objectives.kto_loss(own_sums, ref, z=z, beta=self.beta, reduction="sum")
        return Term(loss, "forget rows")

    def _retain(self, model: Any, part: Mapping[str, Any]) -> Term:
        if self.retain == "nll":
            own = self.logps(model, part)
            return Term(objectives.retain_nll(own.logp, own.mask, reduction="sum"), "retain tokens")
        reference = getattr(self.reference, "logits", None)
        if reference is None:
            raise BadInput("retain='kl' compares whole distributions; give ref_model as a model")
        logits, mask = answer_logits(model, part)
        return Term(
            objectives.retain_kl(logits, reference(part), mask, reduction="sum"), "retain tokens"
        )

    def get_train_dataloader(self) -> Any:
        """Pairs are drawn anew at the beginning of each epoch, the same ones in every run."""
        self.add_callback(_epochs(self.train_dataset, self.args.seed))
        return super().get_train_dataloader()


class Pairs(torch.utils.data.Dataset[Any]):
    """Each forget example with a retain example (or None) and a number that picks a refusal."""

    def __init__(self, forget: Sequence[Any], keep: Sequence[Any]):
        self.forget, self.keep = forget, keep
        self.draw(0, 0)

    def draw(self, seed: int, epoch: int) -> None:
        """Choose the partners of an epoch."""
        chance = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        n = len(self.forget)
        self.partner = torch.randint(max(1, len(self.keep)), (n,), generator=chance).tolist()
        self.number = torch.randint(1 << 30, (n,), generator=chance).tolist()

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        keep = self.keep[self.partner[index]] if self.keep else None
        return self.forget[index], keep, self.number[index]


def _epochs(pairs: Pairs, seed: int) -> Any:
    from transformers import TrainerCallback

    class Draw(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            pairs.draw(seed, int(state.epoch or 0))

    return Draw()
