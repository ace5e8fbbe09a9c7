"""Reinforcement learning from verified answers: groups of drawn answers, judged by functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nll import objectives
from nll._errors import BadInput
from nll.training._policy import answer_logps
from nll.training._rows import Row, checked, padded
from nll.training._trainer import LikelihoodTrainer, Term

GROUP = ("grpo", "nsr", "psr", "w_reinforce", "resrl")
RewardFunction: TypeAlias = Callable[..., Sequence[float | None]]


class GroupRLTrainer(LikelihoodTrainer):
    """GRPO, NSR, PSR, W-REINFORCE or ResRL: each step draws answers with the model as it is.

    train_dataset: `prompt` and any other columns, which the reward functions get.
    reward_funcs: one or more functions as TRL's, f(prompts, completions, completion_ids, **columns)
    to a reward for each answer; None where it cannot be judged. Several are added up.
    objective: grpo, nsr, psr, w_reinforce or resrl.   num_generations: answers to each prompt.
    max_completion_length, temperature: of the drawing.   clip, clip_high, dual_clip,
    token_reduction: see `nll.objectives.clipped_policy_loss`.   resrl_options: see
    `nll.objectives.resrl_advantages`; the states are those of the penultimate layer.
    One update is made of each drawing, so the ratio is 1 at its start. The rest as in
    LikelihoodTrainer. References: arXiv 2402.03300, 2506.01347, 2605.00380.
    """

    # Answers are drawn inside a micro-batch: its mean is one of the accumulated ones.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        objective: str = "resrl",
        num_generations: int = 8,
        max_completion_length: int = 256,
        temperature: float = 1.0,
        clip: float = 0.2,
        clip_high: float | None = None,
        dual_clip: float | None = None,
        token_reduction: Any = "sequence",  # noqa: S107
        resrl_options: Mapping[str, Any] | None = None,
        **more: Any,
    ):
        if objective not in GROUP:
            raise BadInput(f"objective must be one of {', '.join(GROUP)}, not {objective!r}")
        if num_generations < 2:
            raise BadInput("a group needs two answers or more: num_generations")
        self.objective = objective
        self.reward_funcs = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
        self.num_generations, self.max_completion_length = num_generations, max_completion_length
        self.temperature = temperature
        self.loss_options = {
            "clip": clip, "clip_high": clip_high, "dual_clip": dual_clip,
            "token_reduction": token_reduction,
        }  # fmt: skip
        self.resrl_options = dict(resrl_options or {})
        super().__init__(model, args, **more)

    def prepared(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """The rows as they are; prompts are encoded when they are drawn."""
        return [dict(row) for row in checked(rows, ("prompt",), self.objective)]

    def collated(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The rows of a micro-batch."""
        return {"rows": list(examples)}

    def counts(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """Nothing is known before the answers are drawn."""
        return {"batches": 1}

    def terms(self, model: Any, batch: Mapping[str, Any]) -> list[Term]:
        """The clipped loss of answers drawn now."""
        whole = self.accelerator.unwrap_model(model)
        prompts = [row["prompt"] for row in batch["rows"] for _ in range(self.num_generations)]
        part, texts, answers = self._drawn(whole, batch["rows"])
        reward = self._rewards(batch["rows"], prompts, texts, answers).to(part["input_ids"].device)
        group = torch.arange(len(batch["rows"])).repeat_interleave(self.num_generations)
        self.note(
            reward=float(reward.nanmean()),
            answer_tokens=float(part["completion_mask"].sum(-1).float().mean()),
        )
        own = answer_logps(model, part, whole=whole)
        adv, mask = self._advantages(model, part, reward, group.to(reward.device), own.mask)
        loss = objectives.clipped_policy_loss(
            own.logp, own.logp.detach(), adv, mask, **self.loss_options
        )
        return [Term(loss, "batches")]

    def _advantages(
        self, model: Any, part: Mapping[str, Tensor], reward: Tensor, group: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.objective == "grpo":
            return objectives.grpo_advantages(reward, group), mask
        if self.objective == "resrl":
            with torch.no_grad():
                states = model(
                    part["input_ids"], attention_mask=part["attention_mask"], use_cache=False,
                    output_hidden_states=True,
                ).hidden_states[-2][:, :-1]  # fmt: skip
            return (
                objectives.resrl_advantages(reward, group, states, mask, **self.resrl_options),
                mask,
            )
        mode: Any = self.objective
        adv = objectives.nsr_advantages(reward, mode=mode)
        # The class that does not count leaves the mean; an answer that was not judged does too.
        return adv, mask & ((adv != 0) & ~reward.isnan())[:, None]

    @torch.no_grad()
    def _drawn(
        self, whole: Any, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Tensor], list[str], list[list[int]]]:
        """The answers as a batch, as texts and as ids, in groups of num_generations."""
        tokenizer = self.encoder.tokenizer.hf
        prompts = [self.encoder.prompt(row["prompt"]) for row in rows]
        width = max(map(len, prompts))
        device = next(whole.parameters()).device
        ids = torch.tensor([[self.encoder.pad] * (width - len(p)) + p for p in prompts])
        held = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        training = whole.training
        whole.eval()
        drawn = whole.generate(
            input_ids=ids.to(device), attention_mask=held.to(device), do_sample=True,
            temperature=self.temperature, top_p=1.0, top_k=0, pad_token_id=self.encoder.pad,
            eos_token_id=self.encoder.eos, num_return_sequences=self.num_generations,
            max_new_tokens=self.max_completion_length,
        )  # fmt: skip
        whole.train(training)
        answers = [self._until_end(row) for row in drawn[:, width:].tolist()]
        examples = []
        for i, answer in enumerate(answers):
            prompt = prompts[i // self.num_generations]
            examples.append({
                "input_ids": prompt + answer,
                "completion_mask": [0] * len(prompt) + [1] * len(answer),
            })  # fmt: skip
        texts = [tokenizer.decode(a, skip_special_tokens=True) for a in answers]
        part = {k: v.to(device) for k, v in padded(examples, self.encoder.pad).items()}
        return part, texts, answers

    def _until_end(self, ids: list[int]) -> list[int]:
        """The answer with its end-of-text token, without what pads it."""
        end = self.encoder.eos
        return ids[: ids.index(end) + 1] if end is not None and end in ids else ids

    def _rewards(
        self,
        rows: Sequence[Mapping[str, Any]],
        prompts: list[Any],
        texts: list[str],
        answers: list[list[int]],
    ) -> Tensor:
        names = {name for row in rows for name in row} - {"prompt"}
        columns = {
            name: [row.get(name) for row in rows for _ in range(self.num_generations)]
            for name in sorted(names)
        }
        total = torch.zeros(len(texts))
        for function in self.reward_funcs:
            given = function(prompts=prompts, completions=texts, completion_ids=answers, **columns)
            if len(given) != len(texts):
                raise BadInput(
                    f"a reward function gave {len(given)} rewards for {len(texts)} answers"
                )
            total += torch.tensor([float("nan") if r is None else float(r) for r in given])
        return total


class ResRLTrainer(GroupRLTrainer):
    """`GroupRLTrainer` of the objective resrl; arguments as there. References: arXiv 2605.00380."""

    def __init__(self, model: Any, args: Any = None, **more: Any):
        super().__init__(model, args, objective="resrl", **more)
