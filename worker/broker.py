"""Kafka, as the worker needs it: the one gate to confluent-kafka, tested on a real and an embedded broker.

librdkafka's own retries are the only ones. No error text holds the key, the value or a header of a message.
"""
# ruff: noqa: SLF001 -- librdkafka's own error codes are public and begin with an underscore

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined] # its stubs forget to export it
from confluent_kafka.cimpl import NewTopic

from worker.errors import BrokerError, PositionLost
from worker.model import Instant

Properties = Mapping[str, str | int | float | bool]
"""Properties of librdkafka: bootstrap.servers, security.protocol, sasl.*, ssl.*…"""

Partition = tuple[str, int]
Headers = tuple[tuple[str, bytes | None], ...]
_Outgoing = tuple[str, int, bytes | None, bytes | None, Headers]  # topic, partition, key, value

ANY_PARTITION = -1  # RD_KAFKA_PARTITION_UA: the partitioner chooses, by the key
REQUEST_SECONDS = 10.0
LISTED_SECONDS = 60.0
SILENCE_SECONDS = 30.0
READING: Properties = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # librdkafka's default, largest, loses messages silently
    "allow.auto.create.topics": False,
    "isolation.level": "read_committed",
    "enable.partition.eof": True,  # the only sound sign of the end: not every offset has a record
}
# The classic protocol lets the client say after how long a killed member is replaced: 6 s is the least that a
# broker accepts by default. KIP-848 leaves that to the broker (45 s by default), and librdkafka then refuses these.
CLASSIC: Properties = {"group.protocol": "classic", "session.timeout.ms": 6_000, "heartbeat.interval.ms": 2_000}
COOPERATIVE: Properties = {"partition.assignment.strategy": "cooperative-sticky"}
PASSING = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._MAX_POLL_EXCEEDED,
}
LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE}
FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
ABSENT = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
ABSENCE = "`cohorts topics create` does; or the right to see it is missing: `cohorts topics acls`"
"""What to do about a topic that isn't shown: Kafka hides those that one has no right to."""

librdkafka_log = logging.getLogger("librdkafka")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a topic, as its producer wrote it; a value of None is a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    """None at all where the name of one isn't UTF-8."""
    timestamp: Instant | None

    @property
    def origin(self) -> str:
        """Where it was read, e.g. `enrolments[3]@1042`."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as the cluster describes it; `id` changes when it is deleted and created again.

    `id` is None where the broker cannot say (the embedded one, Kafka before 2.8).
    """

    partitions: int
    id: str | None
    replicas: int = 1
    """Copies that each partition has, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDefinition:
    """A topic as it is to be created; what isn't said is as the cluster has it."""

    partitions: int
    replicas: int = -1  # the cluster's default
    settings: Mapping[str, str] = field(default_factory=dict)
    """Kafka's topic-level settings, e.g. `retention.ms`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What answers at bootstrap.servers; a topic that does not exist is missing from `topics`."""

    id: str
    brokers: int
    topics: Mapping[str, Topic]


