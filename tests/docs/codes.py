"""The error codes that are raised in code: literals of `Denied(Reason.REASON, CODE, ...)` and `invalid(CODE, ...)`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_AS_RECORDED = "policytool"
"""Repeats refusals of others."""


def codes_raised_in(folder: str) -> set[str]:
    return {code for _, code in raised_in(folder)}


def raised_in(folder: str) -> set[tuple[str, str]]:
    """Name of the reason, and code."""
    files = [file for file in (ROOT / folder).rglob("*.py") if _AS_RECORDED not in file.parts]
    return {found for file in files for found in _raised(ast.parse(file.read_text()))}


def _raised(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name(id="Denied"), args=[ast.Attribute(attr=reason), ast.Constant(value=str(code)), *_]
            ):
                yield reason, code
            case ast.Call(func=ast.Name(id="invalid"), args=[ast.Constant(value=str(code)), *_]):
                yield "INVALID_CREDENTIAL", code
