"""CLAPS on a causal model: the prompt is the source, the completion the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from nll import objectives
from nll._errors import BadInput
from nll.objectives._adversarial import adversarial_negative, adversarial_positive
from nll.training._policy import _headless, plain_head
from nll.training._rows import Row, checked, encoded
from nll.training._trainer import LikelihoodTrainer, Term, _loaded


class ClapsTrainer(LikelihoodTrainer):
    """Mean nll of completions plus a contrast of prompts and completions with adversarial pairs.

    train_dataset: `prompt`, `completion`.   beta: weight of the contrast.   tau: its temperature.
    eps_neg, eps_pos: lengths of the steps at each position; multiples of the states' median length
    with relative=True, which suits models whose states are not scaled as T5's.   pos_tau: False
    leaves the second term undivided by tau, as the released code does.   adversarial: False leaves
    the in-batch contrast alone.   The rest as in LikelihoodTrainer.
    The negatives of a pair are those of its micro-batch, so that the contrast, other than the nll,
    depends on how the batch is cut. The projection is kept in `model.claps_projection`, is trained
    and saved with the model, and is not needed afterwards.
    Raises BadInput for a model with adapters, or whose unembedding is not a plain linear layer.
    References: Lee et al. 2021, arXiv 2012.07280.
    """

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        beta: float = 1.0,
        tau: float = 0.1,
        eps_neg: float = 1.0,
        eps_pos: float = 3.0,
        relative: bool = False,
        pos_tau: bool = True,
        adversarial: bool = True,
        processing_class: Any = None,
        **more: Any,
    ):
        model, processing_class = _loaded(model, processing_class)
        if more.get("peft_config") is not None or hasattr(model, "disable_adapter"):
            raise BadInput(
                "ClapsTrainer trains all weights; adapters would not keep its projection"
            )
        head = plain_head(model)
        if head is None:
            raise BadInput("ClapsTrainer needs a model whose unembedding is one linear layer")
        if not hasattr(model, "claps_projection"):
            width = head.weight.shape[1]
            with torch.random.fork_rng():
                torch.manual_seed(0 if args is None else args.seed)
                model.claps_projection = nn.Linear(width, width).to(head.weight.device)
        self.beta, self.tau, self.pos_tau = beta, tau, pos_tau
        self.eps_neg, self.eps_pos, self.relative = eps_neg, eps_pos, relative
        self.adversarial = adversarial
        super().__init__(model, args, processing_class=processing_class, **more)

    def prepared(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """Examples."""
        held = checked(rows, ("prompt", "completion"), "claps")
        return encoded(held, lambda r: dict(self.encoder.example(r["prompt"], r["completion"])))

    def collated(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The role `text`."""
        return {"text": self.pad(examples)}

    def terms(self, model: Any, batch: Mapping[str, Any]) -> list[Term]:
        """The nll of tokens, and the contrast of rows."""
        part, whole = batch["text"], self.accelerator.unwrap_model(model)
        head, projection = plain_head(whole), whole.claps_projection
        assert head is not None  # noqa: S101 - seen in __init__
        ids, answer = part["input_ids"], part["completion_mask"].bool()
        with _headless(head):
            states = model(
                input_ids=ids, attention_mask=part["attention_mask"], use_cache=False
            ).logits
        own = objectives.linear_logps(states, head.weight, ids, answer, bias=head.bias)
        pool = partial(
            objectives.pool_states, weight=projection.weight, bias=projection.bias
        )  # fmt: skip
        states = states.to(projection.weight.dtype)
        labels = torch.where(own.mask, ids[:, 1:], -100)
        hidden, real = states[:, :-1], own.mask
        source, target = pool(states, part["attention_mask"].bool() & ~answer), pool(hidden, real)
        negative = positive = None
        if self.adversarial:
            near = adversarial_negative(hidden, labels, head, self.eps_neg, relative=self.relative)
            far = adversarial_positive(
                hidden, labels, head, self.eps_pos, source=source, pool=pool, tau=self.tau,
                relative=self.relative, dedupe=True,
            )  # fmt: skip
            negative, positive = pool(near.to(hidden), real), pool(far.to(hidden), real)
        contrast = objectives.contrastive_sequence_loss(
            source, target, negative=negative, positive=positive, mask=real.any(-1), labels=labels,
            tau=self.tau, pos_tau=self.pos_tau, reduction="sum",
        )  # fmt: skip
        nll = objectives.nll_loss(own.logp, own.mask, reduction="sum")
        self.note(contrast=float(contrast.detach()) / max(int(real.any(-1).sum()), 1))
        return [Term(nll, "text tokens"), Term(contrast, "text rows", self.beta)]
