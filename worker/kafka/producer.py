"""Send records that must not be lost."""

from collections.abc import Callable, Iterable
from typing import cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.kafka.librdkafka import Properties, broker_error, log, translated
from worker.kafka.records import Headers

_Outgoing = tuple[str, int, bytes | None, bytes | None, Headers]  # topic, partition, key, value, headers
ANY_PARTITION = -1  # RD_KAFKA_PARTITION_UA: the partitioner chooses, by the key


class RecordProducer:
    """Sends records that must not be lost: acknowledged by all in-sync replicas, without duplicates."""

    def __init__(self, properties: Properties) -> None:
        with translated("Kafka's settings"):
            self._producer = Producer(
                {
                    "delivery.timeout.ms": 30_000,
                    "topic.metadata.propagation.max.ms": 5_000,  # then a missing topic is named
                    "queue.buffering.max.kbytes": 65_536,
                    "partitioner": "murmur2_random",  # as in Java: one partition for a key, whichever the producer
                    **{name: value for name, value in properties.items() if name != "group.protocol"},  # or it warns
                    "acks": "all",
                    "enable.idempotence": True,
                    "logger": log,
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

        topic = ""
        try:
            for record in records:
                topic = record[0]
                self._enqueue(record, on_delivery)
                sent += 1
                if failures:
                    break
            while self._producer.flush(1):
                pass
        except (KafkaException, SystemError) as exception:
            # A fatal error right before the library calls `on_delivery` reaches Python as a SystemError.
            cause = exception.__cause__ if isinstance(exception, SystemError) else exception
            if not isinstance(cause, KafkaException):
                raise
            raise broker_error(f"Kafka refuses a record for {topic}", cause.args[0]) from exception
        if failures:
            error, topic = failures[0]
            raise broker_error(f"{len(failures)} of {sent} records for {topic} were not acknowledged", error, topic)

    def _enqueue(self, record: _Outgoing, on_delivery: Callable[[KafkaError | None, Message], None]) -> None:
        topic, partition, key, value, headers = record
        while True:
            try:
                self._producer.produce(topic, value, key, partition, headers=list(headers), on_delivery=on_delivery)
            except BufferError:  # the queue is full until some are acknowledged, or time out
                self._producer.poll(0.1)
            except KafkaException:
                self._producer.poll(0)  # raises the fatal error itself, which the exception doesn't name
                raise
            else:
                self._producer.poll(0)
                return
