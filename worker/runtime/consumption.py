"""The consuming loop: messages into the ledger, from where the ledger says; it stops where a person must look."""

import threading
import time
from collections.abc import Mapping

import structlog

from worker import telemetry
from worker.domain.errors import BrokerError, ContractBroken, PositionLost
from worker.kafka import ABSENCE, Properties, RecordConsumer, RecordProducer, describe
from worker.ledger import Ledger, consumption, status
from worker.runtime.http import Health
from worker.runtime.ledger import recorder
from worker.runtime.messages import formats
from worker.settings.kafka import KafkaSettings
from worker.settings.root import Settings
from worker.sync.ingest import Ingest

BEAT_SECONDS = 120.0
TOPICS_SECONDS = 15.0
"""How often to check that the topics are still those that the positions belong to."""
POSITION_REMEDY = (
    "messages may be lost, so have them published again; "
    "`cohorts positions --forget TOPIC`, then a restart, reads what is left"
)

log = structlog.get_logger()


class Consumption:
    """Reads the topics of messages until told to stop. One thread runs it; close it afterwards.

    Raises BrokerError when Kafka can't be asked, or a topic is missing.
    """

    def __init__(self, settings: Settings, ledger: Ledger, health: Health, stop: threading.Event) -> None:
        kafka = settings.kafka
        self._ledger, self._health, self._stop = ledger, health, stop
        consumption.resume(ledger)
        self._properties = kafka.properties()
        self._topic_ids = _topic_ids(self._properties, kafka)
        for topic in status.recreated(ledger, self._topic_ids):
            log.warning("topic was re-created: read from its beginning", topic=topic)

        def start(partitions: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
            known = status.positions(ledger, self._topic_ids)
            return {partition: known[partition] for partition in partitions if partition in known}

        self._consumer = RecordConsumer(self._properties, group=kafka.group, topics=kafka.topics, start=start)
        self._ingest = Ingest(
            self._consumer,
            RecordProducer(self._properties),
            recorder(settings, ledger),
            formats=formats(settings),
            dead_letters=kafka.dead_letters,
            topic_ids=self._topic_ids,
            batch=kafka.batch,
            invalid_limit=kafka.invalid_limit,
        )

    def close(self) -> None:
        """Leave the consumer group."""
        self._consumer.close()

    def run(self) -> None:
        """Read until told to stop; after a lost position or a broken contract, only wait for that."""
        try:
            self._read()
        except PositionLost as error:
            _check_topics(self._properties, self._topic_ids)
            self._halt("position_lost", f"{error}; {POSITION_REMEDY}")
        except ContractBroken as error:
            self._halt("contract_broken", str(error))

    def _read(self) -> None:
        check_at = time.monotonic() + TOPICS_SECONDS
        while not self._stop.is_set():
            self._health.beat("ingest", within=BEAT_SECONDS)
            self._ingest.step()
            self._measure_lag()
            if time.monotonic() >= check_at:
                _check_topics(self._properties, self._topic_ids)
                check_at = time.monotonic() + TOPICS_SECONDS

    def _measure_lag(self) -> None:
        lag = dict.fromkeys(self._topic_ids, 0)
        for (topic, _), messages in self._consumer.lag().items():
            lag[topic] += messages
        for topic, messages in lag.items():
            telemetry.LAG.labels(topic).set(messages)

    def _halt(self, reason: str, sentence: str) -> None:
        """Consume no more, but let the rest of the worker go on: a restart alone wouldn't help."""
        telemetry.CONSUMPTION_STOPPED.labels(reason).set(1)
        telemetry.LAG.clear()  # it grows unmeasured from now on
        consumption.halt(self._ledger, consumption.Halt(since=time.time(), reason=reason, sentence=sentence))
        self._health.forget("ingest")
        self._health.obstacles["ingest"] = sentence
        log.error("consumption stopped; converging goes on", reason=reason, error=sentence)
        self._stop.wait()


def _topic_ids(properties: Properties, kafka: KafkaSettings) -> dict[str, str | None]:
    """Return the ids of the topics of messages. Raises BrokerError when one, or that of dead letters, is missing."""
    needed = {*kafka.topics, kafka.dead_letters}
    topics = describe(properties, sorted(needed)).topics
    if missing := needed - topics.keys():
        raise BrokerError(f"missing topics: {', '.join(sorted(missing))}; create them ({ABSENCE})")
    return {name: topics[name].id for name in kafka.topics}


def _check_topics(properties: Properties, ids: Mapping[str, str | None]) -> None:
    """Raise BrokerError when a topic was deleted or re-created: its positions would skip messages there."""
    try:
        topics = describe(properties, ids).topics
    except BrokerError:
        return  # an outage: reading goes on by itself afterwards
    if deleted := ids.keys() - topics.keys():
        raise BrokerError(f"topics were deleted: {', '.join(sorted(deleted))}; create them")
    pairs = {name: (ids[name], topic.id) for name, topic in topics.items()}
    if changed := [name for name, (before, after) in pairs.items() if before != after and None not in {before, after}]:
        raise BrokerError(f"topics were re-created: {', '.join(changed)}; a restart reads them from their beginning")
