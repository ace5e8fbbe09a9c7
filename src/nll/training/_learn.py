"""Learning from given texts: plain, or weighed by rewards."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from nll import objectives
from nll._errors import BadInput
from nll.training._rows import Row, checked, encoded, number_of
from nll.training._trainer import LikelihoodTrainer, Term

OFFLINE = ("wbc", "r_gold", "r_lol", "a_lol", "a_lol_ref_free", "a_lol_seq", "a_lol_kl")
VARIANTS = ("a_lol", "ref_free", "seq", "kl")
SAMPLERS = ("priority", "random")


class FinetuneTrainer(LikelihoodTrainer):
    """Mean nll of all tokens of the batch: `text`, or `prompt` and `completion`, or `messages`.

    Arguments as in LikelihoodTrainer.
    """

    def prepared(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """Examples; only completions and last answers are learned where there are any."""
        held = checked(rows, (), "fine-tuning")
        return encoded(held, self._example)

    def _example(self, row: dict[str, Any]) -> Any:
        if row.get("completion") is not None:
            return self.encoder.example(row.get("prompt") or "", row["completion"])
        for name in ("messages", "text"):
            if row.get(name) is not None:
                return self.encoder.text(row[name])
        raise BadInput("a row has neither text, nor prompt and completion, nor messages")

    def collated(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The role `text`."""
        return {"text": self.pad(examples)}

    def terms(self, model: Any, batch: Mapping[str, Any]) -> list[Term]:
        """The mean nll of a token."""
        own = self.logps(model, batch["text"])
        return [Term(objectives.nll_loss(own.logp, own.mask, reduction="sum"), "text tokens")]


