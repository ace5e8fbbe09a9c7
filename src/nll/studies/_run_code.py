"""Run a model's Python code against assertions, in a process of its own with limits."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile

# Set before the code runs: no network, no files, little memory and time.
_GUARD = """\
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
def _no_network(*args, **kwargs):
    raise OSError("no network here")
socket.socket = socket.create_connection = _no_network
"""
_COUNT = """
passed = 0
candidate = {entry}
for _line in {asserts!r}:
    try:
        exec(_line)
        passed += 1
    except BaseException:
        pass
print("passed", passed)
"""


def parses(code: str) -> bool:
    """Whether it is Python at all."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def share_passed(code: str, test: str, entry: str, *, seconds: int = 3) -> float:
    """Share of the assertions in `test` that the code's function `entry` fulfils, in [0, 1].

    test: a module with `def check(candidate)` of assertions.   seconds: of processor time; it may
    wait four times as long. The code runs in a child process with limits of time, memory, files
    and processes and without sockets: enough against accidents of a model that writes exercises,
    no prison for code that wants out. 0 where it crashes or is slow.
    """
    asserts = assertions(test)
    if not asserts or not parses(code):
        return 0.0
    program = _GUARD.format(seconds=seconds) + code + _COUNT.format(entry=entry, asserts=asserts)
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", program], cwd=folder, env={}, timeout=4 * seconds,
                capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 0.0
    last = done.stdout.strip().splitlines()[-1:] or [""]
    word, _, count = last[0].partition(" ")
    return int(count) / len(asserts) if word == "passed" and count.isdigit() else 0.0


def assertions(test: str) -> list[str]:
    """The statements of `check`, in order; those that set something up stay with the next."""
    for node in ast.parse(test).body:
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            out, setup = [], ""
            for statement in node.body:
                setup += ast.unparse(statement) + "\n"
                if any(isinstance(n, ast.Assert) for n in ast.walk(statement)):
                    out.append(setup)
                    setup = _without_asserts(setup)
            return out
    return []


def _without_asserts(code: str) -> str:
    kept = [
        s for s in ast.parse(code).body if not any(isinstance(n, ast.Assert) for n in ast.walk(s))
    ]
    return "".join(ast.unparse(s) + "\n" for s in kept)
