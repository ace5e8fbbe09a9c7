"""Grade-school problems with right and wrong solutions by other models, for two studies."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any, NamedTuple

import numpy as np

from nll import metrics
from nll.scores import split_steps
from nll.studies._study import Finding, Setting
from nll.trace import Array

_WRITERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
_CALCULATED = re.compile(r"<<[^>]*>>")


class Chain(NamedTuple):
    """A solution: its steps without the answer's line, that answer, and whether it is right."""

    steps: tuple[str, ...]
    answer: str
    right: bool


class Problem(NamedTuple):
    """A question, its reference answer, and the solutions of four models."""

    question: str
    answer: str
    chains: tuple[Chain, ...]


def read_problems(setting: Setting) -> list[Problem]:
    """All problems, in the order of the file."""
    path = setting.file("dynamic-instability", "gsm8k_model_solutions_200.jsonl.gz")
    rows = [json.loads(x) for x in gzip.decompress(path.read_bytes()).decode().splitlines()]
    return [_problem(row) for row in rows]


def one_right_one_wrong(problem: Problem, draw: np.random.Generator) -> tuple[Chain, Chain]:
    """A right and a wrong chain of the problem, each drawn among those that end in an answer."""
    both = []
    for right in (True, False):
        held = [c for c in problem.chains if c.right is right and c.answer]
        both.append(held[int(draw.integers(len(held)))])
    return both[0], both[1]


def paired_auroc(name: str, right: Array, wrong: Array, *, seed: int = 0) -> Finding:
    """AUROC of right against wrong, its interval from resampling the problems they share."""
    found = metrics.bootstrap(_auroc_of_pairs, right, wrong, n=1000, seed=seed)
    return Finding(name, float(found.value), float(found.low), float(found.high), 2 * len(right))


def _auroc_of_pairs(right: Array, wrong: Array) -> float:
    label = np.repeat([1, 0], [len(right), len(wrong)])
    return metrics.auroc(label, np.concatenate([right, wrong]))


def _problem(row: dict[str, Any]) -> Problem:
    chains = tuple(_chain(row[w]["solution"], bool(row[w]["is_correct"])) for w in _WRITERS)
    return Problem(row["question"].strip(), _chain(row["ground_truth"], True).answer, chains)


def _chain(solution: str, right: bool) -> Chain:
    lines = split_steps(_CALCULATED.sub("", solution), by="line")
    if not lines or not lines[-1].startswith("A:"):
        return Chain(tuple(lines), "", right)
    return Chain(tuple(lines[:-1]), _plain(lines[-1][2:]), right)


def _plain(answer: str) -> str:
    """The number in one spelling ("$18.0" as "18", "1,000" as "1000"): spelling must not count."""
    shown = answer.strip().lstrip("$").replace(",", "")
    return re.sub(r"\.0+$", "", shown)
