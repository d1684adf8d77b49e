"""What a caller finds: the models that they may call, by the function that decides calls (`phases/access.may`), and the
datasets and processors that are public or theirs. Projects of a GitLab are found by whoever may read them there.

A list of models of its own could say something else than the door; so there is none. Who may call a model but not see
it finds it without a description. What somebody published about a model is added to what may be seen of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec.structs import asdict, replace

from ext_authz.catalogue.entry import MODELS, Access, Entry
from ext_authz.catalogue.gitlab_entries import GitlabEntries
from ext_authz.catalogue.published import Listing, PublishedEntries, maintains
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

    def __init__(
        self,
        policy: Policy,
        repository: Repository | None,
        published: PublishedEntries | None = None,
        gitlab: GitlabEntries | None = None,
    ) -> None:
        """`repository`: None where it is not on this machine; then the models are those that the policy names.
        `published`, `gitlab`: None where there is no such thing."""
        self._policy = policy
        self._repository = repository
        self._published = published
        self._gitlab = gitlab

    async def entries(self, identity: Identity | None) -> list[Entry]:
        """Raises Unavailable."""
        everything = [*self._named()] if self._repository is None else await self._repository.entries()
        listings = await self._published.all() if self._published else ()
        of_models = {each.id: each for each in listings if each.collection == MODELS}
        seen = (self._as_seen(each, identity, of_models.get(each.id)) for each in everything)
        others = (each.entry(identity) for each in listings if each.collection != MODELS and _sees(identity, each))
        projects = await self._gitlab.entries(identity) if self._gitlab else ()
        return [*(entry for entry in seen if entry is not None), *others, *projects]

    async def entry(self, identity: Identity | None, collection: str, name: str) -> Entry | None:
        """None: there is none, or none for this caller. Raises Unavailable."""
        found = await self.entries(identity)
        return next((each for each in found if each.key == (collection, name)), None)

    async def access(self, identity: Identity, path: str) -> Access | None:
        """What the caller may do with a model of this name, or with a project of a GitLab at this path; None: nothing.
        Raises Unavailable."""
        entry = await self.entry(identity, MODELS, path)
        if entry is None or not entry.is_served:
            return await self._gitlab.access(identity, path) if self._gitlab else None
        return Access(_number(path), path, path, 4 if self.administers(identity, path) else 2, (MODELS,))

    def administers(self, identity: Identity, model: str) -> bool:
        return self._may(identity, Right.ADMINISTER, model, "")

    def _named(self) -> Iterator[Entry]:
        for rule in self._policy.models.all:
            if "*" not in rule.name:
                yield Entry(collection=MODELS, id=rule.name, at=_UNKNOWN)

    def _as_seen(self, entry: Entry, identity: Identity | None, listing: Listing | None) -> Entry | None:
        """Without a verified caller no model can be called: public routes reach none."""
        rule = self._policy.models.rule(entry.id)
        if identity is None or rule is None:
            return None
        asked = entry.versions or ("", *rule.versions, OTHERS)
        callable_ = [each for each in asked if self._may(identity, Right.CALL, entry.id, each)]
        if not callable_:
            return None
        versions = tuple(each for each in callable_ if each not in ("", OTHERS))
        visible = [each for each in callable_ if self._may(identity, Right.SEE, entry.id, each)]
        if not visible:
            return Entry(collection=entry.collection, id=entry.id, at=entry.at, versions=versions)
        origins = tuple(each for each in entry.origins if each.version in visible)
        seen = replace(entry, versions=versions, origins=origins, stars=listing.stars if listing else 0)
        return seen if listing is None else self._described(seen, listing, identity)

    def _described(self, entry: Entry, listing: Listing, identity: Identity) -> Entry:
        """With what is published of the versions that the caller may call and see."""
        rights = (Right.CALL, Right.SEE)
        shown = tuple(
            each for each in listing.versions if all(self._may(identity, right, entry.id, each) for right in rights)
        )
        # The document is that of the latest version: who may not know of that one learns nothing of it.
        if shown[:1] != listing.versions[:1] or not shown:
            return entry
        if listing.visibility != "public" and not self.administers(identity, entry.id):
            return entry
        said = replace(listing, versions=shown).entry(identity)
        card = {name: value for name, value in asdict(said.card).items() if value}
        at = max(entry.at, said.at)
        return replace(entry, at=at, card=replace(entry.card, **card), published=said.published)

    def _may(self, identity: Identity, right: Right, model: str, version: str) -> bool:
        return may(identity, right, model, version, self._policy)


def _sees(identity: Identity | None, listing: Listing) -> bool:
    """Public is for everybody, also for who has no credential."""
    return bool(listing.versions) and (listing.visibility == "public" or maintains(identity, listing.owned))


def _number(name: str) -> int:
    """As a project of GitLab has one: always the same of one name, and exact in a double."""
    return int.from_bytes(hashlib.sha256(f"{MODELS}/{name}".encode()).digest()[:6])
