"""Embers: makers of tasks, the judge, and the paper's tables regenerated from its own records."""

from __future__ import annotations

import gzip
import json
import string
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nll
from nll.studies import Setting
from nll.studies._common import read_table
from nll.tasks import (
    Item,
    acronym,
    coefficient,
    count_items,
    levenshtein,
    likelihood_choice,
    linear_function,
    logistic_regression,
    make_items,
    pig_latin,
    probability_sensitivity,
    reverse_words,
    rot,
    score_response,
    sequence_logp,
    sort_words,
    swap_articles,
)

DATA = Path(__file__).parent / "data" / "embers"
MODELS = {
    "GPT-4": "gpt-4-0613",
    "GPT-3.5": "gpt-3.5-turbo-0613",
    "Claude": "claude-3-opus-20240229",
    "Llama": "llama-3-70b-chat-hf",
    "Gemini": "gemini-1.0-pro-001",
}
PREDICTORS = ("input_logprob", "output_logprob", "input_ntokens", "output_ntokens", "input_nchars")


@cache
def table():
    return read_table(Setting().file("embers", "items.tsv.gz"), delimiter="\t")


def rows(task, model, condition=None):
    found = [r for r in table() if r["task"] == task and r["model"] == MODELS[model]]
    return [r for r in found if condition in (None, r["condition"])]


def right_per_block(task, model):
    """Right answers among each hundred items: high, medium, low probability."""
    found = rows(task, model)
    assert [int(r["index"]) for r in found] == [*range(100)] * 3
    correct = [int(r["correct"]) for r in found]
    return tuple(sum(correct[i : i + 100]) for i in (0, 100, 200))


# fmt: off
PUBLISHED = {
    "rot13dec": [(51, 22, 13), (21, 7, 4), (98, 92, 86), (5, 1, 0), (0, 0, 0)],
    "rot13enc": [(21, 10, 11), (2, 3, 5), (70, 62, 54), (0, 0, 0), (0, 0, 0)],
    "revdec": [(97, 96, 53), (74, 61, 28), (91, 87, 11), (52, 36, 16), (61, 49, 5)],
    "swap_next_base": [(83, 53, 2), (65, 43, 5), (53, 26, 2), (26, 15, 1), (53, 33, 2)],
    "pig_ay_dec": [(84, 70, 29), (54, 26, 5), (83, 74, 38), (22, 10, 3), (33, 9, 0)],
}
RARE = [
    ("rot13and12dec", "rot13dec_highprob", 51, 21), ("rot13and12dec", "rot12dec_highprob", 0, 0),
    ("pig_boar_dec", "ay", 84, 54), ("pig_boar_dec", "uv", 69, 40),
    ("conversion_fwd", "conversion_actual", 33, 47), ("conversion_fwd", "conversion_fake", 0, 0),
    ("sortwords", "fwd", 82, 76), ("sortwords", "rev", 32, 15),
    ("multiplication", "multiplication_number", 46, 46),
    ("multiplication", "multiplication_word", 39, 16),
    ("multiplication", "multiplication_allcaps", 35, 14),
    ("multiplication", "multiplication_alternatingcaps", 17, 1),
]
# fmt: on


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_table_of_output_probability_is_the_published_one(task):
    assert [right_per_block(task, model) for model in MODELS] == PUBLISHED[task]


@pytest.mark.parametrize(("task", "condition", "gpt4", "gpt35"), RARE)
def test_the_table_of_rare_and_common_tasks_is_the_published_one(task, condition, gpt4, gpt35):
    for model, right in (("GPT-4", gpt4), ("GPT-3.5", gpt35)):
        found = rows(task, model, condition)
        assert (sum(int(r["correct"]) for r in found), len(found)) == (right, 100)


def test_the_judge_gives_the_published_marks_on_the_logged_answers():
    with gzip.open(DATA / "logged_outputs.jsonl.gz", "rt", encoding="utf-8") as f:
        logged = [json.loads(line) for line in f]
    right: dict[tuple[str, str], int] = {}
    for row in logged:
        key = row["condition"], row["model"]
        right[key] = right.get(key, 0) + score_response(row["target"], row["response"])
    for condition, gpt4, gpt35 in (
        ("rot13dec_highprob", 51, 21),
        ("rot13dec_mediumprob", 22, 7),
        ("rot13dec_lowprob", 13, 4),
        ("rot12dec_highprob", 0, 0),
        ("revdec_highprob", 97, 74),
        ("revdec_lowprob", 53, 28),
        ("swap_next_base_highprob", 83, 65),
        ("swap_next_base_lowprob", 2, 5),
    ):
        assert right[condition, MODELS["GPT-4"]] == gpt4, condition
        assert right[condition, MODELS["GPT-3.5"]] == gpt35, condition


