"""Snapshots through an embedded broker and a real Kafka: published, killed, retried, forgotten, hidden."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer

from schemas import EnrolmentRow, UnknownRow
from tests.support.builders import UAI
from tests.support.servers.kafka import Kafka, settled
from tests.support.snapshots import LIMITS, SCOPE, YEAR, Sent, accepted, kind, row, row_with, rows, sent, students
from tests.wire.kafka.test_broker_contract import embedded_differs
from worker import kafka as gate
from worker import snapshots
from worker.domain.errors import BrokerError, PositionLost, SnapshotFault, SnapshotRefused
from worker.domain.snapshots import AcceptedSnapshot, Snapshot, SnapshotScope, Unknown
from worker.kafka import Properties, Record, RecordProducer
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.university.generator import University

Broker = EmbeddedBroker | Kafka
PATIENCE = 60.0
PARTITIONS = 3
TAKEN_AT = datetime.now(UTC).replace(microsecond=0)
WHEN = f" (taken at {TAKEN_AT:%Y-%m-%dT%H:%M:%SZ})"


class KilledError(Exception):
    """The producer is no more."""


@pytest.fixture
def properties(broker: Broker) -> Properties:
    return broker.properties


@pytest.fixture
def snapshots_topic(broker: Broker, topic: str) -> str:
    broker.create_topic(topic, PARTITIONS)
    return topic


def publish(
    properties: Properties,
    topic: str,
    count: int,
    name: str = "apogee-1",
    *,
    taken_at: datetime = TAKEN_AT,
    progress: Callable[[Iterable[bytes]], Iterable[bytes]] = iter,
) -> None:
    with snapshots.collect(rows(count), SCOPE) as gathered:
        publisher = snapshots.Publisher(properties, topic)
        publisher.publish(gathered, snapshot_id=name, taken_at=taken_at, progress=progress)
    assert publisher.partitions == PARTITIONS


def send(properties: Properties, topic: str, messages: Iterable[Sent]) -> None:
    """Send some of the messages of a snapshot, as a producer that dies afterwards."""
    RecordProducer(properties).send_to(topic, messages)


def messages(count: int, name: str = "apogee-1", *, after: float = 0) -> list[Sent]:
    return sent(rows(count), name, taken_at=TAKEN_AT.timestamp() + after, partitions=PARTITIONS)


def latest(
    properties: Properties, topic: str, *, last: AcceptedSnapshot | None = None, uais: Iterable[str] = (UAI,)
) -> Snapshot:
    return snapshots.latest(
        properties,
        topic,
        now=time.time(),
        accepted=last,
        uais=frozenset(uais),
        years=frozenset({YEAR}),
        limits=LIMITS,
        known=snapshots.nothing_known,
    )


def refused(properties: Properties, topic: str, *, last: AcceptedSnapshot | None = None) -> tuple[SnapshotFault, str]:
    with pytest.raises(SnapshotRefused) as raised:
        latest(properties, topic, last=last)
    [refusal] = raised.value.refusals
    return refusal.fault, refusal.sentence


# Whole ones


def test_what_is_published_is_accepted(properties: Properties, snapshots_topic: str) -> None:
    publish(properties, snapshots_topic, 500)
    found = latest(properties, snapshots_topic)
    assert (found.id, found.taken_at, found.system, found.scope) == (
        "apogee-1",
        TAKEN_AT.timestamp(),
        "apogee",
        SCOPE,
    )
    assert students(found.rows) == [row(rank).student.student_id for rank in range(500)]
    assert (found.ignored, found.passed_over) == (0, ())


def test_what_a_source_could_not_tell_is_published_and_accepted_too(
    properties: Properties, snapshots_topic: str
) -> None:
    unknown = [
        UnknownRow(student_id="22000007", reason="ambiguous_year"),
        UnknownRow(enrolment_id="2026:8:L1DROI:101:1", reason="unknown_status"),
    ]
    messages = sent([*rows(20), *unknown], taken_at=TAKEN_AT.timestamp())
    assert Counter(map(kind, messages)) == {"begin": 3, "enrolment": 20, "unknown": 2, "end": 3}
    RecordProducer(properties).send_to(snapshots_topic, messages)
    found = latest(properties, snapshots_topic)
    assert len(found.rows) == 20
    assert found.unknown == Unknown(students=frozenset({"22000007"}), enrolments=frozenset({"2026:8:L1DROI:101:1"}))


def test_begin_and_end_are_in_every_partition_and_the_rows_of_a_student_in_one(
    properties: Properties, snapshots_topic: str
) -> None:
    rows_of_two = [row(rank, etape=etape) for rank in range(50) for etape in ("L1DROI", "L2DROI")]
    with snapshots.collect(rows_of_two, SCOPE) as gathered:
        snapshots.Publisher(properties, snapshots_topic).publish(gathered, snapshot_id="apogee-1", taken_at=TAKEN_AT)
    found = list(gate.read_to_end(properties, snapshots_topic))
    by_partition = [[each for each in found if each.partition == number] for number in range(PARTITIONS)]
    for records in by_partition:
        kinds = [kind((each.partition, each.key, each.value or b"", each.headers)) for each in records]
        assert kinds == ["begin", *["enrolment"] * (len(records) - 2), "end"]
        assert [records[0].key, records[-1].key] == [None, None]
        assert {each.headers for each in records} == {(("content-type", b"application/cloudevents+json"),)}
    places = {(each.key, each.partition) for each in found if each.key}
    assert len(places) == len({key for key, _ in places}) == 50


def test_a_retried_producer_changes_nothing(properties: Properties, snapshots_topic: str) -> None:
    publish(properties, snapshots_topic, 50)
    publish(properties, snapshots_topic, 50)
    assert len(latest(properties, snapshots_topic).rows) == 50


def test_two_producers_that_interleave_are_judged_each_by_itself(properties: Properties, snapshots_topic: str) -> None:
    def meanwhile(given: Iterable[bytes]) -> Iterator[bytes]:
        for number, each in enumerate(given):
            if number == 25:
                publish(properties, snapshots_topic, 30, "apogee-2", taken_at=TAKEN_AT.replace(microsecond=1))
            yield each

    publish(properties, snapshots_topic, 50, "apogee-1", progress=meanwhile)
    newest = latest(properties, snapshots_topic)
    assert (newest.id, len(newest.rows), newest.passed_over) == ("apogee-2", 30, ())
    remembered = replace(newest.accepted(), taken_at=TAKEN_AT.timestamp() - 1, id="apogee-0", rows_by_year={YEAR: 50})
    older = latest(properties, snapshots_topic, last=remembered)
    assert (older.id, len(older.rows)) == ("apogee-1", 50)
    assert [refusal.fault for refusal in older.passed_over] == [SnapshotFault.SHRUNK]


# Producers that were killed


KILLED = {
    "between-begins": (1, "partition 1 has no begin of it"),
    "after-the-begins": (3, "partition 0 has no end of it, after 0 row(s)"),
    "in-the-rows": (13, "partition 0 has no end of it, after 4 row(s)"),
    "before-the-ends": (23, "partition 0 has no end of it, after 8 row(s)"),
    "after-an-end": (24, "partition 1 has no end of it, after 7 row(s)"),
    "before-the-last-end": (25, "partition 2 has no end of it, after 5 row(s)"),
}


def test_snapshots_whose_producers_were_killed_are_refused_and_their_retries_accepted(
    properties: Properties, snapshots_topic: str
) -> None:
    given = {name: messages(20, name, after=number / 1000) for number, name in enumerate(KILLED)}
    send(properties, snapshots_topic, (each for name in KILLED for each in given[name][: KILLED[name][0]]))
    with pytest.raises(SnapshotRefused) as raised:
        latest(properties, snapshots_topic)
    found = {refusal.snapshot_id: refusal for refusal in raised.value.refusals}
    assert {refusal.fault for refusal in found.values()} == {SnapshotFault.INCOMPLETE}
    more = ": its producer did not finish, or an open transaction hides the rest"
    for name, (_, sentence) in KILLED.items():
        assert found[name].sentence == sentence + (more if "end" in sentence else "") + WHEN

    for name in KILLED:
        send(properties, snapshots_topic, given[name])
        accepted = latest(properties, snapshots_topic)
        assert (accepted.id, len(accepted.rows)) == (name, 20)


def test_no_end_is_sent_by_a_producer_that_is_stopped_in_its_rows(properties: Properties, snapshots_topic: str) -> None:
    def killed(given: Iterable[bytes]) -> Iterator[bytes]:
        for number, each in enumerate(given):
            if number == 10:
                raise KilledError
            yield each

    with pytest.raises(KilledError):
        publish(properties, snapshots_topic, 20, progress=killed)
    fault, sentence = refused(properties, snapshots_topic)
    assert fault is SnapshotFault.INCOMPLETE
    assert sentence.startswith("partition 0 has no end of it")


def test_no_end_is_sent_when_rows_were_not_acknowledged(properties: Properties, snapshots_topic: str) -> None:
    """A row beyond the greatest size of a message, as a broker that is configured too small meets it."""
    small = {**properties, "message.max.bytes": 1_000, "batch.size": 1_000}
    long = row_with(enrolment_id="1" * 128, etape={"code": "L1DROI", "label": "é" * 255})
    with (
        snapshots.collect([*rows(20), long], SCOPE) as gathered,
        pytest.raises(BrokerError, match="MSG_SIZE_TOO_LARGE"),
    ):
        snapshots.Publisher(small, snapshots_topic).publish(gathered, snapshot_id="apogee-1", taken_at=TAKEN_AT)
    assert refused(properties, snapshots_topic)[0] is SnapshotFault.INCOMPLETE


# Rows that are lost or repeated


def test_a_snapshot_that_lacks_rows_is_refused(properties: Properties, snapshots_topic: str) -> None:
    given = messages(20)
    lost = [each for each in given if kind(each) == "enrolment" and each[0] == 1][2:4]
    send(properties, snapshots_topic, [each for each in given if each not in lost])
    sentence = "partition 1 lacks 2 of its 7 rows: 2 to 3" + WHEN
    assert refused(properties, snapshots_topic) == (SnapshotFault.INCOMPLETE, sentence)


def test_rows_that_are_repeated_change_nothing(properties: Properties, snapshots_topic: str) -> None:
    send(properties, snapshots_topic, [each for message in messages(20) for each in (message, message)])
    assert len(latest(properties, snapshots_topic).rows) == 20


# What the topic has forgotten


def forget_first(broker: Broker, topic: str, partition: int) -> None:
    """Have a partition forget its oldest records, as retention does."""
    if isinstance(broker, Kafka):
        broker.delete_before(topic, partition, 1)
        return
    producer = RecordProducer(broker.properties)  # over 5 MiB, it drops the oldest
    junk = [900_000] * 5 + [100_000] * 7 + [10_000] * 3
    producer.send_to(topic, ((partition, None, bytes(size), ()) for size in junk))
    for _ in range(200):
        if gate.first_offsets(broker.properties, topic)[partition]:
            return
        producer.send_to(topic, [(partition, None, bytes(300), ())])
    raise AssertionError("nothing was forgotten")


def test_a_snapshot_whose_head_was_forgotten_is_refused(
    broker: Broker, properties: Properties, snapshots_topic: str
) -> None:
    publish(properties, snapshots_topic, 20)
    forget_first(broker, snapshots_topic, 1)
    first = gate.first_offsets(properties, snapshots_topic)[1]
    sentence = (
        f"its begin is no longer in partition 1, which now starts at offset {first}: "
        "the topic must keep its messages for longer"
    )
    assert refused(properties, snapshots_topic) == (SnapshotFault.FORGOTTEN, sentence + WHEN)


def test_a_snapshot_whose_head_was_forgotten_while_it_was_being_read_is_refused(
    broker: Broker, properties: Properties, snapshots_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(properties, snapshots_topic, 20)
    read_to_end = gate.read_to_end

    def slowly(properties: Properties, topic: str) -> Iterator[Record]:
        yield from read_to_end(properties, topic)
        forget_first(broker, topic, 2)

    monkeypatch.setattr(gate, "read_to_end", slowly)
    fault, sentence = refused(properties, snapshots_topic)
    assert fault is SnapshotFault.FORGOTTEN
    assert sentence.startswith("its begin is no longer in partition 2, which now starts at offset ")


def test_a_topic_that_forgets_faster_than_it_is_read_is_refused(
    properties: Properties, snapshots_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(properties, snapshots_topic, 20)
    read_to_end = gate.read_to_end

    def overtaken(properties: Properties, topic: str) -> Iterator[Record]:
        yield next(read_to_end(properties, topic))
        raise PositionLost(f"Records of {topic} were removed while it was being read")

    monkeypatch.setattr(gate, "read_to_end", overtaken)
    sentence = f"Records of {snapshots_topic} were removed while it was being read"
    more = ": the topic must keep its messages for longer"
    assert refused(properties, snapshots_topic) == (SnapshotFault.FORGOTTEN, sentence + more)


# Transactions


def transaction(properties: Properties, topic: str, given: Iterable[Sent]) -> Producer:
    """Send within a transaction and leave it open."""
    producer = Producer({**properties, "transactional.id": topic})
    producer.init_transactions(PATIENCE)
    producer.begin_transaction()
    for partition, key, value, headers in given:
        producer.produce(topic, value, key, partition, headers=list(headers))
    assert producer.flush(PATIENCE) == 0
    return producer


@embedded_differs("it delivers the records of open and aborted transactions", raises=pytest.fail.Exception)
@pytest.mark.parametrize("outcome", ["committed", "aborted"])
def test_a_hanging_transaction_hides_the_end_until_it_is_over(
    properties: Properties, snapshots_topic: str, outcome: str
) -> None:
    given = messages(20)
    send(properties, snapshots_topic, given[:13])
    producer = transaction(properties, snapshots_topic, given[13:])
    sentence = (
        "partition 0 has no end of it, after 4 row(s): "
        "its producer did not finish, or an open transaction hides the rest" + WHEN
    )
    assert refused(properties, snapshots_topic) == (SnapshotFault.INCOMPLETE, sentence)
    if outcome == "committed":
        producer.commit_transaction(PATIENCE)
        settled(properties, snapshots_topic)
        assert len(latest(properties, snapshots_topic).rows) == 20
    else:
        producer.abort_transaction(PATIENCE)
        settled(properties, snapshots_topic)
        assert refused(properties, snapshots_topic) == (SnapshotFault.INCOMPLETE, sentence)


@embedded_differs("it delivers the records of open transactions", raises=pytest.fail.Exception)
def test_somebody_elses_hanging_transaction_hides_what_comes_after_it(
    properties: Properties, snapshots_topic: str
) -> None:
    producer = transaction(properties, snapshots_topic, [(2, None, b"other", ())])
    publish(properties, snapshots_topic, 20)
    assert refused(properties, snapshots_topic) == (SnapshotFault.INCOMPLETE, "partition 2 has no begin of it" + WHEN)
    producer.abort_transaction(PATIENCE)
    settled(properties, snapshots_topic)
    assert len(latest(properties, snapshots_topic).rows) == 20


# What it isn't about


def test_an_empty_topic_holds_no_snapshot(properties: Properties, snapshots_topic: str) -> None:
    assert refused(properties, snapshots_topic) == (SnapshotFault.ABSENT, "there is no snapshot on the topic")


def test_a_snapshot_of_another_university_and_one_that_is_not_newer_are_refused(
    properties: Properties, snapshots_topic: str
) -> None:
    publish(properties, snapshots_topic, 20)
    with pytest.raises(SnapshotRefused, match="it covers 0141408E, and the settings only 0751717J"):
        latest(properties, snapshots_topic, uais=["0751717J"])
    last = accepted({YEAR: 20}, "apogee-1", taken_at=TAKEN_AT.timestamp())
    assert refused(properties, snapshots_topic, last=last)[0] is SnapshotFault.NOT_NEWER


def test_a_topic_that_grew_since_takes_nothing_from_a_snapshot(
    broker: Broker, properties: Properties, topic: str
) -> None:
    broker.create_topic(topic, 5)
    send(properties, topic, messages(20))
    assert len(latest(properties, topic).rows) == 20


def test_a_missing_topic_says_to_create_it(properties: Properties, topic: str) -> None:
    for act in (latest, lambda properties, topic: publish(properties, topic, 3)):
        with pytest.raises(BrokerError, match=f"The topic {topic} does not exist; create it"):
            act(properties, topic)


# A real size


@pytest.mark.kafka
def test_a_snapshot_of_a_whole_university_is_published_and_read(kafka: Kafka, topic: str) -> None:
    university = University()
    kafka.create_topic(topic, 12)
    years = frozenset({2025, 2026})
    scope = SnapshotScope(uais=frozenset({university.uai}), academic_years=years)
    with snapshots.collect(map(EnrolmentRow.model_validate_json, university.snapshot_rows()), scope) as gathered:
        snapshots.Publisher(kafka.properties, topic).publish(gathered, snapshot_id="apogee-1", taken_at=TAKEN_AT)
    found = latest(kafka.properties, topic)
    assert len(found.rows) == gathered.rows > 50_000
    by_year = found.accepted().rows_by_year
    assert by_year == gathered.rows_by_year
    assert by_year.keys() == years
