from __future__ import annotations

import pytest

from ext_authz.errors import ConfigError
from ext_authz.policy.issuers import Issuer
from ext_authz.poller.admin_api import client_of, quoted
from ext_authz.poller.keycloak import Skew, realm_of


def issuer(jwks_url: str) -> Issuer:
    return Issuer(name="main", issuer="https://id.example", jwks_url=jwks_url, audiences=frozenset())


def test_where_keycloak_is() -> None:
    inside = "http://keycloak.svc:8080/auth/realms/ml/protocol/openid-connect/certs"
    assert realm_of(issuer(inside)) == ("http://keycloak.svc:8080/auth", "ml")
    for other in ("https://id.example/jwks", "https://id.example/realms/a/b/protocol/openid-connect/certs", ""):
        with pytest.raises(ConfigError, match="issuer main: its jwks_url is not"):
            realm_of(issuer(other))


def test_whose_roles_a_claim_has() -> None:
    assert client_of(("realm_access", "roles")) == ""
    assert client_of(("resource_access", "gateway", "roles")) == "gateway"
    assert client_of(("permissions",)) is None


def test_clocks() -> None:
    skew = Skew()
    assert (skew.seconds, skew.latest(1000.0)) == (0.0, 1001.0)
    skew.learn(999, 1000.0, 1000.5)  # 999.0 to 1000.0 there, 1000.0 to 1000.5 here
    assert skew.seconds == 0.0
    skew.learn(1005, 1005.9, 1006.2)
    assert skew.least == pytest.approx(-1.2)
    assert skew.most == pytest.approx(0.0)
    skew.learn(2100, 2000.0, 2000.1)  # it was set
    assert 99.9 <= skew.seconds <= 101
    assert skew.latest(2000.0) == pytest.approx(2100.9)
    skew.learn(2900, 3000.0, 3000.1)
    assert skew.seconds == pytest.approx(-99.0)


def test_no_step_of_a_path_is_more_than_one() -> None:
    assert quoted("a/b c?d#é") == "a%2Fb%20c%3Fd%23%C3%A9"
    assert quoted("..") == "%2E%2E"
    assert quoted("a.b") == "a.b"
