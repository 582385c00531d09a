"""What a producer may send, through Kafka into the ledger: every message is recorded, ignored or a dead letter."""

import ctypes
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson
import pytest
from confluent_kafka import KafkaError, Producer

from tests.support.builders import UAI, content, recorder
from tests.support.servers.kafka import Kafka
from tools.fuzz import corpus
from tools.fuzz.targets import message
from worker import kafka as gate
from worker import telemetry
from worker.formats import Debezium
from worker.formats.cloudevents import STRUCTURED_HEADERS, Format, Native
from worker.kafka import Record, RecordConsumer, RecordProducer
from worker.ledger import Ledger, status
from worker.runtime.topics import definitions
from worker.sandbox.broker import LIBRARY, PRODUCER, EmbeddedBroker
from worker.settings.kafka import KafkaSettings
from worker.sync.dead_letters import dead_letters, replay
from worker.sync.ingest import RECORDED, Ingest

Broker = EmbeddedBroker | Kafka
BIG = 2_000_000
STATE = message(corpus("messages")["enrolment-state"])[0] or b""


class Topic:
    """A topic of messages with its dead letters, and the ledger that they go into."""

    def __init__(self, broker: Broker, name: str, ledger: Ledger, form: Format) -> None:
        self.broker, self.name, self.ledger = broker, name, ledger
        self.formats: Mapping[str, Format] = {name: form}
        self.letters = f"{name}.dead-letters"
        for topic in (name, self.letters):
            broker.create_topic(topic, 1)
        self.producer = Producer({**broker.properties, "message.max.bytes": BIG})

    def produce(self, value: bytes | None, headers: object = STRUCTURED_HEADERS, key: bytes | None = b"1") -> None:
        self.producer.produce(self.name, value, key, headers=list(headers))  # type: ignore[call-overload] # as they come
        assert self.producer.flush(10) == 0

    def ingest(self, messages: int) -> dict[str, float]:
        """Work through so many messages; gives what became of them."""
        before = outcomes()
        consumer = RecordConsumer(self.broker.properties, group=self.name, topics=[self.name], start=lambda _: {})
        ingest = Ingest(
            consumer,
            RecordProducer(self.broker.properties),
            recorder(self.ledger),
            formats=self.formats,
            dead_letters=self.letters,
            topic_ids={self.name: None},
            batch=500,
            invalid_limit=1_000,
        )
        try:
            deadline = time.monotonic() + 60
            done = 0
            while done < messages and time.monotonic() < deadline:
                done += ingest.step()
        finally:
            consumer.close()
        assert status.positions(self.ledger, {self.name: None}) == {(self.name, 0): messages}
        return {
            outcome: number - before[outcome] for outcome, number in outcomes().items() if number != before[outcome]
        }

    def kept(self) -> list[Record]:
        return [letter.record for letter in dead_letters(self.broker.properties, self.letters)]

    def problems(self) -> list[str]:
        return [letter.problem for letter in dead_letters(self.broker.properties, self.letters)]


def outcomes() -> dict[str, float]:
    return {name: telemetry.CHANGES.labels(name)._value.get() for name in (*RECORDED, "invalid", "ignored")}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def messages(embedded_broker: EmbeddedBroker, topic: str, opened: Ledger) -> Topic:
    return Topic(embedded_broker, topic, opened, Native())


@pytest.mark.parametrize(("target", "form"), [("messages", Native()), ("debezium", Debezium(UAI))])
def test_nothing_of_the_corpus_is_lost_between_kafka_and_the_ledger(
    embedded_broker: EmbeddedBroker, topic: str, opened: Ledger, target: str, form: Format
) -> None:
    here = Topic(embedded_broker, topic, opened, form)
    cases = corpus(target).values()
    for case in cases:
        here.produce(*(message(case) if target == "messages" else (case, ())))
    became = here.ingest(len(cases))
    assert sum(became.values()) >= len(cases)
    assert len(here.kept()) == became.get("invalid", 0)


def test_a_message_that_is_longer_than_a_dead_letter_may_be_is_one_that_says_where_it_is(messages: Topic) -> None:
    here = messages
    here.produce(b'{"name": "' + b"Camille " * 130_000 + b'"}', key=b"K" * 20)
    here.produce(b"{}", [("noise", b"N" * 950_000)])
    here.produce(STATE)
    assert here.ingest(3) == {"invalid": 2, "applied": 1}
    assert [(letter.key, letter.value) for letter in here.kept()] == [(None, b"")] * 2
    origins = [letter.origin for letter in dead_letters(here.broker.properties, here.letters)]
    assert origins == [f"{here.name}[0]@0", f"{here.name}[0]@1"]
    assert replay(here.broker.properties, here.letters, here.formats, publish=False)["unreadable"] == 2


