"""Tokens of a GitLab: whose they are, and what a job cannot make of its own."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from ext_authz.errors import Denied
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity
from ext_authz.policy.issuers import Claims, Gitlab, Issuer
from tests.fakes import FakeClock, FakeJwks
from tests.tokens import ABSENT, AUDIENCE, RSA, sign, to_json, without_absent
from tests.unit.identity.world import NOW, checked

GITLAB, APPLICATION = "https://gitlab.example", "2f7c9a51e0d3"
ISSUER = Issuer(
    name="gitlab",
    issuer=GITLAB,
    jwks_url=f"{GITLAB}/oauth/discovery/keys",
    audiences=frozenset({AUDIENCE}),
    claims=Claims(
        roles=(("roles",),), groups=(("groups_direct",),), keep={"ref": ("ref",), "ref_protected": ("ref_protected",)}
    ),
    gitlab=Gitlab(applications=frozenset({APPLICATION}), jobs=frozenset({"team", "lab/forecast"})),
)
USER = {
    "iss": GITLAB,
    "sub": "42",
    "sub_legacy": "9a7d",
    "aud": APPLICATION,
    "exp": int(NOW) + 120,
    "iat": int(NOW),
    "auth_time": int(NOW) - 60,
    "nonce": "n",
    "name": "Alice",
    "nickname": "alice",
    "preferred_username": "alice",
    "groups_direct": ["team", "team/core"],
}
"""As GitLab's documentation shows it, as the next one."""
JOB = {
    "namespace_id": "72",
    "namespace_path": "team",
    "project_id": "20",
    "project_path": "team/forecast",
    "user_id": "42",
    "user_login": "alice",
    "user_email": "alice@example.com",
    "groups_direct": ["team"],
    "pipeline_id": "574",
    "pipeline_source": "push",
    "job_id": "302",
    "ref": "main",
    "ref_type": "branch",
    "ref_path": "refs/heads/main",
    "ref_protected": "true",
    "runner_id": 1,
    "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
    "iss": GITLAB,
    "iat": int(NOW),
    "nbf": int(NOW) - 5,
    "exp": int(NOW) + 3600,
    "sub": "project_path:team/forecast:ref_type:branch:ref:main",
    "aud": AUDIENCE,
}


def signed(claims: Mapping[str, object], **changes: object) -> str:
    header = {"alg": "RS256", "typ": "JWT", "kid": RSA.key_id}
    return sign(to_json(header), to_json(without_absent({**claims, **changes})), RSA)


async def identified(token: str, issuer: Issuer = ISSUER) -> Identity:
    authenticator = TokenAuthenticator([issuer], fetch=FakeJwks(RSA), clock=FakeClock(), cache_size=10)
    await authenticator.start()
    try:
        return await authenticator.authenticate((f"Bearer {token}",))
    finally:
        await authenticator.stop()


async def refused(token: str, code: str, issuer: Issuer = ISSUER) -> str:
    with pytest.raises(Denied) as refusal:
        await identified(token, issuer)
    return checked(refusal.value, code)


async def test_a_user() -> None:
    identity = await identified(signed(USER))
    who = identity.principal
    assert (who.issuer, who.subject, who.client, who.roles) == (GITLAB, "42", APPLICATION, ())
    assert who.token_id == f"42.{int(NOW)}"
    assert (identity.issuer_name, identity.username, identity.session) == ("gitlab", "alice", "")
    assert identity.groups == {"team", "team/core"}
    assert not identity.scopes | identity.roles
    assert (await identified(signed(USER, jti="7", preferred_username=ABSENT))).principal.token_id == "7"


async def test_a_job() -> None:
    identity = await identified(signed(JOB))
    who = identity.principal
    assert (who.subject, who.client, who.token_id) == (JOB["sub"], "team/forecast", JOB["jti"])
    assert (identity.username, dict(identity.claims)) == ("alice", {"ref": "main", "ref_protected": "true"})


async def test_a_job_has_neither_roles_nor_groups_of_who_started_it() -> None:
    identity = await identified(signed(JOB, roles=["admin"], groups=["team"], sub_legacy="9a7d"))
    assert not identity.roles | identity.groups | identity.scopes
    assert identity.principal.roles == ()


@pytest.mark.parametrize("project", ["team/forecast", "team/core/api", "lab/forecast"])
async def test_jobs_of_these_projects(project: str) -> None:
    identity = await identified(signed(JOB, project_path=project, sub=f"project_path:{project}"))
    assert identity.principal.client == project


@pytest.mark.parametrize("project", ["mallory/team", "teams/forecast", "team-x/a", "lab/forecast2", "lab", "Team/a"])
async def test_jobs_of_other_projects(project: str) -> None:
    await refused(
        signed(JOB, project_path=project, sub=f"project_path:{project}:ref_type:branch:ref:x"), "client_refused"
    )


@pytest.mark.parametrize("sub", ["project_path:mallory/x:ref:main", "project_path:team/forecast2", "project_path:team"])
async def test_a_project_that_is_not_that_of_the_subject(sub: str) -> None:
    await refused(signed(JOB, sub=sub), "claim_invalid")


async def test_audiences_of_users_and_jobs_are_apart() -> None:
    await refused(signed(JOB, aud=APPLICATION), "audience_mismatch")
    await refused(signed(USER, aud=AUDIENCE), "audience_mismatch")
    assert (await identified(signed(USER, aud=["other", APPLICATION]))).principal.client == APPLICATION


async def test_who_is_not_named_is_not_accepted() -> None:
    nobody = replace(ISSUER, gitlab=Gitlab(applications=frozenset({APPLICATION})))
    await refused(signed(JOB), "client_refused", nobody)
    nobody = replace(ISSUER, gitlab=Gitlab(jobs=frozenset({"team"})))
    await refused(signed(USER), "audience_mismatch", nobody)


@pytest.mark.parametrize("sub", ["alice", "0", "-1", "042", "4_2", "\u0664\u0662", "42 ", "1" * 20, "user:42"])
async def test_a_subject_that_is_neither(sub: str) -> None:
    await refused(signed(USER, sub=sub), "subject_refused")


async def test_a_user_does_not_run_in_a_project() -> None:
    await refused(signed(USER, project_path="team/forecast"), "subject_refused")


@pytest.mark.parametrize("claim", ["iss", "exp", "iat", "aud", "sub"])
async def test_claims_that_both_need(claim: str) -> None:
    for claims in (USER, JOB):
        await refused(signed(claims, **{claim: ABSENT}), "claim_missing")


@pytest.mark.parametrize("claim", ["jti", "project_path"])
async def test_claims_that_a_job_needs(claim: str) -> None:
    await refused(signed(JOB, **{claim: ABSENT}), "claim_missing")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": int(NOW) - 31}, "token_expired"),
        ({"iat": int(NOW) + 31}, "token_not_yet_valid"),
        ({"nbf": int(NOW) + 31}, "token_not_yet_valid"),
        ({"exp": int(NOW) + 86_401}, "claim_invalid"),
        ({"sub": 42}, "claim_invalid"),
        ({"sub": None}, "claim_invalid"),
        ({"cnf": {"jkt": "x"}}, "token_bound"),
        ({"aud": 7}, "claim_invalid"),
    ],
)
async def test_what_every_token_must_say(changes: Mapping[str, object], code: str) -> None:
    for claims in (USER, JOB):
        await refused(signed(claims, **changes), code)
