"""Where nobody can sign in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from starlette.applications import Starlette

from ext_authz.clock import SystemClock
from ext_authz.console.pages import Pages
from ext_authz.console.parts import Parts
from ext_authz.console_settings import ConsoleSettings
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


def settings() -> ConsoleSettings:
    return ConsoleSettings.model_construct(
        console_keys=SecretStr("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
        console_client_secret=SecretStr("x"),
        console_issuer="one",
        jwks_ca_file=None,
        admin_socket=None,
        admin_port=9001,
    )


def policy_at(tmp_path: Path, url: str) -> Policy:
    (tmp_path / "policy.yaml").write_text(POLICY % url)
    return load_policy(tmp_path / "policy.yaml", {})


async def test_over_plain_http_nobody_signs_in_but_on_this_machine(tmp_path: Path) -> None:
    policy = policy_at(tmp_path, "http://models.example")
    nothing: dict[str, Any] = dict.fromkeys(Parts.__struct_fields__)
    known = {"settings": settings(), "policy": policy, "own": policy.tokens, "clock": SystemClock()}
    pages = Pages(Parts(**nothing | known))
    transport = httpx.ASGITransport(Starlette(routes=pages.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://models.example") as client:
        answer = await client.get("/tollgate/login")
    await pages.provider.close()
    assert answer.status_code == 403
    assert "served over plain http" in answer.text
    assert "set-cookie" not in answer.headers
