"""The dice-loss study's taggers: is a token part of an entity, by a linear model or an encoder."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput
from nll.studies._study import Setting

if TYPE_CHECKING:
    from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float64]
Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"

BUCKETS, LR, EPOCHS, BATCH = 2**17, 0.05, 6, 512
ENCODER, ENCODER_LR, ENCODER_EPOCHS, ENCODER_BATCH = "bert-base-cased", 3e-5, 5, 16


class Posts(NamedTuple):
    """Tokens of all posts in a row, whether each belongs to an entity, and its post's number."""

    words: list[str]
    y: npt.NDArray[np.int64]
    post: npt.NDArray[np.int64]


def read_posts(setting: Setting, part: str) -> Posts:
    """`train`, `dev` or `test`. Raises BadInput where a line is not a token and its tag."""
    raw = gzip.decompress(setting.file("dice-loss", f"wnut17.{part}.conll.gz").read_bytes())
    words, y, post, number = [], [], [], 0
    for line in raw.decode("utf-8").split("\n"):
        if not line.strip():
            number += 1
            continue
        word, tab, tag = line.partition("\t")
        if not tab:
            raise BadInput(f"wnut17.{part}: '{line[:40]}' is not a token, a tab and a tag")
        words.append(word)
        y.append(tag.strip() != "O")
        post.append(number)
    # Runs of blank lines leave no empty posts.
    return Posts(words, np.array(y, int), np.unique(post, return_inverse=True)[1])


def losses(ratio: float) -> dict[str, Loss]:
    """Losses of logits (N,) and 0/1 targets (N,) by name; ratio: negatives to a positive."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as ce

    from nll.objectives import dice_loss, focal_loss, self_adjusting_dice_loss, tversky_loss

    def at_one(z: Tensor, y: Tensor, **more: Any) -> Tensor:
        with warnings.catch_warnings():
            # What this warning speaks of is what the study shows.
            warnings.filterwarnings("ignore", message="with alpha")
            return self_adjusting_dice_loss(
                z, y, alpha=1.0, square_denominator=False, logits=True, **more
            )

    dsc = partial(self_adjusting_dice_loss, logits=True)
    return {
        CE: ce,
        WEIGHTED: partial(ce, pos_weight=torch.tensor(ratio)),
        "focal": partial(focal_loss, logits=True),
        EACH: partial(dice_loss, logits=True),
        "self-adjusting dice 0.01, linear": partial(dsc, square_denominator=False),
        "self-adjusting dice 0.01": dsc,
        "self-adjusting dice 1, linear": at_one,
        "the same, weight a constant": partial(at_one, detach_weight=True),
        "Tversky 0.3, 0.7": partial(tversky_loss, alpha=0.3, beta=0.7, logits=True),
        SETS[0]: partial(dice_loss, set_level=True, logits=True),
        SETS[1]: partial(dice_loss, set_level=True, square_denominator=False, logits=True),
    }


CE, WEIGHTED = "cross entropy", "weighted cross entropy"
EACH = "dice, each token"
SETS = ("dice, whole batch", "dice, whole batch, linear")
COMPARED = (CE, WEIGHTED, "focal")


def features(posts: Posts) -> npt.NDArray[np.int64]:
    """(N, 10) hashed features: a token, its ends and shape, and both neighbours'."""
    out = np.empty((len(posts.words), 10), np.int64)
    edge = ("<edge>", "<edge>")
    for i, word in enumerate(posts.words):
        near = []
        for j in (i - 1, i + 1):
            inside = 0 <= j < len(posts.words) and posts.post[j] == posts.post[i]
            near.append((posts.words[j].lower(), _shape(posts.words[j])) if inside else edge)
        low = word.lower()
        given = (
            word, low, low[:3], low[-3:], low[-2:], _shape(word),
            near[0][0], near[1][0], near[0][1], near[1][1],
        )  # fmt: skip
        out[i] = [zlib.crc32(f"{k} {value}".encode()) % BUCKETS for k, value in enumerate(given)]
    return out


def _shape(word: str) -> str:
    """`McDonald's` -> `XxXx'x`: runs of capitals, small letters and digits cut to one sign."""
    kinds = "".join(
        "X" if c.isupper() else "x" if c.isalpha() else "0" if c.isdigit() else c for c in word
    )
    return re.sub(r"(.)\1+", r"\1", kinds)[:8]


def linear(
    loss: Loss,
    train: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    parts: Sequence[npt.NDArray[np.int64]],
    seed: int,
    epochs: int = EPOCHS,
) -> list[Floats]:
    """Probabilities on each of the parts after Adam on hashed features; a seed orders the data."""
    import torch

    x, target = torch.from_numpy(train), torch.from_numpy(y).float()
    weight = torch.zeros(BUCKETS, requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=LR)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=draw).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss(weight[x[batch]].sum(1) + bias, target[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        held = [weight[torch.from_numpy(p)].sum(1) + bias for p in parts]
    return [h.double().sigmoid().numpy() for h in held]


def encoder(
    loss: Loss, name: str, data: Mapping[str, Posts], seed: int, epochs: int = ENCODER_EPOCHS
) -> list[Floats]:
    """Probabilities on dev and test after fine-tuning a masked language model, as the paper does.

    A word is judged at its first piece; words beyond the model's window get 0.
    """
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(name)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    net: Any = AutoModelForTokenClassification.from_pretrained(name, num_labels=1).to(place)
    optimizer = torch.optim.AdamW(net.parameters(), lr=ENCODER_LR)
    draw = np.random.default_rng(seed)
    net.train()
    for _ in range(epochs):
        for batch in _batches(data["train"], draw):
            z, at = _judged(net, tokenizer, data["train"], batch, place)
            optimizer.zero_grad()
            loss(z, torch.from_numpy(data["train"].y[at]).float().to(place)).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    net.eval()
    out = []
    for part in ("dev", "test"):
        p = np.zeros(len(data[part].words))
        with torch.no_grad():
            for batch in _batches(data[part], None):
                z, at = _judged(net, tokenizer, data[part], batch, place)
                p[at] = z.double().sigmoid().cpu().numpy()
        out.append(p)
    return out


def _batches(posts: Posts, draw: np.random.Generator | None) -> Iterator[list[Any]]:
    """Lists of posts, each the positions of its tokens; in order without a generator."""
    starts = np.flatnonzero(np.diff(posts.post)) + 1
    cut = np.split(np.arange(len(posts.words)), starts)
    order = np.arange(len(cut)) if draw is None else draw.permutation(len(cut))
    for first in range(0, len(cut), ENCODER_BATCH):
        yield [cut[i] for i in order[first : first + ENCODER_BATCH]]


def _judged(
    net: Any, tokenizer: Any, posts: Posts, batch: Sequence[Any], place: str
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Logits of the words of some posts, and the words' positions."""
    texts = [[posts.words[i] for i in at] for at in batch]
    given = tokenizer(
        texts, is_split_into_words=True, padding=True, truncation=True, return_tensors="pt"
    )
    rows, columns, found = [], [], []
    for row, at in enumerate(batch):
        seen = None
        for column, word in enumerate(given.word_ids(row)):
            if word is not None and word != seen:
                rows.append(row)
                columns.append(column)
                found.append(at[word])
                seen = word
    z = net(**given.to(place)).logits[rows, columns, 0]
    return z, np.array(found, np.int64)
