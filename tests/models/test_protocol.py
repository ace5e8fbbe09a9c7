"""What decides a model's numbers, told alike by all that run here."""

from __future__ import annotations

import dataclasses

from nll.models._protocol import identity_of
from nll.trace import Provenance

KNOWN = Provenance(
    model="m", revision="r", weights="w", tokenizer="t", dtype="float32", bos="<s>",
    backend="b", library="0", declared_error="far", decoding="sampled",
)  # fmt: skip
NAMED = ("model", "revision", "weights", "tokenizer", "dtype", "bos", "backend", "library")


def test_the_identity_holds_what_decides_the_numbers_and_nothing_of_single_traces() -> None:
    found = identity_of(KNOWN, context="64", device="cpu")
    assert found == {n: getattr(KNOWN, n) for n in NAMED} | {"context": "64", "device": "cpu"}
    for name in NAMED:
        other = identity_of(dataclasses.replace(KNOWN, **{name: "another"}))
        assert other != identity_of(KNOWN)


def test_what_is_not_known_is_left_out() -> None:
    found = identity_of(dataclasses.replace(KNOWN, revision=None, bos=None))
    assert set(found) == set(NAMED) - {"revision", "bos"}
