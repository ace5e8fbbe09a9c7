"""A small language model that learns some of TOFU's answers by heart, for studies of unlearning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nll.studies._common import read_json_lines
from nll.studies._study import Setting

if TYPE_CHECKING:
    from torch import Tensor

Pair: TypeAlias = tuple[str, str]
Rows: TypeAlias = list[dict[str, Any]]
LEARN_LR, BATCH, PIECES = 2e-3, 10, 2000


def tofu_rows(setting: Setting) -> tuple[Rows, Rows]:
    """TOFU's forget01 (40 rows, two authors) and the first 160 rows to retain (eight)."""
    forget, retain = (
        read_json_lines(setting.file("npo", f"{name}_perturbed.jsonl.gz"))
        for name in ("forget01", "retain")
    )
    return forget, retain


@dataclass
class Student:
    """A causal model with its tokenizer."""

    net: Any
    tokenizer: Any

    def __post_init__(self) -> None:
        from nll.training._rows import Encoder

        self.encoder = Encoder(self.tokenizer, max_length=512)
        self.seen: dict[Pair, Any] = {}

    def copy(self) -> Student:
        """The same student with weights of its own."""
        return Student(copy.deepcopy(self.net), self.tokenizer)

    def batch(self, rows: Sequence[Pair]) -> dict[str, Tensor]:
        """Questions and answers as ids and masks, on the model's device."""
        from nll.training._rows import padded

        for row in rows:
            if row not in self.seen:
                self.seen[row] = self.encoder.example(row[0], " " + row[1])
        made = padded([self.seen[row] for row in rows], self.encoder.pad)
        return {name: part.to(self.net.device) for name, part in made.items()}

    def logps(self, rows: Sequence[Pair]) -> Any:
        """(B, T - 1) log-probs of the answers' tokens, their end included, and the mask."""
        from nll.training._policy import answer_logps

        return answer_logps(self.net, self.batch(rows))

    def sums(self, rows: Sequence[Pair]) -> Tensor:
        """(B,) log-probs of whole answers."""
        logp, mask = self.logps(rows)
        out: Tensor = logp.where(mask, 0.0).sum(-1)
        return out

    def fixed(self, rows: Sequence[Pair]) -> Tensor:
        """`sums` without a gradient, in batches."""
        import torch

        with torch.no_grad():
            return torch.cat([self.sums(part) for part in parts(rows)])

    def nll(self, rows: Sequence[Pair]) -> npt.NDArray[np.float64]:
        """(n,) mean nats per token of each answer."""
        import torch

        found = []
        with torch.no_grad():
            for part in parts(rows):
                logp, mask = self.logps(part)
                found.append(-logp.where(mask, 0.0).sum(-1) / mask.sum(-1))
        out: npt.NDArray[np.float64] = torch.cat(found).cpu().double().numpy()
        return out

    def accuracy(self, rows: Sequence[Pair]) -> npt.NDArray[np.float64]:
        """(n,) memorization accuracy: how many of each answer's tokens are the likeliest."""
        import torch

        found = []
        with torch.no_grad():
            for part in parts(rows):
                given = self.batch(part)
                mask = given["completion_mask"][:, 1:].bool()
                logits = self.net(
                    input_ids=given["input_ids"], attention_mask=given["attention_mask"]
                ).logits[:, :-1]
                hit = (logits.argmax(-1) == given["input_ids"][:, 1:]) & mask
                found.append(hit.sum(-1) / mask.sum(-1))
        out: npt.NDArray[np.float64] = torch.cat(found).cpu().double().numpy()
        return out

    def continuations(self, prompts: Sequence[str], *, most: int = 48) -> list[str]:
        """Greedy continuations of at most so many tokens, without special tokens."""
        import torch

        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        out = [""] * len(prompts)
        for part in parts(order, 80):
            ids = [self.encoder.prompt(prompts[i]) for i in part]
            width = max(len(x) for x in ids)
            pad = self.encoder.pad
            given = torch.tensor([[pad] * (width - len(x)) + x for x in ids])
            mask = torch.tensor([[0] * (width - len(x)) + [1] * len(x) for x in ids])
            said = self.net.generate(
                input_ids=given.to(self.net.device), attention_mask=mask.to(self.net.device),
                max_new_tokens=most, do_sample=False, temperature=None, top_p=None, top_k=None,
                pad_token_id=pad, eos_token_id=self.encoder.eos,
            )[:, width:]  # fmt: skip
            texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
            for i, text in zip(part, texts, strict=True):
                out[i] = text
        return out


def parts(rows: Sequence[Any] | npt.NDArray[Any], size: int = 40) -> Iterator[list[Any]]:
    """The rows in lists of at most so many."""
    for first in range(0, len(rows), size):
        yield list(rows[first : first + size])


def student(setting: Setting, texts: Sequence[str], *, layers: int, seed: int) -> Student:
    """Quick: a new Llama over word pieces learned from these texts; else the model under study."""
    import torch

    if not setting.quick:
        from nll._errors import BadInput
        from nll.models._engine import LocalModel

        model = setting.load()
        if not isinstance(model, LocalModel):
            raise BadInput("this study trains its model; name one that runs in this process")
        return Student(copy.deepcopy(model.network.hf), model.tokenizer.hf)
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(
        texts, vocab_size=PIECES, special_tokens=["<pad>", "<end>"], show_progress=False
    )
    ends = {"pad_token": "<pad>", "eos_token": "<end>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **ends)
    torch.manual_seed(seed)
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256,
            num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=512, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip
    return Student(net, tokenizer)


def learn(
    who: Student,
    rows: Sequence[Pair],
    *,
    epochs: int,
    enough: float,
    seed: int,
    lr: float = LEARN_LR,
    say: Callable[[str], None] = lambda _: None,
) -> float:
    """Fine-tune by the mean nll of the batch's answer tokens; the nll of the last epoch.

    Ends after an epoch whose mean is below `enough`.
    """
    import torch

    from nll.objectives import nll_loss

    optimiser = torch.optim.AdamW(who.net.parameters(), lr=lr, weight_decay=0.01)
    draw = np.random.default_rng(seed)
    mean = float("inf")
    for epoch in range(epochs):
        losses = []
        for part in parts(draw.permutation(len(rows)), BATCH):
            loss = nll_loss(*who.logps([rows[i] for i in part]))
            step(optimiser, loss)
            losses.append(loss.item())
        mean = float(np.mean(losses))
        say(f"epoch {epoch + 1}: nll {mean:.3f}")
        if mean < enough:
            break
    return mean


def step(optimiser: Any, loss: Tensor) -> None:
    """One update; gradients are cut to norm 1, without which ascent ends in nan."""
    import torch

    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()


def texts_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """All questions and answers of TOFU rows, true and false."""
    return [
        text
        for r in rows
        for text in (r["question"], r["answer"], r["paraphrased_answer"], *r["perturbed_answer"])
    ]
