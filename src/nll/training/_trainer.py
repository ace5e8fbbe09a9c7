"""What the trainers share: losses as sums over the accumulated batch, so that cutting it into
micro-batches or over processes changes no update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments, set_seed

from nll._errors import BadInput
from nll.training._policy import Reference, answer_logps, reference_of
from nll.training._rows import Encoder, Row, padded


class Term(NamedTuple):
    """A part of the loss: the sum over this micro-batch, what it is a mean over, its factor."""

    total: Tensor
    over: str
    weight: float = 1.0


class LikelihoodTrainer(Trainer):  # type: ignore[misc]
    """transformers.Trainer with a loss of log-probs; a subclass says which (`terms`).

    model: a causal transformers or peft model, or its id.   args: transformers.TrainingArguments.
    train_dataset, eval_dataset: rows (dicts, a datasets.Dataset) with TRL's columns.
    ref_model: a model, a function from a batch to the (B, T - 1) log-probs of its answers, or None:
    the model as it is at the start, or, with adapters (peft_config, or a peft model), with the one
    called `ref`, a frozen copy of what is trained further, else without any.
    Precomputed sums in the columns `ref_logps` (`ref_chosen_logps`, `ref_rejected_logps`) make it
    needless.   processing_class: the tokenizer; found by the model's name unless given.
    """

    # The loss is a sum over the micro-batch by counts over the accumulated one.
    loss_is_scaled_for_ga = True
    needs_reference = False

    def __init__(
        self,
        model: Any,
        args: TrainingArguments | None = None,
        train_dataset: Iterable[Row] | None = None,
        eval_dataset: Iterable[Row] | None = None,
        processing_class: Any = None,
        ref_model: Any = None,
        peft_config: Any = None,
        max_length: int = 1024,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ):
        model, processing_class = _loaded(model, processing_class)
        args = TrainingArguments() if args is None else args
        if peft_config is not None:
            from peft import get_peft_model

            set_seed(args.seed)  # adapters begin with random numbers
            model = get_peft_model(model, peft_config)
        args.remove_unused_columns = False
        args.label_names = []
        if args.ddp_find_unused_parameters is None:
            # The unembedding works outside of the pass that several processes look through for
            # weights without a gradient; every trained weight has one here.
            args.ddp_find_unused_parameters = False
        self.encoder = Encoder(processing_class, max_length=max_length)
        train = None if train_dataset is None else self.prepared(train_dataset)
        held_out = None if eval_dataset is None else self.prepared(eval_dataset)
        # What the rows bring along is not computed again.
        self.reference: Reference | None = None
        if self.needs_reference and not all(map(self.has_reference, (train, held_out))):
            self.reference = reference_of(ref_model, model)
        elif ref_model is not None and not self.needs_reference:
            raise BadInput("this objective has no reference; leave out ref_model")
        self.seen: dict[str, list[float]] = {}
        super().__init__(
            model=model, args=args, train_dataset=train, eval_dataset=held_out,
            data_collator=self.collated, processing_class=processing_class,
            callbacks=list(callbacks or ()), optimizers=optimizers,
        )  # fmt: skip
        # Counting happens below, whatever arguments the model's own loss takes.
        self.model_accepts_loss_kwargs = False

    def prepared(self, rows: Iterable[Row]) -> Any:
        """The rows as examples."""
        raise NotImplementedError

    def has_reference(self, examples: Any) -> bool:
        """Whether all examples bring their reference's log-probs."""
        names = [n for n in (() if examples is None else examples[0]) if n.startswith("ref_")]
        return examples is None or (bool(names) and all(n in e for e in examples for n in names))

    def collated(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch: a role to its tensors, see `padded`."""
        raise NotImplementedError

    def terms(self, model: Any, batch: Mapping[str, Any]) -> list[Term]:
        """The parts of the loss of a micro-batch."""
        raise NotImplementedError

    def counts(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """How many of what its terms are means over a micro-batch holds."""
        out: dict[str, int] = {}
        for role, part in batch.items():
            if isinstance(part, Mapping):
                mask = part["completion_mask"][:, 1:]
                out[f"{role} tokens"] = int(mask.sum())
                out[f"{role} rows"] = int((mask.sum(-1) > 0).sum())
        return out

    def logps(self, model: Any, part: Mapping[str, Tensor]) -> Any:
        """Log-probs of the answers of one role, with their mask; see `answer_logps`."""
        return answer_logps(model, part, whole=self.accelerator.unwrap_model(model))

    def reference_logps(self, part: Mapping[str, Tensor], name: str = "ref_logps") -> Tensor:
        """(B,) sums of the reference, from the rows or the reference itself."""
        if name in part:
            return part[name]
        if self.reference is None:
            raise BadInput(f"the rows bring no '{name}', and there is no reference model")
        return self.reference(part).sum(-1)

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        # A model without weights, of which only the shape is asked, stays where it is.
        if not any(p.is_meta for p in model.parameters()):
            super()._move_model_to_device(model, device)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss: each term's sum over its count in the whole accumulated batch."""
        counts = num_items_in_batch
        if not isinstance(counts, dict):
            counts = self.counts(inputs)
        terms = self.terms(model, inputs)
        loss = sum(t.weight * t.total / max(counts[t.over], 1) for t in terms)
        # Processes average their gradients, and the counts are those of all of them.
        loss = loss * counts.get("processes", 1)
        return (loss, {}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        total: dict[str, int] = {}
        for batch in batch_samples:
            for name, n in self.counts(batch).items():
                total[name] = total.get(name, 0) + n
        if total and self.args.world_size > 1:
            names = sorted(total)
            mine = torch.tensor([total[n] for n in names], device=device)
            shape = (self.args.world_size, len(names))
            all_of_them = self.accelerator.gather(mine).reshape(shape).sum(0)
            total = dict(zip(names, all_of_them.tolist(), strict=True))
            total["processes"] = self.args.world_size
        return total or None

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """The loss of an evaluation batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach().mean(), None, None

    def note(self, **values: float) -> None:
        """Numbers of this micro-batch, whose means go into the next log line."""
        for name, value in values.items():
            self.seen.setdefault(name, []).append(float(value))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what was noted since the last line, the mean over all processes."""
        means = {k: sum(v) / len(v) for k, v in sorted(self.seen.items()) if v}
        self.seen.clear()
        if means and self.args.world_size > 1:
            mine = torch.tensor([list(means.values())], device=self.args.device)
            found = self.accelerator.gather(mine).mean(0).tolist()
            means = dict(zip(means, found, strict=True))
        super().log({**logs, **means}, *args, **kwargs)

    def pad(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """One role's tensors of these examples, precomputed references among them."""
        out = padded(examples, self.encoder.pad)
        for name in examples[0]:
            if name.startswith("ref_"):
                out[name] = torch.tensor([e[name] for e in examples], dtype=torch.float32)
        return out


def _loaded(model: Any, processing_class: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nll.models._engine import LocalModel

    if isinstance(model, LocalModel):
        return model.network.hf, processing_class or model.tokenizer.hf
    if isinstance(model, str):
        processing_class = processing_class or AutoTokenizer.from_pretrained(model)
        return AutoModelForCausalLM.from_pretrained(model, use_safetensors=True), processing_class
    if processing_class is None:
        processing_class = AutoTokenizer.from_pretrained(model.config.name_or_path)
    return model, processing_class
