"""A topic of Kafka, over librdkafka (extra `kafka`): a batch is sent when every broker in sync has all of it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from ext_authz.errors import ConfigError, Unavailable
from ext_authz.ledger.decision_event import Message
from ext_authz.publisher_settings import PublisherSettings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

log = logging.getLogger(__name__)

DELIVERY = 10.0
"""Longest wait for a batch, in seconds."""
_LOOK = 0.2
"""Seconds between two looks whether to stop."""
_CRITICAL = 2
"""Of librdkafka's log: it writes a line per attempt to connect."""
_COUNTED = re.compile(r" \(after .*", re.DOTALL)
"""What differs from attempt to attempt."""


def options(settings: PublisherSettings) -> Mapping[str, object]:
    """As librdkafka names them."""
    security = {"tls": "ssl", "plaintext": "plaintext"}[settings.kafka_security]
    given: dict[str, object] = {
        "bootstrap.servers": settings.kafka_servers,
        "client.id": "tollgate",
        # Retries within a session of the producer write nothing twice, and keep their order.
        "enable.idempotence": True,
        "acks": "all",
        "delivery.timeout.ms": int(DELIVERY * 1000),
        "linger.ms": 5,
        "reconnect.backoff.max.ms": 2000,
        "compression.type": "zstd",
        "security.protocol": f"sasl_{security}" if settings.kafka_user else security,
        "ssl.ca.location": settings.kafka_ca_file,
        "ssl.certificate.location": settings.kafka_cert_file,
        "ssl.key.location": settings.kafka_key_file,
    }
    if settings.kafka_user and settings.kafka_password:
        given |= {"sasl.mechanism": settings.kafka_mechanism, "sasl.username": settings.kafka_user}
        given |= {"sasl.password": settings.kafka_password.get_secret_value()}
    return {name: value if isinstance(value, bool | int) else str(value) for name, value in given.items() if value}


class Topic:
    """Where events go."""

    def __init__(self, settings: PublisherSettings) -> None:
        """Raises ConfigError where the extra is not installed, or librdkafka takes an option for wrong."""
        self._name = settings.kafka_topic
        self._options = {**options(settings), "error_cb": self._failed, "logger": log, "log_level": _CRITICAL}
        self._cause = ""
        self._producer: Producer | None = _producer(self._options)

    async def send(self, messages: Sequence[Message], stop: asyncio.Event) -> None:
        """Returns when all are acknowledged. After a failure some may be there: sent again, they are there twice.

        Raises:
            Unavailable: "kafka".
        """
        await asyncio.to_thread(self._send, messages, stop.is_set)

    def _send(self, messages: Sequence[Message], stopping: Callable[[], bool]) -> None:
        # After a failure an idempotent producer may take no more: another one begins anew.
        producer, self._producer = self._producer or _producer(self._options), None
        failures: list[str] = []
        for message in messages:
            producer.produce(
                self._name,
                message.value,
                message.key,
                headers=message.headers,
                on_delivery=lambda error, _: failures.append(error.str()) if error else None,
            )
        deadline = monotonic() + DELIVERY + 1
        while left := producer.flush(_LOOK):
            if stopping() or monotonic() >= deadline:
                break
        if left or failures:
            producer.purge()
            raise Unavailable("kafka", self._cause or (failures or ["no answer in time"])[0])
        self._producer, self._cause = producer, ""

    def _failed(self, error: KafkaError) -> None:
        """Says why nothing arrives, where a message itself has only timed out."""
        self._cause = _COUNTED.sub("", error.str())


def _producer(given: Mapping[str, object]) -> Producer:
    try:
        from confluent_kafka import KafkaException, Producer
    except ImportError:
        raise ConfigError("the library for Kafka is not installed: pip install 'tollgate[kafka]'") from None
    try:
        return Producer(given)
    except KafkaException as wrong:
        raise ConfigError(f"TOLLGATE_KAFKA_*: {wrong.args[0].str()}") from None
