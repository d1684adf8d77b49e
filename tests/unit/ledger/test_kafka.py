"""How a broker is reached: safe unless told otherwise, and wrong settings in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ext_authz.errors import ConfigError
from ext_authz.ledger.kafka import Topic, options
from ext_authz.publisher_settings import PublisherSettings
from ext_authz.settings import load_settings

USUAL = {"DATABASE_URL": "postgresql://localhost/db", "KAFKA_SERVERS": "kafka-1:9093,kafka-2:9093"}
LOGIN = {"KAFKA_USER": "tollgate", "KAFKA_PASSWORD": "do-not-show"}


Load = Callable[..., PublisherSettings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    def loaded(**given: str) -> PublisherSettings:
        for name, value in (USUAL | given).items():
            monkeypatch.setenv(f"TOLLGATE_{name}", value)
        return load_settings(PublisherSettings)

    return loaded


class TestSettings:
    """Each in one sentence that names it."""

    @pytest.mark.parametrize(
        "given",
        [
            {"KAFKA_SERVERS": "kafka"},
            {"KAFKA_SERVERS": "kafka:9092,"},
            {"KAFKA_SERVERS": "user@kafka:9092"},
            {"KAFKA_TOPIC": "a topic"},
            {"KAFKA_SOURCE": "two words"},
            {"KAFKA_SECURITY": "none"},
            {"KAFKA_CA_FILE": "/nowhere/ca.pem"},
            {"KAFKA_USER": "tollgate"},
            {"KAFKA_PASSWORD": "do-not-show"},
            {"KAFKA_SECURITY": "plaintext", **LOGIN},
            {"KAFKA_CERT_FILE": __file__},
            {"KAFKA_MECHANISM": "GSSAPI"},
        ],
        ids=str,
    )
    def test_wrong(self, load: Load, given: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match=f"TOLLGATE_{next(iter(given))}") as wrong:
            load(**given)
        assert "do-not-show" not in str(wrong.value)

    def test_tls_with_a_user_is_what_one_gets(self, load: Load) -> None:
        settings = load(**LOGIN)
        given = options(settings)
        assert (given["security.protocol"], given["sasl.mechanism"]) == ("sasl_ssl", "SCRAM-SHA-512")
        assert (given["enable.idempotence"], given["acks"]) == (True, "all")
        assert "do-not-show" not in repr(settings)
        assert "ssl.ca.location" not in given

    def test_plaintext_is_asked_for(self, load: Load) -> None:
        assert options(load())["security.protocol"] == "ssl"
        assert options(load(KAFKA_SECURITY="plaintext"))["security.protocol"] == "plaintext"


def test_a_file_without_a_certificate(load: Load, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(ConfigError, match=r"TOLLGATE_KAFKA_\*"):
        Topic(load(KAFKA_CA_FILE=str(tmp_path / "ca.pem")))


def test_without_the_extra(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'tollgate\[kafka\]'"):
        Topic(load())
