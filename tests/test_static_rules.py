"""Rules on the source text: nothing unsafe, rooms import downwards only (reliability check 21)."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "nll"
SOURCES = sorted(SRC.rglob("*.py"))

UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "jsonpickle", "joblib", "marshal"}
BANNED_CALLS = {"eval", "exec", "torch.load", "yaml.load", "os.system", "os.popen"}

# What each part of the library may import of the library itself, and of the heavy packages at all.
# `trace` and the declarations are read by everything, the command line by nothing, the report by
# the runs that write it.
LOW = {"_errors", "_text", "trace"}
ARROWS: dict[str, set[str]] = {
    "_errors": set(),
    "_text": {"_errors"},
    "trace": {"_errors", "_text"},
    "_bundle": LOW,
    "_declare": LOW | {"_bundle", "scores"},
    "_arrow": LOW | {"_declare", "runs._atomic"},
    "_arrow_bundles": LOW | {"_bundle", "_arrow"},
    "_table": LOW | {"_bundle", "_declare", "_arrow"},
    "_plan": LOW | {"_bundle", "_declare", "_table", "models"},
    "scores": LOW | {"_bundle", "_declare"},
    "metrics": {"_errors", "_declare"},
    "bayes": {"_errors", "_declare"},
    "theory": {"_errors", "_declare"},
    "tasks": LOW | {"_bundle", "_declare", "models", "scores", "metrics", "theory"},
    "kernels": LOW,
    "models": LOW | {"_declare", "kernels"},
    "serve": LOW | {"_bundle", "_declare", "_table", "models", "web"},
    "testing": LOW | {"_declare", "kernels", "models"},
    "nn": {"_errors"},
    "objectives": {"_errors"},
    "negatives": LOW | {"_bundle", "_declare", "models", "scores", "objectives"},
    "training": LOW | {"models", "objectives", "scores"},
}
FACES = {"cli", "web", "serve", "__main__"}
HEAVY = {"torch", "transformers", "gguf", "accelerate", "safetensors"}
MAY_USE_HEAVY = {
    "kernels", "models", "negatives", "nn", "objectives", "studies", "testing", "training",
}  # fmt: skip


def unsafe(source: str) -> list[str]:
    """Each unsafe construct in the source, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for module in imported(node):
            if module.split(".")[0] in UNPICKLERS:
                found.append(f"{node.lineno}: import of {module}")
            if module in {"torch.load", "yaml.load"}:
                found.append(f"{node.lineno}: {module}")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in BANNED_CALLS:
            found.append(f"{node.lineno}: {called}()")
        if called in {"np.load", "numpy.load"} and options.get("allow_pickle") != "False":
            found.append(f"{node.lineno}: {called}() without allow_pickle=False")
        for option in ("trust_remote_code", "shell"):
            if options.get(option) == "True":
                found.append(f"{node.lineno}: {option}=True")
    return found


def imported(node: ast.AST) -> list[str]:
    """Dotted names that an import statement brings; `from a import b` gives `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import; write the module's full name"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Nodes under `if TYPE_CHECKING:`, which never run."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def against_the_arrows(source: str, part: str) -> list[str]:
    """Imports that this part of the library may not have, as `line: name`."""
    tree = ast.parse(source)
    typing_only = for_types_only(tree)
    found = []
    for node in ast.walk(tree):
        for name in imported(node):
            package, _, rest = name.partition(".")
            target, _, inner = rest.partition(".")
            if package == "nll" and target not in {"", "__version__", part}:
                allowed = ARROWS.get(part, {target})
                known = target in allowed or f"{target}.{inner.split('.')[0]}" in allowed
                fine = known and (target not in FACES or part in FACES)
            else:
                fine = package not in HEAVY or node in typing_only or part in MAY_USE_HEAVY
            if not fine:
                found.append(f"{node.lineno}: {name}")
    return found


def part_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def short(path: Path) -> str:
    return str(path.relative_to(SRC))


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_21_nothing_unsafe(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [p for p in SOURCES if part_of(p) != "__init__"], ids=short)
def test_rooms_import_downwards(path: Path) -> None:
    assert against_the_arrows(path.read_text(encoding="utf-8"), part_of(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import yaml\nyaml.load(f)",
        "eval('1')",
        "exec('1')",
        "AutoModel.from_pretrained('m', trust_remote_code=True)",
        "subprocess.run('ls', shell=True)",
        "np.load('x.npz')",
        "np.load('x.npz', allow_pickle=True)",
    ],
)
def test_the_safety_rule_has_teeth(source: str) -> None:
    assert len(unsafe(source)) == 1


def test_the_safety_rule_lets_safe_code_pass() -> None:
    assert unsafe("np.load('x', allow_pickle=False)\nm.load('x', trust_remote_code=flag)") == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("scores", "from nll.models import load"),
        ("scores", "import torch"),
        ("trace", "from nll._declare import score"),
        ("kernels", "from nll import models"),
        ("models", "from nll.cli import main"),
        ("runs", "from nll.cli import main"),
        ("models", "from nll.web import write_report"),
        ("cli", "def f():\n    import transformers"),
    ],
)
def test_the_arrow_rule_has_teeth(part: str, source: str) -> None:
    assert len(against_the_arrows(source, part)) == 1


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_in_tracked_files() -> None:
    """No path or host name of the machine on which a file was written."""
    marks = [r"/(?:home|Users)/(?!runner\b)\w+/", "/ro" + "ot/"]
    if len(ROOT.parts) > 2:
        marks.append(re.escape(str(ROOT)))
    if len(socket.gethostname()) > 5 and socket.gethostname() != "localhost":
        marks.append(re.escape(socket.gethostname()))
    pattern = re.compile("|".join(marks))
    files = tracked_files()
    assert len(files) > 10
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in pattern.finditer(text)]
    assert found == []