class RecordConsumer:
    """A member of a consumer group that starts where the ledger says, whatever the group has committed.

    `start` gets the partitions just assigned and gives the next offset to read of those that the ledger
    knows; the others are read from their beginning.

    One thread owns it: only `contacted_at` and `trouble` may be read by others, and `start` is called inside
    `poll`. After `poll` has raised, close it: nothing of that batch was handed over.
    """

    contacted_at: Instant | None = None
    """When a broker last answered, to about five seconds; None before the first answer."""

    trouble: str | None = None
    """The last thing that went wrong between librdkafka and the brokers; it retries by itself, for ever."""

    def __init__(
        self,
        properties: Properties,
        *,
        group: str,
        topics: Iterable[str],
        start: Callable[[list[Partition]], Mapping[Partition, int]],
    ) -> None:
        self._start = start
        self._next: dict[Partition, int] = {}  # of each assigned partition, what to read next
        with _translated("Kafka's settings"):
            self._consumer = Consumer(
                {
                    **_membership(properties),
                    **READING,
                    "group.id": group,
                    "statistics.interval.ms": 5_000,
                    "stats_cb": self._on_statistics,
                    "error_cb": self._on_trouble,
                    "logger": librdkafka_log,
                }
            )
            self._consumer.subscribe(
                list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )

    @property
    def assigned(self) -> frozenset[Partition]:
        """The partitions that are this member's now."""
        return frozenset(self._next)

    def poll(self, max_records: int = 500, timeout: float = 0.05) -> list[Record]:
        """Give what has arrived, in order within each partition; wait up to `timeout` seconds for more.

        A short time-out is fast: a batch that is not full waits for all of it.
        Raises PositionLost when a position is no longer in its topic, BrokerError when Kafka refuses, and
        whatever `start` raises. An outage raises nothing: it shows in `contacted_at` and `trouble`.
        """
        with _translated("Kafka cannot be read"):
            messages = self._consumer.consume(max_records, timeout)
        records = []
        for message in messages:
            partition = _partition(message)
            if error := message.error():
                self._on_message_error(partition, error, message)
            elif partition in self._next:  # else taken away while the batch was filling
                record = _record(message)
                self._next[partition] = record.offset + 1
                records.append(record)
        return records

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """Tell the group the next offset to read of each partition, for people's tools: our ledger rules.

        Partitions no longer ours are left out. A failure loses nothing and is only noted in `trouble`; in an
        outage it takes as long as a member may be silent (6 s).
        """
        offsets = [
            TopicPartition(*partition, next_) for partition, next_ in positions.items() if partition in self._next
        ]
        try:
            if offsets:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exception:
            self._on_trouble(exception.args[0])

    def lag(self) -> dict[Partition, int]:
        """Count what is left to read in each assigned partition, as of the last fetch; asks Kafka nothing.

        A partition that was never fetched is missing.
        """
        lags = {}
        for partition, next_ in self._next.items():
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            if high >= 0:
                lags[partition] = max(0, high - max(low, next_))
        return lags

    def close(self) -> None:
        """Leave the group, so that its other members take over at once."""
        self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        known = self._start([(each.topic, each.partition) for each in partitions])
        for each in partitions:
            each.offset = known.get((each.topic, each.partition), OFFSET_BEGINNING)
            self._next[each.topic, each.partition] = each.offset
        consumer.incremental_assign(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            self._next.pop((each.topic, each.partition), None)
        consumer.incremental_unassign(partitions)

    def _on_message_error(self, partition: Partition, error: KafkaError, message: Message) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            if partition in self._next:
                self._next[partition] = cast("int", message.offset())
        elif error.code() in LOST:
            raise PositionLost(self._what_is_left(partition))
        elif _passes(error):
            self._on_trouble(error)
        else:
            raise _broker_error(f"Kafka cannot read {partition[0]}", error, partition[0])

    def _what_is_left(self, partition: Partition) -> str:
        topic, number = partition
        wanted = self._next.get(partition, OFFSET_BEGINNING)
        with _translated(f"Position {wanted} of {topic}[{number}] is lost, and its range cannot be read"):
            low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, number), REQUEST_SECONDS)
        return f"Position {wanted} of {topic}[{number}] no longer exists: it holds {low} to {high} (excluded)"

    def _on_trouble(self, error: KafkaError) -> None:
        self.trouble = f"{error.name()}: {error.str()}"

    def _on_statistics(self, statistics: str) -> None:
        """Read rxidle: microseconds since the last answer, or -1 (librdkafka's STATISTICS.md)."""
        now = json.loads(statistics)
        idle = [broker["rxidle"] for broker in now["brokers"].values() if broker["rxidle"] >= 0]
        if idle:
            self.contacted_at = now["time"] - min(idle) / 1e6


