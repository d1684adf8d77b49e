"""The embedded realm beside a real Keycloak: every answer that both give is the same, but for differences listed here.

A difference is a line such as `- body.error = "x"` that only the embedded realm has, or `+ ...` that only Keycloak has.
Whoever finds another one corrects the embedded realm, or adds it with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest
from msgspec import Struct

from ext_authz.clock import SystemClock
from tests.e2e.realm.client import RealmClient
from tests.e2e.realm.comparison import lines
from tests.e2e.realm.probes import PROBES
from tests.e2e.realm.serving import on_a_thread
from tests.keycloak import RunningKeycloak
from tests.realm_admin import RealmAdmin

pytestmark = pytest.mark.keycloak


class Provider(Struct, frozen=True):
    idp: RealmClient
    admin: RealmAdmin


@pytest.fixture(scope="module")
def both(keycloak: RunningKeycloak, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Provider, Provider]]:
    """Ours, and the real one."""
    with (
        on_a_thread(tmp_path_factory.mktemp("embedded"), SystemClock()) as url,
        RealmClient(url) as ours,
        RealmAdmin(url) as our_admin,
        RealmClient(keycloak.url) as theirs,
    ):
        forget_an_added_scope(keycloak.admin)
        yield Provider(ours, our_admin), Provider(theirs, keycloak.admin)


def forget_an_added_scope(admin: RealmAdmin) -> None:
    """Keycloak adds it to a client with a service account that is changed, as other tests do; the import does not."""
    [console] = admin.get("/clients", clientId="tollgate-console")
    [scope] = [scope["id"] for scope in admin.get("/client-scopes") if scope["name"] == "service_account"]
    admin.http.delete(f"/clients/{console['id']}/default-client-scopes/{scope}").raise_for_status()


_SAYS_MORE = r"\+ body(\[.*\])?\."
DIFFERENCES: Mapping[str, Mapping[str, str]] = {
    "discovery": {r"\+ ": "Keycloak can do more, and says so"},
    "key set": {r"\+ \[.*\]\.x5": "keys of the embedded realm have no certificates"},
    "token exchange": {
        r'- body\.error = "unsupported_grant_type"': "not in the embedded realm",
        r'- body\.error_description = "Unsupported grant_type"': "the same",
        r"- status = 400": "the same",
        r"\+ (status|body\.)": "the same",
    },
    "admin: events": {r"\+ .*\.details\.": "details that nobody reads here: how, and with which refresh token"},
    "admin: client by name": {
        rf"{_SAYS_MORE}(default|optional)ClientScopes": "the embedded realm has no client scopes",
        rf"{_SAYS_MORE}protocolMappers\[": "ids and defaults of mappers",
        rf"{_SAYS_MORE}attributes\.realm_client": "an attribute that Keycloak adds",
    },
    "admin: client": {
        rf"{_SAYS_MORE}(default|optional)ClientScopes": "the embedded realm has no client scopes",
        rf"{_SAYS_MORE}attributes\.": "attributes that Keycloak adds",
        r"- body\.attributes = {}": "the same",
    },
}


@pytest.mark.parametrize("name", PROBES)
def test_both_answer_the_same(both: tuple[Provider, Provider], name: str) -> None:
    ours, theirs = (lines(PROBES[name](one.idp, one.admin), one.idp.base_url) for one in both)
    found = [f"- {line}" for line in sorted(ours - theirs)] + [f"+ {line}" for line in sorted(theirs - ours)]
    known = DIFFERENCES.get(name, {})
    unknown = [line for line in found if not any(re.match(pattern, line) for pattern in known)]
    assert not unknown, "\n".join([f"{name}: differences that are not listed:", *unknown])
    gone = [pattern for pattern in known if not any(re.match(pattern, line) for line in found)]
    assert not gone, f"{name}: these are listed, and there are none: {gone}"
