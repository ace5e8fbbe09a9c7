"""The ResRL study's still half: where false answers leave the subspace of true ones."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nll import metrics
from nll.trace import Text

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]
RANK = 64
SCORES = ("penultimate", "last", "random subspace", "nll")


class Answer(NamedTuple):
    """A completion's ids (T,), the states that predict them before and after the last layer (T, d),
    and the gradient of each token's log-prob on the logits (T, V)."""

    ids: list[int]
    penultimate: Tensor
    last: Tensor
    delta: Tensor

    @property
    def nll(self) -> Floats:
        """(T,) nats: delta at the token itself is 1 - p."""
        import torch

        own = self.delta[torch.arange(len(self.ids)), torch.tensor(self.ids)]
        out: Floats = -torch.log1p(-own.double().clamp(max=1 - 1e-12)).numpy()
        return out


class Question(NamedTuple):
    """What one question shows: AUROC of each of SCORES, and displacements by weights."""

    areas: dict[str, float]
    displaced: dict[str, float]


def read(model: Any, question: str, answers: Sequence[str]) -> list[Answer]:
    """One pass over a question's answers; `model` is one in this process."""
    import torch

    from nll._errors import BadText
    from nll.models._encode import encode

    texts = [Text.pair(f"Question: {question}\nAnswer:", " " + a) for a in answers]
    bos = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    rows, starts = [], []
    for done in encode(model.tokenizer, texts):
        if isinstance(done, BadText):
            raise done
        rows.append(torch.tensor(bos + done.ids.tolist()))
        starts.append(len(bos) + done.prompt_tokens)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        out = model.network.hf(input_ids=ids, output_hidden_states=True, use_cache=False)
    found = []
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        own = row[start:]
        place = slice(start - 1, len(row) - 1)
        delta = -torch.softmax(out.logits[i, place].float(), -1)
        delta[torch.arange(len(own)), own] += 1
        before, last = (out.hidden_states[k][i, place].float() for k in (-2, -1))
        found.append(Answer(own.tolist(), before, last, delta))
    return found


def differing(given: Sequence[int], base: Sequence[int]) -> list[bool]:
    """Which of the given tokens are in no block that both have."""
    out = [True] * len(given)
    match = difflib.SequenceMatcher(None, list(base), list(given), autojunk=False)
    for block in match.get_matching_blocks():
        out[block.b : block.b + block.size] = [False] * block.size
    return out


def look(right: Sequence[Answer], wrong: Sequence[Answer], seed: int) -> Question | None:
    """One group: true answers against false ones, which are compared with the last true one.

    None when no token or every token of the false answers differs.
    """
    import torch

    from nll.objectives import likelihood_displacement, residual_token_weights

    label = np.array([d for a in wrong for d in differing(a.ids, right[-1].ids)], int)
    if label.min() == label.max():
        return None
    inner = [torch.cat([a.penultimate for a in side]) for side in (right, wrong)]
    outer = [torch.cat([a.last for a in side]) for side in (right, wrong)]
    draw = torch.Generator().manual_seed(seed)
    weight = residual_token_weights(inner[0], inner[1], rank=RANK)
    scores = {
        "penultimate": weight,
        "last": residual_token_weights(outer[0], outer[1], rank=RANK),
        "random subspace": random_residual(inner[0], inner[1], draw),
        "nll": np.concatenate([a.nll for a in wrong]),
    }
    even = torch.ones_like(weight)
    weights = {
        "uniform": even,
        "ResRL": weight / weight.mean(),
        "shuffled": weight[torch.randperm(len(weight), generator=draw)] / weight.mean(),
    }
    pushed = {
        name: float(
            likelihood_displacement(
                right[0].delta, right[0].last, torch.cat([a.delta for a in wrong]),
                outer[1], -w / len(w), lr=1.0,
            )
        )
        for name, w in weights.items()
    }  # fmt: skip
    return Question(
        {n: float(metrics.auroc(label, np.asarray(s))) for n, s in scores.items()}, pushed
    )


def random_residual(right: Tensor, wrong: Tensor, draw: Any) -> Tensor:
    """(N,) residual of the wrong states from a random subspace of the same rank and centre."""
    import torch

    from nll.objectives import Subspace, projection_residual
    from nll.objectives._residual import normalised

    right, wrong = normalised(right), normalised(wrong)
    k = min(RANK, len(right) - 1, right.shape[1])
    basis, _ = torch.linalg.qr(torch.randn(right.shape[1], k, generator=draw))
    return projection_residual(wrong, Subspace(right.mean(0), basis, torch.ones(k)))
