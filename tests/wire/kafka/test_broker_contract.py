"""What we rely on, of the embedded broker and of a real Kafka; where the first differs is an xfail."""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.servers import free_ports
from tests.support.servers.kafka import Kafka, settled
from worker.domain.errors import BrokerError, CohortsError, PositionLost
from worker.kafka import (
    Cluster,
    Headers,
    Partition,
    Properties,
    Record,
    RecordConsumer,
    RecordProducer,
    TopicDefinition,
    create_topics,
    describe,
    read_to_end,
    topic_settings,
)
from worker.kafka import cluster as gate
from worker.sandbox.broker import EmbeddedBroker

Broker = EmbeddedBroker | Kafka
Join = Callable[..., RecordConsumer]

PATIENCE = 60.0  # seconds for what takes a few
SECRET = b"22101234"


def embedded_differs(reason: str, raises: type[BaseException] = AssertionError) -> pytest.MarkDecorator:
    """Run on both brokers, expecting the embedded one to fail for this reason."""
    differs = pytest.mark.xfail(strict=True, reason=reason, raises=raises)
    params = [pytest.param("embedded", marks=differs), pytest.param("real", marks=pytest.mark.kafka)]
    return pytest.mark.parametrize("broker", params, indirect=True)


@pytest.fixture
def properties(broker: Broker) -> Properties:
    return broker.properties


@pytest.fixture
def membership(broker: Broker, request: pytest.FixtureRequest) -> Properties:
    if protocol := getattr(request, "param", None):
        return {**broker.properties, "group.protocol": protocol}
    if isinstance(broker, EmbeddedBroker):
        # It makes a group wait for almost a session at each change, where Kafka waits for the members only.
        return {**broker.properties, "session.timeout.ms": 2_000, "heartbeat.interval.ms": 500}
    return broker.properties


@pytest.fixture
def join(membership: Properties, topic: str) -> Iterator[Join]:
    """Make members of the topic's group, with the positions that their ledger remembers."""
    members = []

    def join(positions: Mapping[int, int] | None = None, *, topics: Iterable[str] = (topic,)) -> RecordConsumer:
        def start(_: list[Partition]) -> dict[Partition, int]:
            return {(topic, number): offset for number, offset in (positions or {}).items()}

        members.append(RecordConsumer(membership, group=topic, topics=topics, start=start))
        return members[-1]

    yield join
    for member in members:
        member.close()


def until(condition: Callable[[], object], *members: RecordConsumer, into: list[Record] | None = None) -> None:
    """Let the members poll until the condition holds; what they read goes into a list, or is forgotten."""
    records = [] if into is None else into
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        for member in members:
            records += member.poll()


