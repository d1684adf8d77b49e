"""Where nobody can sign in, and who may not be mistaken for the identity provider's person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from ext_authz.clock import SystemClock
from ext_authz.console.pages import Pages, signs_people_in
from ext_authz.console_settings import ConsoleSettings
from ext_authz.errors import ConfigError
from ext_authz.policy.load import load_policy
from ext_authz.policy.model import Policy

POLICY = """
version: 1
issuers:
  - {name: one, issuer: "https://one.example", audiences: [models]}
  - {name: two, issuer: "https://two.example", audiences: [models]}
resource: {url: "%s"}
models: {}
routes: [{name: live, path: /v2/health/live, methods: [GET], public: true}]
tokens: {audiences: [models]}
"""


def settings(issuer: str = "one") -> ConsoleSettings:
    return ConsoleSettings.model_construct(
        console_keys=SecretStr("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
        console_client_secret=SecretStr("x"),
        console_issuer=issuer,
        jwks_ca_file=None,
        admin_socket=None,
        admin_port=9001,
    )


def policy_at(tmp_path: Path, url: str) -> Policy:
    (tmp_path / "policy.yaml").write_text(POLICY % url)
    return load_policy(tmp_path / "policy.yaml", {})


async def test_over_plain_http_nobody_signs_in_but_on_this_machine(tmp_path: Path) -> None:
    policy, nothing = policy_at(tmp_path, "http://models.example"), None
    names = ("pool", "service", "authenticator", "revocations", "settlement", "operations")
    parts: dict[str, Any] = dict.fromkeys(names, nothing)
    assert policy.tokens
    pages = Pages(settings(), policy, policy.tokens, **parts, clock=SystemClock())
    transport = httpx.ASGITransport(Starlette(routes=pages.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://models.example") as client:
        answer = await client.get("/tollgate/login")
    await pages.provider.close()
    assert answer.status_code == 403
    assert "served over plain http" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("issuer", ["", "three"])
def test_which_of_several_issuers_people_sign_in_at_has_to_be_said(tmp_path: Path, issuer: str) -> None:
    policy = policy_at(tmp_path, "https://models.example")
    with pytest.raises(ConfigError, match="one of one, two"):
        signs_people_in(settings(issuer), policy)
    assert signs_people_in(settings("two"), policy).issuer == "https://two.example"
