"""What the tests of the trainers share: a small random model, arguments, plain updates."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from nll.testing import random_model

PROMPTS = ["who is abe? ", "who is bea? ", "who is cid? ", "who is dot? ", "who is eli? "]
ANSWERS = ["a cook", "a spy of the king", "a baker", "a poet", "nobody knows"]


def model_and_tokenizer(seed: int = 0) -> tuple[Any, Any]:
    made = random_model(seed=seed)
    return copy.deepcopy(made.network.hf), made.tokenizer.hf


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    given = {
        "per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 0.0, "seed": 7,
        "report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
        "use_cpu": True, "optim": "sgd", "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**given, **options})


def unlearning_rows() -> list[dict[str, Any]]:
    return [
        {"prompt": p, "completion": a, "label": i >= 2}
        for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))
    ]


def preference_rows() -> list[dict[str, Any]]:
    turned = ANSWERS[1:] + ANSWERS[:1]
    return [
        {"prompt": p, "chosen": a, "rejected": b}
        for p, a, b in zip(PROMPTS, ANSWERS, turned, strict=True)
    ]


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def apart(a: Any, b: Any) -> float:
    """Largest difference between the weights of two models."""
    return float((weights(a) - weights(b)).abs().max())


def by_hand(model: Any, loss: Any, lr: float = 1e-2) -> Any:
    """The model after one plain SGD step on a loss of it."""
    moved = copy.deepcopy(model).train()
    loss(moved).backward()
    with torch.no_grad():
        for p in moved.parameters():
            if p.grad is not None:
                p -= lr * p.grad
    return moved


def logged(trainer: Any, name: str) -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


def epochs(rows: Iterable[Any], times: int) -> list[Any]:
    return list(rows) * times
