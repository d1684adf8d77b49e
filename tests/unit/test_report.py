"""Times as operators write them, and rows in every format."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from ext_authz.errors import ConfigError
from ext_authz.report import OneOf, Time, ensure_period, print_rows

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOSTILE = ["=HYPERLINK(1)", "+1", "-1", "@x", "\x1b]0;owned\x07", "a\tb\nc", 'say "hi", bob', "\u202eecila", "ü", ""]


def read(text: str) -> datetime:
    return Time().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-01", NOON.replace(hour=0)),
        ("2026-11-01T12:00:00Z", NOON),
        ("2026-11-01 12:00", NOON),
        ("2026-11-01T13:00:00+01:00", NOON),
    ],
)
def test_a_date_without_an_offset_is_utc(text: str, time: datetime) -> None:
    assert read(text) == time
    assert read(text).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "ago"),
    [("0m", timedelta(0)), ("90s", timedelta(seconds=90)), ("15m ago", timedelta(minutes=15)), ("2w", timedelta(14))],
)
def test_a_duration_is_so_long_ago(text: str, ago: timedelta) -> None:
    assert abs(datetime.now(UTC) - ago - read(text)) < timedelta(seconds=5)


def test_a_time_is_one_of_today() -> None:
    today = datetime.now(UTC)
    assert {read("10:30").date(), read("9:05:01").date()} <= {today.date(), datetime.now(UTC).date()}
    assert (read("10:30").hour, read("9:05:01").second, read("10:30Z").minute) == (10, 1, 30)
    assert read("10:30+01:00").hour == 9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "25:00",
        "10:60",
        "15 m",
        "-5m",
        "9999999w",
        "2026-13-01",
        "0001-01-01",
        "9999-12-31T23:59",
        "\x1b[31m",
    ],
)
def test_another_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write 15m \(ago\), 10:30 \(today\), 2026-11-01 or"):
        read(text)


def test_a_period_has_a_duration() -> None:
    ensure_period(NOON, NOON + timedelta(seconds=1))
    with pytest.raises(ConfigError, match=r"not later than 2026-11-01T12:00:00\.000Z; 10:30 is a time of today"):
        ensure_period(NOON, NOON)


def test_a_misspelt_word_is_corrected() -> None:
    choice = OneOf(["allowed", "refused"])
    assert choice.convert("refused", None, None) == "refused"
    with pytest.raises(click.BadParameter, match="there is no 'refsued': did you mean refused\\?"):
        choice.convert("refsued", None, None)
    with pytest.raises(click.BadParameter, match="'xyz' is not one of 'allowed', 'refused'"):
        choice.convert("xyz", None, None)
    with pytest.raises(click.BadParameter, match="write --by once for each, without commas"):
        choice.convert("allowed,refused", click.Option(["--by"], multiple=True), None)


def printed(form: str, rows: list[dict[str, object]], table: tuple[str, ...] = ()) -> str:
    @click.command()
    def command() -> None:
        print_rows(["name", "at", "count"], rows, form, table=table)

    return CliRunner().invoke(command, catch_exceptions=False).output


def test_a_table_is_aligned_and_has_one_line_per_row() -> None:
    rows: list[dict[str, object]] = [
        {"name": "shop", "at": NOON, "count": 7},
        {"name": "", "at": None, "count": 1200},
    ]
    assert printed("table", rows).splitlines() == [
        "NAME  AT                        COUNT",
        "shop  2026-11-01T12:00:00.000Z      7",
        "-     -                          1200",
    ]
    assert printed("table", rows, table=("count",)) == "COUNT\n    7\n 1200\n"


def test_nothing_is_none_an_empty_array_or_a_header() -> None:
    assert [printed(form, []) for form in ("table", "json", "csv")] == ["none\n", "[]\n", "name,at,count\n"]


def test_no_name_controls_a_terminal_or_a_spreadsheet() -> None:
    rows: list[dict[str, object]] = [{"name": name, "at": NOON, "count": -1} for name in HOSTILE]
    for form in ("table", "csv", "json"):
        lines = printed(form, rows).split("\n")
        assert all(line.isprintable() for line in lines)
    table = printed("table", rows).splitlines()
    assert len(table) == 1 + len(HOSTILE)
    read_back = list(csv.DictReader(io.StringIO(printed("csv", rows))))
    assert not any(row["name"].startswith(("=", "+", "-", "@", "\t", "\r")) for row in read_back)
    assert (read_back[0]["name"], read_back[0]["count"], read_back[6]["name"]) == ("'=HYPERLINK(1)", "-1", HOSTILE[6])


def test_json_is_exact() -> None:
    rows: list[dict[str, object]] = [{"name": name, "at": NOON, "count": 1} for name in HOSTILE]
    assert [row["name"] for row in json.loads(printed("json", rows))] == HOSTILE
    assert json.loads(printed("json", rows))[0] == {"name": HOSTILE[0], "at": "2026-11-01T12:00:00.000Z", "count": 1}
