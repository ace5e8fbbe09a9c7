"""Strings as a page may show them: nothing invisible, nothing that turns the reading direction."""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

# Controls (but not tab and newline), soft hyphen, zero-width and bidi marks, line separators,
# byte order mark, interlinear anchors, tag characters, lone surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_JOINERS = "\u200c\u200d"
_UNSAFE = {c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def visible(text: str) -> str:
    """The text with each invisible or direction-changing character as `⟨U+202E⟩`.

    Joiners stay inside a word or emoji, where they are spelling, and show where they stand alone.
    """
    if text and not text.strip(_JOINERS):
        return "".join(map(_escape, text))
    return _HIDDEN.sub(lambda m: _escape(m[0]), text)


def _escape(char: str) -> str:
    return f"⟨U+{ord(char):04X}⟩"


def island(value: Any) -> Markup:
    """JSON that can stand inside a script element: no `<`, `>`, `&` or line separator is left."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029]", lambda m: _UNSAFE[m[0]], line))  # noqa: S704


def significant(x: float, digits: int = 4) -> float | str | None:
    """A number for JSON, rounded; None for nan, "Infinity" and "-Infinity" as strings."""
    if x != x:
        return None
    if x in (float("inf"), float("-inf")):
        return "Infinity" if x > 0 else "-Infinity"
    short = float(f"{x:.{digits}g}") + 0.0
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def number(x: float, decimals: int | None = None) -> str:
    """A number to read: four significant digits, or the decimals given; `–` for nan."""
    if x != x:
        return "–"
    if x in (float("inf"), float("-inf")):
        return "∞" if x > 0 else "−∞"
    size = abs(x)
    if size >= 1e7 or 0 < size < 1e-4:
        line = f"{x:.3g}"
    elif decimals is not None:
        line = f"{x:,.{decimals}f}"
    elif size >= 1000 or float(x).is_integer():
        line = f"{x:,.0f}"
    else:
        line = f"{x:.4g}"
    return line.replace("-", "−")
