"""What happened in the realm, in two logs as Keycloak has them: events of users and clients, and admin events.

In memory, the latest ones only: who reads them polls.
"""

from __future__ import annotations

import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import msgspec
from starlette.datastructures import QueryParams

from devstack.realm.representations import Json, Refused
from ext_authz.clock import Clock

_KEPT = 10_000
_PAGE = 100
"""What Keycloak answers without `max`."""
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class EventLog:
    """Both logs, oldest first."""

    def __init__(self, realm_id: str, clock: Clock) -> None:
        self._realm_id = realm_id
        self._clock = clock
        self._events: deque[Json] = deque(maxlen=_KEPT)
        self._admin_events: deque[Json] = deque(maxlen=_KEPT)

    def record(self, kind: str, address: str, *, details: Json | None = None, **fields: str) -> None:
        """Such as LOGIN; `fields` are clientId, userId, sessionId and error."""
        given = {name: value for name, value in fields.items() if value}
        more = {"details": details} if details else {}
        self._events.append(
            {**self._stamp(), "type": kind, "realmId": self._realm_id, **given, "ipAddress": address, **more}
        )

    def record_change(  # the columns of the log
        self,
        operation: str,
        resource: str,
        path: str,
        *,
        by: Mapping[str, str],
        representation: object = None,
        details: Json | None = None,
    ) -> None:
        """By an administrator: `by` has clientId, userId and ipAddress. CREATE, UPDATE, DELETE or ACTION."""
        text = None if representation is None else msgspec.json.encode(representation).decode()
        self._admin_events.append(
            {
                **self._stamp(),
                "realmId": self._realm_id,
                "authDetails": {"realmId": self._realm_id, **by},
                "operationType": operation,
                "resourceType": resource,
                **({"resourcePath": path} if path else {}),
                **({"representation": text} if text else {}),
                **({"details": details} if details else {}),
            }
        )

    def events(self, query: QueryParams) -> list[Json]:
        """Raises Refused."""
        wanted = {"type": "type", "client": "clientId", "user": "userId", "ipAddress": "ipAddress"}
        return _page(self._events, query, wanted, lambda event, field: str(event.get(field, "")))

    def admin_events(self, query: QueryParams) -> list[Json]:
        """Raises Refused."""
        own = {"operationTypes": "operationType", "resourceTypes": "resourceType", "resourcePath": "resourcePath"}
        by = {"authClient": "clientId", "authUser": "userId", "authIpAddress": "ipAddress"}
        return _page(
            self._admin_events,
            query,
            own | by,
            lambda event, field: str({**event, **event["authDetails"]}.get(field, "")),
        )

    def _stamp(self) -> Json:
        return {"id": str(uuid.uuid4()), "time": int(self._clock.now() * 1000)}


def _page(
    events: Iterable[Json], query: QueryParams, wanted: Mapping[str, str], value: Callable[[Json, str], str]
) -> list[Json]:
    """Newest first unless `direction` is asc; a repeated parameter means any of its values."""
    asked = {field: query.getlist(name) for name, field in wanted.items() if query.getlist(name)}
    begin, end = _time(query, "dateFrom", 0), _time(query, "dateTo", 1 << 62)
    found = [
        event
        for event in events
        if begin <= event["time"] <= end and all(value(event, field) in values for field, values in asked.items())
    ]
    return page(found if query.get("direction") == "asc" else found[::-1], query)


def page(found: list[Json], query: QueryParams) -> list[Json]:
    """What `first` and `max` select. Raises Refused."""
    first, most = _number(query, "first", 0), _number(query, "max", _PAGE)
    return found[max(first, 0) :][: most if most >= 0 else None]


def _number(query: QueryParams, name: str, default: int) -> int:
    text = query.get(name, "") or str(default)
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise Refused(404, error="HTTP 404 Not Found")
    return int(text)


def _time(query: QueryParams, name: str, default: int) -> int:
    """Milliseconds since the epoch, from such a number or from a date."""
    text = query.get(name) or str(default)
    try:
        if _DATE.fullmatch(text):
            day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
            return int(day.timestamp() * 1000) + (86_399_999 if name == "dateTo" else 0)
        return int(text)
    except ValueError:
        expected = "expected format is yyyy-MM-dd or an Epoch timestamp"
        raise Refused(400, error=f"Invalid value for '{name}', {expected}") from None
