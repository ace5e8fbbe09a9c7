"""Final answers: what is found, and which are equal."""

from __future__ import annotations

import sys
import types
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nll
from nll.tasks import (
    cluster_answers,
    extract_answer,
    integer_answer,
    math_equal,
    normalise_answer,
)
from nll.tasks._latex_number import number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{3} or rather \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\text{(A)}} is it", r"\text{(A)}"),
        (r"cut off \boxed{12", "12"),
        (r"\boxed {7}", "7"),
        (r"\fbox{8}", "8"),
        (r"so $\boxed 5$ of 6", "5"),
        (r"\boxed12.5, not 7", "12.5"),
        (r"\boxed B, says 3", "B"),
        (r"put it in \boxed please: 3", "3"),
        ("Thus 3.\n#### 1,234", "1,234"),
        ("The answer is 42.", "42"),
        ("First the answer is 1. Later: the final answer is $3.5$.\nDone 9", "3.5"),
        ("Answer: x = 5", "x = 5"),
        ("**Answer:** 12", "12"),
        ("**Answer**: **12**", "12"),
        ("We get 3 and then -7.5", "-7.5"),
        ("about 1,234 of 1/2", "1/2"),
        ("no number here", None),
        ("x = 10-5", "5"),
        ("see pages 3-4", "4"),
        ("f(2)-3", "3"),
        ("it is \u22125", "\u22125"),
        ("it is -.5", "-.5"),
        ("of order 1e-3", "1e-3"),
        ("about 2.5E4 of 3em", "3"),
        ("version 1.2.3", "3"),
        ("", None),
        (r"\boxed{}", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


EQUAL = [
    ("0.5", "1/2"),
    ("1/2", r"\frac12"),
    ("0.5", r"\frac{1}{2}"),
    (r"\dfrac{1}{2}", r"\tfrac12"),
    ("50%", "0.5"),
    (r"50\%", "1/2"),
    ("1,000", "1000"),
    ("$1{,}000$".replace("{,}", ","), "1000.0"),
    ("x = 5", "5"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\sqrt[3]{8}", "2"),
    (r"\sqrt{\frac{9}{4}}", "1.5"),
    (r"2\pi", r"\pi \cdot 2"),
    ("2^{10}", "1024"),
    ("-2^2", "-4"),
    ("2^-1", "0.5"),
    (r"1\frac{1}{2}", "3/2"),
    ("(1, 2)", r"\left(1,\,2.0\right)"),
    (r"\{1, 2\}", r"\{2,1\}"),
    ("[0,1)", "[0, 1.0)"),
    ("1,2", "1.0, 2.0"),
    (r"\text{Yes}", "yes"),
    ("12", 12),
    ("(A)", "A"),
    ("x+1", "x + 1"),
    ("3.5e2", "350"),
    ("\u22125", "-5"),
    ("1 1/2", "1.5"),
    ("-1  1/2", "-3/2"),
    ("1 000 000", r"1\,000\,000"),
    ("12 345.5", "12345.5"),
    ("3 4", "3  4"),
    ("2 x", "2x"),
]
DIFFERENT = [
    ("1", "2"),
    ("0.333", "1/3"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    (r"\{1,2\}", r"\{1,1\}"),
    (r"\{1,1\}", r"\{1,2\}"),
    ("(1,2)", "(1,2,3)"),
    ("5", "x"),
    ("", ""),
    (None, None),
    ("1", None),
    ("1/0", "2"),
    ("50", "0.5"),
    ("5 cm", "5"),
    ("X1", "x1"),
    ("1 1/2", "5.5"),
    ("1 2", "12"),
    ("1 2/3 4", "12/34"),
    (float("nan"), float("nan")),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal(a, b):
    assert math_equal(a, b, math_verify=False)
    assert math_equal(b, a, math_verify=False)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(a, b):
    assert not math_equal(a, b, math_verify=False)
    assert not math_equal(b, a, math_verify=False)


def test_options():
    assert math_equal("0.3333", "1/3", tolerance=1e-3)
    assert math_equal("50", "0.5", percent=True)
    assert math_equal("50%", "50", percent=True)
    assert math_equal("5 cm", "5", units=True)
    assert math_equal(r"90^\circ", "90", units=True)
    assert math_equal(r"5\text{ miles}", "5", units=True)
    assert math_equal(r"\$5", "5")
    with pytest.raises(nll.BadInput, match="tolerance"):
        math_equal("1", "2", tolerance=-1)
    assert normalise_answer(r" \text{a b} ") == "ab"
    assert integer_answer("The 0-42!") == "0-42"


def test_without_the_package_it_cannot_be_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not math_equal("x+y", "y+x")
    with pytest.raises(nll.BadInput, match="not installed"):
        math_equal("x+y", "y+x", math_verify=True)


def test_the_package_decides_what_is_no_number(monkeypatch):
    asked = []
    package = types.ModuleType("math_verify")
    package.parse = lambda text: text
    package.verify = lambda gold, target: (
        asked.append((gold, target)) or sorted(gold) == sorted(target)
    )
    monkeypatch.setitem(sys.modules, "math_verify", package)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    assert math_equal("x+y", "y+x")
    assert asked == [("$x+y$", "$y+x$")]
    assert not math_equal("1", "2")
    assert not math_equal("x+y", "y+x", math_verify=False)
    assert len(asked) == 1


def test_cluster_answers():
    answers = ["7", "7.0", "12", None, "14/2", None, r"\frac{24}{2}"]
    assert cluster_answers(answers) == [0, 0, 1, 2, 0, 3, 1]
    assert cluster_answers(["1", "1.04", "1.08"], tolerance=0.05) == [0, 0, 1]


@settings(max_examples=300)
@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999))
def test_numbers_are_read_as_written(a, b):
    assert number(str(a)) == a
    sign = "-" if a < 0 else ""
    latex = rf"{sign}\frac{{{abs(a.numerator)}}}{{{a.denominator}}}"
    assert math_equal(latex, str(a), math_verify=False)
    assert math_equal(str(a), str(b), math_verify=False) == (a == b)


@settings(max_examples=300)
@given(st.text(alphabet=r"0123456789.,+-*/^%(){}[]\sqrtfacpi e", max_size=30))
def test_any_text_is_a_number_or_none(text):
    value = number(text)
    assert value is None or isinstance(value, Fraction | float)
    assert math_equal(text, text, math_verify=False) == bool(normalise_answer(text))


@pytest.mark.parametrize(
    "text",
    [
        "9^9^9",
        "((9^999)^999)^999",
        "1e999999999",
        "(" * 100,
        r"\sqrt{-1}",
        "0^-1",
        "(-8)^0.5",
        "9^1001",
        "1" * 101,
        "2^1000^1000",
        r"\frac1",
        "1+",
        "(1]",
        r"1.5\frac{1}{2}",
    ],
)
def test_what_is_no_number_is_none_at_once(text):
    assert number(text) is None
