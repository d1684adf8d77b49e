"""How a fault is told: to a person in a terminal, to an editor, in one line of a log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.policy.faults import (
    Fault,
    PolicyFaults,
    Position,
    Severity,
    did_you_mean,
    dotted,
    fault_at,
    in_order,
    rendered,
    rendered_json,
    shown,
)


def at(line: int, what: str = "is wrong", file: str = "p.yaml", column: int = 2) -> Fault:
    return fault_at(Position(Path(file), line, column), ("routes", 0), "wrong", what, "mend it")


def test_a_fault_is_one_line() -> None:
    assert rendered(at(3)) == "p.yaml:3:2: error: is wrong (routes.0); mend it"
    bare = fault_at(Position(Path("p.yaml")), (), "odd", "is odd", severity=Severity.WARNING)
    assert rendered(bare) == "p.yaml:1:1: warning: is odd"


def test_a_fault_for_editors() -> None:
    (found,) = json.loads(rendered_json([at(3, "is \x1b[31m\udcff")]))
    assert found == {
        "severity": "error",
        "file": "p.yaml",
        "line": 3,
        "column": 2,
        "path": "routes.0",
        "what": "is \x1b[31m\udcff",
        "hint": "mend it",
        "code": "wrong",
        "text": "",
    }


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    line = rendered(at(1, "is \x1b[31mred\n\u202e\udcff é"))
    assert line.isprintable()
    assert "is \\x1b[31mred\\n\\u202e\\udcff é" in line


def test_faults_stand_in_the_order_of_their_places_and_once() -> None:
    faults = [at(2, file="b"), at(10, file="a"), at(9, file="a"), at(9, file="a", column=1), at(9, file="a")]
    assert [(found.file, found.line, found.column) for found in in_order(faults)] == [
        ("a", 9, 1),
        ("a", 9, 2),
        ("a", 10, 2),
        ("b", 2, 2),
    ]


@pytest.mark.parametrize(("count", "rest"), [(1, ""), (2, " (in all 2 errors)"), (3, " (in all 3 errors)")])
def test_many_faults_are_one_line(count: int, rest: str) -> None:
    raised = PolicyFaults([at(line) for line in range(count, 0, -1)])
    assert isinstance(raised, ConfigError)
    assert str(raised) == f"p.yaml:1:2: error: is wrong (routes.0); mend it{rest}"
    assert len(raised.faults) == count


def test_a_path_is_dotted() -> None:
    assert dotted(("models", "a.b", 0, "", "x-y_1", "q" * 99)) == f"models.'a.b'.0.''.x-y_1.'{'q' * 64}...'"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("audience", "did you mean 'audiences'?"),
        ("ISSUERS", "did you mean 'issuers'?"),
        ("rs256", "did you mean 'RS256'?"),
        ("zzz", ""),
        ("audiences" * 100, ""),
    ],
)
def test_did_you_mean(word: str, meant: str) -> None:
    assert did_you_mean(word, ["audiences", "issuers", "RS256"]) == meant


def test_words_are_shown_in_quotes_and_not_endless() -> None:
    assert shown("a'b\n") == '"a\'b\\n"'
    assert len(shown("x" * 10_000)) < 80