class RecordProducer:
    """Writes records that must not be lost: acknowledged by all in-sync replicas, without duplicates."""

    def __init__(self, properties: Properties) -> None:
        with _translated("Kafka's settings"):
            self._producer = Producer(
                {
                    "delivery.timeout.ms": 30_000,
                    "topic.metadata.propagation.max.ms": 5_000,  # then a missing topic is named
                    "queue.buffering.max.kbytes": 65_536,
                    "partitioner": "murmur2_random",  # as in Java: one partition a key, whoever writes
                    **{name: value for name, value in properties.items() if name != "group.protocol"},  # or it warns
                    "acks": "all",
                    "enable.idempotence": True,
                    "logger": librdkafka_log,
                }
            )

    def send(self, records: Iterable[tuple[str, bytes | None, bytes | None, Headers]]) -> None:
        """Send every (topic, key, value, headers) and wait until all are acknowledged; memory is bounded.

        Raises BrokerError when one is not, within delivery.timeout.ms; then the rest may not have been sent.
        """
        self._send((topic, ANY_PARTITION, key, value, headers) for topic, key, value, headers in records)

    def send_to(self, topic: str, records: Iterable[tuple[int, bytes | None, bytes | None, Headers]]) -> None:
        """As `send`, of (partition, key, value, headers): the key doesn't choose the partition."""
        self._send((topic, *record) for record in records)

    def _send(self, records: Iterable[_Outgoing]) -> None:
        sent = 0
        failures: list[tuple[KafkaError, str]] = []

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error:
                failures.append((error, cast("str", message.topic())))

        with _translated("Kafka refuses a record"):
            for record in records:
                self._enqueue(record, on_delivery)
                sent += 1
                if failures:
                    break
            while self._producer.flush(1):
                pass
        if failures:
            error, topic = failures[0]
            raise _broker_error(f"{len(failures)} of {sent} records for {topic} were not acknowledged", error, topic)

    def _enqueue(self, record: _Outgoing, on_delivery: Callable[[KafkaError | None, Message], None]) -> None:
        topic, partition, key, value, headers = record
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=list(headers), on_delivery=on_delivery)
            except BufferError:  # the queue is full until some are acknowledged, or time out
                self._producer.poll(0.1)
            except KafkaException as exception:
                with _translated(f"Kafka refuses a record for {topic}"):
                    self._producer.poll(0)  # raises what was fatal, of which the exception only says that it was
                    raise exception from None
            else:
                self._producer.poll(0)
                return


def _membership(properties: Properties) -> Properties:
    """Add to the user's properties how a member takes part in its group, by either protocol."""
    if properties.get("group.protocol") == "consumer":
        return properties
    return {**CLASSIC, **properties, **COOPERATIVE}


def describe(properties: Properties, topics: Iterable[str] = ()) -> Cluster:
    """Ask the cluster who it is and which of these topics it has; raises BrokerError when it does not say."""
    troubles: list[KafkaError] = []
    admin = _admin({**properties, "error_cb": troubles.append})
    try:
        metadata = admin.list_topics(timeout=REQUEST_SECONDS)
    except KafkaException as exception:
        admin.poll(0)  # hands over what librdkafka met: the first trouble tells more than the time-out
        raise _broker_error("Kafka does not answer", [*troubles, exception.args[0]][0]) from exception
    present = {name: metadata.topics[name].partitions for name in topics if name in metadata.topics}
    ids = {}
    if present and metadata.controller_id in metadata.brokers:  # not so in the embedded one, which has no ids
        with _translated("Kafka does not describe its topics"):
            answers = admin.describe_topics(TopicCollection(list(present)), request_timeout=REQUEST_SECONDS)
            ids = {name: str(answer.result().topic_id) for name, answer in answers.items()}
    return Cluster(
        id=cast("str", metadata.cluster_id),
        brokers=len(metadata.brokers),
        topics={
            name: Topic(
                partitions=len(partitions),
                id=ids.get(name),
                replicas=min((len(partition.replicas) for partition in partitions.values()), default=0),
            )
            for name, partitions in present.items()
        },
    )


def create_topics(properties: Properties, definitions: Mapping[str, TopicDefinition]) -> frozenset[str]:
    """Create the topics that are missing, wait until Kafka lists them, and give their names.

    Those that exist stay as they are. Raises BrokerError when Kafka refuses, or lists one not within 60 s.
    """
    missing = definitions.keys() - describe(properties, definitions).topics.keys()
    if not missing:
        return frozenset()
    admin = _admin(properties)  # kept until the answers are there, which its end would cancel
    wanted = [
        NewTopic(name, found.partitions, replication_factor=found.replicas, config=dict(found.settings))
        for name, found in definitions.items()
        if name in missing
    ]
    created = set()
    for name, answer in admin.create_topics(wanted, request_timeout=REQUEST_SECONDS).items():
        error = answer.exception()
        if error is None:
            created.add(name)
        elif not isinstance(error, KafkaException):
            raise error
        elif error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise _broker_error(f"The topic {name} cannot be created", error.args[0]) from error
    # The controller answers before the brokers know: one that starts may take seconds, and who asks it sees no topic.
    deadline = time.monotonic() + LISTED_SECONDS
    while unlisted := created - describe(properties, created).topics.keys():
        if time.monotonic() > deadline:
            raise BrokerError(
                f"Kafka has created {', '.join(sorted(unlisted))}, but does not list what it created after"
                f" {LISTED_SECONDS:g} s: look whether its brokers follow their controller"
            )
        time.sleep(0.1)
    return frozenset(created)


