"""What owners of models do with the prediction log: REST and commands call this.

Who is not among the `readers` of the policy gets the same answer as for a model that does not exist, before Postgres is
asked: nobody learns whether a model has predictions.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString, TypeVar
from uuid import UUID

from msgspec import Struct, structs

from ext_authz.db.postgres import Connection, Pool
from ext_authz.phases.access import permitted
from ext_authz.policy.model import Policy
from ext_authz.predictions import postgres
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor, NotDone, Why

T = TypeVar("T")

EXPORTED = 1000
"""Rows of one query of an export."""
_FIRST, _LAST = datetime.fromtimestamp(0, UTC), datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row that a model answered."""

    id: UUID
    decision_id: UUID
    row: int
    """In its request."""
    at: datetime
    model: str
    version: str
    variant: str
    mirrored: bool
    """A copy of a call that another variant answered: nobody got this answer."""
    issuer: str
    subject: str
    client: str
    inputs: dict[str, Any] | None
    """Null: the policy does not keep them, or they were too long."""
    input_hash: str | None
    """Hexadecimal."""
    outputs: dict[str, Any] | None
    milliseconds: float
    """Of the model, for the batch that it was part of."""
    bytes: int
    """Of the inputs."""
    host: str


class Which(Struct, frozen=True, kw_only=True):
    """Which predictions of a model: those that agree in all that is given."""

    since: datetime = _FIRST
    until: datetime = _LAST
    """Exclusive."""
    version: str = ""
    variant: str = ""
    label: str = ""
    """The output `label`."""
    decision_id: UUID | None = None


class Page(Struct, frozen=True):
    """Some predictions, the newest first."""

    predictions: tuple[Prediction, ...]
    cursor: str = ""
    """For the next page; empty: there is none."""


_COLUMNS: LiteralString = """
id, decision_id, row, at, model, version, variant, mirrored, issuer, subject, client, inputs, encode(input_hash, 'hex'),
    outputs, milliseconds, bytes, host
"""
_CHOSEN: LiteralString = f"""
SELECT {_COLUMNS} FROM predictions
WHERE model = %(model)s AND id >= %(first_id)s AND id < %(last_id)s AND at >= %(since)s AND at < %(until)s
    AND (%(version)s = '' OR version = %(version)s) AND (%(variant)s = '' OR variant = %(variant)s)
    AND (%(label)s = '' OR outputs ->> 'label' = %(label)s)
    AND (%(decision_id)s::uuid IS NULL OR decision_id = %(decision_id)s)
"""  # noqa: S608 - constants
_LATEST: LiteralString = f"{_CHOSEN} ORDER BY id DESC LIMIT %(limit)s"
_OLDEST: LiteralString = f"{_CHOSEN} ORDER BY id LIMIT %(limit)s"


class PredictionService:
    """Every method raises NotDone, and Unavailable("postgres")."""

    def __init__(self, pool: Pool, policy: Policy | None) -> None:
        """`policy`: None for commands, whose user may do what the login at Postgres may."""
        self._pool = pool
        self._policy = policy

    async def page(self, actor: Actor, model: str, which: Which, *, cursor: str = "", limit: int = 50) -> Page:
        """The newest first."""
        self.ensure_reader(actor, model)
        values = _values(model, which, limit + 1)
        if cursor:
            values["last_id"] = min(values["last_id"], _position(cursor))
        found = await self._found(_LATEST, values)
        return Page(tuple(found[:limit]), str(found[limit - 1].id) if len(found) > limit else "")

    async def export(self, actor: Actor, model: str, which: Which) -> AsyncIterator[Prediction]:
        """All of them, the oldest first; each query is a transaction of its own, none is long."""
        self.ensure_reader(actor, model)
        values = _values(model, which, EXPORTED)
        found = await self._found(_OLDEST, values)
        return self._rest(found, values)

    async def _rest(self, found: list[Prediction], values: dict[str, Any]) -> AsyncIterator[Prediction]:
        while found:
            for prediction in found:
                yield prediction
            values["first_id"] = UUID(int=found[-1].id.int + 1)
            found = await self._found(_OLDEST, values) if len(found) == EXPORTED else []

    async def delete(self, actor: Actor, model: str, which: Which) -> int:
        """Of a time or of a decision, in Postgres and in what models have written up to now; returns how many Postgres
        had. What is not deleted when this fails is deleted by the usage worker.

        It is in the audit log before the first row is gone.
        """
        self.ensure_reader(actor, model)
        if which.version or which.variant or which.label:
            raise NotDone(Why.INVALID, "only a time, or a decision, can be deleted")
        wanted = postgres.Deletion(uuid.uuid4(), model, which.since, which.until, which.decision_id)
        details = {name: value for name, value in structs.asdict(which).items() if value != getattr(Which(), name)}

        async def begin(connection: Connection) -> postgres.Deletion:
            begun = await postgres.begin(connection, wanted)
            await audit.record(connection, actor, "predictions.deleted", f"predictions:{model}", details)
            return begun

        deletion, total, deleted = await self._pool.transaction(begin), 0, postgres.STEP
        while deleted == postgres.STEP:
            deleted = await self._run(postgres.delete_some, deletion)
            total += deleted
        await self._run(postgres.mark_done, deletion)
        return total

    def ensure_reader(self, actor: Actor, model: str) -> None:
        """Raises NotDone, NOT_FOUND."""
        if self._policy is None and actor.identity is None:
            return
        rule = self._policy.models.rule(model) if self._policy else None
        kept, identity = rule.predictions if rule else None, actor.identity
        within = identity is not None and (identity.models is None or model in identity.models)
        if not (within and kept and identity and permitted(identity, kept.readers)):
            raise NotDone(Why.NOT_FOUND, "there is no such model, or none whose predictions you may read", "model")

    async def _found(self, query: LiteralString, values: dict[str, Any]) -> list[Prediction]:
        async def rows(connection: Connection) -> list[Prediction]:
            return [Prediction(*row) for row in await (await connection.execute(query, values)).fetchall()]

        return await self._pool.run(rows)

    async def _run(
        self, work: Callable[[Connection, postgres.Deletion], Awaitable[T]], deletion: postgres.Deletion
    ) -> T:
        return await self._pool.run(lambda connection: work(connection, deletion))


def _values(model: str, which: Which, limit: int) -> dict[str, Any]:
    if which.since >= which.until:
        raise NotDone(Why.INVALID, "until: must be later than since", "until")
    ends = {"first_id": postgres.id_at(which.since), "last_id": postgres.id_at(which.until, after=True)}
    return {**structs.asdict(which), **ends, "model": model, "limit": limit}


def _position(cursor: str) -> UUID:
    try:
        return UUID(cursor)
    except ValueError:
        raise NotDone(
            Why.INVALID, "this is no cursor: send back the one of the page before, or none", "cursor"
        ) from None
