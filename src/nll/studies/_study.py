"""What a study is: one paper's claim, measured on this machine, with a verdict that can be no.

A study is a function `run(setting) -> Outcome` declared with `@study`. It measures, with intervals
and trivial baselines, and compares with the falsifier that was written down before.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nll._errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nll.models import LanguageModel

Verdict = Literal["supported", "not supported", "inconclusive"]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """A measured number, with its 95% interval where it has one, and how many items it rests on."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def __str__(self) -> str:
        shown = f"{self.value:.3f}"
        if self.low is not None and self.high is not None:
            shown += f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name}: {shown}" + (f" (n = {self.n})" if self.n else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a study found. `why` says in a sentence how findings and falsifier give the verdict.

    findings: what the claim speaks of.   baselines: what a trivial method gets on the same data.
    tables: further rows by title.   notes: limits, and what differs from the paper.
    """

    verdict: Verdict
    why: str
    findings: Sequence[Finding]
    baselines: Sequence[Finding] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    figure: Figure | None = None


@dataclass(frozen=True)
class Setting:
    """What a study may use. quick: minutes on two cores; else the paper's size.

    data: a folder of data sets that the package may not carry, one folder a study.
    """

    quick: bool = True
    seed: int = 0
    model_name: str | None = None
    data: Path | None = None
    say: Say = lambda _: None
    loaded: list[str] = field(default_factory=list)

    @cached_property
    def model(self) -> LanguageModel:
        """The model under study, loaded at the first use."""
        return self.load()

    def load(self, **options: Any) -> LanguageModel:
        """The model under study with other options of `nll.load`; its name goes into the result."""
        from nll.models import load

        model = load(self.model_name, **options)
        self.loaded.append(model.identity["model"])
        return model

    def file(self, slug: str, name: str, *, source: str = "") -> Path:
        """A data file of a study: from `data`, or carried by the package.

        Raises BadInput when neither holds it, naming where it comes from.
        """
        if self.data is not None and (self.data / slug / name).is_file():
            return self.data / slug / name
        carried = Path(str(resources.files("nll.studies") / "data" / slug / name))
        if carried.is_file():
            return carried
        raise BadInput(
            f"this study needs {slug}/{name}, which nll does not carry"
            + (f" (from {source})" if source else "")
            + "; put it into a folder and name that with --data"
        )


@dataclass(frozen=True, slots=True)
class Study:
    """A declared study: what is claimed, by which paper, and what would show it wrong."""

    slug: str
    title: str
    paper: str
    claim: str
    falsifier: str
    run: Callable[[Setting], Outcome]


_studies: dict[str, Study] = {}


def study(
    slug: str, *, title: str, paper: str, claim: str, falsifier: str
) -> Callable[[Callable[[Setting], Outcome]], Callable[[Setting], Outcome]]:
    """Declare the function below as the study of a paper; it stays a plain function."""

    def attach(run: Callable[[Setting], Outcome]) -> Callable[[Setting], Outcome]:
        _studies[slug] = Study(slug, title, paper, claim, falsifier, run)
        return run

    return attach


def studies() -> Mapping[str, Study]:
    """All studies by slug; a study's file is `_<slug with underscores>.py` in this room."""
    for entry in sorted(resources.files("nll.studies").iterdir(), key=lambda e: e.name):
        name = entry.name
        if name.startswith("_") and name.endswith(".py") and name not in _NOT_STUDIES:
            import_module(f"nll.studies.{name[:-3]}")
    return dict(sorted(_studies.items()))


_NOT_STUDIES = ("__init__.py", "_study.py", "_pages.py", "_common.py", "_gsm8k.py", "_run_code.py")


def run_study(slug: str, setting: Setting, out: Path) -> dict[str, Any]:
    """Run a study and write `result.json`, `figure.svg` and `page.md` into `out/<slug>/`.

    Returns what `result.json` holds. Raises BadInput for an unknown study.
    """
    from nll.runs import write_atomic
    from nll.studies._pages import page

    known = studies()
    if slug not in known:
        raise BadInput(f"unknown study '{slug}'; `nll study --list` names them")
    chosen = known[slug]
    start = time.perf_counter()
    outcome = chosen.run(setting)
    result = _result(chosen, outcome, setting, time.perf_counter() - start)
    folder = out / slug
    folder.mkdir(parents=True, exist_ok=True)
    if outcome.figure is not None:
        _draw(outcome.figure, folder / "figure.svg")
    write_atomic(folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "page.md", page(result, figure=outcome.figure is not None))
    return result


def _result(chosen: Study, outcome: Outcome, setting: Setting, seconds: float) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in ("nll", "torch", "transformers", "numpy", "scikit-learn"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "slug": chosen.slug,
        "title": chosen.title,
        "paper": chosen.paper,
        "claim": chosen.claim,
        "falsifier": chosen.falsifier,
        "verdict": outcome.verdict,
        "why": outcome.why,
        "findings": [dataclasses.asdict(f) for f in outcome.findings],
        "baselines": [dataclasses.asdict(f) for f in outcome.baselines],
        "tables": {name: [dict(r) for r in rows] for name, rows in outcome.tables.items()},
        "notes": list(outcome.notes),
        "mode": "quick" if setting.quick else "full",
        "seed": setting.seed,
        "model": setting.loaded[0] if setting.loaded else None,
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def _draw(figure: Figure, path: Path) -> None:
    import matplotlib as mpl

    from nll.runs import atomic_path

    # A fixed salt and no date: the same numbers draw the same bytes.
    with mpl.rc_context({"svg.hashsalt": "nll", "svg.fonttype": "none"}), atomic_path(path) as temp:
        figure.savefig(temp, format="svg", metadata={"Date": None}, bbox_inches="tight")
