"""The public names, as a list in tests/api.txt that changes only on purpose.

After a wanted change: `python tests/test_api_snapshot.py --write`, and a line in CHANGELOG.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nll

SNAPSHOT = Path(__file__).with_name("api.txt")


def public_names() -> list[str]:
    """Every name of `nll.__all__` and of each room's `__all__`."""
    rooms = [name for name in nll.__all__ if hasattr(getattr(nll, name), "__path__")]
    names = [f"nll.{name}" for name in nll.__all__]
    for room in rooms:
        names += [f"nll.{room}.{name}" for name in getattr(nll, room).__all__]
    return sorted(names)


def test_public_names_are_those_of_the_snapshot() -> None:
    assert public_names() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_every_public_name_exists() -> None:
    for name in public_names():
        value: object = nll
        for part in name.split(".")[1:]:
            value = getattr(value, part)


if __name__ == "__main__" and "--write" in sys.argv:
    SNAPSHOT.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
