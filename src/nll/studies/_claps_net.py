"""The CLAPS study's translator: words, a small encoder-decoder, BLEU and chrF of its output."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

PAD, END = 0, 1


class Pairs(NamedTuple):
    """Sources with their translations, and the words of either side."""

    train: list[tuple[str, str]]
    held: list[tuple[str, list[str]]]
    words: tuple[dict[str, int], dict[str, int]]


class Batch(NamedTuple):
    """source, labels: (B, T) ids; -100 where there is none in labels, PAD in source."""

    source: Tensor
    labels: Tensor


class Size(NamedTuple):
    """Width of the states, and layers on either side."""

    width: int
    layers: int


def split(text: str) -> list[str]:
    """Words and marks, in small letters."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def cut(lines: Sequence[Sequence[str]], *, held: int, train: int | None, seed: int) -> Pairs:
    """Pairs split by their English side, so that no tested sentence was trained on."""
    several: dict[str, list[str]] = {}
    for english, french, *_ in lines:
        several.setdefault(english.lower(), []).append(french)
    order = [list(several)[i] for i in np.random.default_rng(seed).permutation(len(several))]
    pairs = [(e, f) for e in order[held:] for f in several[e]][:train]
    words: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for side, table in enumerate(words):
        for pair in pairs:
            for word in split(pair[side]):
                table.setdefault(word, len(table) + 3)  # 2 is a word never seen
    return Pairs(pairs, [(e, several[e]) for e in order[:held]], words)


def batch_of(pairs: Sequence[tuple[str, str]], words: Any) -> Batch:
    """Ids of sources and targets, each with an end."""
    import torch

    rows = [
        [torch.tensor([table.get(w, 2) for w in split(text)] + [END]) for text in side]
        for side, table in zip(zip(*pairs, strict=True), words, strict=True)
    ]
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(pad(rows[0], batch_first=True), pad(rows[1], True, -100))


def translator(held: Pairs, size: Size, seed: int) -> Any:
    """Encoder and decoder with a shared target table, whose states are scaled as T5's are, and the
    projection of the contrastive loss."""
    import torch
    from torch import nn

    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            d, (source, target) = size.width, (len(w) + 3 for w in held.words)
            self.source = nn.Embedding(source, d)
            self.target = nn.Embedding(target, d)
            self.place = nn.Embedding(64, d)
            given: dict[str, Any] = {"batch_first": True, "norm_first": True, "dropout": 0.1}
            self.encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(d, 4, 2 * d, **given),
                size.layers, nn.LayerNorm(d), enable_nested_tensor=False,
            )  # fmt: skip
            self.decoder = nn.TransformerDecoder(
                nn.TransformerDecoderLayer(d, 4, 2 * d, **given), size.layers, nn.LayerNorm(d)
            )
            self.projection = nn.Linear(d, d)

        def placed(self, table: Any, ids: Tensor) -> Tensor:
            out: Tensor = table(ids) + self.place(torch.arange(ids.shape[1]))
            return out

        def encode(self, source: Tensor) -> Tensor:
            out: Tensor = self.encoder(
                self.placed(self.source, source), src_key_padding_mask=source == PAD
            )
            return out

        def states(self, memory: Tensor, source: Tensor, before: Tensor) -> Tensor:
            """(B, T, d) states that predict what follows each of `before`."""
            length = before.shape[1]
            future = torch.ones(length, length, dtype=torch.bool).triu(1)
            out: Tensor = self.decoder(
                self.placed(self.target, before), memory, tgt_mask=future,
                memory_key_padding_mask=source == PAD,
            )  # fmt: skip
            scaled: Tensor = out * size.width**-0.5
            return scaled

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Translator()


def shifted(labels: Tensor) -> Tensor:
    """(B, T) what is read while predicting the labels; a text begins with PAD."""
    import torch

    return torch.cat([torch.full_like(labels[:, :1], PAD), labels[:, :-1].clamp(min=PAD)], 1)


def translate(net: Any, held: Pairs, *, longest: int = 20) -> list[str]:
    """Greedy translations of the held-out sources, as words with blanks between them."""
    import torch

    source = batch_of([(e, "") for e, _ in held.held], held.words).source
    words = {i: w for w, i in held.words[1].items()} | {2: "?"}
    net.eval()
    with torch.no_grad():
        memory = net.encode(source)
        ids = torch.zeros(len(source), 1, dtype=torch.long)
        for _ in range(longest):
            logits = net.states(memory, source, ids)[:, -1] @ net.target.weight.T
            logits[:, PAD] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
            if (ids == END).any(1).all():
                break
    out = []
    for row in ids[:, 1:].tolist():
        row = row[: row.index(END)] if END in row else row
        out.append(" ".join(words[i] for i in row))
    return out


def bleu(found: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 in percent of texts cut at blanks, against the nearest of several references.

    Orders without a match count as 1 / (2 possible), halved at every further one.
    """
    matched, possible = [0] * 4, [0] * 4
    length = wanted = 0
    for text, many in zip(found, references, strict=True):
        own, others = text.split(), [r.split() for r in many]
        length += len(own)
        wanted += min((abs(len(r) - len(own)), len(r)) for r in others)[1]
        for n in range(1, 5):
            grams = _grams(own, n)
            most: Counter[Any] = Counter()
            for r in others:
                most |= _grams(r, n)
            matched[n - 1] += (grams & most).total()
            possible[n - 1] += grams.total()
    logs, smooth = 0.0, 1.0
    for hit, of in zip(matched, possible, strict=True):
        if not of:
            return 0.0
        if not hit:
            smooth *= 2
        logs += math.log(hit / of if hit else 1 / (smooth * of)) / 4
    return 100 * math.exp(logs + min(0.0, 1 - wanted / max(length, 1)))


def chrf(found: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF (characters up to 6, beta 2) in percent; of several references the best."""
    total: dict[int, list[int]] = {n: [0, 0, 0] for n in range(1, 7)}
    for text, many in zip(found, references, strict=True):
        scored = [_characters(text, r) for r in many]
        best = max(scored, key=_f2)
        for n, counts in best.items():
            total[n] = [a + b for a, b in zip(total[n], counts, strict=True)]
    return 100 * _f2(total)


def _characters(text: str, reference: str) -> dict[int, list[int]]:
    own, other = ("".join(t.split()) for t in (text, reference))
    out = {}
    for n in range(1, 7):
        a, b = _grams(own, n), _grams(other, n)
        out[n] = [(a & b).total(), a.total(), b.total()]
    return out


def _f2(counts: Mapping[int, list[int]]) -> float:
    pairs = [(hit / a, hit / b) for hit, a, b in counts.values() if a and b]
    if not pairs:
        return 0.0
    precision, recall = (sum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
    return 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


def _grams(items: Sequence[str], n: int) -> Counter[Any]:
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))
