"""A topic read by a whole worker, in a process of its own, into SQLite: first when it is new, then once more from the
beginning, as after `cohorts positions --forget`, when everything is known already. Moodle is down meanwhile, so that
recording has the machine to itself. The seconds run from the start of the worker's parts, Python's aside, until the
ledger holds the last position. Each larger size is measured between smaller ones, since machines grow slower and
faster within minutes, and seconds are medians of such turns. What is aimed at is that ten times as many messages take
no more than 11 times as long.

There are three kinds of topics. In the first, a ledger that holds a university of 35,000 students is told that
enrolments are over, or are on again: three messages of four change a membership, and the ledger stays as large as it
was. In the second, an empty ledger is told of another enrolment by each message, in the order of the students' numbers,
as an export does: a million are those of 670,000 students, and the ledger grows to twenty times that of a large
university. The third has the same messages in no order: nearly each of them then changes pages of its own in every
index.

All topics have as many partitions, for which their messages are compressed: the embedded broker keeps little in each,
and ten times as many partitions alone cost a sixth more.
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

TITLE = "Reading a topic again: 10,000, 100,000 and 1,000,000 messages"
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
"""What a topic is when it is read first, and then."""

Told = tuple[bytes, bytes]
"""Key and value."""


def run() -> Iterator[Figure]:
    """Measure each size against the one before."""
    yield from _figures("changes at one university", _changes)
    yield from _figures("enrolments into an empty ledger", _enrolments)
    yield from _figures("enrolments into an empty ledger, in no order", _shuffled)


@dataclass(frozen=True, slots=True)
class Topic:
    """What the ledger holds before, and what is told."""

    before: Sequence[Message]
    told: Iterable[Told]


def _changes(messages: int) -> Topic:
    """Have every second enrolment over, then the others, then the former again, and so forth."""
    first = [*University(students=STUDENTS, etapes=1_200).initial()]
    described = [message for message in first if "version" not in message.value["data"]]
    enrolments = [message for message in first if "version" in message.value["data"]]
    rounds = ([_turned(message, i, number) for i, message in enumerate(enrolments)] for number in count())
    return Topic(described + next(rounds), _written(chain.from_iterable(rounds), messages))


def _turned(message: Message, i: int, number: int) -> Message:
    value, data = message.value, message.value["data"]
    later = datetime.fromisoformat(value["time"]) + number * timedelta(days=1)
    state = {"version": data["version"] + number, "status": "resigned" if (i + number) % 2 else "active"}
    return replace(message, value=value | {"time": later.isoformat(), "data": data | state})


def _enrolments(messages: int) -> Topic:
    students = max(100, round(STUDENTS_A_MESSAGE * messages))
    return Topic((), _written(University(students=students, etapes=1_200).initial(), messages))


def _shuffled(messages: int) -> Topic:
    told = [*_enrolments(messages).told]
    Random(messages).shuffle(told)
    return Topic((), told)


def _written(told: Iterable[Message], messages: int) -> Iterator[Told]:
    return ((message.key.encode(), message.payload()) for message in islice(told, messages))


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
                against="" if before is None else f"{before:.1f} s, of a tenth",
                ratio=None if before is None else Quantity(seconds / before, "times", most=MOST_TIMES),
            )
            memory = max(memory for _, memory in read[messages, done])
            yield Figure(what=f"{messages:,} {what}{done}: peak of memory", figure=Quantity(memory, "MiB", most=250))
        fewer = messages


def _turns(sizes: Sequence[int]) -> list[int]:
    """Give the order in which sizes are measured, each between smaller ones."""
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
        """Read it when it is new, then when all is known; gives seconds and the peak of memory in MiB of each."""
        with tempfile.TemporaryDirectory() as directory:
            ledger = Path(shutil.copy(self._before, directory))
            for done in KNOWN:
                # Each time another group, which has nobody to wait for.
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
        RecordProducer(broker.properties | COMPRESSED).send((TOPIC, key, value, ()) for key, value in topic.told)
        before = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ledger.db"
        ours = settings(ledger=f"sqlite:///{before}")
        ledger = open_ledger(ours)
        record(ours, ledger, topic.before)
        ledger.close()
        yield _Published(broker, before, messages)


def _recorded(ours: Settings, messages: int) -> tuple[float, float]:
    theirs, pipe = PROCESSES.Pipe()
    process = command(_work, pipe, ours, messages)
    pipe.close()  # so that a process that fails is not waited for
    seconds, memory = theirs.recv()
    process.join()
    return seconds, memory


def _work(pipe: Connection, ours: Settings, messages: int) -> None:
    """Run a worker until it has read so many messages."""
    telemetry.configure_logging("error")
    worker, started = Worker(ours), time.perf_counter()
    with worker.running() as wait_for_end:
        ledger = open_ledger(ours)
        while sum(status.positions(ledger, {TOPIC: None}).values()) < messages:
            time.sleep(LOOK_SECONDS)
        pipe.send((time.perf_counter() - started, peak()))
        ledger.close()
        worker.stop()
        wait_for_end()
