"""The NPO study's language model: it learns invented authors by heart and is to forget some."""

from __future__ import annotations

import copy
import gzip
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nll import metrics
from nll.studies._common import read_json_lines
from nll.studies._study import Finding, Setting

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("GA", "GradDiff", "NPO", "NPO+RT", "SimNPO", "IDK")
END, SPLIT = 1, 2
LEARN_LR, FORGET_LR, BATCH = 2e-3, 3e-4, 10

Pair = tuple[str, str]


class Curve(NamedTuple):
    """Mean nll per token of true answers after each epoch, the start first; truth ratios last."""

    forget: list[float]
    retain: list[float]
    ratios: npt.NDArray[np.float64]


class Material(NamedTuple):
    """Rows of TOFU, refusals, and the words of all of them."""

    forget: list[dict[str, Any]]
    retain: list[dict[str, Any]]
    refusals: list[str]
    words: dict[str, int]


def material(setting: Setting) -> Material:
    """Quick: 20 rows to forget and 60 to keep; else all 40 and 160."""
    few = setting.quick
    forget = read_json_lines(setting.file("npo", "forget01_perturbed.jsonl.gz"))
    retain = read_json_lines(setting.file("npo", "retain_perturbed.jsonl.gz"))
    raw = gzip.decompress(setting.file("npo", "idontknow.txt.gz").read_bytes()).decode("utf-8")
    forget, retain = forget[: 20 if few else 40], retain[: 60 if few else 160]
    refusals = [line for line in raw.splitlines() if line.strip()]
    words: dict[str, int] = {}
    for row in (*forget, *retain):
        for text in (row["question"], *_answers(row)):
            for word in _split(text):
                words.setdefault(word, len(words) + 3)
    for line in refusals:
        for word in _split(line):
            words.setdefault(word, len(words) + 3)
    return Material(forget, retain, refusals, words)


def _answers(row: dict[str, Any]) -> list[str]:
    return [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]]


