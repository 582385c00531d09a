"""Kafka to the ledger. Offsets move after the ledger's transaction, never after Moodle; Moodle is never called here."""

import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from worker import telemetry
from worker.domain.changes import Received
from worker.domain.errors import ContractBroken, InvalidMessage
from worker.domain.instants import Instant
from worker.formats.cloudevents import Format, arrived
from worker.kafka import Record, RecordConsumer, RecordProducer
from worker.ledger import Recorder

POLL_SECONDS = 0.1
RECORDED = ("applied", "stale", "waiting", "tombstone")
"""The outcomes of a valid message."""
STAGE = "VALUE_CONVERTER"
"""Kafka Connect's name for the reading of a value, in the headers of a dead letter."""
EARLIEST = 946_684_800.0
"""The year 2000: an older timestamp is that of a producer that sets none."""
LETTER_BYTES = 900_000
"""The longest message that a dead letter keeps: it must fit into what brokers and producers accept by default."""

log = structlog.get_logger()


class Ingest:
    """Reads, validates and records. One thread owns it."""

    def __init__(
        self,
        consumer: RecordConsumer,
        producer: RecordProducer,
        recorder: Recorder,
        *,
        formats: Mapping[str, Format],
        dead_letters: str,
        topic_ids: dict[str, str | None],
        batch: int,
        invalid_limit: int,
        clock: Callable[[], Instant] = time.time,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._recorder = recorder
        self._formats = formats
        self._dead_letters = dead_letters
        self._topic_ids = topic_ids
        self._batch = batch
        self._invalid_limit = invalid_limit
        self._clock = clock
        self._invalid_in_a_row = 0
        for outcome in (*RECORDED, "invalid", "ignored"):  # a series that begins at 1 shows no increase
            telemetry.CHANGES.labels(outcome)

    def step(self) -> int:
        """Process what has arrived: dead letters out, changes into the ledger, then offsets; returns how many messages.

        Raises ContractBroken after recording what came before, and PositionLost and BrokerError as the consumer does.
        """
        records = self._consumer.poll(self._batch, POLL_SECONDS)
        telemetry.LAST_POLL.set(self._clock())
        if not records:
            return 0
        taken, changes, invalid = self._read(records)
        if invalid:
            self._producer.send(self._letter(record, error) for record, error in invalid)
            telemetry.DEAD_LETTERS.inc(len(invalid))
            telemetry.CHANGES.labels("invalid").inc(len(invalid))
        positions = {(record.topic, record.partition): record.offset + 1 for record in taken}
        with telemetry.RECORD_SECONDS.time():
            counts = self._recorder.record(changes, now=self._clock(), positions=positions, topic_ids=self._topic_ids)
        self._consumer.commit(positions)
        for outcome in RECORDED:
            telemetry.CHANGES.labels(outcome).inc(getattr(counts, outcome))
        log.debug("recorded", messages=len(taken), memberships=counts.memberships, invalid=len(invalid))
        if len(taken) < len(records):
            raise ContractBroken(
                f"{self._invalid_limit} messages in a row are invalid, the last before {records[len(taken)].origin}: "
                "the producer broke the contract; see `cohorts dead-letters list`, then restart"
            )
        return len(taken)

    def _read(
        self, records: Sequence[Record]
    ) -> tuple[Sequence[Record], list[Received], list[tuple[Record, InvalidMessage]]]:
        """Parse records up to the limit of invalid ones in a row; returns those taken, their changes, the others."""
        now = self._clock()
        changes: list[Received] = []
        invalid: list[tuple[Record, InvalidMessage]] = []
        for index, record in enumerate(records):
            try:
                published_at = _published_at(record, now)
                parsed = [
                    arrived(change, published_at)
                    for change in self._formats[record.topic].read(
                        value=record.value, headers=record.headers, origin=record.origin
                    )
                ]
            except InvalidMessage as error:
                if self._invalid_in_a_row >= self._invalid_limit:
                    return records[:index], changes, invalid
                self._invalid_in_a_row += 1
                invalid.append((record, error))
                log.warning("invalid message", origin=record.origin, problems=str(error))
            else:
                self._invalid_in_a_row = 0
                changes += [Received(change=change, published_at=published_at) for change in parsed]
                if not parsed:
                    telemetry.CHANGES.labels("ignored").inc()
        return records, changes, invalid

    def _letter(
        self, record: Record, error: InvalidMessage
    ) -> tuple[str, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]:
        """Return the dead letter: what may be kept of the record, and Kafka Connect's headers about what is wrong."""
        about = {
            "topic": record.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
            "stage": STAGE,
            "exception.class.name": type(error).__name__,
            "exception.message": str(error),
        }
        headers = tuple((f"__connect.errors.{name}", text.encode()) for name, text in about.items())
        value = self._formats[record.topic].letter(record.value)
        texts = (part for name, text in record.headers for part in (name.encode(), text))
        if sum(len(part or b"") for part in (record.key, value, *texts)) > LETTER_BYTES:
            return self._dead_letters, None, b"", headers
        return self._dead_letters, record.key, value, (*record.headers, *headers)


def _published_at(record: Record, now: Instant) -> Instant:
    """Return when a message was published, as Kafka or its producer says; now, when that is nothing of use."""
    if record.timestamp is None or record.timestamp < EARLIEST:
        return now
    return min(record.timestamp, now)
