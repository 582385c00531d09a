"""Read a topic without being a member of a group."""
# ruff: noqa: SLF001 -- librdkafka's own error codes are public and begin with an underscore

import time
from collections.abc import Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from worker.domain.errors import BrokerError, PositionLost
from worker.kafka.cluster import count_partitions
from worker.kafka.librdkafka import LOST, REQUEST_SECONDS, Properties, broker_error, log, passes, translated
from worker.kafka.records import Record, partition_of, record_of

SILENCE_SECONDS = 30.0
# By default librdkafka reads 64 MiB ahead and pauses for a second when that is full. We need no more than the next
# batch. The settings may say otherwise.
READ_AHEAD: Properties = {"queued.max.messages.kbytes": 16_384, "fetch.queue.backoff.ms": 10}
READING: Properties = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # librdkafka's default, largest, loses messages silently
    "allow.auto.create.topics": False,
    "isolation.level": "read_committed",
    "enable.partition.eof": True,  # the only sound sign of the end: not every offset has a record
}


def read_to_end(properties: Properties, topic: str) -> Iterator[Record]:
    """Yield every record of a topic, from the beginning to the end that each partition has when it is reached.

    The end is where a reader of committed records must stop: an open transaction hides what follows it.
    Raises BrokerError when the topic does not exist, Kafka refuses, or nothing comes for 30 s, PositionLost when
    records vanish faster than they are read.
    """
    unfinished = {(topic, number) for number in range(count_partitions(properties, topic))}
    with translated(f"Kafka cannot read {topic}"):
        consumer = _consumer(properties)
    try:
        with translated(f"Kafka cannot read {topic}"):
            # Without it, half a second is lost: the consumer doesn't know yet which broker has an assigned partition.
            consumer.list_topics(topic, REQUEST_SECONDS)
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
                    yield record_of(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unfinished.discard(partition_of(message))
                else:
                    _check(error, topic)
    finally:
        consumer.close()


def _check(error: KafkaError, topic: str) -> None:
    """Raise what an error means for the reading; nothing when librdkafka goes on by itself."""
    if error.code() in LOST:
        raise PositionLost(f"Records of {topic} were removed while it was being read")
    # librdkafka looks for the group's coordinator all the same, to which the account may have no right.
    if not passes(error) and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
        raise broker_error(f"Kafka cannot read {topic}", error, topic)


def first_offsets(properties: Properties, topic: str) -> dict[int, int]:
    """Return the offset at which each partition begins now: retention has removed every record before."""
    with translated(f"Kafka does not return where {topic} begins"):
        consumer = _consumer(properties)
        try:
            return {
                number: consumer.get_watermark_offsets(TopicPartition(topic, number), REQUEST_SECONDS)[0]
                for number in range(count_partitions(properties, topic))
            }
        finally:
            consumer.close()


def _consumer(properties: Properties) -> Consumer:
    """Build a consumer that joins no group and commits nothing; librdkafka wants the name of a group all the same."""
    return Consumer({**READ_AHEAD, **properties, **READING, "group.id": "unused", "logger": log})
