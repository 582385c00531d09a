"""A whole worker, in a process of its own, reads a topic into SQLite: first when it is new, then again from the
beginning, as after `cohorts positions --forget`, when everything is known already. Moodle is down meanwhile, so that
recording has the machine to itself. The time runs from the start of the worker, without that of Python, until the
ledger holds the last position. Each larger size is measured between smaller ones, because the speed of a machine
varies within minutes; figures are medians of such turns. The aim: ten times as many messages take at most 11 times as
long.

There are three kinds of topics. In the first, messages end and resume enrolments that a ledger of 35,000 students
already holds: three of four messages change a membership, and the ledger keeps its size. In the second, each message
brings a new enrolment into an empty ledger, in the order of student numbers, as in an export: a million messages are
about 670,000 students, and the ledger grows to twenty times that of a large university. The third has the same
messages in random order: nearly each of them then changes other pages of every index.

All topics have the same number of partitions, and their messages are compressed, because the embedded broker keeps
little in each partition, and ten times as many partitions would by themselves cost a sixth more.
"""

import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from tools.bench import Figure, Quantity, scaled
from tools.bench.memory import peak
from tools.bench.parts import DEAD_LETTERS, PROCESSES, TOPIC, command, record, settings
from worker import telemetry
from worker.kafka import RecordProducer
from worker.ledger import status
from worker.runtime.ledger import open_ledger
from worker.runtime.worker import Worker
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message
from worker.settings.root import Settings

TITLE = "Reading a topic: 10,000, 100,000 and 1,000,000 messages"
SIZES = [scaled(number) for number in (10_000, 100_000, 1_000_000)]
TURNS = scaled(2, least=1)
"""How often smaller sizes are measured before a larger one, and as often after it."""
STUDENTS = scaled(35_000)
STUDENTS_A_MESSAGE = 0.67
MOST_TIMES = 11.0
LOOK_SECONDS = 0.05
PARTITIONS = 16
COMPRESSED = {"compression.type": "zstd"}
KNOWN = ("", ", all known already")
"""What a topic is at the first reading, and at the second."""

Payload = tuple[bytes, bytes]
"""Key and value."""


def run() -> Iterator[Figure]:
    """Measure each size against the one before."""
    yield from _figures("changes at one university", _changes)
    yield from _figures("enrolments into an empty ledger", _enrolments)
    yield from _figures("enrolments into an empty ledger, in random order", _shuffled)


@dataclass(frozen=True, slots=True)
class Topic:
    """What the ledger holds before, and the messages of the topic."""

    before: Sequence[Message]
    payloads: Iterable[Payload]


def _changes(messages: int) -> Topic:
    """End every second enrolment, then the others while these resume, and so forth."""
    first = [*University(students=STUDENTS, etapes=1_200).initial()]
    described = [message for message in first if "version" not in message.value["data"]]
    enrolments = [message for message in first if "version" in message.value["data"]]
    rounds = ([_turned(message, i, number) for i, message in enumerate(enrolments)] for number in count())
    return Topic(described + next(rounds), _payloads(chain.from_iterable(rounds), messages))


def _turned(message: Message, i: int, number: int) -> Message:
    value, data = message.value, message.value["data"]
    later = datetime.fromisoformat(value["time"]) + number * timedelta(days=1)
    state = {"version": data["version"] + number, "status": "resigned" if (i + number) % 2 else "active"}
    return replace(message, value=value | {"time": later.isoformat(), "data": data | state})


def _enrolments(messages: int) -> Topic:
    students = max(100, round(STUDENTS_A_MESSAGE * messages))
    return Topic((), _payloads(University(students=students, etapes=1_200).initial(), messages))


def _shuffled(messages: int) -> Topic:
    payloads = [*_enrolments(messages).payloads]
    Random(messages).shuffle(payloads)
    return Topic((), payloads)


