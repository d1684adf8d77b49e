"""The bodies of the REST interface of the catalogue."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from ext_authz.api.documents import Answer, Body, Text
from ext_authz.catalogue.parameters import MOST as MOST_PARAMETERS
from ext_authz.catalogue.parameters import Value
from ext_authz.catalogue.publication import VERSION, Collection, Visibility
from ext_authz.catalogue.publishing import MOST_MAINTAINERS


class TermsOut(Body):
    """What whoever publishes has to accept."""

    terms: str


class VersionOut(Answer):
    """One version of an entry."""

    version: str
    revision: int
    """Grows each time that it is published again with something else in it."""
    published: bool
    published_at: datetime
    """When its last revision was."""
    published_by: str
    terms: str
    """Accepted then."""


class EntryOut(Body):
    """An entry, for those who may change it."""

    collection: Collection
    id: str
    """In the STAC API too."""
    name: str
    issuer: str
    owner: str
    """Subject."""
    owner_name: str
    group: str
    """Whose members maintain it; empty: no group."""
    maintainers: list[str]
    """Subjects."""
    visibility: Visibility
    stars: int
    version: int
    """Of this row; the same as in the header ETag."""
    created_at: datetime
    changed_at: datetime


class WholeEntryOut(EntryOut):
    """An entry with its versions."""

    versions: list[VersionOut]
    """The latest first."""


class EntriesOut(Body):
    """A page, by collection and id."""

    entries: list[EntryOut]
    cursor: str
    """For the next page; empty: there is none."""


class DocumentOut(Body):
    """What a version says."""

    version: str
    revision: int
    published: bool
    document: dict[str, Any]


class HandoverIn(Body):
    """What an owner changes; null: it stays."""

    visibility: Visibility | None = None
    group: Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] | None = None
    """Path of a group that you are in; empty: none."""
    maintainers: Annotated[list[Text], Field(max_length=MOST_MAINTAINERS)] | None = None
    """Subjects of your identity provider."""


class StarsOut(Body):
    """How many an entry has."""

    stars: int


Parameters = Annotated[dict[Annotated[str, StringConstraints(max_length=64)], Value], Field(max_length=MOST_PARAMETERS)]


class RunIn(Body):
    """A run of a processor."""

    version: Annotated[str, StringConstraints(pattern=f"^({VERSION})?$")] = ""
    """Empty: the latest."""
    parameters: Parameters = Field(default_factory=dict)


class RunOut(Answer):
    """A run, with what it got."""

    id: UUID
    collection: str
    entry: str
    version: str
    revision: int
    """Of the processor: what is published later changes no run."""
    parameters: dict[str, Any]
    """Every one that has a value, defaults among them."""
    declared: list[dict[str, Any]]
    """As the revision declares them."""
    started_at: datetime


class RunsOut(Body):
    """A page, the latest first."""

    runs: list[RunOut]
    cursor: str
