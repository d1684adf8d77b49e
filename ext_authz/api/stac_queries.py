"""What a search of the catalogue may ask for, as a query and as JSON.

Unknown names are errors: one that is ignored would be a filter left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ext_authz.catalogue import search as asked
from ext_authz.tokens.model import NotDone, Why
from ext_authz.tokens.paging import LONGEST as LONGEST_CURSOR

Text = Annotated[str, StringConstraints(max_length=asked.LONGEST)]
Cursor = Annotated[str, StringConstraints(max_length=LONGEST_CURSOR)]
Limit = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""Who asks for more than a page may have is answered with such a page (OGC API - Features 7.15.2)."""
Names = Annotated[list[Annotated[str, StringConstraints(max_length=255)]], Field(max_length=asked.MOST_NAMES)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class SearchIn(BaseModel):
    """Parameters of a search; lists have commas."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    ids: Text = ""
    collections: Text = ""
    q: Text = ""
    """Words, of which one is enough, in title, description, keywords or id."""
    bbox: Text = ""
    """Nothing here has a place, so nothing agrees."""
    intersects: Annotated[str, StringConstraints(max_length=4 * asked.LONGEST)] = ""
    """A geometry of GeoJSON."""
    datetime: Text = ""
    """Of the last change: a time, or two with a slash between."""
    sortby: Text = ""
    """`+` or `-` and one of id, collection, title, datetime."""
    limit: Limit = 10
    """At most 100 come."""
    cursor: Cursor = ""
    """Of the link `next`."""

    def search(self) -> asked.Query:
        """Raises NotDone."""
        box = asked.bbox(self.bbox) if self.bbox else None
        shape = asked.geometry(self.intersects) if self.intersects else None
        return asked.Query(
            ids=asked.names(self.ids, "ids"),
            collections=asked.names(self.collections, "collections"),
            terms=asked.names(self.q.lower(), "q"),
            spatial=_is_spatial(box, shape),
            time=asked.interval(self.datetime) if self.datetime else asked.Query().time,
            sort=asked.sorting(filter(None, self.sortby.split(","))),
            limit=min(self.limit, asked.MOST),
            cursor=self.cursor,
        )


class SortIn(BaseModel):
    """One field to sort by."""

    model_config = ConfigDict(extra="forbid")

    field: Annotated[str, StringConstraints(max_length=64)]
    direction: Literal["asc", "desc"] = "asc"


class SearchBody(BaseModel):
    """A search as JSON."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    ids: Names = []
    collections: Names | Name = []
    """One may stand without a list, as stac-api-validator writes it."""
    q: Names | Text = []
    bbox: Annotated[list[float], Field(max_length=6)] | None = None
    intersects: dict[str, Any] | None = None
    datetime: Text = ""
    sortby: Annotated[list[SortIn], Field(max_length=10)] = []
    limit: Limit = 10
    cursor: Cursor = ""

    def search(self) -> asked.Query:
        """Raises NotDone."""
        if self.bbox is not None:
            asked.ensure_bbox(self.bbox)
        if self.intersects is not None:
            asked.ensure_geometry(self.intersects)
        terms = self.q.split(",") if isinstance(self.q, str) else self.q
        collections = [self.collections] if isinstance(self.collections, str) else self.collections
        return asked.Query(
            ids=asked.ensure_names(self.ids, "ids"),
            collections=asked.ensure_names(collections, "collections"),
            terms=asked.ensure_names((term.strip().lower() for term in terms if term.strip()), "q"),
            spatial=_is_spatial(self.bbox, self.intersects),
            time=asked.interval(self.datetime) if self.datetime else asked.Query().time,
            sort=asked.sorting(("-" if each.direction == "desc" else "") + each.field for each in self.sortby),
            limit=min(self.limit, asked.MOST),
            cursor=self.cursor,
        )


def _is_spatial(box: object, shape: object) -> bool:
    if box is not None and shape is not None:
        raise NotDone(Why.INVALID, "give one of bbox and intersects", "intersects")
    return box is not None or shape is not None