def _payloads(messages: Iterable[Message], number: int) -> Iterator[Payload]:
    return ((message.key.encode(), message.payload()) for message in islice(messages, number))


def _figures(what: str, topic: Callable[[int], Topic]) -> Iterator[Figure]:
    read: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    with ExitStack() as stack:
        published = {messages: stack.enter_context(_published(topic(messages), messages)) for messages in SIZES}
        for messages in _turns(SIZES):
            for done, figures in published[messages].read_twice():
                read[messages, done].append(figures)
    fewer: int | None = None
    for messages in SIZES:
        for done in KNOWN:
            seconds = _seconds(read[messages, done])
            before = None if fewer is None else _seconds(read[fewer, done])
            yield Figure(
                what=f"{messages:,} {what}{done}",
                figure=f"{seconds:.1f} s, {messages / seconds:,.0f} messages/s",
                against="" if before is None else f"{before:.1f} s, a tenth of it",
                ratio=None if before is None else Quantity(seconds / before, "times", most=MOST_TIMES),
            )
            memory = max(memory for _, memory in read[messages, done])
            yield Figure(what=f"{messages:,} {what}{done}: peak memory", figure=Quantity(memory, "MiB", most=250))
        fewer = messages


def _turns(sizes: Sequence[int]) -> list[int]:
    """Return the order in which sizes are measured, each between smaller ones."""
    *smaller, largest = sizes
    around = TURNS * _turns(smaller) if smaller else []
    return [*around, largest, *around]


def _seconds(read: Iterable[tuple[float, float]]) -> float:
    return statistics.median(seconds for seconds, _ in read)


class _Published:
    """A topic, and a ledger as it is before the topic is read."""

    def __init__(self, broker: EmbeddedBroker, before: Path, messages: int) -> None:
        self._broker, self._before, self._messages = broker, before, messages
        self._groups = count()

    def read_twice(self) -> Iterator[tuple[str, tuple[float, float]]]:
        """Read the topic when it is new and when all is known; yields seconds and peak memory in MiB of each."""
        with tempfile.TemporaryDirectory() as directory:
            ledger = Path(shutil.copy(self._before, directory))
            for done in KNOWN:
                # A new group each time: it has no earlier member to wait for.
                kafka = {"bootstrap": self._broker.bootstrap, "group": f"turn {next(self._groups)}"}
                ours = settings(ledger=f"sqlite:///{ledger}", kafka=kafka)
                yield done, _recorded(ours, self._messages)
                opened = open_ledger(ours)
                status.forget_positions(opened, TOPIC)
                opened.close()


@contextmanager
def _published(topic: Topic, messages: int) -> Iterator[_Published]:
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        broker.create_topic(TOPIC, PARTITIONS)
        broker.create_topic(DEAD_LETTERS, 1)
        RecordProducer(broker.properties | COMPRESSED).send((TOPIC, key, value, ()) for key, value in topic.payloads)
        before = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ledger.db"
        ours = settings(ledger=f"sqlite:///{before}")
        ledger = open_ledger(ours)
        record(ours, ledger, topic.before)
        ledger.close()
        yield _Published(broker, before, messages)


def _recorded(ours: Settings, messages: int) -> tuple[float, float]:
    receiver, sender = PROCESSES.Pipe()
    process = command(_work, sender, ours, messages)
    sender.close()  # so that recv() fails if the process does
    seconds, memory = receiver.recv()
    process.join()
    return seconds, memory


def _work(sender: Connection, ours: Settings, messages: int) -> None:
    """Run a worker until it has read so many messages."""
    telemetry.configure_logging("error")
    worker, started = Worker(ours), time.perf_counter()
    with worker.running() as wait_for_end:
        ledger = open_ledger(ours)
        while sum(status.positions(ledger, {TOPIC: None}).values()) < messages:
            time.sleep(LOOK_SECONDS)
        sender.send((time.perf_counter() - started, peak()))
        ledger.close()
        worker.stop()
        wait_for_end()