def read(member: RecordConsumer, count: int) -> list[Record]:
    """Read exactly so many records."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
        records += member.poll()
    assert len(records) == count
    return records


def send(properties: Properties, topic: str, values: Iterable[bytes | None], headers: Headers = ()) -> None:
    """Send records of one key, hence to one partition."""
    RecordProducer(properties).send((topic, b"key", value, headers) for value in values)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def values(records: Iterable[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def abort_transaction(properties: Properties, topic: str) -> None:
    """Leave two records of an aborted transaction at the end of a topic."""
    producer = Producer({**properties, "transactional.id": topic})
    producer.init_transactions(PATIENCE)
    producer.begin_transaction()
    for _ in range(2):
        producer.produce(topic, b"aborted", b"key")
    assert producer.flush(PATIENCE) == 0
    producer.abort_transaction(PATIENCE)
    settled(properties, topic)


# Records


def test_a_record_arrives_as_it_was_sent(broker: Broker, properties: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 1)
    headers = (("ce_id", b"1"), ("twice", b"a"), ("twice", b"b"), ("none", None))
    send(properties, topic, [SECRET], headers)
    (record,) = read(join(), 1)
    assert (record.key, record.value, record.headers) == (b"key", SECRET, headers)
    assert record.origin == f"{topic}[0]@0"
    assert record.timestamp == pytest.approx(time.time(), abs=PATIENCE)


def test_a_tombstone_arrives_without_a_value(broker: Broker, properties: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, [None, b""])
    assert values(read(join(), 2)) == [None, b""]


def test_records_of_one_key_keep_their_order(broker: Broker, properties: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 3)
    RecordProducer(properties).send((topic, b"%d" % (n % 20), b"%d" % n, ()) for n in range(2_000))
    records = read(join(), 2_000)
    assert {record.partition for record in records} == {0, 1, 2}
    for key in range(20):
        of_key = [int(record.value or b"") for record in records if record.key == b"%d" % key]
        assert of_key == list(range(key, 2_000, 20))


def test_more_records_are_sent_than_the_queue_holds(
    broker: Broker, properties: Properties, topic: str, join: Join
) -> None:
    broker.create_topic(topic, 1)
    send({**properties, "queue.buffering.max.messages": 100}, topic, numbers(3_000))
    assert values(read(join(), 3_000)) == numbers(3_000)


# Positions


def test_the_first_start_reads_from_the_beginning(
    broker: Broker, properties: Properties, topic: str, join: Join
) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(3))
    assert values(read(join(), 3)) == numbers(3)


def test_reading_resumes_where_the_ledger_says(broker: Broker, properties: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(5))
    assert values(read(join({0: 3}), 2)) == [b"3", b"4"]


@pytest.mark.parametrize("remembered", [{}, {0: 1}])
def test_what_the_group_has_committed_does_not_override_the_ledger(
    broker: Broker, properties: Properties, topic: str, join: Join, remembered: dict[int, int]
) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(5))
    first = join()
    read(first, 5)
    first.commit({(topic, 0): 4})
    first.close()
    expected = numbers(5)[remembered.get(0, 0) :]
    assert values(read(join(remembered), len(expected))) == expected


def test_a_commit_shows_in_the_group_and_leaves_out_partitions_of_others(
    broker: Broker, properties: Properties, topic: str, join: Join
) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(5))
    member = join()
    read(member, 5)
    member.commit({(topic, 0): 4, (topic, 7): 1})
    assert member.trouble is None
    tool = Consumer({**properties, "group.id": topic})
    (committed,) = tool.committed([TopicPartition(topic, 0)], PATIENCE)
    tool.close()
    assert committed.offset == 4


def test_a_position_past_the_end_is_lost(broker: Broker, properties: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(5))
    with pytest.raises(PositionLost, match=rf"Position 9 of {topic}\[0\] .* holds 0 to 5"):
        read(join({0: 9}), 1)


def test_a_position_that_the_topic_has_forgotten_is_lost(
    broker: Broker, properties: Properties, topic: str, join: Join
) -> None:
    broker.create_topic(topic, 1)
    if isinstance(broker, Kafka):
        send(properties, topic, numbers(5))
        broker.delete_before(topic, 0, 3)
    else:  # over 5 MiB, it drops the oldest
        for _ in range(8):
            send(properties, topic, [bytes(900_000)])
    with pytest.raises(PositionLost, match=rf"Position 1 of {topic}\[0\] .* holds 3 to"):
        read(join({0: 1}), 1)


def test_a_start_that_fails_is_heard_of(broker: Broker, properties: Properties, topic: str) -> None:
    broker.create_topic(topic, 1)

    def start(_: list[Partition]) -> dict[Partition, int]:
        raise CohortsError("the ledger is locked")

    member = RecordConsumer(properties, group=topic, topics=[topic], start=start)
    with pytest.raises(CohortsError, match="locked"):
        read(member, 1)
    member.close()


def test_lag_is_what_is_left_to_read(broker: Broker, properties: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(10))
    member = join({0: 2})
    records: list[Record] = []
    while not records:
        records = member.poll(max_records=1)
    assert member.lag() == {(topic, 0): 7}
    read(member, 7)
    assert member.lag() == {(topic, 0): 0}


# Groups

EACH_PROTOCOL = pytest.mark.parametrize(
    ("broker", "membership"),
    [
        ("embedded", None),
        pytest.param("real", "classic", marks=pytest.mark.kafka),
        pytest.param("real", "consumer", marks=pytest.mark.kafka),
    ],
    indirect=True,
)


@EACH_PROTOCOL
def test_a_second_member_shares_the_partitions_and_takes_them_all_when_the_first_leaves(
    broker: Broker, properties: Properties, topic: str, join: Join
) -> None:
    broker.create_topic(topic, 4)
    first, second = join(), join()
    until(lambda: len(first.assigned) == len(second.assigned) == 2, first, second)
    assert not first.assigned & second.assigned
    first.close()
    until(lambda: len(second.assigned) == 4, second)
    send(properties, topic, numbers(3))
    read(second, 3)


@EACH_PROTOCOL
def test_a_killed_member_is_replaced(broker: Broker, membership: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 2)
    program = f"""
