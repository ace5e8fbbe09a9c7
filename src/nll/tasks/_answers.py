"""Final answers of mathematical solutions: find them, and say whether two are equal.

Exact on rational numbers, to a tolerance on others; no expression is evaluated by Python itself.
Where both sides are not numbers or tuples of them, `math-verify` decides when it is installed, else
the normalised text. Equality with a tolerance is not transitive: `cluster_answers` goes by first
match. Source: arXiv 2502.06217.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from nll._errors import BadInput
from nll.tasks._latex_number import Number, number

_LAST = re.compile(
    r"(?:(?<![\w)\]}])[-\u2212])?"  # behind a number or a bracket it subtracts, or joins a range
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)"
    r"(?:[eE][-+]?\d+(?!\w))?(?:/\d+)?%?"
)
_SAID = re.compile(
    r"(?:final answer|answer)\**\s*(?:is|:|=)+\s*:?\**\s*(.+?)(?=\.?\s*(?:\n|$)|\.\s)",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BARE = re.compile(r"\\(?:boxed|fbox)\s*(-?[\d.,/]*\d|[a-zA-Z](?![a-zA-Z]))")
_GSM = re.compile(r"####\s*(.+)")


def extract_answer(text: str) -> str | None:
    r"""The final answer of a solution, or None when there is none.

    The last \boxed{...} (braces matched, to the end when cut off) or else \boxed with a bare number
    or letter, else what follows the last "####", else the last "answer is ..." or "Answer: ...",
    else the last number.
    """
    boxes = list(_BOXED.finditer(text))
    if boxes:
        return _clean(_braced(text, boxes[-1].end())) or None
    if bare := _BARE.findall(text):
        return str(bare[-1])
    if marked := _GSM.findall(text):
        return _clean(marked[-1]) or None
    if said := _SAID.findall(text):
        return _clean(said[-1]) or None
    numbers = _LAST.findall(text)
    return numbers[-1] if numbers else None


def _braced(text: str, start: int) -> str:
    depth = 1
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return text[start:i]
    return text[start:]


def _clean(answer: str) -> str:
    answer = answer.strip().strip("*").strip()
    for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if answer.startswith(left) and answer.endswith(right) and len(answer) > len(left + right):
            answer = answer[len(left) : -len(right)].strip()
    return answer.rstrip(".").strip()


def integer_answer(answer: str) -> str:
    """Digits and minus signs only, as for AIME answers."""
    return re.sub(r"[^0-9-]", "", answer)


_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad|limits)(?![a-zA-Z])|\\[!,;: ]"
    r"|\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{\s*\}|\$"
)
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?<=[\d})])\s*\\?(?:text|mathrm|mbox)?\s*\{?\s*"
    r"(?:degrees?|cm|mm|km|m|inch(?:es)?|in|feet|foot|ft|miles?|units?|square units?|seconds?|"
    r"|hours?|minutes?|days?|dollars?|cents?|points?|kg|g|mph)\s*\}?(?:\^\{?[23]\}?)?\s*$"
)


_MIXED = re.compile(r"(?<![\d.,/^])(\d+) (\d+)/(\d+)(?![\d./^])")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")


def _together(text: str) -> str:
    """Without white space; where it stands between digits it means something."""
    text = _MIXED.sub(r"(\1+\2/\3)", re.sub(r"\s+", " ", text))
    text = _GROUPED.sub(lambda m: m[0].replace(" ", ""), text)
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


def normalise_answer(answer: object, *, units: bool = False) -> str:
    r"""One way of writing an answer: no spacing commands, \text or $; `x = 5` becomes `5`, `(A)` A.

    "1 1/2" becomes `(1+1/2)`, "1 000" `1000`; other digits apart stay apart.

    units: also take a unit off a number's end ("5 cm", "90^\circ", "$5").
    """
    s = _clean(str(answer)).replace("\u2212", "-").replace(r"\%", "%").replace(r"\$", "")
    s = s.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\cdot", "*")
    if units:
        s = re.sub(r"\^\{?\\?circ\}?|\u00b0", "", s)
        s = _UNIT.sub("", s)
    s = _WRAPPED.sub(r"\1", _DROPPED.sub("", s))
    s = re.sub(r"^\s*[a-zA-Z]\s*=\s*(?=\S)", "", s)
    s = _together(s.strip())
    return re.sub(r"^\(([a-zA-Z])\)$", r"\1", s)


def math_equal(
    a: object,
    b: object,
    *,
    tolerance: float = 1e-9,
    percent: bool = False,
    units: bool = False,
    math_verify: bool | None = None,
) -> bool:
    r"""Whether two final answers are equal: "0.5" = "1/2" = "\frac12" = "50%".

    Two rational numbers are compared exactly unless `tolerance` (relative) is above its default,
    others to the tolerance. Tuples, intervals and sets of numbers go element by element, with their
    brackets; sets in any order.   percent: a bare number also equals it as a percentage (50 and
    0.5).   units: see `normalise_answer`.   math_verify: use that package for what is no number;
    None when it is installed. An answer that is empty, None or nan equals nothing. Raises BadInput
    for a tolerance below 0, or when the package is asked for and absent.
    """
    if not tolerance >= 0:
        raise BadInput(f"tolerance must be 0 or more, not {tolerance}")
    if a is None or b is None or a != a or b != b:
        return False
    x, y = normalise_answer(a, units=units), normalise_answer(b, units=units)
    if not x or not y:
        return False
    if x == y:
        return True
    known = _compare(x, y, tolerance, percent)
    if known is not None:
        return known
    installed = importlib.util.find_spec("math_verify") is not None
    if math_verify and not installed:
        raise BadInput("math_verify=True, but the package math-verify is not installed")
    if installed and math_verify is not False:
        return _ask_math_verify(x, y)
    return x.casefold() == y.casefold() and x.isalpha()


def _compare(x: str, y: str, tolerance: float, percent: bool) -> bool | None:
    """Equality of numbers or of lists of them; None when that does not decide."""
    u, v = number(x), number(y)
    if u is not None and v is not None:
        if _close(u, v, tolerance):
            return True
        return percent and (_close(u * 100, v, tolerance) or _close(u, v * 100, tolerance))
    left, right = _elements(x), _elements(y)
    if left is None or right is None:
        return None
    if left[0] != right[0] or len(left[1]) != len(right[1]):
        return False
    if left[0] == r"\{":
        rest = list(right[1])
        for item in left[1]:
            match = [r for r in rest if item == r or _compare(item, r, tolerance, percent)]
            if not match:
                return False
            rest.remove(match[0])
        return True
    found = [
        p == q or _compare(p, q, tolerance, percent) for p, q in zip(left[1], right[1], strict=True)
    ]
    return False if False in found else (None if None in found else True)


def _elements(text: str) -> tuple[str, list[str]] | None:
    """Brackets and parts of "(1,2]" or "\\{1,2\\}"; None for anything else."""
    for left, right, kind in ((r"\{", r"\}", r"\{"), ("{", "}", r"\{")):
        if text.startswith(left) and text.endswith(right):
            return kind, _parts(text[len(left) : -len(right)])
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        parts = _parts(text[1:-1])
        return (text[0] + text[-1], parts) if len(parts) > 1 else None
    parts = _parts(text)
    return ("", parts) if len(parts) > 1 and all(parts) else None


def _parts(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(c, 0)
        if c == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def _close(u: Number, v: Number, tolerance: float) -> bool:
    if isinstance(u, Fraction) and isinstance(v, Fraction) and tolerance <= 1e-9:
        return u == v
    try:
        return math.isclose(u, v, rel_tol=max(tolerance, 1e-12), abs_tol=1e-12)
    except OverflowError:
        return False


def _ask_math_verify(x: str, y: str) -> bool:
    from math_verify import parse, verify  # type: ignore[import-not-found,unused-ignore]

    return bool(verify(parse(f"${x}$"), parse(f"${y}$")))


def cluster_answers(
    answers: Sequence[object],
    *,
    tolerance: float = 1e-9,
    percent: bool = False,
    units: bool = False,
    math_verify: bool | None = None,
) -> list[int]:
    """(N,) a label per answer, from 0 in order of appearance: that of the first one equal to it.

    Answers that are None or empty each get a label of their own. The options are `math_equal`'s.
    """
    labels: list[int] = []
    heads: list[object] = []
    for answer in answers:
        for label, head in enumerate(heads):
            if math_equal(
                answer, head,
                tolerance=tolerance, percent=percent, units=units, math_verify=math_verify,
            ):  # fmt: skip
                labels.append(label)
                break
        else:
            labels.append(len(heads))
            heads.append(answer)
    return labels
