"""What a training run would do: rows, lengths, trained weights, steps, memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from nll.training._trainer import LikelihoodTrainer

SHOWN = 3


class Span(NamedTuple):
    """A piece of an encoded row; whether it is what the model learns or forgets."""

    text: str
    learned: bool


class Forecast(NamedTuple):
    """Of a run that has not begun.

    lengths, answers: tokens of each encoded text, and how many of those count in the loss.
    memory: bytes by what they are for, an estimate for one process.
    """

    examples: int
    roles: Mapping[str, int]
    lengths: list[int]
    answers: list[int]
    cut: int
    shown: list[tuple[str, list[Span]]]
    trained: int
    parameters: int
    steps_an_epoch: int
    steps: int
    memory: Mapping[str, int]


def forecast(trainer: LikelihoodTrainer) -> Forecast:
    """Of a trainer whose models may be without weights."""
    named = list(_examples(trainer.train_dataset, trainer))
    lengths = [len(ids) for _, ids, _ in named]
    answers = [sum(mask[1:]) for _, _, mask in named]
    roles: dict[str, int] = {}
    for role, _, _ in named:
        roles[role] = roles.get(role, 0) + 1
    shown, seen = [], dict.fromkeys(roles, 0)
    most = max(1, SHOWN // max(1, len(roles)))
    for role, ids, mask in named:
        if seen[role] < most:
            seen[role] += 1
            shown.append((role, _spans(trainer.encoder.tokenizer.hf, ids, mask)))
    args = trainer.args
    examples = len(trainer.train_dataset)
    batches = math.ceil(examples / (args.per_device_train_batch_size * args.world_size))
    per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    whole = _size(trainer.model)
    return Forecast(
        examples=examples,
        roles=roles,
        lengths=lengths,
        answers=answers,
        cut=sum(n >= trainer.encoder.max_length for n in lengths),
        shown=shown,
        trained=trained,
        parameters=whole,
        steps_an_epoch=per_epoch,
        steps=steps,
        memory=_memory(trainer, trained, whole, max(lengths)),
    )


def _examples(data: Any, trainer: LikelihoodTrainer) -> Iterable[tuple[str, list[int], list[int]]]:
    """(role, ids, mask) of every encoded text, each once."""
    if hasattr(data, "forget"):
        for example in data.forget:
            yield "forget", example["input_ids"], example["completion_mask"]
            for other in example.get("instead", ())[:1]:
                yield "instead", other["input_ids"], other["completion_mask"]
        for example in data.keep:
            yield "retain", example["input_ids"], example["completion_mask"]
        return
    for example in data:
        if "input_ids" in example:
            yield "text", example["input_ids"], example["completion_mask"]
        elif isinstance(example.get("prompt"), str | list):
            ids = trainer.encoder.prompt(example["prompt"])
            yield "prompt", ids, [0] * len(ids)
        else:
            for role in ("chosen", "rejected", "one"):
                if role in example:
                    yield role, example[role]["input_ids"], example[role]["completion_mask"]


def _spans(tokenizer: Any, ids: list[int], mask: list[int]) -> list[Span]:
    first = next((i for i, m in enumerate(mask) if m), len(ids))
    parts = ((ids[:first], False), (ids[first:], True))
    return [Span(tokenizer.decode(part), learned) for part, learned in parts if part]


def _memory(trainer: LikelihoodTrainer, trained: int, whole: int, longest: int) -> dict[str, int]:
    config = trainer.model.config
    wide = int(getattr(config, "hidden_size", 0) or 0)
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    inner = int(getattr(config, "intermediate_size", 0) or 4 * wide)
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    size = 2 if trainer.args.bf16 else 4
    rows = trainer.args.per_device_train_batch_size
    if hasattr(trainer, "num_generations"):
        rows *= trainer.num_generations
        longest += trainer.max_completion_length
    # Kept for the backward pass of a layer: about ten states, four inner ones, attention's scores.
    token = 10 * wide + 4 * inner + heads * longest
    names = ("activation_checkpointing", "gradient_checkpointing")
    kept = 1 if any(getattr(trainer.args, name, False) for name in names) else layers
    states = rows * longest * (kept * token + layers * wide) * size
    other = getattr(trainer.reference, "model", None)
    compared = 0 if other is trainer.model or other is None else _size(other)
    return {
        "weights": 4 * whole,
        "reference": 4 * compared,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": states,
    }


def _size(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def quantiles(values: list[int]) -> tuple[int, int, int]:
    """Smallest, median (the lower of two), largest."""
    ordered = sorted(values)
    return ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]
