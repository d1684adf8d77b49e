"""`tollgate policy diff` without a ledger: what two policies say differently, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.policytool.command_line import DEMO, run, written

OLD = DEMO / "policy.yaml"


def diff(tmp_path: Path, *changes: tuple[str, str]) -> tuple[int, list[str]]:
    """Exit code and lines for the demo policy and a changed copy of it."""
    text = OLD.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    result = run("diff", OLD, written(tmp_path, text))
    return result.exit_code, result.output.splitlines()


def test_a_policy_is_equal_to_itself_however_it_is_written(tmp_path: Path) -> None:
    assert diff(tmp_path) == (0, ["no difference"])
    longer = ("cancer: {roles: [infer]}", "cancer: {call: {any: [{role: infer}]}}  # the long form")
    assert diff(tmp_path, longer) == (0, ["no difference"])


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (
            "rate: 10/minute",
            "rate: 20/hour",
            [
                "limits",
                "  ~ user-minute",
                "      rate for default: 10 per minute for each user  ->  20 per hour for each user",
            ],
        ),
        (
            "cancer: {roles: [infer]}",
            "cancer: {call: {all: [{any: [{role: doctor}, {group: ward}]}, {not: {client: old}}]}, see: {role: infer}}",
            [
                "models",
                "  ~ cancer",
                "      call: role infer  ->  (role doctor or group ward) and not client old",
            ],
        ),
        (
            "{name: live, path: /v2/health/live",
            "{name: alive, path: /v2/health/live",
            [
                "routes",
                "  - live",
                "      path: /v2/health/live",
                "      methods: GET",
                "      public: true",
                "  + alive",
                "      path: /v2/health/live",
                "      methods: GET",
                "      public: true",
            ],
        ),
        ("realm: tollgate", "failure: {redis: local}", ["failure", "  ~", "      redis: as by default  ->  local"]),
        (
            "path: /v2/models/{model}/infer\n    methods: [POST]",
            "path: /v2/models/{model}/infer\n    methods: [POST]\n    when: time.hour > 7",
            ["routes", "  ~ infer", "      when: as by default  ->  time.hour > 7"],
        ),
    ],
)
def test_a_change_is_told_in_words(before: str, after: str, lines: list[str], tmp_path: Path) -> None:
    assert diff(tmp_path, (before, after)) == (1, lines)


def test_what_comes_from_the_environment_is_not_shown(tmp_path: Path) -> None:
    status, lines = diff(tmp_path, ("issuer: ${TOLLGATE_ISSUER}", "issuer: ${TOLLGATE_ISSUER}/more"))
    assert status == 1
    assert "id.example" not in "\n".join(lines)


def test_faults_come_first(tmp_path: Path) -> None:
    result = run("diff", OLD, written(tmp_path, "version: 2\n"))
    assert result.exit_code == 2
    assert "policy.yaml:1:10: error" in result.output
