"""What the documentation says works: code blocks run, commands exist, links lead somewhere."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nll

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def blocks(page: Path, language: str) -> list[str]:
    return [m[2] for m in BLOCK.finditer(page.read_text(encoding="utf-8")) if m[1] == language]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def runnable() -> Iterator[object]:
    for page in PAGES:
        code = "\n".join(blocks(page, "python"))
        if code:
            marks = [pytest.mark.model] if "nll.load(" in code else []
            yield pytest.param(page, code, id=name_of(page), marks=marks)


embedded = functools.cache(nll.load)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that a page declares are gone after it; the embedded model is opened only once."""
    from nll import _declare

    nll.declarations()
    monkeypatch.setattr(_declare, "_registry", dict(_declare._registry))
    monkeypatch.setattr(nll, "load", embedded)


@pytest.mark.parametrize(("page", "code"), list(runnable()))
def test_python_blocks_run(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: None
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {"__name__": page.stem})


def commands(page: Path) -> list[str]:
    """Lines of the page's bash blocks that call nll, without comments."""
    lines = [line.split("  #")[0].strip() for b in blocks(page, "bash") for line in b.splitlines()]
    return [line for line in lines if line.startswith("nll ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    import typer.main

    from nll.cli._app import app

    for line in commands(page):
        command = typer.main.get_command(app)
        words = shlex.split(line)[1:]
        while words and hasattr(command, "commands"):
            name = words.pop(0)
            assert name in command.commands, f"{line!r}: no command {name}"
            command = command.commands[name]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        used = {word.split("=")[0] for word in words if word.startswith("-") and word != "-"}
        assert used <= known | {"--help"}, f"{line!r}: no option {used - known}"


@pytest.mark.model
def test_the_commands_of_the_tutorial_work(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for line in commands(ROOT / "docs" / "quickstart.md"):
        if line.startswith("nll model install"):
            continue
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(list(nll.read_traces(tmp_path / "declaration.parquet"))) == 1


@pytest.mark.model
@pytest.mark.parametrize("script", EXAMPLES, ids=name_of)
def test_examples_run(script: Path, capsys: pytest.CaptureFixture[str], alone: None) -> None:
    code = script.read_text(encoding="utf-8")
    exec(compile(code, str(script), "exec"), {"__name__": "__main__", "__file__": str(script)})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("script", EXAMPLES, ids=name_of)
def test_examples_fit_a_screen_and_are_listed(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    assert f"`{script.name}`" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


def test_every_example_text_states_its_source() -> None:
    said = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "examples").iterdir():
        if path.suffix in {".txt", ".jsonl", ".csv"}:
            assert f"`{path.name}`" in said


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples" / "README.md"], ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_scores_named_on_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"nll\.scores\.(\w+)", text):
        assert name in nll.scores.__all__ or name.startswith("_"), name


def test_generated_pages_name_every_score() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import docs_hooks
    finally:
        sys.path.pop(0)
    page = docs_hooks.generate("scores")
    assert [n for n in nll.declarations() if f"| `{n}` |" not in page] == []
    for page_path in PAGES:
        for name in docs_hooks.MARK.findall(page_path.read_text(encoding="utf-8")):
            assert docs_hooks.generate(name).strip()


def test_the_storage_page_names_every_column() -> None:
    from nll import _arrow

    page = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
    names = _arrow._schema(frozenset()).names
    assert [n for n in names if f"`{n}`" not in page] == []


def test_what_stands_in_for_a_generated_part_is_replaced() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import docs_hooks
    finally:
        sys.path.pop(0)
    page = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8")
    assert "> The table" in page
    assert "> The table" not in docs_hooks.on_page_markdown(page)


def test_no_example_needs_more_than_the_library_installs() -> None:
    for page in [*PAGES, *EXAMPLES]:
        code = page.read_text(encoding="utf-8")
        text = "\n".join(blocks(page, "python")) if page.suffix == ".md" else code
        assert "pandas" not in text, page


def test_changelog_and_citation_know_this_version() -> None:
    for file in ("CHANGELOG.md", "CITATION.cff"):
        assert nll.__version__ in (ROOT / file).read_text(encoding="utf-8")
