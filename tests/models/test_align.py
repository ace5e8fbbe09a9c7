"""Tokens of servers find their characters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nll.models._align import align
from nll.models._remote_payload import BadAnswer, Piece


def pieces(*strings: str | bytes | None) -> list[Piece]:
    """Known strings, known bytes, or nothing known of a part of a character."""
    out = []
    for s in strings:
        if s is None:
            out.append(Piece("\ufffd", -1.0))
        elif isinstance(s, bytes):
            out.append(Piece(s.decode(errors="replace"), -1.0, s))
        else:
            out.append(Piece(s, -1.0, s.encode()))
    return out


def spans(text: str, *strings: str | bytes | None) -> list[list[int]]:
    return align(text, pieces(*strings)).spans.tolist()


def test_plain_tokens() -> None:
    assert spans("Hello world", "Hello", " world") == [[0, 5], [5, 11]]


def test_parts_of_a_character_get_all_of_it() -> None:
    assert spans("a€b", "a", b"\xe2\x82", b"\xac", "b") == [[0, 1], [1, 2], [1, 2], [2, 3]]
    assert spans("a€b", "a", None, None, "b") == [[0, 1], [1, 2], [1, 2], [2, 3]]
    assert spans("€", None, None) == [[0, 1], [0, 1]]


def test_a_token_over_characters_and_parts() -> None:
    raw = "né".encode()
    assert spans("né!", raw[:2], raw[2:] + b"!") == [[0, 2], [1, 3]]


def test_sentencepiece_and_byte_level_spellings() -> None:
    assert spans("Hello world", "\u2581Hello", "\u2581world") == [[0, 5], [5, 11]]
    assert spans("Hello world", " Hello", " world") == [[0, 5], [5, 11]]
    assert spans("a b", "a", "\u0120b") == [[0, 1], [1, 3]]


def test_a_bos_in_front_is_left_out() -> None:
    bos = Piece("<s>", math.nan, b"<s>")
    found = align("ab", [bos, *pieces("a", "b")])
    assert (found.first, found.last) == (1, 3)
    assert found.spans.tolist() == [[0, 1], [1, 2]]


def test_a_first_token_of_which_nothing_is_told() -> None:
    nothing = Piece("", math.nan)
    as_bos = align("ab", [nothing, *pieces("a", "b")])
    assert (as_bos.first, as_bos.spans.tolist()) == (1, [[0, 1], [1, 2]])
    as_text = align("xab", [nothing, *pieces("a", "b")])
    assert (as_text.first, as_text.spans.tolist()) == (0, [[0, 1], [1, 2], [2, 3]])


def test_written_tokens_behind_the_text_are_left_out() -> None:
    found = align("ab", pieces("a", "b", " c", "d"))
    assert found.last == 2


def test_a_stop_string_cuts_the_last_token() -> None:
    found = align("ab", pieces("a", "b.c"), cut=True)
    assert found.last == 1
    with pytest.raises(BadAnswer):
        align("ab", pieces("a", "b.c"))


@pytest.mark.parametrize(
    ("text", "tokens", "match"),
    [
        ("abc", ["a", "b"], "end after 2 characters"),
        ("abc", ["a", "x", "c"], "'x' at character 1"),
        ("abc", [], "end after 0"),
    ],
)
def test_tokens_that_spell_something_else_are_refused(text, tokens, match) -> None:
    with pytest.raises(BadAnswer, match=match) as caught:
        align(text, pieces(*tokens))
    assert caught.value.reason == "misaligned"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab é€😀", min_size=1, max_size=12), st.data())
def test_any_cut_of_the_bytes_covers_the_text(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)))) - {len(raw)})
    parts = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    found = align(text, pieces(*parts))
    assert (found.first, found.last) == (0, len(parts))
    assert found.spans[0, 0] == 0
    assert found.spans[-1, 1] == len(text)
    assert (found.spans[1:, 0] <= found.spans[:-1, 1]).all()
    assert (np.diff(found.spans, axis=1) >= 1).all()
    for part, (a, b) in zip(parts, found.spans.tolist(), strict=True):
        assert part in text[a:b].encode()


def test_offsets_tell_unknown_tokens_apart() -> None:
    text = "a😀é."
    told = [(0, "a"), (1, None), (1, None), (2, None), (2, None), (3, ".")]
    given = [Piece(s or "\ufffd", -1.0, s and s.encode(), offset=o) for o, s in told]
    found = align(text, given).spans.tolist()
    assert found == [[0, 1], [1, 2], [1, 2], [2, 3], [2, 3], [3, 4]]
    wild = [Piece(p.string, p.logp, p.raw, offset=9 - i) for i, p in enumerate(given)]
    assert align(text, wild).spans.tolist()[1:5] == [[1, 3]] * 4
