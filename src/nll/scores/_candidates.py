"""Where in a prompt stand the words that a model is to choose from?"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from nll._errors import BadInput

BETWEEN = 12  # characters that may stand between the two words of a list of candidates


def label_positions(
    text: str, spans: npt.ArrayLike, yes: str = "Yes", no: str = "No"
) -> tuple[int, int]:
    """Positions of the tokens that begin the two words in the instruction's list of candidates.

    The list is the last place where both stand, in whole words and either order, at most 12
    characters apart ("Yes or No", "No/Yes"); a "No idea" elsewhere is not it.   spans: (N, 2)
    characters of each token. Raises BadInput when there is no such list or no token for a word.
    """
    lists = []
    for first, second in ((yes, no), (no, yes)):
        pattern = rf"\b({re.escape(first)})\b.{{1,{BETWEEN}}}?\b({re.escape(second)})\b"
        lists += [(m.start(1), m.start(2), first) for m in re.finditer(pattern, text)]
    if not lists:
        raise BadInput(f"the prompt lists no candidates {yes!r} and {no!r} side by side")
    one, two, first = max(lists)
    at = (one, two) if first == yes else (two, one)
    held = np.asarray(spans, dtype=np.int64)
    found = []
    for place, word in zip(at, (yes, no), strict=True):
        inside = np.flatnonzero((held[:, 0] <= place) & (place < held[:, 1]))
        if not inside.size:
            raise BadInput(f"no token holds the word {word!r} of the list")
        found.append(int(inside[0]))
    if found[0] == found[1]:
        raise BadInput(f"{yes!r} and {no!r} lie in one token")
    return found[0], found[1]
