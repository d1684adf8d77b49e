"""Tokens of a GitLab: ID tokens of its users, and the `id_tokens` of its CI jobs.

One key signs both. A user's is for the OAuth application that the user signed in to, so its audience is not for anybody
to choose. A job's is for whatever its author writes: only the project that it runs in says something, and groups and
names in it are those of whoever started it, who may not know what the job does. So a job has neither roles nor groups.
"""

from __future__ import annotations

import re

from ext_authz.decision import Principal
from ext_authz.identity.claim_paths import kept, names_at
from ext_authz.identity.claim_values import (
    Claims,
    audiences_of,
    ensure_begun,
    ensure_complete,
    ensure_issued_by,
    if_text,
    present,
    text_of,
    time_of_expiry,
    time_of_issue,
    token_id_of,
)
from ext_authz.identity.identity import Identity, invalid, plain
from ext_authz.policy.issuers import Gitlab, Issuer

JOB = "project_path:"
"""How the subject of every CI job begins, whatever the project chose to follow it."""

_REQUIRED = ("iss", "exp", "iat", "aud", "sub")
_OF_JOB = ("jti", "project_path")
_USER_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


def identify(claims: Claims, issuer: Issuer, rules: Gitlab, now: float) -> Identity:
    """The user, or the project whose job it is. `rules`: those of this issuer.

    Raises:
        Denied: with the first claim that is missing or invalid.
    """
    claims = present(claims)
    ensure_complete(claims, _REQUIRED)
    ensure_issued_by(claims, issuer)
    if "cnf" in claims:
        raise invalid("token_bound", "the token is bound to a key (cnf), and such tokens are not accepted here")
    subject = text_of(claims["sub"], "sub")
    identified = _job if subject.startswith(JOB) else _user
    return identified(claims, issuer, rules, now)


def _user(claims: Claims, issuer: Issuer, rules: Gitlab, now: float) -> Identity:
    """Such a token has no id: the second in which it was issued tells it apart from the user's others."""
    subject = text_of(claims["sub"], "sub")
    if _USER_ID.fullmatch(subject) is None or "project_path" in claims:
        raise invalid("subject_refused", "sub is neither the number of a user nor a CI job (project_path:...)")
    audiences = audiences_of(claims, rules.applications)
    roles = names_at(claims, issuer, issuer.claims.roles, "roles")
    issued_at = time_of_issue(claims, issuer, now)
    token_id = token_id_of(claims) if "jti" in claims else f"{subject}.{int(issued_at)}"
    return _identity(
        *(claims, issuer, now),
        principal=Principal(issuer.issuer, subject, _application(audiences, rules), plain(sorted(roles)), token_id),
        audiences=audiences,
        roles=roles,
        groups=names_at(claims, issuer, issuer.claims.groups, "groups"),
        username=if_text(claims.get("preferred_username", claims.get("nickname"))),
    )


def _job(claims: Claims, issuer: Issuer, rules: Gitlab, now: float) -> Identity:
    """`client` is the project: limits, usage and bills by client are by project."""
    ensure_complete(claims, _OF_JOB)
    subject, project = text_of(claims["sub"], "sub"), text_of(claims["project_path"], "project_path")
    if not f"{subject}:".startswith(f"{JOB}{project}:"):
        raise invalid("claim_invalid", "the claim project_path is not that of sub")
    if not any(project == allowed or project.startswith(f"{allowed}/") for allowed in rules.jobs):
        raise invalid("client_refused", "CI jobs of this project may not use this service")
    return _identity(
        *(claims, issuer, now),
        principal=Principal(issuer.issuer, subject, project, (), token_id_of(claims)),
        audiences=audiences_of(claims, issuer.audiences),
        roles=frozenset(),
        groups=frozenset(),
        username=if_text(claims.get("user_login")),
    )


def _identity(
    claims: Claims,
    issuer: Issuer,
    now: float,
    *,
    principal: Principal,
    audiences: tuple[str, ...],
    roles: frozenset[str],
    groups: frozenset[str],
    username: str,
) -> Identity:
    issued_at = time_of_issue(claims, issuer, now)
    expires_at = time_of_expiry(claims, issuer, issued_at, now)
    ensure_begun(claims, issuer, now)
    return Identity(
        principal=principal,
        issuer_name=issuer.name,
        session="",
        issued_at=int(issued_at),
        expires_at=expires_at,
        audiences=audiences,
        scopes=frozenset(),
        roles=roles,
        groups=groups,
        claims=kept(claims, issuer),
        username=username,
        leeway=issuer.leeway,
    )


def _application(audiences: tuple[str, ...], rules: Gitlab) -> str:
    """The first that is accepted."""
    return next(text_of(each, "aud") for each in audiences if each in rules.applications)
