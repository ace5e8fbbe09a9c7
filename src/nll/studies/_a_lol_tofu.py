"""The A-LoL study's data: a good and two bad answers to each question, and a model of all three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nll.studies._common import read_json_lines
from nll.studies._npo_tofu import END, SPLIT, Material, Pair, answer_logps, step
from nll.studies._npo_tofu import _split as split
from nll.studies._study import Setting

GOOD, BAD, NOISE = 0.9, 0.2, 0.1
LONGEST = 48


class Row(NamedTuple):
    """An answer that was given, its reward, and the question's number."""

    pair: Pair
    reward: float
    question: int


class Answers(NamedTuple):
    """Rows to learn from, TOFU's questions behind them, and all their words."""

    rows: list[Row]
    asked: list[dict[str, Any]]
    words: Material


def answers(setting: Setting, seed: int) -> Answers:
    """Quick: 20 questions, else all 200; noise on the rewards of bad answers by seed."""
    asked = read_json_lines(setting.file("npo", "forget01_perturbed.jsonl.gz"))
    if setting.quick:
        asked = asked[:20]
    else:
        asked += read_json_lines(setting.file("npo", "retain_perturbed.jsonl.gz"))
    words: dict[str, int] = {}
    for row in asked:
        for text in (row["question"], row["paraphrased_question"], *options(row)):
            for word in split(text):
                words.setdefault(word, len(words) + 3)
    draw = np.random.default_rng(seed)
    rows = []
    for i, row in enumerate(asked):
        rows.append(Row((row["question"], row["paraphrased_answer"]), GOOD, i))
        for k in draw.choice(len(row["perturbed_answer"]), 2, replace=False):
            reward = float(np.clip(BAD + draw.normal(0, NOISE), 0, 1))
            rows.append(Row((row["question"], row["perturbed_answer"][k]), reward, i))
    return Answers(rows, asked, Material([], [], [], words))


def options(row: dict[str, Any]) -> list[str]:
    """The true answer in other words, and the false ones."""
    return [row["paraphrased_answer"], *row["perturbed_answer"]]


def network(words: int, seed: int, *, width: int, layers: int) -> Any:
    """A Llama over so many words, from random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=words + 3, hidden_size=width, intermediate_size=2 * width,
                num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4,
                max_position_embeddings=512, bos_token_id=None, eos_token_id=END, pad_token_id=0,
            )
        )  # fmt: skip


def reference(held: Answers, *, size: tuple[int, int], epochs: int, seed: int) -> Any:
    """A model fitted to all rows, good and bad alike."""
    import torch

    from nll.objectives import nll_loss

    net = network(len(held.words.words), seed, width=size[0], layers=size[1])
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(len(held.rows))
        for start in range(0, len(order), 10):
            part = [held.rows[i].pair for i in order[start : start + 10]]
            step(optimiser, nll_loss(*answer_logps(net, held.words, part)))
    return net


def sampled(
    net: Any, held: Answers, questions: Sequence[str], n: int, seed: int
) -> list[list[str]]:
    """n answers to each question, as words with blanks between them."""
    import torch

    asked = [[held.words.words[w] for w in split(q)] + [SPLIT] for q in questions]
    wide = max(map(len, asked))
    ids = torch.tensor([[0] * (wide - len(a)) + a for a in asked])
    mask = torch.tensor([[0] * (wide - len(a)) + [1] * len(a) for a in asked])
    net.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        out = net.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, num_return_sequences=n,
            max_new_tokens=LONGEST, pad_token_id=0, eos_token_id=END,
        )  # fmt: skip
    net.train()
    names = {i: w for w, i in held.words.words.items()}
    texts = []
    for row in out[:, wide:].tolist():
        row = row[: row.index(END)] if END in row else row
        texts.append(" ".join(names[i] for i in row if i in names))
    return [texts[i * n : (i + 1) * n] for i in range(len(questions))]


def values(net: Any, held: Answers, seed: int, n: int = 4) -> list[float]:
    """V of each question: the mean reward of n of the model's answers.

    A sample's reward is that of the known answer with which it shares most words.
    """
    drawn = sampled(net, held, [r["question"] for r in held.asked], n, seed)
    known: list[list[Row]] = [[] for _ in held.asked]
    for row in held.rows:
        known[row.question].append(row)
    return [
        float(np.mean([nearest(text, known[i]).reward for text in many]))
        for i, many in enumerate(drawn)
    ]


def nearest(text: str, known: Sequence[Row]) -> Row:
    """The known answer with the highest F1 of words."""
    own = set(text.split())

    def f1(row: Row) -> float:
        other = set(split(row.pair[1]))
        return 2 * len(own & other) / max(len(own) + len(other), 1)

    return max(known, key=f1)


def truth_share(net: Any, held: Answers) -> float:
    """P(true) / (P(true) + sum P(false)) on paraphrased questions, P the geometric mean of the
    words' probabilities; mean over questions."""
    import torch

    shares = []
    for row in held.asked:
        pairs = [(row["paraphrased_question"], a) for a in options(row)]
        with torch.no_grad():
            logp, mask = answer_logps(net, held.words, pairs)
        p = (logp.sum(-1) / mask.sum(-1)).double()
        shares.append(float(torch.softmax(p, 0)[0]))
    return float(np.mean(shares))


def distinct_2(texts: Sequence[str]) -> float:
    """Different pairs of words over all pairs of words."""
    pairs = [pair for t in texts for pair in zip(t.split(), t.split()[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else float("nan")
