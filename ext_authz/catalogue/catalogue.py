"""What a caller finds: the models that they may call, by the function that decides calls (`phases/access.may`).

A list of its own could say something else than the door; so there is none. Who may call a model but not see it finds
it without a description.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec.structs import replace

from ext_authz.catalogue.entry import MODELS, Entry
from ext_authz.catalogue.repository import Repository
from ext_authz.identity.identity import Identity
from ext_authz.phases.access import may
from ext_authz.phases.model_reads import OTHERS
from ext_authz.policy.kserve import Right
from ext_authz.policy.model import Policy

_UNKNOWN = datetime.fromtimestamp(0, UTC)
"""When a model was changed that nothing describes: STAC wants a time."""


class Catalogue:
    """Entries for one caller; `identity` None: who has no credential."""

    def __init__(self, policy: Policy, repository: Repository | None) -> None:
        """`repository`: None where it is not on this machine; then the models are those that the policy names."""
        self._policy = policy
        self._repository = repository

    async def entries(self, identity: Identity | None) -> list[Entry]:
        """Raises Unavailable."""
        everything = [*self._named()] if self._repository is None else await self._repository.entries()
        seen = (self._as_seen(each, identity) for each in everything)
        return [entry for entry in seen if entry is not None]

    async def entry(self, identity: Identity | None, collection: str, name: str) -> Entry | None:
        """None: there is none, or none for this caller. Raises Unavailable."""
        found = await self.entries(identity)
        return next((each for each in found if each.key == (collection, name)), None)

    async def level(self, identity: Identity, name: str) -> int:
        """What the caller may do with a model, on SharingHub's scale: 0 nothing, 2 call it, 4 administer it too. There
        is nothing between these here. Raises Unavailable."""
        if await self.entry(identity, MODELS, name) is None:
            return 0
        return 4 if self._may(identity, Right.ADMINISTER, name, "") else 2

    def _named(self) -> Iterator[Entry]:
        for rule in self._policy.models.all:
            if "*" not in rule.name:
                yield Entry(collection=MODELS, id=rule.name, at=_UNKNOWN)

    def _as_seen(self, entry: Entry, identity: Identity | None) -> Entry | None:
        """Without a verified caller no model can be called: public routes reach none."""
        rule = self._policy.models.rule(entry.id)
        if identity is None or rule is None:
            return None
        asked = entry.versions or ("", *rule.versions, OTHERS)
        callable_ = [each for each in asked if self._may(identity, Right.CALL, entry.id, each)]
        if not callable_:
            return None
        versions = tuple(each for each in callable_ if each not in ("", OTHERS))
        if any(self._may(identity, Right.SEE, entry.id, each) for each in callable_):
            return replace(entry, versions=versions)
        return Entry(collection=entry.collection, id=entry.id, at=entry.at, versions=versions)

    def _may(self, identity: Identity, right: Right, model: str, version: str) -> bool:
        return may(identity, right, model, version, self._policy)
