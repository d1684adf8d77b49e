"""The settings of the application, and what is exported of feedback."""

from __future__ import annotations

import csv
from datetime import UTC, datetime

import pytest

from applications.sentiment.feedback import COLUMNS, Said, as_csv
from applications.sentiment.settings import Settings, StoreSettings, loaded
from ext_authz.errors import ConfigError

GOOD = {
    "SENTIMENT_PUBLIC_URL": "https://models.example",
    "SENTIMENT_ISSUER": "https://id.example/realms/ml",
    "SENTIMENT_CLIENT_SECRET": "hush",
    "SENTIMENT_DATABASE_URL": "postgresql://u:hush@h/d",
}


def test_what_is_needed() -> None:
    settings = loaded(Settings, GOOD)
    assert (settings.listen, settings.client_id, settings.models_url) == ("127.0.0.1:9020", "sentiment-app", "")
    assert settings.feedback_days == 180
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Models.example:443", "https://models.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:80", "http://localhost"),
    ],
)
def test_an_origin_is_as_browsers_write_it(url: str, origin: str) -> None:
    assert loaded(Settings, GOOD | {"SENTIMENT_PUBLIC_URL": url}).public_url == origin


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SENTIMENT_PUBLIC_URL": "https://models.example/x"}, "PUBLIC_URL: is not an origin: write https://HOST"),
        ({"SENTIMENT_PUBLIC_URL": "https://u:p@models.example"}, "SENTIMENT_PUBLIC_URL: is not an origin"),
        ({"SENTIMENT_MODELS_URL": "envoy:8080"}, "SENTIMENT_MODELS_URL: is not an origin"),
        ({"SENTIMENT_LISTEN": "9020"}, "SENTIMENT_LISTEN: is not of the form host:port, or unix:/PATH"),
        ({"SENTIMENT_LISTEN": "unix:socket"}, "SENTIMENT_LISTEN: is not of the form"),
        ({"SENTIMENT_FEEDBACK_DAYS": "0"}, "SENTIMENT_FEEDBACK_DAYS: Input should be greater than or equal to 1"),
        ({"SENTIMENT_CLIENT_SECRET": ""}, "SENTIMENT_CLIENT_SECRET: is required: secret of that client"),
    ],
)
def test_what_is_wrong_is_one_sentence(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        loaded(Settings, GOOD | given)
    assert said in str(wrong.value)
    assert "hush" not in str(wrong.value)


def test_commands_need_the_database_only() -> None:
    with pytest.raises(ConfigError, match="SENTIMENT_DATABASE_URL: is required: Postgres"):
        loaded(StoreSettings, {})


def test_an_export_can_be_read_whatever_people_write() -> None:
    rows = [
        Said(text, "negative", "positive", "1", "id", datetime(2026, 11, 29, tzinfo=UTC))
        for text in ('so "good"', "a, b", "two\nlines", "=1+1", "é")
    ]
    found = list(csv.DictReader("".join(as_csv(rows)).splitlines(keepends=True)))
    assert [row["text"] for row in found] == [row.text for row in rows]
    assert {*found[0]} == {*COLUMNS}
    assert found[0]["label"] == "negative"