def test_a_message_of_a_far_future_is_a_dead_letter_since_nothing_could_overrule_it(messages: Topic) -> None:
    messages.produce(orjson.dumps(orjson.loads(STATE) | {"time": "2099-01-01T00:00:00Z"}))
    messages.produce(STATE)
    assert messages.ingest(2) == {"invalid": 1, "applied": 1}
    assert messages.problems() == ["time: in_the_future"]


def test_what_another_university_says_leads_nowhere(messages: Topic) -> None:
    messages.produce(STATE)
    messages.ingest(1)
    before = content(messages.ledger)
    sentence = [name for name in corpus("messages") if name.endswith("another-university")]
    for name in sentence:
        messages.produce(*message(corpus("messages")[name]))
    messages.ingest(1 + len(sentence))
    after = content(messages.ledger)
    assert {name for name in after if after[name] != before[name]} == {"enrolment", "position"}


def test_headers_that_look_like_those_of_a_dead_letter_do_not_mislead(messages: Topic) -> None:
    forged = [("__connect.errors.topic", b"elsewhere"), ("__connect.errors.exception.message", b"\x1b[2J all is well")]
    messages.produce(b"{}", forged)
    messages.ingest(1)
    [letter] = dead_letters(messages.broker.properties, messages.letters)
    assert (letter.topic, letter.problem) == (messages.name, "type: union_tag_not_found")


def produce_raw(bootstrap: str, topic: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
    """Produce messages (value, name of a header) as a program in C does: the name needn't be text."""
    properties = LIBRARY.rd_kafka_conf_new()
    LIBRARY.rd_kafka_conf_set(properties, b"bootstrap.servers", bootstrap.encode(), None, 0)
    client = ctypes.c_void_p(LIBRARY.rd_kafka_new(PRODUCER, properties, None, 0))
    end, of_topic, of_value, of_header, of_flags, copy = 0, 1, 4, 9, 7, ctypes.c_int(2)  # rd_kafka_vtype_t
    for value, name in messages:
        sent = LIBRARY.rd_kafka_producev(
            client, of_topic, ctypes.c_char_p(topic.encode()), of_flags, copy,
            of_value, ctypes.c_char_p(value), ctypes.c_size_t(len(value)),
            of_header, ctypes.c_char_p(name), ctypes.c_char_p(b"1"), ctypes.c_ssize_t(1), end,
        )  # fmt: skip
        assert sent == 0
    assert LIBRARY.rd_kafka_flush(client, 10_000) == 0
    LIBRARY.rd_kafka_destroy(client)


def test_a_header_whose_name_is_not_text_does_not_stop_the_worker(messages: Topic) -> None:
    many = [(STATE, b"\xc3\x28")] * 20  # Python calls otherwise what it has called often
    produce_raw(messages.broker.bootstrap, messages.name, [(b"{}", b"\xff\xfe"), *many])
    assert messages.ingest(21) == {"invalid": 1, "applied": 1, "stale": 19}
    assert [letter.value for letter in messages.kept()] == [b"{}"]
    assert [record.headers for record in gate.read_to_end(messages.broker.properties, messages.name)] == [()] * 21


def test_a_topic_of_ours_takes_no_message_that_unpacks_to_more_than_a_reader_could_hold(
    kafka: Kafka, topic: str
) -> None:
    settings = KafkaSettings(topics=(topic,), dead_letters=f"{topic}.letters", snapshots=f"{topic}.snapshots")
    gate.create_topics(kafka.properties, definitions(settings, partitions=1, replicas=1))
    producer = Producer({**kafka.properties, "message.max.bytes": 100_000_000, "compression.type": "zstd"})
    refused: list[str] = []

    def on_delivery(error: KafkaError | None, _message: object) -> None:
        refused.append(error.name() if error else "")

    for size in (40_000_000, 900_000):
        producer.produce(topic, b"A" * size, on_delivery=on_delivery)
        assert producer.flush(60) == 0
    assert refused == ["MSG_SIZE_TOO_LARGE", ""]
