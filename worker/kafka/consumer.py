"""Read as a member of a group, from the positions in the ledger."""
# ruff: noqa: SLF001 -- librdkafka's own error codes are public and begin with an underscore

import json
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.domain.errors import PositionLost
from worker.domain.instants import Instant
from worker.kafka.librdkafka import LOST, REQUEST_SECONDS, Properties, broker_error, log, passes, translated
from worker.kafka.reader import READ_AHEAD, READING
from worker.kafka.records import Partition, Record, partition_of, record_of

# The classic protocol lets the client say after how long a killed member is replaced: 6 s is the least that a
# broker accepts by default. KIP-848 leaves that to the broker (45 s by default), and librdkafka then refuses these.
CLASSIC: Properties = {"group.protocol": "classic", "session.timeout.ms": 6_000, "heartbeat.interval.ms": 2_000}
COOPERATIVE: Properties = {"partition.assignment.strategy": "cooperative-sticky"}


class RecordConsumer:
    """A member of a consumer group that starts where the ledger says, whatever the group has committed.

    `start` receives the partitions just assigned and returns the next offset to read of those that the ledger
    knows; the others are read from their beginning.

    One thread owns it: only `contacted_at` and `trouble` may be read by others, and `start` is called inside
    `poll`. After `poll` has raised, close it: nothing of that batch was returned.
    """

    contacted_at: Instant | None = None
    """When a broker last answered, to about five seconds; None before the first answer."""

    trouble: str | None = None
    """The last thing that went wrong between librdkafka and the brokers; it retries by itself, forever."""

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
        with translated("Kafka's settings"):
            self._consumer = Consumer(
                {
                    **READ_AHEAD,
                    **_membership(properties),
                    **READING,
                    "group.id": group,
                    "statistics.interval.ms": 5_000,
                    "stats_cb": self._on_statistics,
                    "error_cb": self._on_trouble,
                    "logger": log,
                }
            )
            self._consumer.subscribe(
                list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )

    @property
    def assigned(self) -> frozenset[Partition]:
        """The partitions assigned to this member now."""
        return frozenset(self._next)

    def poll(self, max_records: int = 500, timeout: float = 0.05) -> list[Record]:
        """Return what has arrived, in order within each partition; wait up to `timeout` seconds for more.

        A batch that is not full waits for the whole time-out, so a short one is fast.
        Raises PositionLost when a position is no longer in its topic, BrokerError when Kafka refuses, and
        whatever `start` raises. An outage raises nothing: it shows in `contacted_at` and `trouble`.
        """
        with translated("Kafka cannot be read"):
            messages = self._consumer.consume(max_records, timeout)
        records = []
        for message in messages:
            partition = partition_of(message)
            if error := message.error():
                self._on_message_error(partition, error, message)
            elif partition in self._next:  # else taken away while the batch was filling
                record = record_of(message)
                self._next[partition] = record.offset + 1
                records.append(record)
        return records

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """Commit to the group the next offset to read of each partition, for people's tools: the ledger decides.

        Partitions that are no longer assigned are left out. A failure loses nothing and is only noted in `trouble`;
        in an outage it takes as long as a member may be silent (6 s).
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
        """Count what is left to read in each assigned partition, as of the last fetch, without asking Kafka.

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
        elif passes(error):
            self._on_trouble(error)
        else:
            raise broker_error(f"Kafka cannot read {partition[0]}", error, partition[0])

    def _what_is_left(self, partition: Partition) -> str:
        topic, number = partition
        wanted = self._next.get(partition, OFFSET_BEGINNING)
        with translated(f"Position {wanted} of {topic}[{number}] is lost, and its range cannot be read"):
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


def _membership(properties: Properties) -> Properties:
    """Return the user's properties and those of membership in the group, by either protocol."""
    if properties.get("group.protocol") == "consumer":
        return properties
    return {**CLASSIC, **properties, **COOPERATIVE}
