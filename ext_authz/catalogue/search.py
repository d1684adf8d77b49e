"""A search: what is asked for, whether an entry agrees with it, and the page of those that do.

Parameters are those of STAC's item search, over GET as text and over POST as JSON; what is wrong with one is said in
one sentence.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from ext_authz.catalogue.entry import Entry
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.model import NotDone, Why
from ext_authz.tokens.paging import page_of, position_of

MOST = 100
"""Entries of a page; who asks for more gets these."""
MOST_NAMES = 100
"""Of ids, collections, and terms each."""
LONGEST = 4096
"""Characters of a list in a query."""
FIELDS = ("id", "collection", "title", "datetime")
"""What can be sorted by."""
GEOMETRIES = frozenset(
    ["Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"]
)
_MOST_TERM = 255
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

Interval = tuple[datetime, datetime]


class Query(Struct, frozen=True, kw_only=True):
    """What is asked for: everything that is given has to hold."""

    ids: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    """In lower case; one of them is enough."""
    spatial: bool = False
    """A place was given. Nothing here has one."""
    time: Interval = (_FIRST, _LAST)
    """Both inclusive."""
    sort: tuple[tuple[str, bool], ...] = ()
    """Fields, each with whether it descends."""
    limit: int = 10
    cursor: str = ""


class Page(Struct, frozen=True):
    """Some of the entries that agree."""

    entries: tuple[Entry, ...]
    matched: int
    """All that agree."""
    cursor: str
    """For the next page; empty: there is none."""


def names(text: str, field: str) -> tuple[str, ...]:
    """Of a list with commas. Raises NotDone."""
    return ensure_names(filter(None, (part.strip() for part in text[: LONGEST + 1].split(","))), field, len(text))


def ensure_names(found: Iterable[str], field: str, length: int = 0) -> tuple[str, ...]:
    """Without repetitions. Raises NotDone."""
    distinct = tuple(dict.fromkeys(found))
    if length > LONGEST or len(distinct) > MOST_NAMES or any(len(each) > _MOST_TERM for each in distinct):
        raise _wrong(field, f"at most {MOST_NAMES} values, of at most {_MOST_TERM} characters each")
    return distinct


def ensure_bbox(numbers: Sequence[float]) -> None:
    """West, south, east, north, with the lowest and highest height between or without. Raises NotDone."""
    if len(numbers) not in (4, 6) or not all(map(math.isfinite, numbers)):
        raise _wrong("bbox", "write west,south,east,north in degrees, or with heights west,south,low,east,north,high")
    half = len(numbers) // 2
    (west, south, *low), (east, north, *high) = numbers[:half], numbers[half:]
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90 and low <= high):
        raise _wrong("bbox", "longitudes are between -180 and 180, latitudes between -90 and 90, south before north")


def bbox(text: str) -> Sequence[float]:
    """Raises NotDone."""
    try:
        found = [float(part) for part in text[:LONGEST].split(",")]
    except ValueError:
        found = []
    ensure_bbox(found)
    return found


def ensure_geometry(geometry: object) -> None:
    """GeoJSON (RFC 7946), as far as it says which shape it is. Raises NotDone."""
    shape = geometry if isinstance(geometry, dict) else {}
    inner = shape.get("geometries" if shape.get("type") == "GeometryCollection" else "coordinates")
    if shape.get("type") not in GEOMETRIES or not isinstance(inner, list):
        raise _wrong("intersects", 'write a geometry of GeoJSON, such as {"type": "Point", "coordinates": [8, 47]}')


def geometry(text: str) -> object:
    """Raises NotDone."""
    try:
        found: object = json.loads(text[: 4 * LONGEST])
    except (ValueError, RecursionError):
        found = None
    ensure_geometry(found)
    return found


def interval(text: str) -> Interval:
    """A time of RFC 3339, or two of them with a slash between, of which one may be open (`..` or empty).

    Raises:
        NotDone: INVALID.
    """
    start, slash, end = text[:100].partition("/")
    opened = ("", "..")
    if start in opened and end in opened:
        raise _wrong("datetime", "write a time such as 2026-01-31T00:00:00Z, or two with / between; one may be ..")
    since = _FIRST if start in opened else _time(start)
    until = since if not slash else _LAST if end in opened else _time(end)
    if since > until:
        raise _wrong("datetime", "the interval ends before it begins")
    return since, until


def sorting(fields: Iterable[str]) -> tuple[tuple[str, bool], ...]:
    """Of names with + or - before them, `properties.` or not. Raises NotDone."""
    found: dict[str, bool] = {}
    for text in fields:
        # A plus in a query is a blank, if it was not escaped.
        name = text.strip().lstrip("+-").removeprefix("properties.")
        if name not in FIELDS:
            raise _wrong("sortby", f"sort by some of {', '.join(FIELDS)}")
        found.setdefault(name, text.strip().startswith("-"))
    return tuple(found.items())


def search(entries: Iterable[Entry], query: Query, cipher: Cipher, whose: str) -> Page:
    """`whose`: the cursor of one caller is none of another.

    Raises:
        NotDone: INVALID, of the cursor.
    """
    found = [entry for entry in entries if _agrees(entry, query)]
    for field, descends in reversed((*query.sort, ("collection", False), ("id", False))):
        found.sort(key=lambda entry: _value(entry, field), reverse=descends)
    asked = msgspec.structs.asdict(query) | {"cursor": "", "limit": 0, "whose": whose}
    listing = f"catalogue {hashlib.sha256(msgspec.json.encode(asked)).hexdigest()}"
    begin = _after(position_of(cipher, listing, query.cursor), found)
    last = begin + query.limit
    page, cursor = page_of(cipher, listing, found[begin : last + 1], query.limit, lambda entry: [*entry.key, last])
    return Page(page, len(found), cursor)


def _after(position: list[Any] | None, found: Sequence[Entry]) -> int:
    """Where the page after the entry of a cursor begins; if that entry is not there any more, where it would have."""
    if position is None:
        return 0
    *key, begin = position
    return next((at + 1 for at, entry in enumerate(found) if [*entry.key] == key), int(begin))


def _agrees(entry: Entry, query: Query) -> bool:
    return (
        (not query.ids or entry.id in query.ids)
        and (not query.collections or entry.collection in query.collections)
        and not query.spatial
        and query.time[0] <= entry.at <= query.time[1]
        and (not query.terms or any(term in text for term in query.terms for text in _texts(entry)))
    )


def _texts(entry: Entry) -> Iterator[str]:
    yield entry.id.lower()
    for text in (entry.card.title, entry.card.description, entry.framework, *entry.card.keywords):
        yield text.lower()


def _value(entry: Entry, field: str) -> str:
    if field == "datetime":
        return entry.at.astimezone(UTC).isoformat()
    return {"id": entry.id, "collection": entry.collection, "title": entry.title.lower()}[field]


def _time(text: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _wrong("datetime", "write times of RFC 3339, such as 2026-01-31T00:00:00Z")


def _wrong(field: str, detail: str) -> NotDone:
    return NotDone(Why.INVALID, detail, field)
