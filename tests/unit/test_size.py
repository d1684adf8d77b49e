"""The sizes that ADR 24 sets: a file is one subject, a function is one step."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LONGEST_FILE = 300
_LONGEST_FUNCTION = 40


def _files() -> list[Path]:
    found = [
        path
        for package in ("ext_authz", "tollgate", "devstack", "applications")
        for path in (_ROOT / package).rglob("*.py")
    ]
    return [path for path in found if "gen" not in path.relative_to(_ROOT).parts]


def _functions(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of each, without its docstring, and where it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_docstring = ast.get_docstring(node) is not None
            docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
            yield lines, f"{path.relative_to(_ROOT)}: {node.name}"


def test_files() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in _files()}
    assert [str(path.relative_to(_ROOT)) for path, length in lines.items() if length > _LONGEST_FILE] == []
    assert 80 <= statistics.median(lines.values()) <= 155


def test_functions() -> None:
    found = [function for path in _files() for function in _functions(path)]
    lengths = sorted(lines for lines, _ in found)
    assert [where for lines, where in found if lines > _LONGEST_FUNCTION] == []
    assert statistics.median(lengths) <= 6
    assert lengths[len(lengths) * 9 // 10] <= 25
