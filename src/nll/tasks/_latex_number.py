"""Numbers as people and LaTeX write them, read by a small grammar; exact where rational."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import TypeAlias

Number: TypeAlias = Fraction | float

_TOKEN = re.compile(
    r"\\frac|\\sqrt|\\pi|\\times|\\div|pi|sqrt|\u03c0|\u221a"
    r"|\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+"
    r"|\*\*|[-+*/^%(){}\[\]]"
)
LONGEST = 100  # characters; answers are short, and nesting is bounded by it
LARGEST_POWER = 1000
LARGEST_SIZE = 100_000  # bits
ROOT = (r"\sqrt", "sqrt", "\u221a")
FRACTION = (r"\frac",)
PI = (r"\pi", "pi", "\u03c0")


def number(text: str) -> Number | None:
    r"""The value of "1,000", "-3/4", "\frac{1}{2}", "2\sqrt{3}", "50%", "2^{10}"; None for others.

    A Fraction where it is rational, else a float; nothing but numbers, pi, roots and + - * / ^.
    """
    if not text or len(text) > LONGEST:
        return None
    tokens, at = [], 0
    for m in _TOKEN.finditer(text):
        if m.start() != at:
            return None
        tokens.append(m[0])
        at = m.end()
    if at != len(text):
        return None
    try:
        reader = _Reader(tokens)
        value = reader.total()
        if reader.tokens or (isinstance(value, float) and not math.isfinite(value)):
            return None
    except (_NoNumberError, ArithmeticError, ValueError):
        return None
    return value


class _NoNumberError(Exception):
    """The tokens do not spell a number."""


class _Reader:
    """Recursive descent over the tokens, taking them from the front."""

    def __init__(self, tokens: list[str]):
        self.tokens = tokens

    def peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self) -> str:
        if not self.tokens:
            raise _NoNumberError
        return self.tokens.pop(0)

    def total(self) -> Number:
        value = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            right = self.product()
            value = value + right if sign == "+" else value - right
        return value

    def product(self) -> Number:
        value = self.signed()
        while True:
            if self.peek() in ("*", r"\times"):
                self.take()
                value = value * self.signed()
            elif self.peek() in ("/", r"\div"):
                self.take()
                value = value / self.signed()
            elif self.peek() == r"\frac" and _whole(value):
                part = self.power()  # a mixed number: 1\frac{1}{2}
                value = value + part if value >= 0 else value - part
            elif self.peek() in (*ROOT, *PI, "("):
                value = value * self.power()
            else:
                return value

    def signed(self) -> Number:
        if self.peek() in ("-", "+"):
            sign = self.take()
            value = self.signed()
            return -value if sign == "-" else value
        return self.power()

    def power(self) -> Number:
        base = self.atom()
        if self.peek() == "%":
            self.take()
            base = base / 100
        if self.peek() not in ("^", "**"):
            return base
        self.take()
        exponent = self.signed()
        if not -LARGEST_POWER <= exponent <= LARGEST_POWER:
            raise _NoNumberError
        if not _whole(exponent):
            return _root_or_power(base, exponent)
        whole = int(exponent)
        if isinstance(base, float):
            return float(base**whole)
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if size * abs(whole) > LARGEST_SIZE:
            raise _NoNumberError
        return Fraction(base**whole)

    def atom(self) -> Number:
        token = self.take()
        if token in ("(", "{", "["):
            value = self.total()
            if self.take() != {"(": ")", "{": "}", "[": "]"}[token]:
                raise _NoNumberError
            return value
        if token in FRACTION:
            return self.argument() / self.argument()
        if token in ROOT:
            degree: Number = Fraction(2)
            if self.peek() == "[":
                degree = self.atom()
            return _root_or_power(self.argument(), 1 / degree)
        if token in PI:
            return math.pi
        if token[0].isdigit() or token[0] == ".":
            exponent = token.lower().partition("e")[2]
            if exponent and abs(int(exponent)) > LARGEST_POWER:
                raise _NoNumberError
            return Fraction(token.replace(",", "").rstrip("."))
        raise _NoNumberError

    def argument(self) -> Number:
        """What a LaTeX command takes: a group, or of bare digits the first alone."""
        token = self.peek()
        if token.isdigit() and len(token) > 1:
            self.tokens[0] = token[1:]
            return Fraction(token[0])
        return self.atom()


def _whole(value: Number) -> bool:
    return isinstance(value, Fraction) and value.denominator == 1


def _root_or_power(base: Number, exponent: Number) -> Number:
    """base^exponent, exact where the root of a rational is rational."""
    if base < 0:
        raise _NoNumberError
    if isinstance(base, Fraction) and exponent == Fraction(1, 2):
        top, bottom = math.isqrt(base.numerator), math.isqrt(base.denominator)
        if top * top == base.numerator and bottom * bottom == base.denominator:
            return Fraction(top, bottom)
    return float(float(base) ** float(exponent))
