"""The error codes that are raised in code: string literals of `Denied(REASON, CODE, ...)` and `invalid(CODE, ...)`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_POSITION = {"Denied": 1, "invalid": 0}


def codes_raised_in(folder: str) -> set[str]:
    return {code for file in (ROOT / folder).rglob("*.py") for code in _codes(ast.parse(file.read_text()))}


def _codes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POSITION:
            match node.args[_POSITION[node.func.id]]:
                case ast.Constant(value=str(code)):
                    yield code
