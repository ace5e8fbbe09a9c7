"""The dice-loss study: its data, its counting, both taggers on a few posts, its verdicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from nll import BadInput
from nll.studies import Setting, studies
from nll.studies import _dice_loss as inner
from nll.studies import _dice_loss_taggers as taggers
from nll.studies._dice_loss_taggers import CE, SETS, Posts


def test_carried_posts_are_whole() -> None:
    held = {part: taggers.read_posts(Setting(), part) for part in ("train", "dev", "test")}
    found = {k: (int(v.post[-1]) + 1, len(v.words)) for k, v in held.items()}
    assert found == {"train": (3394, 62730), "dev": (1009, 15733), "test": (1287, 23394)}
    assert held["train"].y.mean() == pytest.approx(1 - 0.9496, abs=1e-4)
    assert (
        held["train"].words[17:20] == ["Empire", "State", "Building"]
        or "Empire" in (held["train"].words[:20])
    )


def test_a_line_that_is_no_token_is_told(tmp_path) -> None:
    import gzip

    (tmp_path / "dice-loss").mkdir()
    bad = gzip.compress(b"fine\tO\nno tag here\n")
    (tmp_path / "dice-loss" / "wnut17.dev.conll.gz").write_bytes(bad)
    with pytest.raises(BadInput, match="'no tag here' is not a token"):
        taggers.read_posts(Setting(data=tmp_path), "dev")


def few(part: str, posts: int) -> Posts:
    whole = taggers.read_posts(Setting(), part)
    n = int((whole.post < posts).sum())
    return Posts(whole.words[:n], whole.y[:n], whole.post[:n])


def test_features_see_no_other_post() -> None:
    posts = Posts(["In", "London", "McDonald's"], np.array([0, 1, 1]), np.array([0, 0, 1]))
    alone = Posts(["McDonald's"], np.array([1]), np.array([0]))
    assert (taggers.features(posts)[2] == taggers.features(alone)[0]).all()
    assert taggers._shape("McDonald's2019") == "XxXx'x0"


def test_a_tuned_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 8, 60) / 8, rng.integers(0, 2, 60)
    threshold, best = inner.tune(p, y)
    assert best == pytest.approx(f1_score(y, p >= threshold))
    assert best == pytest.approx(max(f1_score(y, p >= t) for t in np.unique(p)))


def test_counts_and_intervals() -> None:
    posts = Posts(["a"] * 6, np.array([1, 1, 0, 0, 1, 0]), np.array([0, 0, 0, 1, 1, 2]))
    good, bad = np.array([0.9, 0.8, 0.1, 0.2, 0.7, 0.3]), np.array([0.9, 0.1, 0.6, 0.2, 0.1, 0.3])
    one, other = (inner.read([[p, p], [p, p]], posts, posts) for p in (good, bad))
    assert inner.f1(one.half.sum(1)) == pytest.approx([1, 1])
    assert inner.f1(other.half.sum(1)) == pytest.approx([f1_score(posts.y, bad > 0.5)] * 2)
    draw = inner.Draws(2, 3, 0)
    assert draw.gain("half", one, one) == (0, 0, 0)
    value, low, high = draw.gain("half", one, other)
    assert low <= value <= high
    assert value == pytest.approx(1 - 0.4)
    assert one.most == 0.9


def test_every_loss_trains_the_linear_tagger() -> None:
    train, dev = few("train", 120), few("dev", 40)
    x, z = taggers.features(train), taggers.features(dev)
    found = {
        name: taggers.linear(loss, x, train.y, [z, x], seed=0, epochs=4)
        for name, loss in taggers.losses(19.0).items()
    }
    for name, (p, own) in found.items():
        assert p.shape == (len(dev.words),)
        assert (own[train.y > 0].mean() > own[train.y == 0].mean() + 0.02) or "1, linear" in name
    assert found["self-adjusting dice 1, linear"][1].max() < 0.6
    again = taggers.linear(taggers.losses(19.0)[CE], x, train.y, [z], seed=0, epochs=4)
    assert (again[0] == found[CE][0]).all()


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory) -> str:
    """A random BERT of one layer whose pieces are single signs."""
    signs = sorted({c for w in few("train", 30).words + few("dev", 6).words for c in w})
    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *signs, *(f"##{c}" for c in signs)])}
    raw = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=160
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=160, num_labels=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("encoder")
    BertForTokenClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_full_mode_s_encoder_judges_every_word(tiny_encoder: str) -> None:
    data = {"train": few("train", 30), "dev": few("dev", 6), "test": few("dev", 3)}
    loss = taggers.losses(19.0)[SETS[0]]
    dev, test = taggers.encoder(loss, tiny_encoder, data, seed=0, epochs=1)
    assert dev.shape == (len(data["dev"].words),)
    assert ((dev > 0) & (dev < 1)).all()
    # Padding changes nothing: the same posts in a smaller batch.
    np.testing.assert_allclose(test, dev[: len(test)], atol=1e-5)


def test_a_whole_run_on_few_posts(monkeypatch) -> None:
    sizes = {"train": 60, "dev": 30, "test": 30}
    whole = taggers.read_posts
    cut = {
        part: Posts(p.words[:n], p.y[:n], p.post[:n])
        for part, posts in sizes.items()
        for p in [whole(Setting(), part)]
        for n in [int((p.post < posts).sum())]
    }
    monkeypatch.setattr(taggers, "read_posts", lambda _, part: cut[part])
    monkeypatch.setattr(taggers, "EPOCHS", 1)
    outcome = studies()["dice-loss"].run(Setting())
    (rows,) = outcome.tables.values()
    assert len(rows) == 11
    assert all(f.low <= f.value <= f.high for f in outcome.findings)
    assert outcome.figure is not None


@pytest.mark.parametrize(
    ("squared", "straight", "lead", "verdict"),
    [
        ((0.04, 0.02, 0.06), (0.05, 0.02, 0.08), -0.03, "supported"),
        ((-0.01, -0.02, 0.06), (0.05, 0.02, 0.08), -0.03, "not supported"),
        ((0.04, 0.02, 0.06), (0.05, 0.02, 0.08), 0.03, "not supported"),
        ((0.04, -0.02, 0.06), (0.05, 0.02, 0.08), -0.03, "inconclusive"),
        ((0.04, 0.02, 0.06), (0.05, 0.02, 0.08), 0.01, "inconclusive"),
    ],
)
def test_verdicts(squared, straight, lead, verdict: str) -> None:
    found, why = inner._judge(squared, straight, lead, -0.01, (0.0, -0.1, 0.1))
    assert found == verdict
    assert "not told apart" in why
