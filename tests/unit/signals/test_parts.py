"""Whose signals are accepted, and how long what they revoke stays revoked."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from ext_authz.errors import ConfigError
from ext_authz.policy.issuers import Asap, Issuer, OwnTokens
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import ModelRules
from ext_authz.poller.poller import poller_of
from ext_authz.signals import parts
from ext_authz.signals.commands import signals
from tests.unit.identity.world import an_issuer

ML, OTHER = an_issuer(clients=frozenset({"web-app"})), an_issuer(name="other", clients=frozenset({"their-app"}))


def a_policy(*issuers: Issuer, own: int = 0) -> Policy:
    policy = Policy(hash="", issuers=issuers, routes=(), models=cast(ModelRules, None))
    tokens = OwnTokens(issuer=an_issuer(name="tollgate", max_token_age=own), max_lifetime=own, per_owner=1)
    return replace(policy, tokens=tokens) if own else policy


def test_people_sign_in_at_the_issuer_that_is_named_or_the_only_one() -> None:
    assert parts.issuer_of(a_policy(ML), "") is ML
    assert parts.issuer_of(a_policy(ML, OTHER), "other") is OTHER
    for issuers, name in (((ML, OTHER), ""), ((ML, OTHER), "nobody"), ((ML,), "nobody"), ((), "")):
        policy, names = a_policy(*issuers), ", ".join(issuer.name for issuer in issuers) or "it has only services"
        with pytest.raises(ConfigError, match=rf"^TOLLGATE_CONSOLE_ISSUER: .* people sign in at: {names}"):
            parts.issuer_of(policy, name)


def test_nobody_signs_in_at_a_service() -> None:
    service = an_issuer(name="web", asap=Asap(("https://keys.example/",)))
    assert parts.issuer_of(a_policy(service, ML), "") is ML
    with pytest.raises(ConfigError, match="only services"):
        parts.issuer_of(a_policy(service), "web")


def test_clients_are_those_of_the_policy_the_setting_and_the_console() -> None:
    clients = parts._clients(a_policy(ML, OTHER), ML, "tollgate-console", " mobile-app, ,cli")
    assert clients == {"ml": {"web-app", "mobile-app", "cli", "tollgate-console"}, "other": {"their-app"}}


def test_a_revocation_outlives_every_token() -> None:
    """By what authorizers accept a token beyond its end, too."""
    assert parts.lifetime_of(a_policy(ML)) == timedelta(days=31)
    own = a_policy(ML, own=400 * 86_400)
    assert parts.lifetime_of(own) == timedelta(seconds=own.longest_life, days=1) > timedelta(days=401)
    assert parts.lifetime_of(a_policy(an_issuer(max_token_age=40 * 86_400))) > timedelta(days=41)


@pytest.mark.parametrize(("own", "days"), [(0, 31), (90 * 86_400, 91)])
async def test_what_was_polled_stays_revoked_as_long(own: int, days: int) -> None:
    realm = an_issuer(jwks_url="https://id.example/realms/ml/protocol/openid-connect/certs")
    settings = SimpleNamespace(
        jwks_ca_file=None, console_client_secret=SecretStr("x"), console_client_id="c", console_poll=5
    )
    nothing = cast(Any, None)
    poller = poller_of(cast(Any, settings), a_policy(realm, own=own), realm, nothing, nothing, nothing)
    assert poller is not None
    assert poller._reader._polled.lifetime == poller._checker._polled.lifetime >= timedelta(days=days)
    await poller.close()


def test_the_address_is_that_of_the_sender_behind_the_proxies() -> None:
    scope = {"type": "http", "headers": [(b"x-forwarded-for", b"203.0.113.7, 198.51.100.2")], "client": ("10.0.0.1", 1)}
    assert parts._address(1, HTTPConnection(scope)) == "198.51.100.2"
    assert parts._address(0, HTTPConnection({**scope, "client": None})) == ""


@pytest.mark.parametrize("url", ["http://models.example/x", "ftp://localhost/x", "events"])
def test_events_are_sent_over_tls(url: str) -> None:
    done = CliRunner().invoke(signals, ["connect", "--push", url])
    assert "--push: write the URL" in str(done.exception)
