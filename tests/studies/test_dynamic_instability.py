"""The study of instability: its problems, its numbers, its verdicts, whole toy runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll import scores
from nll.studies import Finding, Setting, run_study
from nll.studies import _dynamic_instability as inner
from nll.testing import table_model
from nll.trace import Fields, Trace


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(4, 30))
def test_a_word_problem_has_the_answer_that_its_words_say(seed, steps, largest):
    item = inner.word_problem(np.random.default_rng(seed), steps=steps, largest=largest)
    numbers = [int(x) for x in re.findall(r"\d+", item.question)]
    assert len(numbers) == steps + 1
    assert max(numbers) < largest
    held = numbers[0]
    verbs = re.findall(r"(?:[Hh]e|[Ss]he) (buys|finds|gets|loses|sells|gives away) ", item.question)
    for verb, number in zip(verbs, numbers[1:], strict=True):
        assert number >= 1
        held += number if verb in inner.MORE else -number
        assert 0 <= held < largest
    assert item.answer == str(held)


def test_the_worked_shots_are_right():
    for question in inner.SHOTS.strip().split("\n\n"):
        for a, sign, b, c in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", question):
            assert int(a) + (int(b) if sign == "+" else -int(b)) == int(c)
        assert question.split(" = ")[-1].split(".")[0] in question.split("answer is ")[1]


def test_quick_and_full_ask_different_questions():
    quick, limit = inner._items(Setting())
    assert limit == 64
    assert len({i.question for i in quick}) > 0.9 * len(quick)
    full, limit = inner._items(Setting(quick=False))
    assert (len(full), limit) == (200, 256)


def a_trace(rows) -> Trace:
    """Rows of probabilities of tokens 0, 1, 2, ..."""
    p = np.array(rows, float)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    ids = np.tile(np.arange(p.shape[1]), (len(p), 1))
    with np.errstate(divide="ignore"):
        logp = np.log(p)
    return Trace(logp=logp[:, 0], entropy=entropy, top_ids=ids, top_logp=logp)


def test_columns_are_the_scores_and_their_parts():
    trace = a_trace([[0.5, 0.5, 0, 0], [0.1, 0.1, 0.4, 0.4], [0.97, 0.01, 0.01, 0.01]])
    got = {n: v[0] for n, v in inner._columns([trace]).items()}
    assert got[inner.S] == scores.instability_strength(trace, k=50)
    assert got[inner.ENTROPY] == pytest.approx(trace.entropy.max())
    shifts = [
        scores.jensen_shannon(np.exp(trace.top_logp[i]), np.exp(trace.top_logp[i + 1]))
        for i in (0, 1)
    ]
    assert got["shift alone"] == pytest.approx(max(shifts))
    assert got["length in tokens"] == 3


def findings(ours, added, wide=0.05):
    at = {
        inner.S: Finding(inner.S, ours, ours - wide, ours + wide),
        inner.ADDED: Finding(inner.ADDED, added, added - 0.01, added + 0.01),
    }
    rest = {n: Finding(n, 0.5) for n in (inner.ENTROPY, "length in tokens")}
    return at, rest


def places(early, late):
    return [{"accuracy": early}, {"accuracy": 0.3}, {"accuracy": late}]


@pytest.mark.parametrize(
    ("ours", "added", "late", "verdict"),
    [
        (0.7, 0.05, places(0.5, 0.1), "supported"),
        (0.7, 0.05, places(0.1, 0.5), "inconclusive"),
        (0.7, 0.05, places(0.5, ""), "inconclusive"),
        (0.7, 0.005, places(0.5, 0.1), "not supported"),
        (0.7, -0.05, places(0.5, 0.1), "not supported"),
        (0.52, 0.05, places(0.5, 0.1), "not supported"),
        (0.3, 0.05, places(0.5, 0.1), "not supported"),
    ],
)
def test_the_verdict_follows_the_falsifier(ours, added, late, verdict):
    at, rest = findings(ours, added)
    assert inner._judge(at, rest, late)[0] == verdict


def peaked(place, length=9, wrong=False, top=0.3) -> inner.Answered:
    """A trace whose entropy peaks at one step."""
    low, high = [0.97, 0.01, 0.01, 0.01], [1 - 2 * top, top, top / 2, top / 2]
    return inner.Answered(a_trace([high if t == place else low for t in range(length)]), wrong)


def test_strong_chains_are_sorted_by_the_time_of_their_peak():
    rows = [peaked(p, wrong=p > 5) for p in (0, 1, 2, 3, 4, 5, 6, 7, 8)]
    table = inner._timing(rows, np.ones(9))
    assert [r["chains"] for r in table] == [3, 3, 3]
    assert [r["accuracy"] for r in table] == [1, 1, 0]
    strength = np.arange(9.0)
    assert [r["chains"] for r in inner._timing(rows, strength)] == [0, 2, 3]
    assert inner._timing(rows, strength)[0]["accuracy"] == ""


def test_fifths_of_strength_hold_all_chains():
    """The counts that the paper's author published: 37 of 300 right, in fifths of 60."""
    right = [16, 7, 5, 4, 5]
    wrong = np.concatenate([np.repeat([0, 1], [r, 60 - r]) for r in right])
    table = inner._buckets(wrong, np.arange(300.0))
    assert [r["chains"] for r in table] == [60] * 5
    assert [round(100 * r["accuracy"], 1) for r in table] == [26.7, 11.7, 8.3, 6.7, 8.3]
    assert table[0][""] == "0.00 to 59.00"


