"""A real broker of Kafka, alone, that a test may kill and start again on the same port and data."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from ext_authz.ledger.decision_event import Message
from tests.services import Killable, free_port, wait_for

JARS = Path(__file__).parents[3] / ".tools/kafka"
TOPIC = "tollgate.decisions"
PARTITIONS = 4
_PARTS = [TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)]
_JAVA = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qk"


class Broker(Killable):
    """`address` is host:port."""

    def __init__(self, directory: Path) -> None:
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._properties, self._log = directory / "server.properties", directory / "log"
        self._properties.write_text(_properties(self._port, free_port(), directory / "data"))
        tool = ("kafka.tools.StorageTool", "format", "--standalone", "-t", _CLUSTER, "-c", str(self._properties))
        subprocess.run(_java(*tool), check=True, capture_output=True)
        reader = {"bootstrap.servers": self.address, "group.id": "test", "enable.auto.commit": False}
        self._reader = Consumer({**reader, "reconnect.backoff.max.ms": 500, "log_level": 0})

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(_java("kafka.Kafka", str(self._properties)), stdout=log, stderr=log)
        wait_for(self._listens, seconds=100)

    def restart(self) -> None:
        """Returns when it leads its partitions again: it listens before."""
        self.start()
        wait_for(self._leads, seconds=100)

    def _leads(self) -> bool:
        try:
            return self.count() >= 0
        except KafkaException:
            return False

    def _listens(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def make_topic(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.address})
        for made in admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)]).values():
            made.result(60)

    def count(self) -> int:
        """Messages of the topic."""
        return sum(self._reader.get_watermark_offsets(part, timeout=10)[1] for part in _PARTS)

    def messages(self) -> list[Message]:
        """All of the topic, in the order of each partition."""
        left, found = self.count(), list[Message]()
        self._reader.assign(_PARTS)
        while len(found) < left:
            for record in self._reader.consume(left - len(found), timeout=1):
                assert record.error() is None
                found.append(Message(record.key(), record.value(), record.headers()))
        return found

    def close(self) -> None:
        self._reader.close()
        self.kill()


def _java(*arguments: str) -> list[str]:
    return ["java", *_JAVA, "-cp", f"{JARS}/*", *arguments]


def _properties(port: int, controller: int, data: Path) -> str:
    return f"""\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
"""


@contextmanager
def running_broker(directory: Path) -> Iterator[Broker]:
    """With its topic; skips the test where there is none, and says why."""
    if shutil.which("java") is None or not (JARS / "built").exists():
        pytest.skip("needs java, and the broker of `make kafka`")
    broker = Broker(directory)
    broker.start()
    try:
        broker.make_topic()
        yield broker
    finally:
        broker.close()