def design(task, model):
    found = rows(task, model)
    x = np.array([[float(r[c]) for c in PREDICTORS] for r in found])
    return x, [int(r["correct"]) for r in found]


def test_the_regression_of_the_paper():
    x, y = design("rot13dec", "GPT-4")
    fit = logistic_regression(x, y, names=PREDICTORS)
    np.testing.assert_allclose(
        fit.coefficients, [-1.454935, 0.831496, 1.927664, -2.568387, 0.868006, 2.893929], atol=1e-5
    )
    assert fit.deviance == pytest.approx(286.2232, abs=1e-3)
    assert fit.vif.max() > 100  # characters and tokens go together
    mode = logistic_regression(x, y, prior="cauchy", names=PREDICTORS)
    np.testing.assert_allclose(
        mode.coefficients, [-1.4016, 0.1939, 1.8524, -0.6384, 0.8465, 0.3426], atol=1e-4
    )
    assert coefficient(mode, "output_logprob") == pytest.approx(1.8513, abs=5e-3)  # as R prints
    assert mode.z[2] == pytest.approx(5.74, abs=0.02)


@pytest.mark.parametrize(
    ("task", "model", "column", "published"),
    [("rot13dec", "GPT-3.5", 1, 2.9550), ("rot13enc", "GPT-4", 1, 4.7741)],
)
def test_the_other_coefficients_of_the_paper(task, model, column, published):
    x, y = design(task, model)
    assert logistic_regression(x, y, prior="cauchy").coefficients[1 + column] == pytest.approx(
        published, rel=0.03
    )


def test_swap_articles_on_the_authors_sentences():
    pairs = json.loads((DATA / "swap_pairs.json").read_text(encoding="utf-8"))
    assert len(pairs) == 120
    for swapped, target in pairs:
        assert swap_articles(swapped) == target
        assert swap_articles(target, with_="next") == swapped


def test_the_examples_of_the_sheet():
    assert rot("Stay here!", 13) == "Fgnl urer!"
    assert rot("Stay here!", 12) == "Efmk tqdq!"
    assert reverse_words("everyone! morning, Good") == "Good morning, everyone!"
    assert pig_latin("but this time, there may also be another reason.") == (
        "utbay isthay imetay, erethay aymay alsoay ebay anotheray easonray."
    )
    got = swap_articles("When we boarded train the, we saw strange a sight.")
    assert got == "When we boarded the train, we saw a strange sight."


@given(st.text(), st.integers(-60, 60))
def test_rot_is_undone_and_touches_letters_alone(text, n):
    moved = rot(text, n)
    assert rot(moved, -n) == text
    ascii_letters = set(string.ascii_letters)
    assert [c for c in moved if c not in ascii_letters] == [
        c for c in text if c not in ascii_letters
    ]


@given(st.text(alphabet="ab, .", max_size=30))
def test_reversal_undoes_itself(text):
    assert reverse_words(reverse_words(text)) == text


def test_small_tasks():
    assert pig_latin('Rhythm, yes - 42 "strong"!', "uv") == 'ythmrhuv, esyuv - 42 "ongstruv"!'
    assert swap_articles("the end of a") == "the end a of"
    assert acronym(["Alpha", "beta"]) == "Ab"
    assert acronym(["alpha", "beta"], 2) == "le"
    assert count_items("a bc  d") == 3
    assert count_items("a bc", "characters") == 4
    assert sort_words("b, c, a", reverse=True) == "c, b, a"
    assert linear_function(941) == "1725.8"
    assert linear_function(476, 7 / 5, 31) == "697.4"
    for call in (
        lambda: acronym(["a"], 2),
        lambda: count_items("a", "lines"),
        lambda: swap_articles("a b", with_="other"),
        lambda: make_items(["a"], "rot14"),
        lambda: score_response("a", "b", "like"),
    ):
        with pytest.raises(nll.BadInput):
            call()