def answered(model, n, of):
    """Real traces, of which the stronger ones count as wrong with some noise."""
    prompts = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"][:n]
    out = model.generate(prompts, max_new_tokens=12, temperature=1.0, fields=Fields(top_k=20))
    traces = [t for (t,) in out]
    noisy = of([scores.instability_strength(t) for t in traces])
    return [inner.Answered(t, bool(w)) for t, w in zip(traces, noisy, strict=True)]


@pytest.fixture
def on_a_table(monkeypatch):
    """The study on a model of characters: its own answers, and two problems to read."""
    real = inner.read_problems
    monkeypatch.setattr(inner, "read_problems", lambda s: real(s)[:3])
    model = table_model()

    def use(of, n=60):
        monkeypatch.setattr(inner, "_answer", lambda *_: answered(model, n, of))

    return use


def test_a_whole_run_where_strong_peaks_are_wrong(on_a_table, tmp_path: Path):
    on_a_table(lambda s: np.array(s) > np.median(s))
    result = run_study("dynamic-instability", Setting(model_name="testing:bigram"), tmp_path)
    found = {f["name"]: f for f in result["findings"]}
    assert found[inner.S]["value"] == 1.0
    assert found["S of the first 64 tokens"]["value"] == 1.0
    assert found[inner.ADDED]["value"] > 0
    assert [r["accuracy"] for r in result["tables"]["Accuracy by fifths of S"]][::4] == [1, 0]
    reader = result["tables"]["AUROC of a wrong solution that the model only reads"]
    assert {r["measure"] for r in reader} >= {inner.S, "mean NLL"}
    assert (tmp_path / "dynamic-instability" / "figure.svg").stat().st_size > 1000


def test_answers_of_one_kind_decide_nothing(on_a_table, tmp_path: Path):
    on_a_table(lambda s: np.ones(len(s)), n=4)
    result = run_study("dynamic-instability", Setting(model_name="testing:bigram"), tmp_path)
    assert result["verdict"] == "inconclusive"
    assert result["findings"][0]["value"] == 1.0


class Says:
    """A model that answers each prompt with the text it was given for it."""

    def __init__(self, answers):
        self.answers = answers

    def generate(self, prompts, *, max_new_tokens, stop, fields):
        for prompt, answer in zip(prompts, self.answers, strict=True):
            text = prompt + answer
            yield [
                Trace(
                    logp=[np.nan, -1.0], ids=[0, 1], text=text, prompt_tokens=1,
                    spans=[[0, len(prompt)], [len(prompt), len(text)]],
                )
            ]  # fmt: skip


def test_the_first_stated_answer_counts():
    told = [" 2 + 3 = 5. The answer is 5.", " The answer is $5. The answer is 6.", " It is 5.",
            " The answer is 15.", " The answer is 1,005."]  # fmt: skip
    items = [inner.Item("How many?", a) for a in ("5", "5", "5", "5", "1005")]
    setting = Setting()
    setting.__dict__["model"] = Says(told)
    rows = inner._answer(setting, items, 64)
    assert [r.wrong for r in rows] == [False, False, True, True, False]