from worker.kafka import RecordConsumer
member = RecordConsumer({membership!r}, group={topic!r}, topics=[{topic!r}], start=lambda _: {{}})
while not member.assigned:
    member.poll()
print("assigned", flush=True)
while True:
    member.poll()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:  # noqa: S603 -- our own
        try:
            assert process.stdout
            assert process.stdout.readline() == b"assigned\n"
            member = join()
            until(lambda: len(member.assigned) == 1, member)
        finally:
            process.kill()
    until(lambda: len(member.assigned) == 2, member)


# What is missing, refused or down


def test_reading_a_missing_topic_says_to_create_it(broker: Broker, topic: str, join: Join) -> None:
    broker.create_topic(topic, 1)
    with pytest.raises(BrokerError, match="create the topic missing"):
        read(join(topics=[topic, "missing"]), 1)


@embedded_differs("it creates a topic that is written to", raises=pytest.fail.Exception)
def test_sending_to_a_missing_topic_says_to_create_it(properties: Properties, topic: str) -> None:
    with pytest.raises(BrokerError, match=rf"1 of 1 records .* create the topic {topic}"):
        send({**properties, "topic.metadata.propagation.max.ms": 1_000}, topic, [SECRET])


def test_a_refused_record_is_not_quoted(broker: Broker, properties: Properties, topic: str) -> None:
    broker.create_topic(topic, 1)
    with pytest.raises(BrokerError, match="MSG_SIZE_TOO_LARGE") as raised:
        send(properties, topic, [SECRET * 500_000])
    assert SECRET.decode() not in str(raised.value)


def test_sending_raises_while_the_broker_is_down_and_works_again_after(
    broker: Broker, properties: Properties, topic: str, join: Join
) -> None:
    broker.create_topic(topic, 1)
    producer = RecordProducer({**properties, "delivery.timeout.ms": 1_500})
    producer.send([(topic, b"key", b"before", ())])
    broker.stop()
    with pytest.raises(BrokerError, match=f"3 of 3 records for {topic} were not acknowledged: _MSG_TIMED_OUT"):
        producer.send((topic, b"key", b"during", ()) for _ in range(3))
    broker.start()
    send(properties, topic, [b"after"])
    records = read(join(), 2)
    assert values(records) == [b"before", b"after"]


def test_reading_outlives_an_outage(broker: Broker, properties: Properties, topic: str, join: Join) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, [b"before"])
    member = join({0: 0})
    read(member, 1)
    until(lambda: member.contacted_at, member)
    broker.stop()
    until(lambda: member.trouble, member)
    member.commit({(topic, 0): 1})
    broker.start()
    send(properties, topic, [b"after"])
    seen: list[Record] = []
    until(lambda: b"after" in values(seen), member, into=seen)


def test_settings_that_librdkafka_does_not_know_are_named(topic: str) -> None:
    with pytest.raises(BrokerError, match=r"bootstrap\.severs"):
        RecordProducer({"bootstrap.severs": topic})


def test_describing_a_cluster_that_does_not_answer_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "REQUEST_SECONDS", 0.5)
    (port,) = free_ports(1)
    with pytest.raises(BrokerError, match=r"Kafka does not answer: _TRANSPORT: .* Connection refused"):
        describe({"bootstrap.servers": f"127.0.0.1:{port}"})


# Topics


def test_a_cluster_tells_its_topics_and_leaves_out_the_missing(
    broker: Broker, properties: Properties, topic: str
) -> None:
    broker.create_topic(topic, 3)
    cluster = describe(properties, [topic, "missing"])
    assert (cluster.brokers, list(cluster.topics), cluster.topics[topic].partitions) == (1, [topic], 3)
    assert cluster.id


def test_topics_that_exist_stay_as_they_are(broker: Broker, properties: Properties, topic: str) -> None:
    broker.create_topic(topic, 3)
    assert create_topics(properties, {topic: TopicDefinition(partitions=5)}) == frozenset()
    assert describe(properties, [topic]).topics[topic].partitions == 3