@pytest.mark.parametrize(
    "task", ["rot13", "rot12", "reverse", "swap_articles", "pig_latin", "pig_latin_uv"]
)
def test_items_hold_the_sentence_on_the_named_side(task):
    sentence = "We saw the strange sight."
    (decode,) = make_items([sentence], f"{task}_decode", condition="high")
    (encode,) = make_items([sentence], f"{task}_encode")
    assert (decode.target, encode.input) == (sentence, sentence)
    assert decode.input == encode.target != sentence
    assert f'"{decode.input}"' in decode.prompt
    assert sentence not in decode.prompt
    assert decode.condition == "high"


def test_the_example_of_a_prompt_can_be_the_papers():
    (item,) = make_items(["No."], "rot13_decode", example="Stay here!")
    assert 'Message: "Fgnl urer!"\nOriginal text: "Stay here!"' in item.prompt
    (plain,) = make_items(["No."], "rot13_decode")
    assert 'Original text: "They put the box on a table."' in plain.prompt


def test_the_judge():
    assert score_response('"Good."', 'It says "Good." I think')
    assert not score_response("Good.", "Good")
    assert not score_response("Good.", "good.")
    assert not score_response("", "")
    assert score_response("a", "so a it is")
    assert not score_response("a", "so a it is", "exact")
    assert score_response('"a"', " a \n", "exact")
    assert not score_response("a", "\N{LEFT DOUBLE QUOTATION MARK}a\N{RIGHT DOUBLE QUOTATION MARK}",
                              "exact")  # fmt: skip


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_levenshtein_is_a_distance(a, b, c):
    assert levenshtein(a, b) == levenshtein(b, a) <= max(len(a), len(b))
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)


def test_levenshtein_of_known_words():
    assert levenshtein("kitten", "sitting") == 3


class Fixed:
    def options(self, prompt, continuations):
        return [-float(len(c)) for c in continuations]

    def trace(self, texts):
        return [nll.Trace(logp=[np.nan] + [-1.5] * (len(t) - 1)) for t in texts]


def test_likelihood_of_texts_and_choices():
    assert sequence_logp(Fixed(), "abc") == -3.0
    assert isinstance(sequence_logp(Fixed(), "a"), nll.Undefined)
    choice = likelihood_choice(Fixed(), "p", ["abc", "ab", "xy"])
    assert choice.best == 1
    np.testing.assert_array_equal(choice.logp, [-3, -2, -2])
    with pytest.raises(nll.BadInput, match="no candidate"):
        likelihood_choice(Fixed(), "p", [])


def test_probability_sensitivity():
    items = []
    for i, row in enumerate(rows("rot13dec", "GPT-4")):
        items.append(
            Item(
                input="x" * int(row["input_nchars"]), target="", prompt="",
                condition=("high", "medium", "low")[i // 100],
                input_logp=float(row["input_logprob"]), output_logp=float(row["output_logprob"]),
                input_tokens=int(row["input_ntokens"]), output_tokens=int(row["output_ntokens"]),
                correct=row["correct"] == "1",
            )
        )  # fmt: skip
    found = probability_sensitivity(items)
    assert [round(c.accuracy, 2) for c in found.by_condition.values()] == [0.51, 0.22, 0.13]
    assert found.by_condition["high"].interval.low < 0.51 < found.by_condition["high"].interval.high
    assert coefficient(found.regression, "output_logp") == pytest.approx(1.8524, abs=1e-4)
    plain = [Item("a", "b", "p", correct=True)]
    assert probability_sensitivity(plain).regression is None
    with pytest.raises(nll.BadInput, match="correct"):
        probability_sensitivity([Item("a", "b", "p")])


def test_how_far_responses_are_from_their_targets():
    def item(response, condition="a"):
        return Item("", '"kitten"', "p", condition, correct=False, response=response)

    found = probability_sensitivity([
        item("kitten"), item('"sitting"'), item(""), item(None), item(None, "b"),
    ]).by_condition  # fmt: skip
    assert (found["a"].mean_distance, found["a"].median_distance) == (3.0, 3.0)
    assert "no item holds a response" in found["b"].mean_distance.reason
    (one,) = probability_sensitivity([item("kit")] * 2 + [item("")] * 2).by_condition.values()
    assert (one.mean_distance, one.median_distance, one.n) == (4.5, 4.5, 4)
