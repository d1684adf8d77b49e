"""Never wider: what a grant may have, given what its owner has now and who makes it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from ext_authz.decision import Principal
from ext_authz.identity.identity import MAX_TEXT, Identity, is_text
from ext_authz.identity.own_tokens import CLIENT
from ext_authz.phases.access import may
from ext_authz.phases.model_reads import OTHERS, visible
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Policy
from ext_authz.policy.rights import MODEL_PATTERN, ModelNames
from ext_authz.tokens.model import NewGrant, NotDone, Owner, Why

MAX_NAME = 64
MAX_NAMES = 100
"""Of scopes, of models, and of roles in one grant."""
SHORTEST = timedelta(minutes=1)
"""Lifetime of a token."""
PLAYGROUND = "playground"
"""Named in the tokens of calls that the console makes for people (`momentary.py`): no grant has this name."""

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}", re.ASCII)  # RFC 6749 section 3.3


class Entitled(Struct, frozen=True, kw_only=True):
    """What an owner has: as their last sign-in said, less what the identity provider has taken away since."""

    owner: Owner
    roles: frozenset[str]
    groups: frozenset[str]
    scopes: frozenset[str]


class Reach(Struct, frozen=True, kw_only=True):
    """What tokens of one owner may have, if this actor makes them."""

    identity: Identity
    """As a token would be that has all of it."""
    actor: Identity | None
    models: tuple[str, ...] | None
    """Those of the API token by which the actor is here; None: no such bound."""
    whole: bool
    """It has every role of the owner."""


def reach(
    entitled: Entitled, url: str, actor: Identity | None, models: tuple[str, ...] | None, management: frozenset[str]
) -> Reach:
    """`url`: of the owner's issuer; `actor`: None where only the owner bounds it. `management`: scopes that no identity
    provider gives, and every owner has.

    Raises:
        NotDone: TOO_WIDE, as the actor's token has not the groups that any token of the owner has.
    """
    roles, scopes = entitled.roles, entitled.scopes
    if actor is not None:
        if not entitled.groups <= actor.groups:
            raise NotDone(
                Why.TOO_WIDE,
                "the token that you are here with has not all of your groups, and an API token would: "
                "sign in to the console instead",
            )
        roles, scopes = roles & actor.roles, scopes & actor.scopes
        if actor.grant:
            management &= actor.scopes
    owner = entitled.owner
    identity = Identity(
        principal=Principal(url, owner.subject, CLIENT),
        issuer_name=owner.issuer,
        session="",
        issued_at=0,
        expires_at=0.0,
        audiences=(),
        scopes=scopes | management,
        roles=roles,
        groups=entitled.groups,
        claims={} if actor is None else actor.claims,
    )
    return Reach(identity=identity, actor=actor, models=models, whole=roles == entitled.roles)


def narrowed(wanted: NewGrant, within: Reach, policy: Policy) -> NewGrant:
    """The same, with nothing in it that the actor has not. What is left open is narrowed to what they have.

    Raises:
        NotDone: INVALID or TOO_WIDE.
    """
    ensure_within("scopes", wanted.scopes, within.identity.scopes)
    roles = wanted.roles
    if roles is not None:
        ensure_within("roles", roles, within.identity.roles)
    elif not within.whole:
        roles = tuple(sorted(within.identity.roles))
    models = wanted.models
    if models is None:
        models = within.models
    elif refused := [model for model in models if not may_call(within, model, policy)]:
        raise _too_wide("models", refused, callable_models(within, policy))
    return replace(wanted, models=models, roles=roles)


def may_call(within: Reach, model: str, policy: Policy) -> bool:
    """`model`: a name, or a pattern, which must be one of the policy, or narrower."""
    rule = policy.models.rule(model)  # of a pattern: the one that matches all that it matches
    if rule is None or not (within.models is None or model in ModelNames(within.models)):
        return False
    callers = [within.identity] if within.actor is None else [within.identity, within.actor]
    # Whoever may call any version of it may call those that the policy does not name.
    return all(may(caller, Right.CALL, model, OTHERS, policy) for caller in callers)


def callable_models(within: Reach, policy: Policy) -> tuple[str, ...]:
    """Those of the policy that the actor may call; patterns as the policy has them."""
    return tuple(model.name for model in visible(within.identity, policy) if may_call(within, model.name, policy))


def ensure_within(field: str, wanted: Iterable[str], held: Collection[str]) -> None:
    """Raises NotDone (TOO_WIDE)."""
    if missing := [name for name in wanted if name not in held]:
        raise _too_wide(field, missing, sorted(held))


def _too_wide(field: str, missing: Iterable[str], held: Collection[str]) -> NotDone:
    names, few = ", ".join([*missing][:5]), ", ".join([*held][:20])
    instead = f"choose among {few}" if few else f"there are no {field} to choose from"
    return NotDone(Why.TOO_WIDE, f"these {field} are more than you may give: {names}; {instead}", field)


def ensure_valid(wanted: NewGrant, longest: timedelta) -> NewGrant:
    """The same without repetitions; whether it is too wide is another question.

    Raises:
        NotDone: INVALID.
    """
    if not (1 <= len(wanted.name) <= MAX_NAME and wanted.name.isprintable() and wanted.name.strip() == wanted.name):
        raise NotDone(
            Why.INVALID, f"a name is 1 to {MAX_NAME} printable characters, without spaces at its ends", "name"
        )
    if wanted.name == PLAYGROUND:
        raise NotDone(Why.INVALID, f"{PLAYGROUND} is what calls from the playground are called: choose another", "name")
    _ensure_names("scopes", wanted.scopes)
    if wanted.models is not None and not wanted.models:
        raise NotDone(Why.INVALID, "a token without models could call none: leave models out for all you may", "models")
    _ensure_names("models", wanted.models or ())
    _ensure_names("roles", wanted.roles or ())
    return replace(
        wanted,
        lifetime=lifetime_of(wanted.lifetime, longest),
        scopes=tuple(dict.fromkeys(wanted.scopes)),
        models=None if wanted.models is None else tuple(dict.fromkeys(wanted.models)),
        roles=None if wanted.roles is None else tuple(dict.fromkeys(wanted.roles)),
    )


def lifetime_of(wanted: timedelta, longest: timedelta) -> timedelta:
    """In whole seconds.

    Raises:
        NotDone: INVALID.
    """
    if not SHORTEST <= wanted <= longest:
        raise NotDone(Why.INVALID, f"a token lives from 1 minute to {_days(longest)}, as the policy has it", "lifetime")
    return timedelta(seconds=int(wanted.total_seconds()))


def _days(time: timedelta) -> str:
    return f"{time.days} days" if time.days >= 2 else f"{int(time.total_seconds())} seconds"


def _ensure_names(field: str, names: tuple[str, ...]) -> None:
    if len(names) > MAX_NAMES:
        raise NotDone(Why.INVALID, f"at most {MAX_NAMES} {field}; models may be given by a pattern with *", field)
    if field == "scopes" and not all(map(_SCOPE.fullmatch, names)):
        raise NotDone(Why.INVALID, 'a scope is 1 to 255 visible ASCII characters but " and \\', field)
    if field == "models" and not all(map(MODEL_PATTERN.fullmatch, names)):
        raise NotDone(
            Why.INVALID, "a model is 1 to 128 letters, digits, _, . and -, or a pattern of them with *", field
        )
    if not all(map(is_text, names)):
        raise NotDone(Why.INVALID, f"each of {field} is 1 to {MAX_TEXT} printable characters", field)
