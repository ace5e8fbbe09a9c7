"""Preferences: one answer above another, or single answers that are wanted or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from nll import objectives
from nll._errors import BadInput
from nll.training._rows import Row, checked, encoded, label_of, number_of
from nll.training._trainer import LikelihoodTrainer, Term

BETA = {"dpo": 0.1, "cdpo": 1.0, "rpo": 0.1, "kto": 0.1}
PREFERENCE = tuple(BETA)


class PreferenceTrainer(LikelihoodTrainer):
    """DPO and its kin on TRL's columns.

    train_dataset: `prompt`, `chosen`, `rejected`; for `cdpo` also `rejected_scores`, a number in
    (0, 1) for each token of the rejected answer (its EOS may be left out and counts fully); for
    `kto` `prompt`, `completion`, `label`.   objective: dpo, cdpo, rpo or kto.
    beta: 0.1 unless given (cdpo's gamma: 1, the paper's).   label_smoothing: of dpo.
    alpha: weight of rpo's nll.   ref_model and the rest as in LikelihoodTrainer.
    References: arXiv 2305.18290, 2411.19943 (cDPO), 2404.19733 (RPO), 2402.01306 (KTO).
    """

    needs_reference = True

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        objective: str = "dpo",
        beta: float | None = None,
        label_smoothing: float = 0.0,
        alpha: float = 1.0,
        **more: Any,
    ):
        if objective not in PREFERENCE:
            raise BadInput(f"objective must be one of {', '.join(PREFERENCE)}, not {objective!r}")
        if label_smoothing and objective != "dpo":
            raise BadInput(f"label_smoothing goes with dpo, not {objective}")
        self.objective, self.alpha = objective, alpha
        self.beta = BETA[objective] if beta is None else beta
        self.label_smoothing = label_smoothing
        super().__init__(model, args, **more)

    def prepared(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """Pairs of examples, or single ones for kto."""
        if self.objective == "kto":
            held = checked(rows, ("prompt", "completion", "label"), "kto")
            return encoded(held, self._single)
        held = checked(rows, ("prompt", "chosen", "rejected"), self.objective)
        return encoded(held, self._pair)

    def _single(self, row: dict[str, Any]) -> dict[str, Any]:
        found = {"one": self.encoder.example(row["prompt"], row["completion"])}
        found["label"] = label_of(row)  # type: ignore[assignment]
        return found | _known(row, "ref_logps")

    def _pair(self, row: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: self.encoder.example(row["prompt"], row[name]) for name in ("chosen", "rejected")
        }
        if self.objective == "cdpo":
            found["rejected"] = {
                **found["rejected"],
                "scores": self._scores(row, found["rejected"]),
            }
            return found  # whose reference is needed token by token
        return found | _known(row, "ref_chosen_logps", "ref_rejected_logps")

    def _scores(self, row: dict[str, Any], rejected: Mapping[str, list[int]]) -> list[float]:
        scores = row.get("rejected_scores")
        if scores is None:
            raise BadInput("cdpo needs the column rejected_scores: one number a token")
        answer = sum(rejected["completion_mask"])
        if len(scores) not in (answer, answer - 1):
            raise BadInput(
                f"a rejected answer of {answer} tokens (with its end) has {len(scores)} scores; "
                "score the very string that is trained on"
            )
        tail = [*map(float, scores), *[0.0] * (answer - len(scores))]
        return [0.0] * (len(rejected["input_ids"]) - answer) + tail

    def has_reference(self, examples: Any) -> bool:
        """cdpo needs single tokens, which no column brings."""
        return examples is None or (self.objective != "cdpo" and super().has_reference(examples))

    def collated(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Roles `chosen` and `rejected`, or `one` with its labels."""
        if self.objective == "kto":
            part: dict[str, Any] = self.pad([e["one"] for e in examples])
            part["label"] = torch.tensor([e["label"] for e in examples])
            return {"one": part | self._sums(examples, "ref_logps")}
        chosen = self.pad([e["chosen"] for e in examples])
        rejected = self.pad([e["rejected"] for e in examples])
        if self.objective == "cdpo":
            width = rejected["input_ids"].shape[1]
            rows = [e["rejected"]["scores"] for e in examples]
            rejected["scores"] = torch.tensor([r + [0.0] * (width - len(r)) for r in rows])
        return {
            "chosen": chosen | self._sums(examples, "ref_chosen_logps"),
            "rejected": rejected | self._sums(examples, "ref_rejected_logps"),
        }

    def _sums(self, examples: Sequence[Any], name: str) -> dict[str, Any]:
        if name not in examples[0]:
            return {}
        return {"ref_logps": torch.tensor([e[name] for e in examples], dtype=torch.float32)}

    def terms(self, model: Any, batch: Mapping[str, Any]) -> list[Term]:
        """The loss, and for rpo nothing more: its nll is inside."""
        if self.objective == "kto":
            return [self._kto(model, batch["one"])]
        chosen, rejected = (self.logps(model, batch[r]) for r in ("chosen", "rejected"))
        if self.objective == "cdpo":
            if self.reference is None:
                raise BadInput("cdpo needs a reference model")
            loss = objectives.cdpo_loss(
                chosen.logp, self.reference(batch["chosen"]), rejected.logp,
                self.reference(batch["rejected"]), batch["rejected"]["scores"][:, 1:],
                mask_c=chosen.mask, mask_r=rejected.mask, gamma=self.beta, reduction="sum",
            )  # fmt: skip
            return [Term(loss, "chosen rows")]
        refs = [self.reference_logps(batch[r]) for r in ("chosen", "rejected")]
        sums = [one.logp.sum(-1) for one in (chosen, rejected)]
        margin = (sums[0] - refs[0] - sums[1] + refs[1]).detach()
        self.note(accuracy=float((margin > 0).float().mean()), margin=float(margin.mean()))
        loss = objectives.dpo_loss(
            sums[0], refs[0], sums[1], refs[1], beta=self.beta,
            label_smoothing=self.label_smoothing, reduction="sum",
        )  # fmt: skip
        if self.objective == "dpo":
            return [Term(loss, "chosen rows")]
        each = objectives.nll_loss(chosen.logp, chosen.mask, reduction="none").sum(-1)
        nll = (each / chosen.mask.sum(-1).clamp(min=1)).sum()
        return [Term(loss, "chosen rows"), Term(nll, "chosen rows", self.alpha)]

    def _kto(self, model: Any, part: Mapping[str, Any]) -> Term:
        own = self.logps(model, part).logp.sum(-1)
        ref = self.reference_logps(part)
        z = objectives.kto_baseline(own, ref, beta=self.beta)
        loss = objectives.kto_unpaired_loss(
            own, ref, part["label"], z=z, beta=self.beta, reduction="sum"
        )
        return Term(loss, "one rows")


class CDPOTrainer(PreferenceTrainer):
    """`PreferenceTrainer` of the objective cdpo: critical-token DPO, not the conservative one.

    gamma: of `nll.objectives.cdpo_loss`; the rest as in PreferenceTrainer.
    References: Lin et al. 2024, arXiv 2411.19943.
    """

    def __init__(self, model: Any, args: Any = None, *, gamma: float = 1.0, **more: Any):
        super().__init__(model, args, objective="cdpo", beta=gamma, **more)


def _known(row: Mapping[str, Any], *names: str) -> dict[str, float]:
    return {n: number_of(row, n) for n in names if row.get(n) is not None}
