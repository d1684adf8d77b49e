"""One question to an identity provider each, for the comparison of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from tests.e2e.realm.client import BATCH, CALLBACK, GATEWAY, VERIFIER, Browser, RealmClient, exchange
from tests.e2e.realm.comparison import answered, opened
from tests.e2e.realm.test_admin import console_login
from tests.realm_admin import CONSOLE, OPERATOR, RealmAdmin

EXCHANGE = ("exchange-service", "exchange-service-secret")
_EXCHANGED = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


Probe = Callable[[RealmClient, RealmAdmin], Any]


def form(**fields: str) -> Probe:
    """At the token endpoint; `auth` as `client:secret`."""
    named = dict(fields)
    client, _, secret = named.pop("auth", "").partition(":")
    return lambda idp, _: answered(idp.token(named, (client, secret) if client else None))


def login(user: str, client: str = "web-app", **more: str) -> Probe:
    return form(grant_type="password", client_id=client, username=user, password=user, **more)


def service(client: tuple[str, str]) -> Probe:
    return form(grant_type="client_credentials", auth=":".join(client))


def of_code(idp: RealmClient, _: RealmAdmin) -> object:
    return answered(exchange(idp, Browser(idp).log_in("alice")))


def wrong_verifier(idp: RealmClient, _: RealmAdmin) -> object:
    return answered(exchange(idp, Browser(idp).log_in("alice"), code_verifier="w" * 64))


def refused_login(idp: RealmClient, _: RealmAdmin) -> object:
    """Only the status: the pages are different ones."""
    browser = Browser(idp)
    return browser.submit(browser.authorize(), username="alice", password="wrong").status_code


def code_of_a_disabled_user(idp: RealmClient, admin: RealmAdmin) -> object:
    user = admin.user("infer")
    code = Browser(idp).log_in(user)
    admin.change(user, enabled=False)
    return answered(exchange(idp, code))


def second_use_of_a_code(idp: RealmClient, _: RealmAdmin) -> object:
    code = Browser(idp).log_in("alice")
    exchange(idp, code)
    return answered(exchange(idp, code))


def refreshed(idp: RealmClient, _: RealmAdmin) -> object:
    return answered(idp.refresh(idp.login("alice", scope="openid")["refresh_token"]))


def refreshed_twice(idp: RealmClient, _: RealmAdmin) -> object:
    first = idp.login("alice")["refresh_token"]
    idp.refresh(first)
    return answered(idp.refresh(first))


def exchanged(idp: RealmClient, _: RealmAdmin) -> object:
    held = idp.login("alice", "exchange-service", client_secret=EXCHANGE[1])["access_token"]
    asked = {"grant_type": _EXCHANGED, "subject_token": held, "subject_token_type": _ACCESS_TOKEN}
    return answered(idp.token({**asked, "audience": "triton-gateway"}, EXCHANGE))


def introspected(client: str, user: str = "alice", **more: str) -> Probe:
    return lambda idp, _: idp.introspect(idp.login(user, client, **more)["access_token"])


def at(path: str, method: str = "POST", **fields: str) -> Probe:
    """Another endpoint of the protocol; `{token}` is an access token of alice."""

    def probe(idp: RealmClient, _: RealmAdmin) -> object:
        held = idp.login("alice")["access_token"]
        sent = {name: value.format(token=held) for name, value in fields.items()}
        client, secret = [*sent.pop("auth", ":").split(":")]
        bearer = {"Authorization": f"Bearer {sent.pop('bearer')}"} if "bearer" in sent else {}
        auth = (client, secret) if client else None
        return answered(idp.http.request(method, path, data=sent or None, headers=bearer, auth=auth))

    return probe


def read(path: str) -> Probe:
    """Of the admin API; names in braces stand for ids."""

    def probe(_: RealmClient, admin: RealmAdmin) -> object:
        named = {
            "grace": admin.user_id("grace"),
            "gateway": admin.client_uuid("triton-gateway"),
            "console": admin.client_uuid("tollgate-console"),
            "team": admin.group_id("/team-vision"),
        }
        return answered(admin.http.get(path.format(**named)))

    return probe


def write(method: str, path: str, body: str = "") -> Probe:
    """By the operator, of a new user; the answer and the admin event."""

    def probe(_: RealmClient, admin: RealmAdmin) -> object:
        user = admin.user("infer", groups=["/team-vision"])
        number, owner = admin.user_id(user), admin.client_uuid("triton-gateway")
        infer, manager = admin.get(f"/clients/{owner}/roles/infer"), admin.get("/roles/tollgate-admin")
        named = {"user": number, "gateway": owner, "team": admin.group_id("/team-vision")}
        before = {event["id"] for event in admin.admin_events(max=5)}
        bodies = {"infer": [infer], "manager": [manager]}
        content = httpx.Request("POST", "http://x", json=bodies[body]).content if body in bodies else body.encode()
        headers = {"Content-Type": "application/json"}
        answer = admin.http.request(method, path.format(**named), content=content, headers=headers)
        new = [event for event in admin.admin_events(max=5) if event["id"] not in before]
        return {"answer": answered(answer), "events": new}

    return probe


def user_of_the_operator(_: RealmClient, admin: RealmAdmin) -> object:
    user = admin.user()
    return {
        "user": admin.get(f"/users/{admin.user_id(user)}"),
        "roles": admin.get(f"/users/{admin.user_id(user)}/role-mappings"),
    }


def disabled(idp: RealmClient, admin: RealmAdmin) -> object:
    user = admin.user("infer")
    answer = idp.login(user)
    admin.change(user, enabled=False)
    again = idp.token({"grant_type": "password", "client_id": "web-app", "username": user, "password": user})
    return {"login": answered(again), "refresh": answered(idp.refresh(answer["refresh_token"]))}


def logged_out_by_an_administrator(idp: RealmClient, admin: RealmAdmin) -> object:
    user = admin.user("infer")
    answer = idp.login(user)
    admin.log_out(user)
    again = answered(idp.refresh(answer["refresh_token"]))
    return {"refresh": again, "user": admin.get(f"/users/{admin.user_id(user)}"), "login": opened(idp.login(user))}


def sessions(idp: RealmClient, admin: RealmAdmin) -> object:
    user = admin.user("infer")
    console_login(idp, user)
    return admin.get(f"/users/{admin.user_id(user)}/sessions")


def log_of_a_person(idp: RealmClient, admin: RealmAdmin) -> object:
    """What the realm remembers of a login, a wrong password and a logout."""
    user = admin.user("infer")
    number = admin.user_id(user)
    answer = console_login(idp, user)
    idp.token({"grant_type": "password", "client_id": "web-app", "username": user, "password": "wrong"})
    idp.login(user)
    idp.http.post("/logout", data={"refresh_token": answer["refresh_token"]}, auth=CONSOLE)
    return admin.events(user=number)


def of_the_console(idp: RealmClient, admin: RealmAdmin) -> object:
    return opened(console_login(idp, "carol"))


PROBES: Mapping[str, Probe] = {
    "discovery": lambda idp, _: httpx.get(f"{idp.issuer}/.well-known/openid-configuration").json(),
    "key set": lambda idp, _: idp.jwks(),
    "password grant": login("alice"),
    "password grant, openid": login("grace", scope="openid"),
    "password grant, administrator": login("carol", scope="openid phone"),
    "password grant, no role of the realm": login("load01"),
    "password grant, client without full scope": login("alice", "other-service"),
    "password grant, short-lived": login("alice", "short-lived"),
    "password grant, other audience": login("alice", "archive-app"),
    "password grant, lightweight": login("alice", "lightweight-app"),
    "password grant, DPoP without a proof": login("alice", "dpop-app"),
    "code grant": of_code,
    "code grant, console": of_the_console,
    "refresh": refreshed,
    "client credentials": service(BATCH),
    "client credentials, console": service(CONSOLE),
    "client credentials, operator": service(OPERATOR),
    "token exchange": exchanged,
    "login page, wrong password": refused_login,
    "code grant, wrong verifier": wrong_verifier,
    "introspection": introspected("web-app", "grace", scope="openid"),
    "introspection, lightweight": introspected("lightweight-app"),
    "introspection of junk": lambda idp, _: idp.introspect("junk"),
    "introspection without a client": at("/token/introspect", token="{token}"),
    "introspection, wrong secret": at("/token/introspect", token="{token}", auth="triton-gateway:x"),
    "introspection by a public client": at("/token/introspect", token="{token}", client_id="web-app"),
    "introspection by another client": at("/token/introspect", token="{token}", auth="batch-job:batch-job-secret"),
    "userinfo without a token": at("/userinfo", "GET"),
    "userinfo with junk": at("/userinfo", "GET", bearer="a.b.c"),
    "userinfo without the scope": at("/userinfo", "GET", bearer="{token}"),
    "revocation of junk": at("/revoke", token="junk", client_id="web-app"),
    "revocation": at("/revoke", token="{token}", client_id="web-app"),
    "revocation by another client": at("/revoke", token="{token}", client_id="other-service"),
    "logout with junk": at("/logout", refresh_token="junk", client_id="web-app"),
    "wrong password": form(grant_type="password", client_id="web-app", username="alice", password="x"),
    "unknown user": form(grant_type="password", client_id="web-app", username="nobody", password="x"),
    "no user": form(grant_type="password", client_id="web-app"),
    "disabled user": disabled,
    "wrong secret": form(grant_type="client_credentials", auth="batch-job:x"),
    "unknown client": form(grant_type="client_credentials", auth="nobody:x"),
    "no client": form(grant_type="client_credentials"),
    "secret missing": form(grant_type="client_credentials", client_id="batch-job"),
    "grant not allowed": form(grant_type="password", username="alice", password="alice", auth=":".join(BATCH)),
    "no service account": service(GATEWAY),
    "unknown grant": form(grant_type="nonsense", client_id="web-app"),
    "no grant": form(client_id="web-app"),
    "unknown scope": login("alice", scope="nonsense"),
    "junk as a refresh token": form(grant_type="refresh_token", client_id="web-app", refresh_token="junk"),
    "no refresh token": form(grant_type="refresh_token", client_id="web-app"),
    "refresh token, second use": refreshed_twice,
    "code, second use": second_use_of_a_code,
    "code, user disabled": code_of_a_disabled_user,
    "code, unknown": form(
        grant_type="authorization_code", client_id="web-app", code="x", redirect_uri=CALLBACK, code_verifier=VERIFIER
    ),
    "admin logout": logged_out_by_an_administrator,
    "admin: new user": user_of_the_operator,
    "admin: sessions": sessions,
    "admin: events": log_of_a_person,
    "admin: user": read("/users/{grace}"),
    "admin: users by name": read("/users?username=grace&exact=true"),
    "admin: users by search": read("/users?search=load0&first=2&max=3"),
    "admin: users, brief": read("/users?search=gra&briefRepresentation=true"),
    "admin: service account": read("/users?username=service-account-tollgate-console"),
    "admin: no user": read("/users/nobody"),
    "admin: role mappings": read("/users/{grace}/role-mappings"),
    "admin: realm roles": read("/users/{grace}/role-mappings/realm"),
    "admin: effective realm roles": read("/users/{grace}/role-mappings/realm/composite"),
    "admin: client roles": read("/users/{grace}/role-mappings/clients/{gateway}"),
    "admin: effective client roles": read("/users/{grace}/role-mappings/clients/{gateway}/composite"),
    "admin: groups of a user": read("/users/{grace}/groups"),
    "admin: groups": read("/groups"),
    "admin: groups, whole": read("/groups?briefRepresentation=false"),
    "admin: group": read("/groups/{team}"),
    "admin: no group": read("/groups/nothing"),
    "admin: members": read("/groups/{team}/members?max=2"),
    "admin: roles of a group": read("/groups/{team}/role-mappings"),
    "admin: effective realm roles of a group": read("/groups/{team}/role-mappings/realm/composite"),
    "admin: effective client roles of a group": read("/groups/{team}/role-mappings/clients/{gateway}/composite"),
    "admin: client by name": read("/clients?clientId=tollgate-console"),
    "admin: client": read("/clients/{gateway}"),
    "admin: no client": read("/clients/nothing"),
    "admin: no client by name": read("/clients?clientId=nothing"),
    "admin: role of a client": read("/clients/{gateway}/roles/infer"),
    "admin: role": read("/roles/tollgate-admin"),
    "admin: no role": read("/roles/nothing"),
    "admin: no such path": read("/nothing"),
    "admin: wrong page": read("/users?max=x"),
    "admin: wrong date": read("/admin-events?dateFrom=yesterday"),
    "admin: nothing since": read("/admin-events?dateFrom=4000000000000"),
    "admin: disable": write("PUT", "/users/{user}", '{"enabled": false}'),
    "admin: rename": write("PUT", "/users/{user}", '{"username": "other", "firstName": "Renamed"}'),
    "admin: broken body": write("PUT", "/users/{user}", "{"),
    "admin: delete": write("DELETE", "/users/{user}"),
    "admin: reset password": write("PUT", "/users/{user}/reset-password", '{"type": "password", "value": "x"}'),
    "admin: empty password": write("PUT", "/users/{user}/reset-password", '{"type": "password", "value": ""}'),
    "admin: log out": write("POST", "/users/{user}/logout"),
    "admin: remove client role": write("DELETE", "/users/{user}/role-mappings/clients/{gateway}", "infer"),
    "admin: add realm role": write("POST", "/users/{user}/role-mappings/realm", "manager"),
    "admin: unknown role": write("POST", "/users/{user}/role-mappings/realm", '[{"id": "x", "name": "nothing"}]'),
    "admin: leave group": write("DELETE", "/users/{user}/groups/{team}"),
    "admin: join again": write("PUT", "/users/{user}/groups/{team}"),
    "admin: unknown group": write("PUT", "/users/{user}/groups/nothing"),
    "admin: create twice": write("POST", "/users", '{"username": "alice"}'),
    "admin: create without a name": write("POST", "/users", "{}"),
    "admin: end no session": write("DELETE", "/sessions/nothing"),
}
