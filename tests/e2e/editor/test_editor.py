"""Policies in an editor with yaml-language-server: what it underlines, offers and explains by our schemas."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from click.testing import CliRunner

from ext_authz.policytool.commands import policy
from tests.e2e.editor.language_server import Editor, editor, installed
from tests.fuzz.policies import policy_files

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="no node and npm on this machine"
)

HEAD = "# yaml-language-server: $schema=policy.schema.json\n"
GOOD = f"""{HEAD}version: 1
issuers:
  - {{name: main, issuer: "https://id.example/realms/ml", audiences: [triton-gateway]}}
limits:
  user: {{key: [user], rate: 10/minute}}
models:
  sentiment: {{roles: [infer]}}
routes:
  - {{name: infer, operation: infer, limits: [user]}}
"""
RATE = "write number/period, for example 10/minute; periods are second, minute, hour and day"
PATH = "write a path such as /v2/models/{model}/infer or /files/{rest=**}"
NAME = "write lower-case letters, digits and -, at most 32, no - at the start"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the three schemas."""
    folder = tmp_path_factory.mktemp("policies")
    for name, options in {"policy": [], "included": ["--included"], "tests": ["--tests"]}.items():
        printed = CliRunner().invoke(policy, ["schema", *options], catch_exceptions=False).stdout
        (folder / f"{name}.schema.json").write_text(printed)
    return folder


@pytest.fixture(scope="module")
def vscode() -> Iterator[Editor]:
    try:
        installed()
    except CalledProcessError:
        pytest.skip("npm cannot install yaml-language-server on this machine")
    with editor() as running:
        yield running


@pytest.mark.parametrize("file", policy_files(), ids=lambda file: file.parent.name)
def test_nothing_is_underlined_in_what_is_shipped(vscode: Editor, folder: Path, file: Path) -> None:
    assert vscode.diagnostics(folder / "policy.yaml", HEAD + file.read_text()) == []
    for tests in sorted(file.parent.glob("*tests/*.yaml")):
        text = HEAD.replace("policy", "tests") + tests.read_text()
        assert vscode.diagnostics(folder / "tests.yaml", text) == [], tests


def test_a_new_policy_names_its_schemas(vscode: Editor, tmp_path: Path) -> None:
    flags = "--issuer https://id.example/realms/ml --audience triton-gateway --model sentiment --limit 5/month"
    arguments = ["new", *flags.split(), "--out", str(tmp_path / "policy.yaml")]
    assert CliRunner().invoke(policy, arguments, catch_exceptions=False).exit_code == 0
    assert vscode.diagnostics(tmp_path / "policy.yaml") == []
    wrong = (tmp_path / "policy.yaml").read_text().replace("version: 1", "version: 2")
    ((line, message),) = vscode.diagnostics(tmp_path / "policy.yaml", wrong)
    assert (wrong.splitlines()[line - 1], message) == ("version: 2", "Value must be 1.")


@pytest.mark.parametrize(
    ("good", "wrong", "line", "message"),
    [
        ("10/minute", "10/min", 6, RATE),
        ("10/minute", "10", 6, RATE),
        ("10/minute", "'${RATE}/min'", None, ""),
        ("[user], rate", "[usr], rate", 6, "write one of user, client, token, path, model, ip, route, or claim:NAME"),
        ("key: [user], ", "", 6, 'Missing property "key".'),
        ("operation: infer", "path: /v2/models/*, methods: [GET]", 10, PATH),
        ("operation: infer", "path: '/:model/x', methods: [GET]", 10, PATH),
        ("name: infer", "name: in fer", 10, NAME),
        ("  user: {", "  us er: {", 6, NAME),
        ("limits: [user]", "limit: [user]", 10, "Property limit is not allowed."),
        ("models:", "modles:", 7, "Property modles is not allowed."),
        ("https://id.example/realms/ml", "id.example", 4, "write an address such as https://id.example/realms/ml"),
        ("https://id.example/realms/ml", "${ISSUER}", None, ""),
        ("audiences: [", "leeway: 30, audiences: [", 4, "write a whole number and s, m, h or d, for example 30s"),
    ],
)
def test_what_is_wrong_is_underlined_with_what_to_write(
    vscode: Editor, folder: Path, good: str, wrong: str, line: int | None, message: str
) -> None:
    assert good in GOOD
    found = vscode.diagnostics(folder / "policy.yaml", GOOD.replace(good, wrong))
    assert found == ([] if line is None else [(line, message)])


def test_parts_of_a_policy_lack_nothing(vscode: Editor, folder: Path) -> None:
    """Neither where a file includes others, nor in those."""
    models = "models:\n  vision-*: {call: {group: /teams/vision}}\n"
    included = HEAD.replace("policy.", "../included.") + models
    assert vscode.diagnostics(folder / "whole.yaml", f"{HEAD}version: 1\ninclude: [teams/*.yaml]\n{models}") == []
    assert vscode.diagnostics(folder / "teams" / "vision.yaml", included) == []
    assert vscode.diagnostics(folder / "teams" / "vision.yaml", included.replace("call", "cal")) == [
        (3, "Property cal is not allowed.")
    ]
    assert "Missing property" in str(vscode.diagnostics(folder / "whole.yaml", HEAD + models))


def test_without_the_line_at_its_head_a_file_is_not_checked(vscode: Editor, folder: Path) -> None:
    assert vscode.diagnostics(folder / "other.yaml", "modles: x\n") == []
    ((_, message),) = vscode.diagnostics(folder / "other.yaml", HEAD.replace("policy.", "no.") + "modles: x\n")
    assert "Unable to load schema" in message


@pytest.mark.parametrize(
    ("text", "label", "inserted"),
    [
        ("", "version, issuers, limits, models, routes", "rate: ${3:10/minute}"),
        ("version: 1\nissuers:\n  - ", "name, issuer, audiences", "audiences:\n    - ${3:triton-gateway}"),
        ("version: 1\nlimits:\n  user:\n    ", "key, plans", "plans:\n  ${2:gold}: ${3:100/minute}"),
        ("version: 1\nmodels:\n  sentiment:\n    ", "roles", "roles:\n  - ${1:infer}"),
        ("version: 1\nroutes:\n  - ", "name, operation, limits", "limits:\n    - ${3:user}"),
        ("version: 1\nroutes:\n  - name: infer\n    operation: ", "generate", "generate"),
        ("version: 1\nfailure:\n  redis: ", "local", "local"),
        ("version: 1\nlimits:\n  user:\n    key: [", "model", "model"),
    ],
)
def test_it_offers_what_may_be_written(vscode: Editor, folder: Path, text: str, label: str, inserted: str) -> None:
    offered = vscode.completions(folder / "policy.yaml", HEAD + text)
    assert inserted in offered[label]
    assert "Document" not in json.dumps(offered)


def test_it_explains_a_key(vscode: Editor, folder: Path) -> None:
    assert "Rate limits by name" in vscode.hover(folder / "policy.yaml", f"{HEAD}version: 1\nlimits: {{}}")
