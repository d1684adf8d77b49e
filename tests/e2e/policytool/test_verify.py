"""`tollgate policy explain --verify`: the token is checked with the keys that its issuer publishes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_server import serving_files
from tests.tokens import ISSUER, RSA, RSA_NEXT, jwks, mint
from tests.unit.policytool.command_line import run, written

INFER = ("POST", "/v2/models/sentiment/infer")
POLICY = """version: 1
issuers: [{{name: kc, issuer: "{issuer}", jwks_url: "http://127.0.0.1:{port}/jwks.json", audiences: [triton-gateway],
           roles_client: triton-gateway}}]
models: {{sentiment: {{roles: [infer]}}}}
routes: [{{name: infer, operation: infer}}]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[Path]:
    """One whose issuer publishes a key, for as long as the test runs."""
    written(tmp_path, jwks(RSA).decode(), "jwks.json")
    with serving_files(tmp_path) as port:
        yield written(tmp_path, POLICY.format(issuer=ISSUER, port=port))


def test_a_good_token_is_believed(policy: Path) -> None:
    result = run("explain", *INFER, policy, "--jwt", "-", "--verify", stdin=mint())
    assert "allowed (policy " in result.stdout
    assert result.stderr == ""


def test_a_token_that_somebody_else_signed_is_not(policy: Path) -> None:
    forged = mint(key=RSA_NEXT, headers={"kid": RSA.key_id})
    verified = run("explain", *INFER, policy, "--jwt", "-", "--verify", stdin=forged)
    assert "refused: invalid_credential, signature_invalid" in verified.stdout
    unverified = run("explain", *INFER, policy, "--jwt", "-", stdin=forged)
    assert "allowed (policy " in unverified.stdout
    assert "UNVERIFIED" in unverified.stderr
