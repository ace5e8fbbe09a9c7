"""A tiny model trained to decode a common cipher and a rare one (for the study of embers)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nll.models import LanguageModel
from nll.tasks import rot
from nll.testing import random_model
from nll.trace import Array, Fields, Text

ALPHABET = "\x03\x02 abcdefghijklmnopqrstuvwxyz!?="
SIGN = {13: "!", 12: "?"}
LENGTH = 12
RARITY = 61  # one text in 61 is of the rare cipher


class Cell(NamedTuple):
    """One cipher on one kind of text: per item, whether greedy decodes it; mean nll a letter."""

    right: Array
    nll: float


def toy_world(texts: Sequence[str], *, count: int, seed: int, width: int = 128) -> dict[str, Cell]:
    """Train two layers on rot-13 and rot-12 of one corpus, 60 to 1; test on held-out pieces.

    texts: the corpus; the last eighth is held out.   count: training examples.   Returns the cells
    `rot13 common`, `rot12 common`, `rot13 shuffled`, `rot12 shuffled` on the same 300 pieces, whose
    letters are shuffled in the last two.
    """
    from nll.training import finetune_causal

    cut = len(texts) - len(texts) // 8
    train = pieces(texts[:cut])
    known = set(train)
    test = sorted(set(pieces(texts[cut:])) - known)
    draw = np.random.default_rng(seed)
    rows = [
        "".join(_pair(train[draw.integers(len(train))], 12 if draw.random() < 1 / RARITY else 13))
        for _ in range(count)
    ]
    blank = random_model(ALPHABET, width=width, context=64, seed=seed)
    model = finetune_causal(blank, rows, lr=2e-3, batch_size=64, seed=seed)
    common = [test[i] for i in draw.permutation(len(test))[:300]]
    shuffled = ["".join(draw.permutation(list(piece))) for piece in common]
    return {
        f"rot{n} {kind}": _test(model, chosen, n)
        for kind, chosen in (("common", common), ("shuffled", shuffled))
        for n in (13, 12)
    }


def pieces(texts: Sequence[str]) -> list[str]:
    """Every stretch of `LENGTH` lower-case letters and spaces that begins a word."""
    out = []
    for text in texts:
        plain = re.sub(r" +", " ", re.sub(r"[^a-z ]+", "", text.lower().replace("\n", " ")))
        starts = [m.start() for m in re.finditer(r"(?:^|(?<= ))\S", plain)]
        out += [plain[i : i + LENGTH] for i in starts if i + LENGTH <= len(plain)]
    return out


def _pair(piece: str, n: int) -> tuple[str, str]:
    return f"{SIGN[n]}{rot(piece, n)}=", piece


def _test(model: LanguageModel, chosen: Sequence[str], n: int) -> Cell:
    traces = list(model.trace([Text.pair(*_pair(p, n)) for p in chosen], fields=Fields()))
    return Cell(
        np.array([float((t.values("rank") == 1).all()) for t in traces]),
        float(np.mean([-t.values("logp").mean() for t in traces])),
    )
