"""The study of negative bias: readouts, knowledge, verdicts, a whole run on a random network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nll
from nll.scores import label_readout
from nll.studies import Finding, Setting, run_study
from nll.studies import _negative_bias as inner
from nll.tasks import format_variants
from nll.testing import ALPHABET, random_model

LETTERS = ALPHABET + 'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/"-'


@pytest.fixture(scope="module")
def setting():
    held = Setting()
    held.__dict__["model"] = random_model(LETTERS, width=16, context=2048, seed=1)
    return held


@pytest.fixture
def small(monkeypatch):
    for name, value in (("QUESTIONS", 8), ("COUNTRIES", 6), ("HEADS", 3)):
        monkeypatch.setattr(inner, name, value)


def test_readouts_are_those_of_label_readout(setting):
    found = {v.name: v for v in format_variants("Is it so?", context="It is.")}
    for name in inner.FORMATS:
        v = found[name]
        (mine,) = inner._readouts(setting, [v])
        sides = [[w for w in side if w.startswith(" ")] for side in (v.negative, v.positive)]
        theirs = label_readout(setting.model, v.prompt, *sides)
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def with_template():
    model = random_model(LETTERS + "<>|", width=16, context=2048, seed=1)
    model.tokenizer.hf.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return model


def test_in_a_chat_the_end_of_turn_is_not_part_of_the_word():
    model = with_template()
    assert inner._has_template(model)
    (trace,) = model.trace([inner._asked("Is it?", "Yes", True)])
    assert trace.completion.text.startswith("Yes")
    assert trace.completion.n_scored == 4  # the word, and the end of turn
    read = "<user>Is it?\x03<assistant>"
    (plain,) = model.trace([nll.Text.pair(read, "Yes")])
    assert inner._said(trace, "Yes") == pytest.approx(float(plain.values("logp").sum()), abs=1e-4)


def test_without_a_template_it_asks_plainly(setting):
    assert not inner._has_template(setting.model)


def test_questions_are_balanced_and_drawn_by_seed(small):
    rows = inner._questions(Setting(seed=3))
    assert [r["answer"] for r in rows] == [True] * 4 + [False] * 4
    assert rows == inner._questions(Setting(seed=3))
    assert rows != inner._questions(Setting(seed=4))
    assert len(inner._questions(Setting(quick=False))) == 214


def test_the_difference_between_subsets():
    gold = np.tile([1, 0], 20)
    leaning = np.where(np.arange(40) < 20, 1.0, np.where(gold == 1, -1.0, 1.0))
    first = np.arange(40) < 20
    found = inner._difference(gold, leaning, first, ~first, 0)
    assert found.value == pytest.approx(1.0)  # always No against always right
    assert (found.low, found.high) == (1.0, 1.0)


def test_taking_the_mean_off_leaves_the_order(setting):
    draw = np.random.default_rng(0)
    gold = np.repeat([0, 1], 40)
    row = inner._debiased("f", gold, 5 - gold + draw.normal(size=80), 0)
    assert row["bias before"] == 1.0
    assert abs(row["bias after"]) < 0.5
    assert row["accuracy after"] > row["accuracy before"]


def known(value, low):
    return [Finding("bias on capitals, insufficient minus correct", value, low, value + 1)]


@pytest.mark.parametrize(
    ("wide", "knowledge", "verdict"),
    [
        ((0.5, 1.5), known(0.3, 0.1), "supported"),
        ((0.5, 1.5), known(0.3, -0.1), "inconclusive"),
        ((0.5, 1.5), known(0.0, -0.1), "not supported"),
        ((0.5, 1.5), [], "inconclusive"),
        ((-0.5, 0.5), known(0.3, 0.1), "not supported"),
        ((-1.5, -0.5), known(0.3, 0.1), "supported"),
    ],
)
def test_the_verdict_follows_the_falsifier(wide, knowledge, verdict):
    bias = [Finding("bias, yes/no", 0.9, 0.8, 1.0)]
    assert inner._judge(bias, [Finding("e", 0.1, 0, 1)], [wide], knowledge)[0] == verdict


def test_a_whole_run(small, setting, tmp_path: Path):
    result = run_study("negative-bias", setting, tmp_path)
    assert json.loads((tmp_path / "negative-bias" / "result.json").read_text()) == result
    formats = result["tables"]["StrategyQA by format"]
    assert [row["format"] for row in formats] == list(inner.FORMATS)
    for row, finding in zip(formats, result["findings"], strict=False):
        assert row["bias"] == pytest.approx(row["TNR"] - row["TPR"], abs=1e-12)
        assert row["bias"] == finding["value"]
    kinds = result["tables"]["Capitals by what the model knows"]
    assert sum(k["questions"] for k in kinds) == 6
    heads = result["tables"]["Heads that look most at No, and least (yes/no format)"]
    assert len(heads) == 7
    assert heads[0]["score"] >= heads[-1]["score"]
    assert (tmp_path / "negative-bias" / "figure.svg").stat().st_size > 1000