@embedded_differs("clients cannot create topics in it", raises=BrokerError)
def test_missing_topics_are_created_as_they_are_defined(
    properties: Properties, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "REQUEST_SECONDS", 5.0)
    dead = f"{topic}-dead"
    kept = TopicDefinition(partitions=1, replicas=1, settings={"retention.ms": "86400000"})
    assert create_topics(properties, {topic: TopicDefinition(partitions=2), dead: kept}) == {topic, dead}
    found = describe(properties, [topic, dead]).topics
    assert [(each.partitions, each.replicas) for each in found.values()] == [(2, 1), (1, 1)]
    settings = topic_settings(properties, [topic, dead])
    assert (settings[topic]["cleanup.policy"], settings[dead]["retention.ms"]) == ("delete", "86400000")


def unaware(monkeypatch: pytest.MonkeyPatch, *, for_looks: int) -> None:
    """Have Kafka list no topic at first, as a broker does that doesn't know yet what its controller created."""
    looks = itertools.count()

    def look(properties: Properties, topics: Iterable[str] = ()) -> Cluster:
        return describe(properties, topics if next(looks) >= for_looks else ())

    monkeypatch.setattr(gate, "describe", look)


def test_a_topic_that_was_created_is_listed(kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unaware(monkeypatch, for_looks=3)
    assert create_topics(kafka.properties, {topic: TopicDefinition(partitions=2)}) == {topic}
    assert gate.describe(kafka.properties, [topic]).topics[topic].partitions == 2


def test_a_topic_that_is_never_listed_is_named(kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unaware(monkeypatch, for_looks=1000)
    monkeypatch.setattr(gate, "LISTED_SECONDS", 0.2)
    with pytest.raises(BrokerError, match=f"Kafka has created {topic}, but does not list .* after 0.2 s"):
        create_topics(kafka.properties, {topic: TopicDefinition(partitions=1)})


def test_a_topic_deleted_since_it_was_listed_has_no_id(kafka: Kafka, topic: str) -> None:
    create_topics(kafka.properties, {topic: TopicDefinition(partitions=1)})
    assert gate._topic_ids(gate._admin(kafka.properties), [topic, "deleted-meanwhile"]).keys() == {topic}


def test_a_topic_that_kafka_refuses_to_create_is_named(kafka: Kafka, topic: str) -> None:
    with pytest.raises(BrokerError, match=f"The topic {topic} cannot be created: INVALID_REPLICATION_FACTOR"):
        create_topics(kafka.properties, {topic: TopicDefinition(partitions=1, replicas=7)})


@embedded_differs("its topics have no ids")
def test_a_topic_that_is_created_again_has_another_id(broker: Broker, properties: Properties, topic: str) -> None:
    broker.create_topic(topic, 1)
    first = describe(properties, [topic]).topics[topic].id
    assert first
    assert isinstance(broker, Kafka)
    broker.delete_topic(topic)
    broker.create_topic(topic, 1)
    second = describe(properties, [topic]).topics[topic].id
    assert second not in {first, None}


# Reading to the end


def test_a_topic_is_read_to_the_end_of_all_its_partitions(broker: Broker, properties: Properties, topic: str) -> None:
    broker.create_topic(topic, 3)
    RecordProducer(properties).send((topic, b"%d" % (n % 7), b"%d" % n, ()) for n in range(2_000))
    records = list(read_to_end(properties, topic))
    assert sorted(int(record.value or b"") for record in records) == list(range(2_000))


def test_an_empty_topic_is_read_to_its_end(broker: Broker, properties: Properties, topic: str) -> None:
    broker.create_topic(topic, 2)
    assert list(read_to_end(properties, topic)) == []


def test_a_missing_topic_cannot_be_read_to_its_end(properties: Properties, topic: str) -> None:
    with pytest.raises(BrokerError, match=f"{topic} does not exist; create it"):
        list(read_to_end(properties, topic))


@embedded_differs("it delivers the records of aborted transactions")
def test_a_topic_that_ends_in_an_aborted_transaction_is_read_to_its_end(
    broker: Broker, properties: Properties, topic: str
) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(3))
    abort_transaction(properties, topic)
    assert values(read_to_end(properties, topic)) == numbers(3)


@embedded_differs("it delivers the records of aborted transactions")
def test_aborted_records_are_neither_read_nor_lag(
    broker: Broker, properties: Properties, topic: str, join: Join
) -> None:
    broker.create_topic(topic, 1)
    send(properties, topic, numbers(3))
    abort_transaction(properties, topic)
    member = join()
    records = read(member, 3)
    until(lambda: member.lag() == {(topic, 0): 0}, member, into=records)
    assert values(records) == numbers(3)
