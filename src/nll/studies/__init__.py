"""One runnable study per paper: its claim, measured here, with a verdict."""

from __future__ import annotations

from nll.studies._pages import evidence, page
from nll.studies._study import (
    Finding,
    Outcome,
    Setting,
    Study,
    Verdict,
    run_study,
    studies,
    study,
)

__all__ = [
    "Finding",
    "Outcome",
    "Setting",
    "Study",
    "Verdict",
    "evidence",
    "page",
    "run_study",
    "studies",
    "study",
]