def topic_settings(properties: Properties, topics: Iterable[str]) -> dict[str, dict[str, str]]:
    """Give the topic-level settings in force of topics that exist; raises BrokerError when Kafka doesn't say."""
    admin = _admin(properties)
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics]
    if not resources:
        return {}
    with _translated("Kafka does not tell the settings of topics"):
        answers = admin.describe_configs(resources, request_timeout=REQUEST_SECONDS)
        return {
            resource.name: {name: cast("str", entry.value) for name, entry in answer.result().items()}
            for resource, answer in answers.items()
        }


def read_to_end(properties: Properties, topic: str) -> Iterator[Record]:
    """Give every record of a topic, from the beginning to the end that each partition has when it is reached.

    The end is where a reader of committed records must stop: an open transaction hides what follows it.
    Raises BrokerError when the topic does not exist, Kafka refuses, or nothing comes for 30 s, PositionLost when
    records vanish faster than they are read.
    """
    unfinished = {(topic, number) for number in range(count_partitions(properties, topic))}
    with _translated(f"Kafka cannot read {topic}"):
        # Assigned by hand, it joins no group and commits nothing; librdkafka wants a name all the same.
        consumer = Consumer({**properties, **READING, "group.id": "unused", "logger": librdkafka_log})
    try:
        consumer.assign([TopicPartition(*partition, OFFSET_BEGINNING) for partition in unfinished])
        deadline = time.monotonic() + SILENCE_SECONDS
        while unfinished:
            messages = consumer.consume(500, 0.05)
            if messages:
                deadline = time.monotonic() + SILENCE_SECONDS
            elif time.monotonic() > deadline:
                raise BrokerError(f"{topic} cannot be read to its end: nothing came for {SILENCE_SECONDS:g} s")
            for message in messages:
                error = message.error()
                if not error:
                    yield _record(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unfinished.discard(_partition(message))
                elif error.code() in LOST:
                    raise PositionLost(f"Records of {topic} were removed while it was being read")
                # It looks for the group's coordinator all the same, to which one may have no right.
                elif not _passes(error) and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                    raise _broker_error(f"Kafka cannot read {topic}", error, topic)
    finally:
        consumer.close()


def count_partitions(properties: Properties, topic: str) -> int:
    """Count the partitions of a topic; raises BrokerError when it does not exist."""
    found = describe(properties, [topic]).topics.get(topic)
    if found is None:
        raise BrokerError(f"The topic {topic} does not exist; create it ({ABSENCE})")
    return found.partitions


def first_offsets(properties: Properties, topic: str) -> dict[int, int]:
    """Give by partition where it begins now: retention has removed every record before."""
    with _translated(f"Kafka does not say where {topic} begins"):
        consumer = Consumer({**properties, **READING, "group.id": "unused", "logger": librdkafka_log})
        try:
            return {
                number: consumer.get_watermark_offsets(TopicPartition(topic, number), REQUEST_SECONDS)[0]
                for number in range(count_partitions(properties, topic))
            }
        finally:
            consumer.close()


def _admin(properties: Mapping[str, Any]) -> AdminClient:
    with _translated("Kafka's settings"):
        return AdminClient({**properties, "log_level": 0})  # it says by its errors what it would log


def _partition(message: Message) -> Partition:
    return cast("str", message.topic()), cast("int", message.partition())


def _record(message: Message) -> Record:
    topic, partition = _partition(message)
    kind, milliseconds = message.timestamp()
    return Record(
        topic=topic,
        partition=partition,
        offset=cast("int", message.offset()),
        key=message.key(),
        value=message.value(),
        headers=_headers(message),
        timestamp=None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000,
    )


_told_headers = methodcaller("headers")
"""Called so, Python always looks for an error that the library met and didn't report; `message.headers()` may not."""


def _headers(message: Message) -> Headers:
    """Give its headers; none where the name of one isn't UTF-8, of which the library can't make text."""
    try:
        return tuple(_told_headers(message) or ())
    except SystemError:
        return ()


def _passes(error: KafkaError) -> bool:
    return not error.fatal() and (error.retriable() or error.code() in PASSING)


def _broker_error(what: str, error: KafkaError, topic: str = "") -> BrokerError:
    remedy = f"; create the topic {topic}" if topic and error.code() in ABSENT else ""
    if error.code() in FORBIDDEN:
        remedy = "; `cohorts topics acls` tells the rights that each command needs"
    return BrokerError(f"{what}: {error.name()}: {error.str()}{remedy}")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as exception:
        raise _broker_error(what, exception.args[0]) from exception