class OfflineRLTrainer(LikelihoodTrainer):
    """Given answers, each weighed by its reward or its advantage over the reference.

    train_dataset: `prompt`, `completion`, `reward`, and for the a_lol family `value`, what the
    reference gains on that prompt on average (`nll.objectives.fit_value_head`, or the mean reward
    of some of its answers).   objective: wbc, r_gold, r_lol, a_lol, a_lol_ref_free, a_lol_seq or
    a_lol_kl.   clip: of the importance ratios; kl_beta: of a_lol_kl; floor: of r_gold.
    sampler: `priority` draws rows in proportion to their advantage, `random` uniformly among those
    with one above 0, None takes all rows in turn. Rows without an advantage are dropped with
    either, rows whose reward or value is nan always, with a warning; how many in all is said in
    `dropped`.
    References: Baheti et al. 2023, arXiv 2305.14718.
    """

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        objective: str = "a_lol",
        clip: float | None = 0.9,
        kl_beta: float = 0.0,
        floor: float = 0.1,
        sampler: str | None = None,
        **more: Any,
    ):
        if objective not in OFFLINE:
            raise BadInput(f"objective must be one of {', '.join(OFFLINE)}, not {objective!r}")
        if sampler is not None and sampler not in SAMPLERS:
            raise BadInput(f"sampler must be priority, random or None, not {sampler!r}")
        if kl_beta and objective != "a_lol_kl":
            raise BadInput(f"kl_beta goes with a_lol_kl, not {objective}")
        self.with_value = objective.startswith("a_lol")
        if sampler and not self.with_value:
            raise BadInput(f"a sampler draws by advantage, which {objective} does not have")
        self.objective, self.clip, self.kl_beta = objective, clip, kl_beta
        self.floor, self.sampler = floor, sampler
        self.dropped = 0
        self.needs_reference = objective in ("r_lol", "a_lol", "a_lol_seq", "a_lol_kl")
        super().__init__(model, args, **more)

    def prepared(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """Examples with reward and value; without those of no advantage where a sampler draws."""
        columns = ("prompt", "completion", "reward", *(["value"] if self.with_value else []))
        held = checked(rows, columns, self.objective)
        numbers = ("reward", "value") if self.with_value else ("reward",)

        def make(row: dict[str, Any]) -> dict[str, Any] | None:
            if any(_is_nan(row[name]) for name in numbers):
                return None
            found: dict[str, Any] = dict(self.encoder.example(row["prompt"], row["completion"]))
            return found | {name: number_of(row, name) for name in numbers}

        done = [e for e in encoded(held, make) if e is not None]
        unknown = len(held) - len(done)
        if unknown:
            names = " or ".join(numbers)
            warnings.warn(
                f"{unknown} of {len(held)} rows have no {names} (nan) and are left out",
                stacklevel=2,
            )
        if not done:
            raise BadInput("no row has a reward, so there is nothing to train on")
        kept = [e for e in done if e["reward"] > e["value"]] if self.sampler else done
        self.dropped += len(held) - len(kept)
        if not kept:
            raise BadInput("no row has a reward above its value, so none can be learned")
        return kept

    def has_reference(self, examples: Any) -> bool:
        """The ratios are those of tokens or sums under the same mask; no column brings them."""
        return examples is None

    def collated(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The role `answer`."""
        part = self.pad(examples)
        for name in ("reward", "value"):
            if name in examples[0]:
                part[name] = torch.tensor([e[name] for e in examples])
        return {"answer": part}

    def terms(self, model: Any, batch: Mapping[str, Any]) -> list[Term]:
        """The weighed nll."""
        part = batch["answer"]
        own = self.logps(model, part)
        reward = part["reward"]
        given: dict[str, Any] = {"mask": own.mask, "reduction": "sum"}
        if self.objective == "wbc":
            loss = objectives.weighted_bc_loss(own.logp, reward, **given)
        elif self.objective == "r_gold":
            loss = objectives.reward_gold_loss(own.logp, reward, floor=self.floor, **given)
        else:
            ref = own.logp.detach() if self.reference is None else self.reference(part)
            if self.objective == "r_lol":
                loss = objectives.r_lol_loss(own.logp, ref, reward, clip=self.clip, **given)
            else:
                # By priority the drawing is the weight.
                drawn = self.sampler == "priority"
                value = reward - 1 if drawn else part["value"]
                loss = objectives.a_lol_loss(
                    own.logp, ref, reward, value, variant=_variant(self.objective), clip=self.clip,
                    kl_beta=self.kl_beta, **given,
                )  # fmt: skip
        return [Term(loss, "answer rows")]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.sampler != "priority":
            return super()._get_train_sampler(rows)
        gains = [row["reward"] - row["value"] for row in rows]
        weights = objectives.advantage_priority_weights(gains).tolist()
        return _ByPriority(weights, self.args.data_seed or self.args.seed)


class ALoLTrainer(OfflineRLTrainer):
    """`OfflineRLTrainer` of the a_lol family.

    variant: a_lol, ref_free, seq or kl, as in `nll.objectives.a_lol_loss`; the rest as in
    OfflineRLTrainer. References: Baheti et al. 2023, arXiv 2305.14718.
    """

    def __init__(self, model: Any, args: Any = None, *, variant: str = "a_lol", **more: Any):
        if variant not in VARIANTS:
            raise BadInput(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
        objective = variant if variant == "a_lol" else f"a_lol_{variant}"
        super().__init__(model, args, objective=objective, **more)


class _ByPriority(torch.utils.data.Sampler[int]):
    """As many rows as there are, drawn by weight, anew in each epoch; a resumed run and every
    process of several draw the same ones."""

    def __init__(self, weights: Sequence[float], seed: int):
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """transformers says which it is, also when it goes on in the middle."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        chance = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        drawn = torch.multinomial(self.weights, len(self.weights), True, generator=chance)
        yield from drawn.tolist()


def _is_nan(value: Any) -> bool:
    """Whether a number, or a string of one, is nan."""
    try:
        return math.isnan(float(value))
    except (TypeError, ValueError):
        return False


def _variant(objective: str) -> Any:
    return objective.removeprefix("a_lol_") if objective != "a_lol" else "a_lol"
