"""Why a call was refused, for whoever made it: what happened, and what to do.

Names of roles, scopes and limits are shown, as the refusal itself shows them; other people and groups are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from ext_authz.decision import Reason
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.ledger.event import StoredEvent
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import Trait, named
from ext_authz.tokens.reach import PLAYGROUND

_SEPARATOR = "\x1f"
"""Between the parts of a counter's name."""


class Words(Struct, frozen=True):
    """One refusal."""

    what: str
    todo: str


BY_REASON: Mapping[str, Words] = {
    Reason.BAD_REQUEST: Words("The request itself was wrong.", "Correct it: the same one is refused again."),
    Reason.NO_ROUTE: Words("There is nothing at this path.", "Check the path and the headers."),
    Reason.METHOD_NOT_ALLOWED: Words(
        "The path takes no such method.", "Use a method that the answer's header allow lists."
    ),
    Reason.NO_CREDENTIAL: Words("The call brought no token.", "Send the header Authorization: Bearer, and the token."),
    Reason.INVALID_REQUEST: Words(
        "The token was sent in a way that cannot be read.",
        "Send one header Authorization: Bearer, one space, the token.",
    ),
    Reason.INVALID_CREDENTIAL: Words("The token is not accepted.", "Get a new one; renew it if it is an API token."),
    Reason.REVOKED: Words(
        "The token was revoked, or the session, user, client or issuer that it belongs to.",
        "Make a new token, and find out who revoked this one.",
    ),
    Reason.FORBIDDEN: Words("The token has not the right to do this.", "Ask for the right, or use another token."),
    Reason.OVER_LIMIT: Words("A limit was used up.", "Wait for the seconds in the answer's header retry-after."),
    Reason.UNAVAILABLE: Words(
        "Nothing was decided, because a part of the mesh did not answer.", "Try again after a short wait."
    ),
    Reason.INTERNAL: Words("Tollgate failed.", "Give the decision id to the operators."),
}
"""Every reason but that of an allowed call."""

BY_CODE: Mapping[str, Words] = {
    "body_compressed": Words("The body or message was compressed.", "Send it without compression."),
    "body_missing": Words("The call brought no inputs.", "Send the inputs in the body."),
    "model_missing": Words("The message names no model.", "Set model_name once, and send messages uncompressed."),
    "model_not_canonical": Words("No model has such a name.", "Correct the name of the model."),
    "version_not_canonical": Words("No version has such a name.", "Send the number, such as 1."),
    "path_not_canonical": Words("The path has characters that paths here do not have.", "Send the plain path."),
    "protocol_mismatch": Words(
        "The path is of the other protocol.", "Use gRPC for gRPC paths, and HTTP for the others."
    ),
    "token_expired": Words("The token had expired, or was replaced.", "Use the new one, or renew it."),
    "user_disabled": Words("The owner of the token is disabled.", "Ask the administrators of the identity provider."),
    "owner_unknown": Words("The owner of the token is not known any more.", "Make a new token."),
    "token_not_yet_valid": Words("The token was not valid yet.", "Try again shortly; clocks may differ."),
    "token_bound": Words(
        "The token is bound to a key, and was sent without a proof of it.", "Send the proof, or get an unbound token."
    ),
    "token_lightweight": Words(
        "The token is a lightweight one and has no roles.", "Have lightweight tokens switched off for the client."
    ),
    "audience_mismatch": Words("The token is meant for another service.", "Get a token for this one."),
    "client_refused": Words("The client that got the token may not call here.", "Use another client."),
    "token_replayed": Words("The token was used before, and may be used once.", "Sign a new one for each call."),
    "role_missing": Words("The token lacks a role that this path needs.", "Ask for the role."),
    "permission_missing": Words("The token lacks a role or a scope that this path needs.", "Ask for it."),
    "model_forbidden": Words(
        "The token may not do this with this model, or there is no such model.",
        "Check the name under Models, and what the token is limited to. If it is not there, ask for access.",
    ),
    "condition_false": Words("A condition of this path did not hold.", "Ask the operators, with the decision id."),
    "header_missing": Words(
        "The path is served only with a certain header.", "Send the header that the refusal named."
    ),
    "overloaded": Words("There was more to do than could be done in time.", "Try again, with growing waits."),
}
"""Codes for which more is known than the reason."""


def words(event: StoredEvent) -> Words:
    """Of a refused call."""
    return BY_CODE.get(event.code) or BY_REASON.get(event.reason, BY_REASON[Reason.INTERNAL])


def facts(event: StoredEvent, policy: Policy) -> Iterator[tuple[str, str]]:
    """What else is known: by name, from the call, the policy in force and what was recorded."""
    yield "Call", f"{event.method} {event.path}".strip()
    if event.model:
        yield "Model", event.model + (f", version {event.model_version}" if event.model_version else "")
    if event.client:
        yield "Client", event.client
    yield from _needed(event, policy)
    record = event.record
    if record is None:
        yield "More", "what the decision was based on is not kept any more"
        return
    yield "Roles in the token", ", ".join(record.roles) or "none"
    yield "Scopes in the token", ", ".join(record.scopes) or "none"
    if record.plan:
        yield "Plan", record.plan
    if record.limited_by:
        name, *_ = record.limited_by.split(_SEPARATOR)
        yield "Limit that was used up", name
    if record.revoked_by:
        yield "What was revoked", _revoked(event.client, record.revoked_by)


def _revoked(client: str, kind: str) -> str:
    """The session of an API token is its grant; that of a call from the playground is the session of the sign-in."""
    if client == f"{CLIENT}{PLAYGROUND}":
        return f"the {kind}"
    return "this API token" if client.startswith(CLIENT) and kind in ("session", "token") else f"the {kind}"


def _needed(event: StoredEvent, policy: Policy) -> Iterator[tuple[str, str]]:
    """What the route of the policy in force asks for, if it is one of permissions."""
    route = next((route for route in policy.routes if route.name == event.route), None)
    if route is None or event.code not in ("role_missing", "permission_missing"):
        return
    for trait, title in ((Trait.ROLE, "Roles that it takes"), (Trait.SCOPE, "Scopes that it takes")):
        if names := named(route.permission, trait):
            yield title, " or ".join(sorted(names))