def _split(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def pairs(rows: Sequence[dict[str, Any]]) -> list[Pair]:
    """Question and true answer of each row."""
    return [(r["question"], r["answer"]) for r in rows]


def network(held: Material, seed: int) -> Any:
    """A Llama of three layers over the words of the material, from random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(held.words) + 3, hidden_size=128, intermediate_size=256,
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=512, bos_token_id=None, eos_token_id=END, pad_token_id=0,
        )
    ).train()  # fmt: skip


def answer_logps(net: Any, held: Material, rows: Sequence[Pair]) -> Any:
    """(B, T) log-probs of the answers' words and their end, with a mask."""
    import torch

    from nll.objectives import linear_logps

    ids, masks = [], []
    for question, answer in rows:
        q = [held.words[w] for w in _split(question)] + [SPLIT]
        a = [held.words[w] for w in _split(answer)] + [END]
        ids.append(torch.tensor(q + a))
        masks.append(torch.tensor([False] * len(q) + [True] * len(a)))
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
    hidden = net.model(input_ids=batch, use_cache=False).last_hidden_state
    return linear_logps(hidden, net.lm_head.weight, batch, mask)


def learn(held: Material, rows: Sequence[Pair], *, epochs: int, seed: int) -> Any:
    """A network that knows these rows by heart."""
    import torch

    from nll.objectives import nll_loss

    net = network(held, seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARN_LR, weight_decay=0.01)
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        for part in _batches(rows, draw):
            step(optimiser, nll_loss(*answer_logps(net, held, part)))
    return net


def _batches(rows: Sequence[Pair], draw: np.random.Generator) -> Iterator[list[Pair]]:
    order = draw.permutation(len(rows))
    for start in range(0, len(rows), BATCH):
        yield [rows[i] for i in order[start : start + BATCH]]


def step(optimiser: Any, loss: Tensor) -> None:
    """One update; gradients are cut to norm 1, without which ascent ends in nan."""
    import torch

    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()


def forget(held: Material, start: Any, method: str, *, epochs: int, seed: int) -> Curve:
    """Unlearn from a copy of `start`; every forget row meets one random retain row."""
    import torch

    from nll import objectives as o

    net, bad, good = copy.deepcopy(start), pairs(held.forget), pairs(held.retain)
    optimiser = torch.optim.AdamW(net.parameters(), lr=FORGET_LR, weight_decay=0.01)
    draw = np.random.default_rng(seed)

    def loss(part: list[Pair]) -> Tensor:
        kept = answer_logps(net, held, [good[i] for i in draw.integers(0, len(good), len(part))])
        if method == "IDK":
            lines = draw.integers(0, len(held.refusals), len(part))
            unknown = [(q, held.refusals[i]) for (q, _), i in zip(part, lines, strict=True)]
            logp, mask = answer_logps(net, held, unknown)
            return o.idk_loss(logp, kept.logp, idk_mask=mask, retain_mask=kept.mask)
        logp, mask = answer_logps(net, held, part)
        with torch.no_grad():
            ref = answer_logps(start, held, part).logp
        if method == "SimNPO":
            return 0.125 * o.simnpo_loss(logp, mask=mask, beta=4.5) + o.retain_nll(*kept)
        sums: dict[str, Any] = {"token_reduction": "sum"}
        if method in ("GA", "GradDiff"):
            found = o.ga_loss(logp, mask, **sums)
        else:
            found = o.npo_loss(logp, ref, mask=mask, beta=0.1)
        return found if method in ("GA", "NPO") else found + o.retain_nll(*kept, **sums)

    curve = Curve([mean_nll(net, held, bad)], [mean_nll(net, held, good)], np.zeros(0))
    for _ in range(epochs):
        for part in _batches(bad, draw):
            step(optimiser, loss(part))
        curve.forget.append(mean_nll(net, held, bad))
        curve.retain.append(mean_nll(net, held, good))
    return curve._replace(ratios=ratios(net, held))


def mean_nll(net: Any, held: Material, rows: Sequence[Pair]) -> float:
    """Nats per token over all tokens of the answers."""
    import torch

    with torch.no_grad():
        logp, mask = answer_logps(net, held, rows)
    return float(-logp.sum() / mask.sum())


def ratios(net: Any, held: Material) -> npt.NDArray[np.float64]:
    """(rows,) truth ratio of every forget row."""
    import torch

    each = []
    for row in held.forget:
        with torch.no_grad():
            logp, mask = answer_logps(net, held, [(row["question"], a) for a in _answers(row)[1:]])
        each.append((-logp.sum(-1) / mask.sum(-1)).double().numpy())
    table = np.array(each)
    return metrics.truth_ratio(table[:, 0], table[:, 1:])


def kept_at_equal_forgetting(a: Curve, b: Curve) -> tuple[float, float, float]:
    """The highest forget nll that both curves reach, and the retain nll of each there."""
    tops = [np.maximum.accumulate(c.forget) for c in (a, b)]
    level = min(top[-1] for top in tops)
    # where the forget nll does not rise, the last epoch of that level counts
    kept = [float(np.interp(level, top, c.retain)) for top, c in zip(tops, (a, b), strict=True)]
    return float(level), kept[0], kept[1]


def language_model(
    setting: Setting,
) -> tuple[list[Finding], list[dict[str, float | str]], list[float]]:
    """Findings, one row a method, and NPO's retain nll over GA's at equal forget nll, per seed."""
    held = material(setting)
    bad, good = pairs(held.forget), pairs(held.retain)
    learned, epochs = (40, 10) if setting.quick else (100, 20)
    start = learn(held, [*bad, *good], epochs=learned, seed=setting.seed)
    setting.say(f"npo: learned by heart, nll {mean_nll(start, held, [*bad, *good]):.3f}")
    never = learn(held, good, epochs=learned, seed=setting.seed)
    setting.say("npo: a second model that never saw the forget rows")
    runs: dict[str, list[Curve]] = {name: [] for name in METHODS}
    for seed in range(setting.seed, setting.seed + 3):
        for name in METHODS:
            runs[name].append(forget(held, start, name, epochs=epochs, seed=seed))
        setting.say(f"npo: unlearned with {len(METHODS)} methods, seed {seed}")
    target = ratios(never, held)
    rows: list[dict[str, float | str]] = [
        _row("start", [Curve([mean_nll(start, held, bad)], [mean_nll(start, held, good)],
                             ratios(start, held))], target),
        _row("retain-only", [Curve([mean_nll(never, held, bad)], [mean_nll(never, held, good)],
                                   target)], target),
        *(_row(name, many, target) for name, many in runs.items()),
    ]  # fmt: skip
    found = []
    shares = []
    for ga, ours in zip(runs["GA"], runs["NPO"], strict=True):
        level, theirs, own = kept_at_equal_forgetting(ga, ours)
        shares.append(own / theirs)
        found.append(
            Finding(f"small LM, forget nll {level:.2f}: NPO retain nll / GA's", own / theirs)
        )
    return found, rows, shares


def _row(
    name: str, many: Sequence[Curve], target: npt.NDArray[np.float64]
) -> dict[str, float | str]:
    third = min(3, len(many[0].retain) - 1)
    return {
        "method": name,
        "forget nll": float(np.mean([c.forget[-1] for c in many])),
        "retain nll": float(np.mean([c.retain[-1] for c in many])),
        "retain nll, epoch 3": float(np.mean([c.retain[third] for c in many])),
        "truth ratio": float(
            np.mean([metrics.mean_truth_ratio(c.ratios, of="forget") for c in many])
        ),
        "KS to retain-only": float(
            np.mean([metrics.forget_quality(c.ratios, target).ks for c in many])
        ),
    }
