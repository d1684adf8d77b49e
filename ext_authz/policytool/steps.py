"""The steps of one test, each with all that it takes over from the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from ext_authz.policy.documents.base import seconds
from ext_authz.policytool.cases import (
    NOBODY,
    CaseDocument,
    ExpectDocument,
    GivenDocument,
    IdentityDocument,
    RequestDocument,
)

_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
"""When it is, where a test does not say."""


class Step(Struct, frozen=True):
    """One request, or the same one several times."""

    after: int
    """Seconds."""
    identity: IdentityDocument | None
    """None: no credential."""
    request: RequestDocument
    given: GivenDocument
    repeat: int
    expect: ExpectDocument


def steps(case: CaseDocument, identities: Mapping[str, IdentityDocument]) -> Iterator[Step]:
    """The request of the test, and what follows it."""
    identity, request = _who(case.identity, identities), case.request
    yield Step(0, identity, request, case.given, case.repeat, case.expect)
    for document in case.then:
        if document.identity is not None:
            identity = _who(document.identity, identities)
        request = document.request or request
        yield Step(seconds(document.after), identity, request, document.given, document.repeat, document.expect)


def beginning(step: Step) -> float:
    """When a test begins whose first step this is."""
    if step.given.time is not None:
        return step.given.time.timestamp()
    token = step.identity.token if step.identity else None
    issued = (token or {}).get("iat")
    return float(issued) if isinstance(issued, int | float) else _NOON


def _who(identity: str | IdentityDocument, identities: Mapping[str, IdentityDocument]) -> IdentityDocument | None:
    if isinstance(identity, IdentityDocument):
        return identity
    return None if identity == NOBODY else identities[identity]
