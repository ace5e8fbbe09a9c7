"""The study of twelve uncertainties: its verdicts, what it measures, the code it runs, toy runs."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nll import scores
from nll._bundle import answer_text
from nll.studies import Finding, Setting, run_study
from nll.studies import _look_before_you_leap as inner
from nll.studies._run_code import assertions, parses, share_passed
from nll.testing import table_model
from nll.trace import Fields, Trace

CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"


@pytest.fixture(scope="module")
def tasks():
    path = Setting().file("look-before-you-leap", "HumanEval.jsonl.gz")
    return [json.loads(x) for x in gzip.decompress(path.read_bytes()).decode().splitlines()]


def test_the_carried_tasks_are_those_of_the_sheet(tasks):
    assert len(tasks) == 164
    assert sum(len(assertions(t["test"])) for t in tasks) > 900


def test_reference_solutions_pass_and_none_does_not(tasks):
    for task in tasks[:4]:
        given = task["test"], task["entry_point"]
        assert share_passed(task["prompt"] + task["canonical_solution"], *given) == 1
        assert share_passed(task["prompt"] + "    return None\n", *given) < 1


@pytest.mark.parametrize(
    ("code", "share"),
    [
        ("def f(x):\n    return x * x\n", 1),
        ("def f(x):\n    return 2 * x\n", 0.5),
        ("def f(x):\n    raise ValueError\n", 0),
        ("def f(x):\n    while True: pass\n", 0),
        ("def g(x):\n    return x * x\n", 0),
        ("def f(x) return\n", 0),
        ("import sys\nsys.exit(0)\ndef f(x):\n    return x * x\n", 0),
        ("import socket\nsocket.socket()\ndef f(x):\n    return x * x\n", 0),
        ("open('x', 'wb', 0).write(b'xx')\ndef f(x):\n    return x * x\n", 0),
        ("x = ' ' * (1 << 31)\ndef f(x):\n    return x * x\n", 0),
    ],
)
def test_share_of_assertions_that_code_fulfils(code, share):
    assert share_passed(code, CHECK, "f", seconds=1) == share


def test_assertions_keep_what_they_need():
    lines = ("y = 3", "assert candidate(y) == 9", "assert candidate(y + 1)")
    test = "def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)
    found = assertions(test)
    assert len(found) == 2
    assert all("y = 3" in a for a in found)
    assert found[1].count("assert") == 1
    assert assertions("x = 1") == []
    assert share_passed("def f(x):\n    return 9\n", test, "f") == 1


def test_what_is_python():
    assert parses("x = 1")
    assert not parses("x = ")
    assert not parses("x = '\x00'")


def findings(single, sampled, most, least, *, wide=0.05):
    at = {n: Finding(n, single, single - wide, single + wide, 9) for n in inner.SINGLE}
    at |= {n: Finding(n, sampled, sampled - wide, sampled + wide, 9) for n in inner.SAMPLED}
    at |= {f"Max-Ent {k}": Finding(k, most) for k in ("VR", "VRO")}
    at |= {f"Min-Ent {k}": Finding(k, least) for k in ("VR", "VRO")}
    order = {
        f"Max-Ent minus Min-Ent, {k}": Finding(k, most - least, most - least - wide, 1.0)
        for k in ("VR", "VRO")
    }
    gap = single - sampled
    order["best single minus best sampled"] = Finding("x", gap, gap - wide, gap + wide)
    return at, order


@pytest.mark.parametrize(
    ("numbers", "r", "verdict"),
    [
        ((0.7, 0.8, 0.7, 0.5), -0.4, "supported"),
        ((0.8, 0.8, 0.7, 0.5), -0.4, "inconclusive"),
        ((0.9, 0.8, 0.7, 0.5), -0.4, "not supported"),
        ((0.7, 0.8, 0.52, 0.5), -0.4, "inconclusive"),
        ((0.7, 0.8, 0.5, 0.6), -0.4, "not supported"),
        ((0.7, 0.8, 0.7, 0.5), -0.05, "not supported"),
    ],
)
def test_the_verdict_follows_the_falsifier(numbers, r, verdict):
    at, order = findings(*numbers)
    assert inner._judge(at, order, [Finding("r", r, r - 0.1, r + 0.1)])[0] == verdict


def test_a_constant_measure_has_no_correlation():
    rows = [inner.Measured({}, q, {"m": 5}) for q in (0.0, 1.0, 1.0)]
    values = np.ones(3)
    row = inner._row(inner._pearson("m", values, rows, 0), values, rows)
    assert row["Pearson"] == row["Spearman"] == "undefined"
    assert row["95% interval"] == ""
    assert (row["defined"], row["model calls"]) == (3, 5)


def test_one_input_is_measured_as_its_functions_say():
    model = table_model()
    setting = Setting()
    setting.__dict__["model"] = model  # what the cached property would load
    limit = {"max_new_tokens": 5, "stop": ["\n"]}
    ((greedy, *drawn),) = model.generate(["ab"], fields=Fields(top_k=5), **limit, **inner.DRAWN)
    distance = partial(scores.token_f1_distance, rule="set")
    got = inner._measure(setting, "ab", greedy, drawn, distance, 1.0, list(inner.POINTS), limit)
    assert got.values["Max Ent"] == scores.segment_max_entropy(greedy)
    assert got.values["Average Prob"] == scores.segment_mean_nll(greedy)
    where = scores.perturbation_points(greedy.completion.entropy)
    for name, at in zip(("Max-Ent", "Min-Ent", "MaxDiff-Ent"), where, strict=True):
        texts = scores.perturb(model, "ab", greedy, at, 4, **limit).texts
        texts = [t.strip() for t in texts]
        assert got.values[f"{name} VR"] == scores.variation_ratio(texts, distance)
        want = scores.variation_ratio_original(texts, answer_text(greedy), distance)
        assert got.values[f"{name} VRO"] == want
    assert len(got.values) == 13
    assert got.calls["Sample VRO"] == 6


@pytest.mark.parametrize(
    ("answer", "quality"),
    [
        ("    return 1", 1.0),
        ("    return 1\n<|im_end|>", 1.0),
        ("    return 2", 0.75),
        (" return (", 0.0),
    ],
)
def test_the_end_token_of_an_answer_is_no_code(answer, quality):
    head = "def one():\n"
    task = {
        "prompt": head, "entry_point": "one",
        "test": "def check(candidate):\n    assert candidate() == 1\n    assert candidate() > 0\n",
    }  # fmt: skip
    start = len(head)
    greedy = Trace(
        logp=[-1, -1], spans=[[0, start], [start, start + len(answer)]], text=head + answer,
        prompt_tokens=1,
    )  # fmt: skip
    assert inner._quality(task, greedy) == quality


def test_an_empty_answer_is_undefined():
    model = table_model()
    limit = {"max_new_tokens": 5, "stop": ["\n"]}
    ((greedy,),) = model.generate(["ab"], fields=Fields(top_k=5), **limit)
    first = greedy.completion.text[0]
    ((empty,),) = model.generate(["ab"], max_new_tokens=1, stop=[first], fields=Fields(top_k=5))
    assert not len(empty.completion)
    got = inner._measure(
        Setting(), "ab", empty, [empty] * 5, scores.token_f1_distance, 0.0, ["Max-Ent"], limit
    )
    assert all(np.isnan(v) for n, v in got.values.items() if n != "length of the answer")


def drawn_rows(n, seed=0):
    """A good single-answer score and a useless perturbation, on answers of known quality."""
    draw = np.random.default_rng(seed)
    names = [*inner.SINGLE, *inner.SAMPLED]
    names += [f"{p} {k}" for p in inner.POINTS for k in ("VR", "VRO")]
    rows = []
    for i in range(n):
        wrong = i % 2
        values = {k: draw.normal() + (3 * wrong if k in inner.SINGLE else 0) for k in names}
        values["length of the answer"] = float(draw.integers(1, 9))
        rows.append(inner.Measured(values, 1.0 - wrong, {}))
    return rows


def test_a_whole_run_says_when_the_order_is_reversed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(inner, "_capitals", lambda _: drawn_rows(60))
    monkeypatch.setattr(inner, "_programs", lambda _: drawn_rows(12, seed=1))
    result = run_study("look-before-you-leap", Setting(), tmp_path)
    assert result["verdict"] == "not supported"
    found = {f["name"]: f for f in result["findings"]}
    assert found["Max Prob"]["value"] > 0.9
    assert len(result["findings"]) == 15
    assert result["baselines"][0]["name"] == "length of the answer"
    assert [len(t) for t in result["tables"].values()] == [12, 13]
    assert (tmp_path / "look-before-you-leap" / "figure.svg").stat().st_size > 1000


def test_answers_of_one_kind_decide_nothing(tmp_path: Path, monkeypatch):
    rows = [r._replace(quality=0.0) for r in drawn_rows(4)]
    monkeypatch.setattr(inner, "_capitals", lambda _: rows)
    result = run_study("look-before-you-leap", Setting(), tmp_path)
    assert result["verdict"] == "inconclusive"
    assert result["findings"][0]["value"] == 1.0
