"""How far apart are two pieces of Python code? CodeBLEU, with Python's own parser."""

from __future__ import annotations

import ast
import keyword
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from nll._errors import BadInput

_TOKEN = re.compile(r"[^\W\d]\w*|\d[\w.]*|[^\w\s]")
_KEYWORDS: Final = frozenset(keyword.kwlist)
_PLAIN = 0.2  # weight of a token that is no keyword, in the official script
_SMOOTHING = 0.1  # matches that an order without any counts as, there too
Edge: TypeAlias = tuple[int, str, tuple[int, ...]]


def codebleu_distance(
    output: str, reference: str, *, weights: Sequence[float] = (0.25, 0.25, 0.25, 0.25)
) -> float:
    """1 - CodeBLEU of Python code: weighted mean of four agreements with the reference.

    weights: of (1) BLEU-4 of the tokens, (2) the same as recall, keywords counting five times as
    much as other tokens, (3) the share of the reference's syntax trees, names and values left out,
    that the output has too, (4) the share of its data-flow edges, variables numbered in order of
    appearance. Not symmetric. Code that was cut off is parsed up to the last line at which it
    parses. What the reference does not have (a tree, data flow) is left out, and the other weights
    scaled up; an output that does not parse agrees in none of it.
    0 for equal code, 1 when only one text is empty. Ren et al., arXiv 2009.10297; trees are those
    of Python's `ast`, not of tree-sitter, so numbers differ from the official script's.
    """
    if len(weights) != 4 or min(weights) < 0 or not sum(weights) > 0:
        raise BadInput("weights must be four numbers of 0 or more, not all 0")
    mine, other = _TOKEN.findall(output), _TOKEN.findall(reference)
    if not mine or not other:
        return float(mine != other)
    tree, wanted = _tree(output), _tree(reference)
    parts = (
        _ngram_match(mine, other, recall=False),
        _ngram_match(mine, other, recall=True),
        None if wanted is None else _syntax_match(tree, wanted),
        None if wanted is None else _data_flow_match(tree, wanted),
    )
    held = [(w, p) for w, p in zip(weights, parts, strict=True) if p is not None and w]
    if not held:
        raise BadInput("the reference has none of what the weights ask for")
    agreement = math.fsum(w * p for w, p in held) / math.fsum(w for w, _ in held)
    return min(1.0, max(0.0, 1.0 - agreement))


def _ngram_match(mine: Sequence[str], other: Sequence[str], *, recall: bool) -> float:
    """Geometric mean over orders 1 to 4 of the clipped matches, times the brevity penalty."""
    orders = range(1, 1 + min(4, max(len(mine), len(other))))
    logs = []
    for n in orders:
        a, b = (Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (mine, other))
        whole, shared = (b if recall else a), a & b
        weigh = recall and n == 1
        total = _weight(whole) if weigh else whole.total()
        hits = _weight(shared) if weigh else shared.total()
        logs.append(math.log((hits or _SMOOTHING) / (total or 1.0)))
    brevity = min(0.0, 1.0 - len(other) / len(mine))
    return min(1.0, math.exp(brevity + math.fsum(logs) / len(logs)))


def _weight(counts: Mapping[tuple[str, ...], int]) -> float:
    return math.fsum(n * (1.0 if t[0] in _KEYWORDS else _PLAIN) for t, n in counts.items())


def _tree(code: str) -> ast.Module | None:
    """Of as many of its lines as parse; None when no statement is left."""
    lines = textwrap.dedent(code).splitlines()
    while lines:
        try:
            tree = ast.parse("\n".join(lines))
        except (SyntaxError, ValueError, RecursionError):
            lines.pop()
            continue
        return tree if tree.body else None
    return None


def _syntax_match(tree: ast.Module | None, wanted: ast.Module) -> float:
    theirs = list(_shapes(wanted))
    mine = set() if tree is None else set(_shapes(tree))
    return sum(shape in mine for shape in theirs) / len(theirs)


def _shapes(tree: ast.AST) -> Iterator[str]:
    """The shape of each subtree that has children."""
    shape: dict[int, str] = {}
    nodes = [tree]
    for node in nodes:  # parents before children
        nodes.extend(_children(node))
    for node in reversed(nodes):
        inner = [shape[id(child)] for child in _children(node)]
        shape[id(node)] = f"({' '.join([type(node).__name__, *inner])})"
        if inner:
            yield shape[id(node)]


def _children(node: ast.AST) -> list[ast.AST]:
    # Load and Store say no more than the place does.
    return [c for c in ast.iter_child_nodes(node) if not isinstance(c, ast.expr_context)]


def _data_flow_match(tree: ast.Module | None, wanted: ast.Module) -> float | None:
    theirs = Counter(_edges(wanted))
    if not theirs:
        return None
    mine = Counter[Edge]() if tree is None else Counter(_edges(tree))
    return (mine & theirs).total() / theirs.total()


def _edges(tree: ast.Module) -> Iterator[Edge]:
    """(variable, how, the variables that it comes from), variables by order of appearance."""
    number: dict[str, int] = {}

    def numbered(node: ast.AST | None) -> tuple[int, ...]:
        names = [] if node is None else [n for n in _in_order(node) if isinstance(n, ast.Name)]
        return tuple(number.setdefault(n.id, len(number)) for n in names)

    for node in _in_order(tree):
        if isinstance(node, ast.arg):
            number.setdefault(node.arg, len(number))
        for target, source in _bindings(node):
            value = numbered(source)
            for name in numbered(target):
                yield name, "computed from", value
        if isinstance(node, ast.Return | ast.If | ast.While | ast.Assert):
            read = node.value if isinstance(node, ast.Return) else node.test
            for name in numbered(read):
                yield name, type(node).__name__, ()


def _bindings(node: ast.AST) -> list[tuple[ast.AST | None, ast.AST | None]]:
    match node:
        case ast.Assign():
            return [(target, node.value) for target in node.targets]
        case ast.AugAssign() | ast.AnnAssign() | ast.NamedExpr():
            return [(node.target, node.value)]
        case ast.For() | ast.AsyncFor() | ast.comprehension():
            return [(node.target, node.iter)]
        case ast.withitem():
            return [(node.optional_vars, node.context_expr)]
    return []


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from _in_order(child)
