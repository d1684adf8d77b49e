"""The demo's policy passes the tests that it ships with."""

from __future__ import annotations

import pytest

from ext_authz.policy.load import load_policy
from ext_authz.policytool.cases import read_cases
from ext_authz.policytool.runner import run
from tests.unit.policytool import command_line
from tests.unit.policytool.command_line import DEMO

FILES, FAULTS = read_cases([DEMO / "policy_tests"])


async def test_every_one_passes() -> None:
    assert not FAULTS
    for file in FILES:
        outcomes = await run(file, load_policy(DEMO / "policy.yaml", file.document.environment))
        assert len(outcomes) >= 20
        assert [outcome for outcome in outcomes if not outcome.passed] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{roles: [infer]}", "{visibility: public, roles: [other]}"),
        ("rate: 10/minute", "rate: 11/minute"),
        ("rate: 100/minute", "rate: 1000/minute"),
        ("audiences: [triton-gateway]", "audiences: [triton-gateway, other]"),
        ("roles_client: triton-gateway", "cnf: ignore"),
        ("leeway: 0s", "leeway: 5s"),
        ("name: live, path", "name: alive, path"),
        ("    limits: [user-minute, path-minute]", "    limits: [path-minute]"),
        ("realm: tollgate", "failure: {redis: allow}"),
        ("realm: tollgate", "failure: {postgres: local}"),
    ],
)
def test_they_notice_a_change(before: str, after: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = (DEMO / "policy.yaml").read_text()
    assert before in text
    path = command_line.written(tmp_path_factory.mktemp("changed"), text.replace(before, after))
    assert command_line.run("test", DEMO / "policy_tests", "--policy", path).exit_code == 1
