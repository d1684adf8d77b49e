"""What `--jwt` says of the token that it was given: whether its issuer signed it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from ext_authz.db.migrate import migrate
from ext_authz.revocation.commands import revoke
from tests.e2e.reload.world import policy, published_keys, token
from tests.tokens import RSA, RSA_NEXT, TestKey, mint

VERIFIED = "verified: the token is one of its issuer's"
TAKEN = "the claims of the token are taken as they are"
FORGED = TestKey("rsa-next", "RS256", key_id=RSA.key_id)
"""Says that it is the issuer's key."""


@pytest.mark.parametrize(
    ("presented", "said"),
    [
        (token(), VERIFIED),
        (mint(key=FORGED), f"not verified: a check refuses it (signature_invalid); {TAKEN}"),
        (mint(key=RSA_NEXT), f"not verified: a check refuses it (key_unknown); {TAKEN}"),
        (mint({"exp": 1_000_000_000}), f"not verified: a check refuses it (token_expired); {TAKEN}"),
        (mint({"exp": 1_000_000_000}, key=FORGED), f"not verified: a check refuses it (signature_invalid); {TAKEN}"),
    ],
    ids=["good", "forged", "unknown key", "expired", "forged and expired"],
)
def test_only_what_its_issuer_signed_is_called_verified(
    database_url: str, redis_url: str, tmp_path: Path, presented: str, said: str
) -> None:
    asyncio.run(migrate(database_url))
    with published_keys(tmp_path) as jwks:
        (tmp_path / "policy.yaml").write_text(policy(jwks))
        environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "POLICY": str(tmp_path / "policy.yaml")}
        result = CliRunner().invoke(
            revoke,
            ["token", "--jwt", "-"],
            env={f"TOLLGATE_{name}": value for name, value in environ.items()},
            input=presented,
        )
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == said
    assert "in force on every replica" in result.stdout
