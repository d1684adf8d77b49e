"""Filters, order and pages of a search; what is wrong with one is said."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.catalogue.entry import MODELS, Card, Entry
from ext_authz.catalogue.search import (
    MOST_NAMES,
    Query,
    bbox,
    geometry,
    interval,
    names,
    search,
    sorting,
)
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.model import NotDone
from tests.unit.catalogue.world import KEY

CIPHER = Cipher(KEY)
START = datetime(2026, 1, 1, tzinfo=UTC)


def entry(name: str, days: int = 0, **card: object) -> Entry:
    return Entry(collection=MODELS, id=name, at=START + timedelta(days), card=Card(**card))  # type: ignore[arg-type]


ALL = [
    entry("a", 3, title="Zebra", description="Of Africa"),
    entry("b", 2, keywords=("Text",)),
    entry("c", 1, title="apple"),
]


def found(query: Query) -> list[str]:
    return [each.id for each in search(ALL, query, CIPHER, "alice").entries]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (Query(), ["a", "b", "c"]),
        (Query(ids=("c", "x", "a")), ["a", "c"]),
        (Query(collections=("dataset",)), []),
        (Query(collections=("dataset", MODELS), ids=("b",)), ["b"]),
        (Query(terms=("africa", "text")), ["a", "b"]),
        (Query(terms=("nothing",)), []),
        (Query(spatial=True), []),
        (Query(time=interval("2026-01-02T00:00:00Z/2026-01-03T00:00:00Z")), ["b", "c"]),
        (Query(time=interval("2026-01-04T00:00:00Z")), ["a"]),
        (Query(time=interval("../2026-01-02T00:00:00Z")), ["c"]),
        (Query(time=interval("2026-01-03T01:00:00+01:00/")), ["a", "b"]),
        (Query(sort=sorting(["-datetime"])), ["a", "b", "c"]),
        (Query(sort=sorting(["properties.datetime"])), ["c", "b", "a"]),
        (Query(sort=sorting(["title"])), ["c", "b", "a"]),
        (Query(sort=sorting(["-id"]), limit=2), ["c", "b"]),
    ],
)
def test_what_agrees_in_which_order(query: Query, ids: list[str]) -> None:
    assert found(query) == ids


@given(
    st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=4), st.integers(0, 2)), unique_by=lambda it: it[0], max_size=9
    ),
    st.integers(1, 4),
    st.lists(st.sampled_from(["title", "-title", "datetime", "-datetime", "-id"]), max_size=2),
)
def test_pages_have_each_once_in_order(some: list[tuple[str, int]], limit: int, order: list[str]) -> None:
    everything = [entry(name, days, title=name[:1]) for name, days in some]
    whole = search(everything, Query(limit=100, sort=sorting(order)), CIPHER, "alice")
    seen: list[Entry] = []
    cursor = ""
    while True:
        page = search(everything, Query(limit=limit, sort=sorting(order), cursor=cursor), CIPHER, "alice")
        assert page.matched == len(everything)
        assert len(page.entries) <= limit
        seen += page.entries
        cursor = page.cursor
        if not cursor:
            break
    assert tuple(seen) == whole.entries


def test_a_page_goes_on_where_it_was_when_things_come_and_go() -> None:
    page = search(ALL, Query(limit=1), CIPHER, "alice")
    more = Query(limit=1, cursor=page.cursor)
    earlier = [entry("0"), *ALL]
    assert [each.id for each in search(earlier, more, CIPHER, "alice").entries] == ["b"]
    assert [each.id for each in search(ALL[1:], more, CIPHER, "alice").entries] == ["c"]


@pytest.mark.parametrize(
    ("whose", "query"),
    [("bob", Query(limit=1)), ("alice", Query(limit=1, terms=("a",))), ("alice", Query(cursor="invented"))],
)
def test_a_cursor_is_of_one_list_of_one_caller(whose: str, query: Query) -> None:
    cursor = query.cursor or search(ALL, Query(limit=1), CIPHER, "alice").cursor
    with pytest.raises(NotDone) as refused:
        search(ALL, Query(limit=query.limit, terms=query.terms, cursor=cursor), CIPHER, whose)
    assert refused.value.field == "cursor"


def test_a_cursor_of_the_longest_name_can_be_sent_back() -> None:
    many = [entry(f"{'x' * 127}{number}", title="\N{SNOWMAN}" * 255) for number in range(2)]
    page = search(many, Query(limit=1, sort=sorting(["title", "datetime", "-id"])), CIPHER, "alice")
    assert (
        len(
            search(
                many, Query(limit=1, sort=sorting(["title", "datetime", "-id"]), cursor=page.cursor), CIPHER, "alice"
            ).entries
        )
        == 1
    )


WRONG = [
    (
        interval,
        ["", "/", "../..", "2026", "2026-01-01", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00", "x/..", "a" * 999],
    ),
    (interval, ["2026-01-02T00:00:00Z/2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "../../.."]),
    (bbox, ["", "1,2,3", "a,b,c,d", "nan,0,1,1", "inf,0,1,1", "0,1,1,0", "-181,0,1,1", "0,-91,1,1", "0,0,5,1,1,4"]),
    (geometry, ["", "[]", "{}", '{"type": "Point"}', '{"type": "Cube", "coordinates": []}', "[" * 9999]),
    (lambda text: sorting([text]), ["secret", "", "properties.", "mlm:name"]),
    (lambda text: names(text, "ids"), ["x" * 256, ",".join(map(str, range(MOST_NAMES + 1))), "x" * 9999]),
]


@pytest.mark.parametrize(("read", "text"), [(read, text) for read, texts in WRONG for text in texts])
def test_what_is_wrong_is_said(read: object, text: str) -> None:
    with pytest.raises(NotDone) as refused:
        read(text)  # type: ignore[operator]
    assert "" not in (refused.value.field, refused.value.detail)


@given(st.text(max_size=40))
def test_no_text_gets_anything_but_an_answer_or_a_sentence(text: str) -> None:
    for read in (interval, bbox, geometry, lambda it: sorting([it]), lambda it: names(it, "q")):
        with suppress(NotDone):
            read(text)


def test_a_box_and_a_time_that_are_right() -> None:
    assert list(bbox("-180,-90,180,90")) == [-180, -90, 180, 90]
    assert len(bbox("170,-10,0,-170,10,100")) == 6, "over the antimeridian, with heights"
    assert interval("2026-01-01t00:00:00.5z")[0].microsecond == 500_000
