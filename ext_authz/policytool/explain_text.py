"""An account as lines of a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ext_authz.policytool.account import Account, Statement

_MARKS = {True: "yes", False: "no ", None: "-  "}


def lines(account: Account) -> Iterator[str]:
    """The decision, each phase with what it rests on, and what the caller would be told."""
    yield from phases(account)
    yield f"caller is told: {_told(account)}"
    for name, value in account.headers.items():
        yield f"  {name}: {value}"


def phases(account: Account) -> Iterator[str]:
    """The same without what the caller would be told."""
    yield f"{account.request}"
    yield f"{account.decision}: {_cause(account)} (policy {account.policy})"
    for number, phase in enumerate(account.phases, 1):
        yield f"{number} {_line(phase)}"
        yield from _tree(phase.parts, "  ")


def _cause(account: Account) -> str:
    return f"{account.reason}, {account.code}: {account.detail}" if account.code else account.reason


def _told(account: Account) -> str:
    return f"HTTP {account.status}, gRPC {account.grpc}" if account.status else "what the model answers, and"


def _tree(statements: Sequence[Statement], indent: str) -> Iterator[str]:
    for statement in statements:
        yield f"{indent}{_line(statement)}"
        yield from _tree(statement.parts, f"{indent}    ")


def _line(statement: Statement) -> str:
    note = f"  ({statement.note})" if statement.note else ""
    return f"{_MARKS[statement.holds]} {statement.what}{note}"
