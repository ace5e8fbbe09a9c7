"""The MEOW study's material, measures and verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from nll.negatives import memo_score
from nll.studies import Finding, Setting
from nll.studies import _meow as study
from nll.studies import _tofu_student as tofu

ROWS = tofu.tofu_rows(Setting())[0][:3]
SCORES = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2]])


def test_each_method_trains_on_what_it_says() -> None:
    wrong = [r["perturbed_answer"] for r in ROWS]

    def rows(name: str, seed: int = 0) -> list[tuple[str, str]]:
        return study.material(Setting(), ROWS, SCORES, name, seed)

    true = [(r["question"], r["answer"]) for r in ROWS]
    assert rows("GA") == rows("NPO") == true
    largest, smallest, random = (rows(name) for name in study.MEOW)
    assert len(largest) == len(smallest) == len(random) == 3 * study.TARGETS
    assert [a for _, a in largest[:3]] == [wrong[0][2], wrong[0][1], wrong[0][2]]
    assert [a for _, a in smallest[:3]] == [wrong[0][0], wrong[0][1], wrong[0][0]]
    assert [a for _, a in largest[8:10]] == [wrong[1][0], wrong[1][1]]
    held_out = {a for many in wrong for a in many[study.TRAINING :]}
    assert not held_out & {a for _, a in (*largest, *smallest, *random)}
    assert rows("MEOW, random", 1) != random == rows("MEOW, random")
    lines = study.refusals(Setting())
    assert len(lines) == 100
    assert {a for _, a in rows("refusals")} <= set(lines)


@pytest.fixture(scope="module")
def who() -> tofu.Student:
    """A student with small weights that learned nothing."""
    texts = [*tofu.texts_of(ROWS), *study.refusals(Setting())]
    return tofu.student(Setting(), texts, layers=2, seed=0)


def test_methods_do_what_their_losses_say(
    who: tofu.Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "STEPS", 3)
    true = [(r["question"], r["answer"]) for r in ROWS]
    false = [(r["question"], r["perturbed_answer"][2]) for r in ROWS[:1]]
    start, wrong = who.nll(true), who.nll(false)
    for name in study.METHODS:
        after = study.unlearn(Setting(), who, ROWS, SCORES, name, seed=0)
        moved = after.nll(true) - start
        assert (moved > 0).all() if name in ("GA", "NPO") else np.isfinite(moved).all()
        if name == "MEOW, largest":
            assert (after.nll(false) < wrong).all()
    assert (who.nll(true) == start).all()


def test_memo_is_that_of_the_library(who: tofu.Student, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "how", lambda _: {"window": 60, "most": 4})
    pairs = [(r["question"], r["answer"]) for r in ROWS[:2]]
    found = study.memo(Setting(), who, pairs)
    want = [
        memo_score(q, a, lambda p: who.continuations(p, most=4), window=60).mean for q, a in pairs
    ]
    np.testing.assert_allclose(found, want)
    seen = study.look(Setting(), who, ROWS, pairs)
    assert seen.retain_nll == pytest.approx(who.nll(pairs).mean())
    assert all(np.isfinite(seen))


def after(memo: float, retain: float) -> study.After:
    return study.After(1.0, memo, 0.5, retain, 0.9)


@pytest.mark.parametrize(
    ("meow", "npo", "ga", "above", "verdict"),
    [
        ((0.2, 0.4), (0.2, 0.6), (0.0, 9.0), 0.9, "supported"),
        ((0.75, 0.4), (0.2, 0.6), (0.0, 9.0), 0.9, "not supported"),
        ((0.2, 0.7), (0.2, 0.6), (0.0, 9.0), 0.9, "not supported"),
        ((0.6, 0.4), (0.2, 0.6), (0.0, 9.0), 0.9, "inconclusive"),
        ((0.2, 0.55), (0.2, 0.6), (0.0, 9.0), 0.9, "inconclusive"),
        ((0.2, 0.4), (0.2, 0.6), (0.0, 0.3), 0.9, "inconclusive"),
        ((0.2, 0.4), (0.2, 0.6), (0.0, 9.0), 0.7, "inconclusive"),
    ],
)
def test_verdicts(meow, npo, ga, above, verdict) -> None:
    runs = {"MEOW, largest": [after(*meow)], "NPO": [after(*npo)], "GA": [after(*ga)]}
    found = study.judge(after(0.8, 0.2), runs, Finding("above", above))
    assert found[0] == verdict
