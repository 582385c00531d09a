"""A real Apache Kafka of one node, without Docker: Maven fetches it, the installed Java runs it."""
# ruff: noqa: S603, S607 -- the programs and their arguments are our own

import base64
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from tests.support.servers import MissingServerError, free_ports
from worker.kafka import Properties, TopicDefinition, create_topics, describe

VERSION = "4.3.1"
COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
START_SECONDS = 60
STOP_SECONDS = 20

# Kafka 4 wants log4j-api on its class path and takes slf4j-simple alone for a missing one.
POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>etape-cohorts</groupId>
  <artifactId>kafka-artifacts</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>2.25.4</version>
    </dependency>
  </dependencies>
</project>
"""

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENTS
controller.listener.names=CONTROLLER
log.dirs={directory}/log
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# Of KIP-848, as short as members of the classic protocol ask for.
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=2000
group.consumer.heartbeat.interval.ms=2000
# The default, 128 MB, doesn't fit in a small heap.
log.cleaner.dedupe.buffer.size=16777216
"""


def settled(properties: Properties, transactional_id: str) -> None:
    """Wait until an ended transaction is over on the topics too: Kafka responds before it has written that.

    The next to use its id has to wait for that.
    """
    Producer({**properties, "transactional.id": transactional_id}).init_transactions(START_SECONDS)


class Kafka:
    """A Kafka that somebody else runs: tests may create topics in it, but not stop it."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.properties: Properties = {"bootstrap.servers": bootstrap}

    def admin(self) -> AdminClient:
        """Return an administrator that logs nothing to standard error, which tests read."""
        return AdminClient({**self.properties, "log_level": 0})

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic that does not exist yet."""
        create_topics(self.properties, {name: TopicDefinition(partitions=partitions)})

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and wait until it no longer exists."""
        admin = self.admin()  # its end would cancel what it asked for
        for answer in admin.delete_topics([name]).values():
            answer.result()
        while name in describe(self.properties, [name]).topics:
            pass

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Delete the oldest records, as retention does."""
        admin = self.admin()
        for answer in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
            answer.result()

    def delete_group(self, group: str) -> None:
        """Delete a group and its committed offsets, once it has no members."""
        admin = self.admin()
        for answer in admin.delete_consumer_groups([group]).values():
            answer.result()

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Add partitions to a topic, up to so many in all."""
        admin = self.admin()
        for answer in admin.create_partitions([NewPartitions(topic, partitions)]).values():
            answer.result()

    def stop(self) -> None:
        """Only our own Kafka can be stopped."""
        pytest.skip("the Kafka of KAFKA_BOOTSTRAP is not ours to stop")

    def kill(self) -> None:
        """Only our own Kafka can be killed."""
        self.stop()

    def start(self) -> None:
        """Do nothing: it was not stopped."""


class OwnKafka(Kafka):
    """A Kafka that runs from `start` to `stop`; it keeps its port and what it holds when started again.

    `protocols` are those of further listeners, by name; `more` are the lines that these need.
    """

    def __init__(
        self, libraries: Path, directory: Path, protocols: Mapping[str, str] | None = None, more: str = ""
    ) -> None:
        protocols = {"CLIENTS": "PLAINTEXT", **(protocols or {})}
        controller, *ports = free_ports(1 + len(protocols))
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(protocols, ports, strict=True)}
        super().__init__(self.addresses["CLIENTS"])
        self._process: subprocess.Popen[bytes] | None = None
        self._output = directory / "output"
        self._settings = directory / "server.properties"
        self._settings.write_text(
            more
            + PROPERTIES.format(
                listeners=",".join(f"{name}://{address}" for name, address in self.addresses.items()),
                protocols=",".join(map(":".join, protocols.items())),
                controller=controller,
                directory=directory,
            )
        )
        self._java = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{libraries}/*")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        subprocess.run(
            [
                *(*self._java, "kafka.tools.StorageTool", "format", "--standalone"),
                *(f"--cluster-id={cluster}", "--config", self._settings),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start it unless it runs, and wait until it responds."""
        if self._process:
            return
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", self._settings], stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise MissingServerError(f"Kafka did not start:\n{self._output.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it if it runs."""
        if not self._process:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it at once, like a power cut."""
        if self._process:
            self._process.kill()
            self.stop()

    def _answers(self) -> bool:
        try:
            self.admin().list_topics(timeout=0.5)
        except KafkaException:
            return False
        return True


@contextmanager
def real_kafka() -> Iterator[Kafka]:
    """Yield the Kafka of KAFKA_BOOTSTRAP, or a temporary one; raises MissingServerError."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        yield Kafka(bootstrap)
        return
    with tempfile.TemporaryDirectory(prefix="kafka-") as directory:
        kafka = OwnKafka(libraries(), Path(directory))
        try:
            kafka.start()
            yield kafka
        finally:
            kafka.stop()


def libraries() -> Path:
    """Return the folder of Kafka's jars: ETAPE_COHORTS_KAFKA, or one in the cache, downloaded once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "etape-cohorts"
    found = Path(os.environ.get("ETAPE_COHORTS_KAFKA") or cache / f"kafka-{VERSION}")
    if missing := [name for name in ("java", "mvn") if not shutil.which(name)]:
        raise MissingServerError(f"no {' and no '.join(missing)}: install Java 17 and Maven, or set KAFKA_BOOTSTRAP")
    if found.exists():
        return found
    found.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=found.parent) as directory:
        pom, jars = Path(directory) / "pom.xml", Path(directory) / "jars"
        pom.write_text(POM)
        run = subprocess.run(
            ["mvn", "-B", "-q", "-f", pom, COPY_DEPENDENCIES, f"-DoutputDirectory={jars}"],
            capture_output=True,
            check=False,
            text=True,
        )
        if run.returncode:
            raise MissingServerError(f"Maven cannot fetch Kafka {VERSION}; set KAFKA_BOOTSTRAP:\n{run.stdout[-2000:]}")
        with suppress(OSError):  # another run was faster
            jars.rename(found)
    return found
