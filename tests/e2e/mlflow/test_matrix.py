"""Every endpoint of MLflow's own router is served for a reason, or refused for one."""

from __future__ import annotations

import re

import pytest

from ext_authz.filter.endpoints import ENDPOINTS
from ext_authz.filter.not_served import NOT_SERVED, reason
from tests.e2e.mlflow.world import World

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(400)]

_OURS = re.compile(r"\{[a-z_]+(?:=\*\*)?\}")
_THEIRS = re.compile(r"<(?:path:)?[a-z_]+>|\{[a-z_]+(?::path)?\}")


def _served() -> set[tuple[str, str]]:
    return {(method, _OURS.sub("{}", path)) for method, path in ENDPOINTS}


def _theirs(world: World) -> set[tuple[str, str]]:
    return {(method, _THEIRS.sub("{}", path)) for method, path in world.router}


def test_no_endpoint_is_undecided(world: World) -> None:
    """HEAD and OPTIONS of each are refused: the table has neither."""
    theirs = {(method, path) for method, path in _theirs(world) if method not in ("HEAD", "OPTIONS")}
    assert len(theirs) > 300
    undecided = {(method, path) for method, path in theirs - _served() if not reason(path)}
    assert undecided == set()


def test_the_table_has_nothing_that_mlflow_has_not(world: World) -> None:
    assert _served() - _theirs(world) == set()
    assert not {method for method, _ in ENDPOINTS} & {"HEAD", "OPTIONS"}
    paths = {path.replace("/ajax-api/", "/api/", 1) for _, path in world.router}
    assert [start for start in NOT_SERVED if not any(path.startswith(start) for path in paths)] == []


def test_nothing_is_both_served_and_refused() -> None:
    assert [key for key in ENDPOINTS if reason(key[1])] == []


def test_what_is_not_served_is_refused_whoever_asks(world: World) -> None:
    """With every right there is. `/mlflow/` itself is no path of the policy."""
    sent = 0
    for method, path in sorted(_theirs(world)):
        if (method, path) in _served() or method == "OPTIONS" or path == "/":
            continue
        answer = world.call("root", method, path.replace("{}", "1"))
        assert answer.status_code == 403, (method, path, answer.text)
        assert answer.content == b"" if method == "HEAD" else answer.json()["error_code"] == "PERMISSION_DENIED"
        sent += 1
    assert sent > 300
